"""Killed or cancelled at any moment, a run continues and ends with the very same files."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from safetensors import safe_open

from forking import ForkingCommand
from helpers import environment, random_card, random_network, simple_head, write_head, write_manifest
from sahlora.models.base_model import save_model
from sahlora.runtime.locks import TEMPORARY

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL and no fork on Windows")

TRAINING = (
    "--epochs", "3", "--batch-size", "2", "--patience", "2", "--average", "0.9", "--held-out", "1",
    "--learning-rate", "0.03", "--device", "cpu",
)  # fmt: skip
COMMANDS = {
    "finetune": ("--method", "dora-c", "--dropout", "0.2", "--preset", "quick"),
    "pretrain": ("--level", "1", "--width", "4", "--spacing", "2"),
}


@pytest.fixture(scope="module")
def command() -> Iterator[ForkingCommand]:
    with ForkingCommand(environment()) as command:
        yield command


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small cases and a small base."""
    folder = tmp_path_factory.mktemp("site")
    rows = [write_head(folder, "anna"), write_head(folder, "berta"), write_head(folder, "d", blood=False)]
    write_manifest(folder / "cases.csv", rows)
    save_model(folder / "base.safetensors", random_network(0, 1, 4), random_card(1, 4, spacing=2.0))
    return folder


class Run:
    """One command in a folder of its own."""

    def __init__(self, command: ForkingCommand, name: str, site: Path, folder: Path) -> None:
        self._command, self._folder = command, folder
        model = ("--model", site / "base.safetensors") if name == "finetune" else ()
        output = folder / "made.safetensors"
        self._call = (name, site / "cases.csv", "-o", output, *COMMANDS[name], *TRAINING, *model)
        folder.mkdir()

    def start(self, *options: str, at: int | None = None, after: float | None = None) -> tuple[int, int]:
        """Return exit status and number of file operations."""
        ended = self._command.run(*self._call, *options, folder=self._folder, kill_at=at, kill_after=after)
        if ended.status == 3:
            assert ended.events[-1]["code"] == "nothing-to-resume"
        return ended.status, ended.operations

    def cancel(self, by: str, when: str, *options: str | Path) -> float:
        """Cancel once it has printed `when`; return the seconds until it ended."""
        ended = self._command.run(*self._call, *options, folder=self._folder, cancel_by=by, when=when)
        assert ended.status == 130
        assert ended.events[-1]["code"] == "cancelled"
        assert not (self._folder / "made.safetensors").exists()
        return ended.seconds

    def resume(self) -> None:
        """Continue to the end; where nothing was begun, that is said, and the run is begun."""
        status, _ = self.start("--resume")
        if status == 3:
            assert not (self._folder / "made.run" / "cache").exists()
            status, _ = self.start()
        assert status == 0

    def files(self) -> dict[str, bytes]:
        """Return what all files hold, but what a killed process left beside the output."""
        return {
            str(path.relative_to(self._folder)): content(path)
            for path in sorted(self._folder.rglob("*"))
            if path.is_file() and not path.relative_to(self._folder).parts[0].startswith(TEMPORARY)
        }


def content(path: Path) -> bytes:
    """Return a file's bytes; of a state, whose metadata are in no order, tensors and sorted metadata."""
    if path.name != "state.safetensors":
        return path.read_bytes()
    with safe_open(path, framework="np") as file:
        tensors = b"".join(file.get_tensor(key).tobytes() for key in sorted(file.keys()))
        return repr(sorted(file.metadata().items())).encode() + tensors


@pytest.fixture(scope="module")
def whole(
    command: ForkingCommand, site: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, bytes], int]]:
    """For each command, the files of an uninterrupted run and the number of its file operations."""
    made = {}
    for name in COMMANDS:
        run = Run(command, name, site, tmp_path_factory.mktemp(name) / "whole")
        status, operations = run.start()
        assert status == 0
        made[name] = run.files(), operations
    return made


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_before_any_file_operation_a_run_ends_with_the_same_files(
    name: str, command: ForkingCommand, site: Path, whole: dict, tmp_path: Path
) -> None:
    """Five moments from the first operation to the last: preparing, saving, writing the result."""
    expected, operations = whole[name]
    for at in np.linspace(1, operations, 5).round().astype(int):
        run = Run(command, name, site, tmp_path / str(at))
        assert run.start(at=int(at))[0] == -9
        run.resume()
        assert run.files() == expected


@pytest.mark.proof
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_before_each_file_operation_a_run_ends_with_the_same_files(
    name: str, command: ForkingCommand, site: Path, whole: dict, tmp_path: Path
) -> None:
    expected, operations = whole[name]
    for at in range(1, operations + 1):
        run = Run(command, name, site, tmp_path / str(at))
        assert run.start(at=at)[0] == -9
        run.resume()
        assert run.files() == expected, at


@pytest.mark.proof
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_again_and_again_at_random_moments_a_run_ends_with_the_same_files(
    name: str, command: ForkingCommand, site: Path, whole: dict, tmp_path: Path
) -> None:
    """A hundred kills at moments drawn over the length of a run, up to four a run."""
    expected, _ = whole[name]
    draw, kills = np.random.default_rng(0), 0
    for number in range(100):
        run = Run(command, name, site, tmp_path / str(number))
        for _ in range(4):
            kills += run.start(after=float(draw.uniform(0, 1.0)))[0] == -9
        run.resume()
        assert run.files() == expected, number
        if kills >= 100:
            break
    assert kills >= 100


def test_a_finished_run_given_again_changes_nothing(
    command: ForkingCommand, site: Path, whole: dict, tmp_path: Path
) -> None:
    run = Run(command, "finetune", site, tmp_path / "twice")
    assert run.start()[0] == run.start("--resume")[0] == 0
    assert run.files() == whole["finetune"][0]


# ------------------------------------------------------------------------------------------------- cancel

IN_TRAINING = '"event": "progress", "version": 1, "stage": "training'
STAGES = {
    "preparing": '"stage": "preparing cases"',
    "training": IN_TRAINING,
    "comparing": '"stage": "comparing"',
}


@pytest.mark.parametrize("name", COMMANDS)
def test_cancelled_in_mid_epoch_a_run_ends_with_the_same_files(
    name: str, command: ForkingCommand, site: Path, whole: dict, tmp_path: Path
) -> None:
    run = Run(command, name, site, tmp_path / "run")
    run.cancel("signal", IN_TRAINING)
    run.resume()
    assert run.files() == whole[name][0]


@pytest.fixture(scope="module")
def long_cases(site: Path) -> Path:
    """A manifest of as many larger heads as keep preparing and comparing busy for seconds."""
    hu = simple_head((40, 128, 128), (4.0, 1.5, 1.5))
    for kind, array in (("image", hu), ("label", ((hu > 50) & (hu < 90)).astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.5, 1.5, 4.0))
        sitk.WriteImage(image, str(site / f"large-{kind}.nii.gz"))
    rows = [
        {"case": str(i)} | {kind: f"large{i}-{kind}.nii.gz" for kind in ("image", "label")} for i in range(6)
    ]
    for i, kind in itertools.product(range(6), ("image", "label")):
        os.link(site / f"large-{kind}.nii.gz", site / f"large{i}-{kind}.nii.gz")
    return write_manifest(site / "large.csv", rows)


@pytest.mark.parametrize(
    ("by", "stage"),
    [
        pytest.param(by, stage, marks=[] if index in (0, 4, 8) else [pytest.mark.proof])
        for index, (by, stage) in enumerate(itertools.product(("signal", "file", "parent"), STAGES))
    ],
)
def test_each_way_to_cancel_ends_each_stage_within_3_s(
    by: str, stage: str, command: ForkingCommand, site: Path, long_cases: Path, tmp_path: Path
) -> None:
    run = Run(command, "finetune", site, tmp_path / "run")
    epochs = "100000" if stage == "training" else "1"
    options = ("--held-out", long_cases, "--epochs", epochs, "--patience", epochs)
    assert run.cancel(by, STAGES[stage], *options) < 3
