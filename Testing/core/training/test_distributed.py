"""Pre-training in two processes under torchrun, gloo on CPU: as in one, and it ends when one ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import environment, events, random_network, write_head, write_manifest
from sahlora.cli import main
from sahlora.imaging.labels import UNKNOWN
from sahlora.runtime.progress import SILENT
from sahlora.training.distributed import ALONE, Processes
from sahlora.training.learner import Learner
from sahlora.training.settings import TrainingSettings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo needs a POSIX system here")

STEPS = (
    "--batch-size", "4", "--level", "1", "--width", "4", "--spacing", "2", "--held-out", "1",
    "--patience", "3", "--device", "cpu", "--learning-rate", "1e-3", "--run",
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = [write_head(folder, "anna"), write_head(folder, "berta"), write_head(folder, "d", blood=False)]
    return write_manifest(folder / "cases.csv", rows)


def arguments(manifest: Path, folder: Path, epochs: int) -> list[str]:
    """Return the call; the test's folder holds the run and gets “m.safetensors”."""
    output = str(folder / "m.safetensors")
    return ["pretrain", str(manifest), "-o", output, "--epochs", str(epochs), *STEPS, str(folder / "run")]


def start_two(call: list[str], program: str) -> subprocess.Popen[str]:
    """Start the command twice under torchrun; after “--”, it does not take --run for its own --run-path."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--")
    return subprocess.Popen(
        [sys.executable, *torchrun, program, *call, "--progress", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment()},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> list[dict]:
    output, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    return events(output)


# What the two processes run: the command in float32, so that only the order of additions can differ, and
# before it one step in float64, whose gradients they write.
TWO = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
import sahlora.training.learner as learner
import sahlora.training.pretraining as pretraining
from sahlora.cli import main
from test_distributed import write_gradients

learner.runs_bf16 = lambda device: False
train = pretraining.pretrain

def pretrain(cohort, plan, output, run, device, progress, processes):
    write_gradients(output.with_name("gradients.safetensors"), processes)
    return train(cohort, plan, output, run, device, progress, processes)

pretraining.pretrain = pretrain
sys.exit(main())
"""


def write_gradients(path: Path, processes: Processes, slices_at_once: int = 4) -> None:
    """Take a step on a batch of four, norms in training mode, and write gradients and norms' statistics."""
    settings = TrainingSettings(batch_size=4, slices_at_once=slices_at_once)
    learner = Learner(random_network(0, 1, 4).double(), settings, torch.device("cpu"), SILENT, processes)
    image = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = (image > 0.7).to(torch.uint8)
    label[0, 0, 2] = UNKNOWN
    share = processes.share(4)
    learner.step(image[share], label[share], step=0, learning_rate=1e-9)
    gradients = {name: p.grad.contiguous() for name, p in learner.network.named_parameters()}
    statistics = {name: buffer for name, buffer in learner.network.named_buffers() if "running" in name}
    if processes.is_first:
        save_file(gradients | statistics, path)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("program") / "two.py"
    path.write_text(TWO)
    return str(path)


@pytest.fixture(scope="module")
def by_two(manifest: Path, program: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """Folder and events of two epochs of two processes, uninterrupted."""
    folder = tmp_path_factory.mktemp("two")
    return folder, finish(start_two(arguments(manifest, folder, 2), program))


def test_gradient_and_statistics_of_two_processes_are_those_of_one(
    by_two: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    write_gradients(tmp_path / "one.safetensors", ALONE)
    one, two = load_file(tmp_path / "one.safetensors"), load_file(by_two[0] / "gradients.safetensors")
    assert one.keys() == two.keys()
    assert max(tensor.abs().max() for tensor in one.values()) > 0.1
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-10, atol=1e-13), name


def test_losses_and_scores_of_two_processes_are_those_of_one(
    manifest: Path, by_two: tuple[Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-3 after two epochs in float32: Adam turns the rounding of a vanishing gradient into a step."""
    monkeypatch.setattr("sahlora.training.learner.runs_bf16", lambda device: False)
    assert main(arguments(manifest, tmp_path, 2)) == 0
    lines = [(f / "run" / "metrics.jsonl").read_text().splitlines() for f in (tmp_path, by_two[0])]
    for mine, theirs in zip(*(map(json.loads, part) for part in lines), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)


def test_only_the_first_process_reports(by_two: tuple[Path, list[dict]]) -> None:
    seen = by_two[1]
    assert [event["epoch"] for event in seen if event["event"] == "metric"] == [1, 2]
    assert [event["event"] for event in seen].count("result") == 1


@pytest.mark.proof
def test_two_processes_cancel_together(manifest: Path, program: str, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    process = start_two([*arguments(manifest, tmp_path, 99), "--cancel-file", str(stop)], program)
    assert process.stdout is not None
    for line in process.stdout:
        if '"progress"' in line and '"training"' in line:
            break
    stop.touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert events(output)[-1]["code"] == "cancelled"
    assert (tmp_path / "run" / "state.safetensors").exists()
    assert not (tmp_path / "m.safetensors").exists()


def test_a_process_that_dies_ends_the_other_and_both_continue_to_the_same_model(
    manifest: Path, by_two: tuple[Path, list[dict]], program: str, tmp_path: Path
) -> None:
    """The other ends by itself, before torchrun would kill it after 30 s."""
    mortal = Path(program).with_name("mortal.py")
    mortal.write_text(
        "import os, signal\nfrom sahlora.training.learner import Learner\nstep = Learner.step\n"
        "def mortal(self, image, label, number, rate):\n"
        "    if number == 1 and os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, image, label, step=number, learning_rate=rate)\n"
        "Learner.step = mortal\n" + TWO.replace("write_gradients(output", "0 and write_gradients(output")
    )
    process, last = start_two(arguments(manifest, tmp_path, 2), str(mortal)), 0.0
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if seen[-1].get("stage") == "training" and seen[-1]["event"] == "progress":
            last = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - last < 25
    assert process.returncode != 0
    assert seen[-1]["code"] in ("process-lost", "cancelled")
    assert not (tmp_path / "m.safetensors").exists()
    finish(start_two([*arguments(manifest, tmp_path, 2), "--resume"], program))
    expected, found = (load_file(folder / "m.safetensors") for folder in (by_two[0], tmp_path))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    from sahlora.errors import UsageError

    with pytest.raises(UsageError) as error:
        Processes(0, 3).share(8)
    assert error.value.code == "bad-batch-size"
    assert [Processes(rank, 2).share(8) for rank in (0, 1)] == [slice(0, 4), slice(4, 8)]


def test_a_process_that_is_alone_exchanges_nothing() -> None:
    tensor = torch.ones(2)
    ALONE.add([tensor])
    assert ALONE.gather(tensor) is tensor
    assert ALONE.any(True) and not ALONE.any(False)
    assert ALONE.by_first(lambda: 3) == 3
    assert ALONE.share(8) == slice(0, 8)


def test_fine_tuning_refuses_several_processes(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    output = str(tmp_path / "a.safetensors")
    assert main(["finetune", str(manifest), "-o", output, "--progress", "json"]) == 2
    assert events(capsys.readouterr().out)[-1]["code"] == "one-process"
