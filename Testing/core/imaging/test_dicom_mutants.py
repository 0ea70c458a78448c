"""Mutated DICOM files and labels end in a result or an error of the product: no traceback, signal or hang."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers import environment, write_series
from sahlora.imaging.dicom_seg import write_dicom_seg
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import read_volume
from sahlora.imaging.writers import write_label

CHILD = Path(__file__).with_name("dicom_mutants.py")
LONGEST_S = 10.0
MOST_MB = 1024


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_series(folder / "ct", np.arange(5) * 5.0)
    volume = read_volume(folder / "ct")
    mask = np.zeros(volume.hu.shape, bool)
    mask[1:3, 10:20, 10:20] = True
    write_dicom_seg(volume, mask, folder / "seg.dcm", INTRACRANIAL_HEMORRHAGE, algorithm="x")
    write_label(volume.to_grid(mask, label=True), folder / "label.seg.nrrd", INTRACRANIAL_HEMORRHAGE)
    with zipfile.ZipFile(folder / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (folder / "ct").iterdir():
            archive.write(file, file.name)
    return folder


def survive(originals: Path, kinds: str, count: int, seconds: float) -> Counter[str]:
    """Read mutants in a child process and return how often each outcome came."""
    done = subprocess.run(
        [sys.executable, str(CHILD), str(originals), kinds, "0", str(count)],
        capture_output=True, text=True, env={**environment(), "OMP_NUM_THREADS": "1"}, timeout=seconds,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    ended = [line for line in lines if line["outcome"] != "began"]
    assert len(ended) == count * len(kinds.split(","))
    assert [line for line in ended if " " in line["outcome"]] == []
    assert [line for line in ended if line["seconds"] > LONGEST_S] == []
    assert max(line["peak_mb"] for line in ended) < MOST_MB
    return Counter(line["outcome"] for line in ended)


def test_a_few_mutants_end_in_a_result_or_an_error_of_ours(originals):
    assert len(survive(originals, "series,seg,zip,label", 20, 200)) > 3


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["series", "seg", "zip", "label"])
def test_mutants_by_the_thousand_end_in_a_result_or_an_error_of_ours(originals, kind):
    print(kind, survive(originals, kind, 12_500, 7000).most_common())
