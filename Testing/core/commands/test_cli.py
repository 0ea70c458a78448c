from __future__ import annotations

import copy
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from helpers import CORE, environment, events, real_data, sahlora, simple_head, start_sahlora
from sahlora.adapters.attach import adapt, collect
from sahlora.adapters.config import AdapterConfig
from sahlora.cli import COMMANDS, build_parser, main
from sahlora.imaging.terminology import SAH
from sahlora.models.adapter_file import Adapter, AdapterCard, save_adapter
from sahlora.models.base_model import load_model
from sahlora.models.card import Target
from sahlora.simulation.head import HeadPhantom, simulate_head
from sahlora.simulation.writers import write_dicom_series

SPACING = (4.0, 1.5, 1.2)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    image = sitk.GetImageFromArray(simple_head((16, 56, 64), SPACING))
    image.SetSpacing(SPACING[::-1])
    path = tmp_path / "a head é.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str) -> None:
    modules = {name: importlib.import_module(f"sahlora.commands.{name}") for name in COMMANDS}
    example = modules[command].EXAMPLE
    assert example in build_parser(modules)._subparsers._group_actions[0].choices[command].format_help()
    program, *arguments = shlex.split(example)
    assert program == "sahlora"
    assert build_parser(modules).parse_args(arguments).command == command


def test_segment_writes_everything_it_was_asked_for(head: Path, random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder"
    names = {
        "--probability": "p.nrrd",
        "--disagreement": "d.nrrd",
        "--report": "r.json",
        "--csv": "s.csv",
        "--overlay": "o.png",
        "--page": "p.html",
    }
    files = [part for option, name in names.items() for part in (option, out / name)]
    done = sahlora(
        "segment", head, "-o", out / "label.nii.gz", "--model", random_model, "--threshold", "0.3", "--flip",
        "--views", "coronal,axial", "--weights", "axial=2,coronal=1", *files,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mL" in done.stdout
    assert {path.name for path in out.iterdir()} == {"label.nii.gz", *names.values()}
    label, image = sitk.ReadImage(str(out / "label.nii.gz")), sitk.ReadImage(str(head))
    assert label.GetSize() == image.GetSize()
    assert label.GetDirection() == image.GetDirection()
    disagreement = sitk.ReadImage(str(out / "d.nrrd"))
    assert disagreement.GetSize() == image.GetSize()
    assert 0.01 < sitk.GetArrayFromImage(disagreement).max() <= 0.5
    volume_ml = sitk.GetArrayFromImage(label).sum() * np.prod(SPACING) / 1000
    report = json.loads((out / "r.json").read_text())
    assert report["measurements"]["volume_ml"] == pytest.approx(volume_ml, rel=1e-6)
    assert report["segment"]["name"] == "Intracranial hemorrhage"


def test_the_same_command_twice_makes_identical_files(head: Path, random_model: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        out = tmp_path / name
        done = sahlora(
            "segment", head, "-o", out / "label.seg.nrrd", "--model", random_model,
            "--probability", out / "p.nii.gz", "--report", out / "r.json", "--overlay", out / "o.png",
            "--page", out / "p.html", "--csv", out / "s.csv",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert made[0] == made[1]


def test_events_tell_stages_progress_and_result(head: Path, random_model: Path, tmp_path: Path) -> None:
    done = sahlora("segment", head, "-o", tmp_path / "l.nrrd", "--model", random_model, "--progress", "json")
    told = events(done.stdout)
    assert {event["version"] for event in told} == {1}
    stages = [event["stage"] for event in told if event["event"] == "stage"]
    assert stages == ["checking", "reading", "axial", "writing"]
    assert told[-1]["event"] == "result"
    assert told[-1]["label"] == str(tmp_path / "l.nrrd")
    assert told[-1]["volume_ml"] >= 0


BAD_CALLS = {
    "missing": (3, "not-found", ["no such file.nii.gz", "-o", "{out}/l.nii.gz"]),
    "unknown model": (3, "unknown-model", ["{head}", "-o", "{out}/l.nii.gz", "--model", "nobody"]),
    "unknown view": (2, "unknown-view", ["{head}", "-o", "{out}/l.nii.gz", "--views", "frontal"]),
    "unmade view": (
        2,
        "no-model-for-view",
        ["{head}", "-o", "{out}/l.nii.gz", "--model", "{axial}", "--views", "coronal"],
    ),
    "threshold": (2, "bad-threshold", ["{head}", "-o", "{out}/l.nii.gz", "--threshold", "1.5"]),
    "no threshold": (2, "bad-threshold", ["{head}", "-o", "{out}/l.nii.gz", "--threshold", "nan"]),
    "ending": (2, "unsupported-output", ["{head}", "-o", "{out}/l.xyz"]),
    "device": (2, "unknown-device", ["{head}", "-o", "{out}/l.nii.gz", "--device", "abacus"]),
    "weights": (2, "bad-weights", ["{head}", "-o", "{out}/l.nii.gz", "--weights", "axial=much"]),
    "view model": (2, "bad-view-model", ["{head}", "-o", "{out}/l.nii.gz", "--view-model", "coronal"]),
    "no DICOM": (2, "not-dicom", ["{head}", "-o", "{out}/l.nii.gz", "--dicom-seg", "{out}/s.dcm"]),
    "folder": (4, "unwritable", ["{head}", "-o", "{head}/l.nii.gz"]),
    "threads": (2, "bad-threads", ["{head}", "-o", "{out}/l.nii.gz", "--threads", "0"]),
    "batch": (2, "bad-batch-size", ["{head}", "-o", "{out}/l.nii.gz", "--batch-size", "0"]),
    "input": (2, "same-file", ["{head}", "-o", "{head}"]),
    "same file twice": (
        2,
        "same-file",
        ["{head}", "-o", "{out}/l.nii.gz", "--probability", "{out}/../out/l.nii.gz"],
    ),
    "picture": (2, "unsupported-output", ["{head}", "-o", "{out}/l.nii.gz", "--overlay", "{out}/o.jpg"]),
    "adapter as model": (3, "unknown-model", ["{head}", "-o", "{out}/l.nii.gz", "--model", "sah-ct"]),
    "component": (2, "minimum-component", ["{head}", "-o", "{out}/l.nii.gz", "--minimum-component", "nan"]),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_names_the_problem_and_writes_nothing(
    case: str, head: Path, random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, code, arguments = BAD_CALLS[case]
    out = tmp_path / "out"
    out.mkdir()
    names = {"head": head, "out": out, "axial": "hemorrhage-base"}
    filled = [argument.format(**names) for argument in arguments]
    if "--model" not in filled:
        filled += ["--model", str(random_model)]
    assert main(["segment", *filled, "--progress", "json"]) == status
    printed = capsys.readouterr()
    told = events(printed.out)[-1]
    assert (told["event"], told["code"]) == ("error", code)
    assert told["message"]
    assert told["hint"]
    assert told["message"] in printed.err
    assert "Traceback" not in printed.err
    assert not list(out.iterdir())


def test_the_ct_on_the_grid_of_the_label_takes_the_place_of_no_other_file(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tilted = HeadPhantom(seed=0, spacing=(12.0, 3.0, 3.0), tilt=15)
    write_dicom_series(simulate_head(tilted), tmp_path / "dicom")
    label, beside = tmp_path / "head.nii.gz", tmp_path / "head-ct.nii.gz"
    call = ["segment", str(tmp_path / "dicom"), "-o", str(label), "--model", str(random_model)]
    beside.write_bytes(b"somebody's CT")
    assert main(call) == 2
    assert beside.read_bytes() == b"somebody's CT"
    assert not label.exists()
    beside.unlink()
    assert main(call) == 0
    assert str(beside) in capsys.readouterr().out
    assert main(call) == 0  # what an earlier call wrote is replaced
    assert sitk.ReadImage(str(beside)).GetSize() == sitk.ReadImage(str(label)).GetSize()


@pytest.mark.parametrize(
    ("option", "name", "told"),
    [
        (
            "--adapter",
            "hemorrhage-base",
            "No adapter “hemorrhage-base” is installed. “hemorrhage-base” is a base",
        ),
        ("--model", "sah-ct", "No model “sah-ct” is installed. “sah-ct” is an adapter."),
        ("--adapter", "nobody", "No adapter “nobody” is installed. Installed: sah-ct"),
    ],
)
def test_an_adapter_that_is_called_a_model_is_named(
    option: str, name: str, told: str, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(head), "-o", str(tmp_path / "l.nrrd"), option, name]) == 3
    assert told in " ".join(capsys.readouterr().err.split())


def test_an_adapter_changes_what_is_found_and_a_fresh_one_does_not(
    head: Path, random_model: Path, tmp_path: Path
) -> None:
    model = load_model(random_model)
    found = {}
    for name in ("base", "fresh", "moved"):
        call = ["segment", str(head), "-o", str(tmp_path / f"{name}.nrrd"), "--views", "axial"]
        call += ["--model", str(random_model), "--probability", str(tmp_path / f"{name}-p.nrrd")]
        if name != "base":
            network = copy.deepcopy(model.network)
            config = AdapterConfig(method="cp-dora", rank=2)
            adapt(network, config)
            state = collect(network)
            if name == "moved":
                state = {key: tensor + 0.1 * torch.rand_like(tensor) for key, tensor in state.items()}
            card = AdapterCard(
                model.card.description,
                Target(SAH),
                model.sha256,
                "random",
                model.card.network,
                {"axial": config},
            )
            save_adapter(tmp_path / f"{name}.safetensors", Adapter(card, {"axial": state}))
            call += ["--adapter", str(tmp_path / f"{name}.safetensors")]
        assert main([*call, "--report", str(tmp_path / f"{name}.json")]) == 0
        found[name] = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}-p.nrrd")))
    assert np.array_equal(found["base"], found["fresh"])
    assert not np.array_equal(found["base"], found["moved"])
    assert json.loads((tmp_path / "moved.json").read_text())["segment"]["name"] == "Subarachnoid hemorrhage"


@pytest.mark.parametrize(
    "arguments", [[], ["segment"], ["segment", "x"], ["nonsense"], ["models"], ["--nonsense"]]
)
def test_calls_that_do_not_parse_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_an_internal_error_is_reported_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("sahlora.commands.models.run", fail)
    assert main(["models", "list", "--progress", "json"]) == 1
    printed = capsys.readouterr()
    assert events(printed.out)[-1]["code"] == "internal"
    assert "Traceback" in printed.err


def test_the_package_runs_by_path(tmp_path: Path) -> None:
    """As Slicer runs it: a folder given to Python, from elsewhere, without PYTHONPATH."""
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(CORE / "sahlora"), "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=plain,
    )
    assert done.stdout.startswith("sahlora ")


# ----------------------------------------------------------------------------------------------- cancel


@pytest.fixture
def slow_head(tmp_path: Path) -> Path:
    """A head that takes long enough to be cancelled."""
    image = sitk.GetImageFromArray(simple_head((60, 160, 160), (1.0, 1.0, 1.0)))
    path = tmp_path / "slow.nrrd"
    sitk.WriteImage(image, str(path))
    return path


def start_slow(slow_head: Path, random_model: Path, *extra: str | Path) -> subprocess.Popen[str]:
    """Start a long run and return once it computes."""
    out = slow_head.with_name("out")
    process = start_sahlora(
        "segment",
        slow_head,
        "-o",
        out / "label.nrrd",
        "--model",
        random_model,
        "--batch-size",
        "1",
        "--flip",
        *extra,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    return process


def assert_stopped_cleanly(process: subprocess.Popen[str], slow_head: Path) -> None:
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert events(output)[-1]["code"] == "cancelled"
    assert not slow_head.with_name("out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no gentle signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels(number: int, slow_head: Path, random_model: Path) -> None:
    process = start_slow(slow_head, random_model)
    process.send_signal(number)
    assert_stopped_cleanly(process, slow_head)


def test_a_file_cancels(slow_head: Path, random_model: Path, tmp_path: Path) -> None:
    process = start_slow(slow_head, random_model, "--cancel-file", tmp_path / "stop")
    (tmp_path / "stop").touch()
    assert_stopped_cleanly(process, slow_head)


def test_the_command_ends_with_its_parent(slow_head: Path, random_model: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment())
    process = start_slow(slow_head, random_model, "--parent-pid", str(parent.pid))
    parent.communicate(b"\n", timeout=20)
    assert_stopped_cleanly(process, slow_head)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_a_killed_run_leaves_no_result(slow_head: Path, random_model: Path) -> None:
    process = start_slow(slow_head, random_model)
    process.kill()
    process.communicate(timeout=20)
    time.sleep(0.1)
    assert not slow_head.with_name("out").exists()


# -------------------------------------------------------------------------------------------- whole jobs


def test_the_demo_beats_the_threshold_and_leaves_its_files(tmp_path: Path) -> None:
    done = sahlora("demo", tmp_path / "demo", "--progress", "json")
    assert done.returncode == 0, done.stderr
    figures = events(done.stdout)[-1]
    assert figures["dice"] > figures["threshold_dice"] + 0.1
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"dicom", "truth.nii.gz", "label.seg.nrrd", "report.json", "overlay.png", "report.html"}


@pytest.mark.data
@pytest.mark.parametrize("scan", ["ge_head_dicom", "head_phantom_ct/imagex_phantom_head_crop.nii.gz"])
def test_real_scans_are_segmented_on_their_own_grid(scan: str, tmp_path: Path) -> None:
    path = real_data(scan)
    out = tmp_path / "label.nii.gz"
    extra = ["--dicom-seg", tmp_path / "seg.dcm"] if path.is_dir() else []
    done = sahlora("segment", path, "-o", out, "--overlay", tmp_path / "o.png", *extra)
    assert done.returncode == 0, done.stderr
    label = sitk.ReadImage(str(out))
    if path.is_dir():  # tilted and uneven: the label's grid is that of the CT written beside it
        reference = sitk.ReadImage(str(tmp_path / "label-ct.nii.gz"))
        assert sitk.GetArrayViewFromImage(reference).max() > 1000
        assert (tmp_path / "seg.dcm").exists()
    else:
        reference = sitk.ReadImage(str(path))
    assert label.GetSize() == reference.GetSize()
    assert label.GetOrigin() == reference.GetOrigin()
    assert label.GetDirection() == reference.GetDirection()
    assert label.GetSpacing() == reference.GetSpacing()


def test_devices_are_listed_with_their_measured_speed() -> None:
    done = sahlora("devices", "--threads", "1", "--json")
    (*_gpus, cpu) = json.loads(done.stdout)
    assert (cpu["name"], cpu["description"]) == ("cpu", "CPU, 1 thread")
    assert 0 < cpu["seconds_per_slice"] < 60


def test_missing_package_is_named_with_a_way_out(head: Path, random_model: Path, tmp_path: Path) -> None:
    """Torch is hidden behind a module that fails as a missing one does."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    done = subprocess.run(
        [sys.executable, "-m", "sahlora", "segment", head, "-o", tmp_path / "l.nrrd", "--progress", "json"],
        env={**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{CORE}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    error = events(done.stdout)[-1]
    assert (error["code"], error["message"]) == ("missing-package", "The package torch is not installed.")
    assert error["hint"]
