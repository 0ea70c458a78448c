"""Manifests as Excel, Numbers, editors and other programs save them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from sahlora.cases.manifest import list_cases
from sahlora.errors import InputError

TABLE = "case,image,label,patient,held_out\nJürgen,a.nii,b.nii,P1,yes\nb,c.nii,d.nii,,\n"

SAVED = {
    "plain": TABLE.encode(),
    "byte order mark": codecs.BOM_UTF8 + TABLE.encode(),
    "semicolons": TABLE.replace(",", ";").encode(),
    "tabs": TABLE.replace(",", "\t").encode(),
    "bars": TABLE.replace(",", "|").encode(),
    "windows-1252": TABLE.encode("cp1252"),
    "utf-16": TABLE.replace(",", "\t").encode("utf-16"),
    "utf-16, big end first": codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"),
    "utf-16 without a mark": TABLE.encode("utf-16-le"),
    "line ends of Windows": TABLE.replace("\n", "\r\n").encode(),
    "line ends of old Macs": TABLE.replace("\n", "\r").encode(),
    "capitals and blanks": TABLE.replace(",", " , ")
    .replace("case", "Case")
    .replace("held_out", "Held-Out")
    .encode(),
    "separator stated": f"sep=;\r\n{TABLE.replace(',', ';')}".encode(),
    "separator quoted": f'"sep=,"\n{TABLE}'.encode(),
    "empty rows": (TABLE + ",,,,\n\n ,, ,,\n").encode(),
    "commas in cells": TABLE.replace(",", ";").replace("P1", "Doe, J.").encode(),
    "quoted": "\n".join(",".join(f'"{cell}"' for cell in row.split(",")) for row in TABLE.split()).encode(),
}


@pytest.mark.parametrize("content", SAVED.values(), ids=SAVED.keys())
def test_a_table_is_read_however_it_was_saved(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    first, second = list_cases(tmp_path / "cases.csv")
    assert (first.name, first.patient, first.held_out) in {
        ("Jürgen", "P1", True),
        ("Jürgen", "Doe, J.", True),
    }
    assert (second.name, second.patient, second.held_out) == ("b", "b", False)
    assert second.image == tmp_path / "c.nii"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"case;image\na;b\n", "it lacks the column label"),
        (b"", "it lacks the columns case, image, label"),
        (b"case,image,label,Case\na,b,c,d\n", "it has the column case twice"),
        (b"case,image,label\na,b,c,d\n", "row 1 has more cells than headings"),
        (b"case,image,label\na,b\x00,c\n", "it is no text"),
        (b"\x81\x8d\xff", "it is no text in UTF-8"),
        (b'case,image,label\na,"b' + b"x" * 200_000, "it is no table"),
    ],
)
def test_what_is_no_table_is_told(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(InputError) as raised:
        list_cases(tmp_path / "cases.csv")
    assert raised.value.code == "bad-manifest" and said in raised.value.message
