"""Mutated models, cards and lists of cases are read or refused in words: no traceback, hang or flood."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers import random_card, random_network
from mutating import MEMORY_BYTES, SECONDS_A_FILE, Report, read_mutated
from sahlora.models.base_model import save_model
from sahlora.models.header import read_card_json
from sahlora.models.registry import SHIPPED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

TABLE = (
    "case,image,label,patient,slices,segment,held_out\n"
    "a,scans/a.nii.gz,labels/a.seg.nrrd,P1,,SAH,\nb,scans/b,labels/b.nii.gz,P1,s.csv,2,yes\n"
)
FILES = {"adapter": 20_000, "base": 5_000, "card": 35_000, "table": 20_000, "list": 10_000, "slices": 10_000}
"""Mutated files of each kind, 100,000 in all."""


def good(kind: str, folder: Path) -> Path:
    """Return a good file of a kind."""
    adapter = SHIPPED / "sah-ct-small.safetensors"
    path = folder / {"card": "card.json", "list": "list.json", "base": "base.safetensors"}.get(kind, "t.csv")
    if kind == "base":
        save_model(path, random_network(0, 1, 4), random_card(1, 4))
    elif kind == "card":
        path.write_text(read_card_json(adapter))
    elif kind == "list":
        rows = [row.split(",") for row in TABLE.split("\n")[:-1]]
        path.write_text(json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]]))
    elif kind == "slices":
        path.write_text("slice,hemorrhage\n" + "".join(f"{index},{index % 2}\n" for index in range(8)))
    else:
        path.write_text(TABLE)
    return adapter if kind == "adapter" else path


def check(kind: str, count: int, seed: int, folder: Path) -> Report:
    report = read_mutated(kind, good(kind, folder), count, seed, folder)
    assert report.failures == []
    assert report.files == count and report.refused
    assert report.slowest_s < SECONDS_A_FILE and report.extra_mib < MEMORY_BYTES / 2**20
    return report


@pytest.mark.parametrize("kind", ["adapter", "table"])
def test_mutated_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    check(kind, 200, 0, tmp_path)


@pytest.mark.proof
@pytest.mark.parametrize(("kind", "count"), FILES.items(), ids=FILES.keys())
def test_a_hundred_thousand_mutated_files_are_read_or_refused(kind: str, count: int, tmp_path: Path) -> None:
    print(check(kind, count, 1, tmp_path))
