"""JSON and tables: what is undefined, cells that spreadsheets would compute, names that are no UTF-8."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sahlora.cases.manifest import Case, list_cases, write_manifest
from sahlora.runtime.files import read_cell, to_plain, write_json, write_table


@dataclass(frozen=True)
class Result:
    name: str
    values: tuple[float, ...]


def test_json_has_null_for_what_is_no_number_and_plain_values_for_the_rest(tmp_path: Path) -> None:
    result = Result("é\udcff", (1.5, float("nan"), float("inf")))
    write_json(tmp_path / "a.json", {"result": result, "path": tmp_path})
    back = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert back == {"result": {"name": "é\udcff", "values": [1.5, None, None]}, "path": str(tmp_path)}
    assert to_plain(Result) is Result


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "\t=1", "\n=1", "＝1", "'=1", "''=1"]


@pytest.mark.parametrize("text", [*FORMULAS, "'", "'a", "a=1", "-5", "+5", ""])
def test_no_cell_is_computed_and_each_comes_back(text: str, tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [{"text": text, "number": -1.5}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert not row["text"].startswith(("=", "@", "\t", "\n", "＝")) and row["number"] == "-1.5"
    assert (row["text"] != text) == (text in FORMULAS)
    assert read_cell(row["text"]) == text


def test_a_case_called_like_a_formula_comes_back_from_its_manifest(tmp_path: Path) -> None:
    case = Case("=1+1", tmp_path / "ct", tmp_path / "label", patient="@me")
    write_manifest(tmp_path / "cases.csv", [case])
    assert ",'@me," in (tmp_path / "cases.csv").read_text()
    assert list_cases(tmp_path / "cases.csv") == [case]
