"""Memory of training does not grow with the number of cases, and reading ahead leaves nothing behind."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from forking import ForkingCommand
from helpers import environment, simple_head, write_manifest
from sahlora.cases.manifest import read_manifest
from sahlora.models.card import Preprocessing
from sahlora.training.augmentation import augmentation
from sahlora.training.batches import SliceBatches
from sahlora.training.prefetch import prefetched
from sahlora.training.prepared import prepare_cases

SHAPE, SPACING = (24, 192, 160), (5.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of the usual size, 2 MiB when prepared; two labeled slices keep epochs short."""
    folder, hu = tmp_path_factory.mktemp("heads"), simple_head(SHAPE, SPACING)
    label = ((hu > 50) & (hu < 90)).astype(np.uint8)
    label[:14], label[16:] = 0, 0
    assert label.any()
    for kind, array in (("image", hu), ("label", label)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(folder / f"{kind}.nii.gz"))
    return folder


def many(folder: Path, count: int) -> Path:
    """Write a manifest of `count` cases, each with files of its own name."""
    rows = [{"case": str(i), "image": f"{i}.nii.gz", "label": f"{i}-l.nii.gz"} for i in range(count)]
    for row in rows:
        for kind in ("image", "label"):
            if not (folder / row[kind]).exists():
                os.link(folder / f"{kind}.nii.gz", folder / row[kind])
    return write_manifest(folder / f"{count}.csv", rows)


def peak_mib(command: ForkingCommand, folder: Path, count: int, output: Path) -> float:
    """Train for one epoch on `count` cases with all that is on by default; return the child's peak."""
    output.mkdir()
    ended = command.run(
        "pretrain", many(folder, count), "-o", output / "m.safetensors", "--epochs", "1", "--level", "1",
        "--width", "4", "--spacing", "0", "--device", "cpu", folder=output,
    )  # fmt: skip
    assert ended.status == 0
    return ended.peak_mib


@pytest.mark.proof
@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_peak_memory_with_200_cases_is_that_with_20(folder: Path, tmp_path: Path) -> None:
    """All 200 prepared cases together are about 400 MiB."""
    with ForkingCommand(environment()) as command:
        few, more = (peak_mib(command, folder, count, tmp_path / str(count)) for count in (20, 200))
    print(f"peak of training: {few:.0f} MiB with 20 cases, {more:.0f} MiB with 200")
    assert more < 1.1 * few


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_prepared_file_stays_mapped(folder: Path, tmp_path: Path) -> None:
    cases = prepare_cases(read_manifest(many(folder, 3)), Preprocessing(), "axial", tmp_path)
    batches = SliceBatches(cases, Preprocessing(), 4, None, 2, augmentation("none"), 0)
    assert len(list(batches.epoch(0))) > 1
    assert ".npy" not in Path("/proc/self/maps").read_text()


# ------------------------------------------------------------------------------------------- reading ahead


def test_reading_ahead_keeps_the_order_and_makes_at_most_two_more() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(9):
            made.append(number)
            yield number

    with closing(prefetched(items())) as ahead:
        assert not made
        for number in ahead:
            assert len(made) <= number + 1 + 2
    assert made == list(range(9))
    assert [name for name in threads() if "prefetch" in name] == []


def test_reading_ahead_ends_with_its_reader() -> None:
    with closing(prefetched(iter(range(1, 1_000_000)))) as ahead:
        assert next(ahead) == 1
        assert [name for name in threads() if "prefetch" in name]
    assert [name for name in threads() if "prefetch" in name] == []


def test_an_error_in_reading_ahead_comes_where_the_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    with closing(prefetched(items())) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(OSError, match="gone"):
            next(ahead)
    assert [name for name in threads() if "prefetch" in name] == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
