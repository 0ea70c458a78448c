"""Mutated NIfTI, NRRD and MetaImage files are read or refused in words: no traceback, crash or flood."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from helpers import simple_head
from mutating import MEMORY_BYTES, SECONDS_A_FILE, Report, read_mutated

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

FILES = {"nifti": 30_000, "nifti2": 10_000, "packed": 20_000, "nrrd": 20_000, "mha": 20_000}
"""Mutated files of each kind, 100,000 in all."""


def good(kind: str, folder: Path) -> Path:
    """Return a good file of a kind; what is packed is told from its content, whatever its ending."""
    hu, spacing = simple_head((8, 24, 20), (12.0, 6.0, 6.0)), (12.0, 6.0, 6.0)
    path = folder / {"nrrd": "ct.nrrd", "mha": "ct.mha"}.get(kind, "ct.nii")
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    if kind == "nifti2":
        affine = np.diag([-6.0, -6.0, 12.0, 1.0])
        path.write_bytes(nibabel.Nifti2Image(hu.T, affine).to_bytes())
    if kind == "packed":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def check(kind: str, count: int, seed: int, folder: Path) -> Report:
    report = read_mutated(kind, good(kind, folder), count, seed, folder)
    assert report.failures == []
    assert report.files == count and report.refused
    assert report.slowest_s < SECONDS_A_FILE and report.extra_mib < MEMORY_BYTES / 2**20
    return report


@pytest.mark.parametrize("kind", FILES)
def test_mutated_images_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    check(kind, 50, 0, tmp_path)


@pytest.mark.proof
@pytest.mark.parametrize(("kind", "count"), FILES.items(), ids=FILES.keys())
def test_a_hundred_thousand_mutated_images_are_read_or_refused(kind: str, count: int, tmp_path: Path) -> None:
    print(check(kind, count, 1, tmp_path))
