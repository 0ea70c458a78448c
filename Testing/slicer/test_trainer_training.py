"""The Trainer with the real command: heads in the scene, a small model of random weights, real children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_segmenter import Installed, wait_for

CORE = Path(__file__).resolve().parents[2] / "SAHLoRACore"
COMMAND = [sys.executable, str(CORE / "sahlora")]
MAKE_MODEL = """
import sys
from pathlib import Path
import torch
from sahlora.models.card import BaseCard, Description, NetworkSpec
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.models.card import Preprocessing, Target
from sahlora.models.base_model import save_model
from sahlora.models.network import MultiViewUNet

torch.manual_seed(0)
target = Target(INTRACRANIAL_HEMORRHAGE, threshold=0.5)
words, network = Description("Random weights"), NetworkSpec(level=2, width=8)
card = BaseCard(words, target, network, Preprocessing(spacing=4.0))
save_model(Path(sys.argv[1]), MultiViewUNet(2, 8), card)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder with a small model of random weights."""
    folder = tmp_path_factory.mktemp("models")
    environment = {**os.environ, "PYTHONPATH": str(CORE)}
    command = [sys.executable, "-c", MAKE_MODEL, str(folder / "random.safetensors")]
    subprocess.run(command, env=environment, check=True)
    return folder


@pytest.fixture(autouse=True)
def as_in_slicer(tmp_path_factory, monkeypatch):
    """Hide the package transformers from children: Slicer has none, and MONAI takes seconds to import it."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "transformers.py").write_text("raise ModuleNotFoundError('hidden', name='transformers')")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def data(slicer, models, tmp_path, monkeypatch):
    """A data folder of its own, with a space and a letter beyond ASCII in its name."""
    from SAHLoRACoreLib.settings import Settings

    monkeypatch.setenv("SAHLORA_MODELS", str(models))
    folder = tmp_path / "runs of José"
    replace(Settings.load(), dataFolder=str(folder)).save()
    yield folder
    Settings().save()


@pytest.fixture
def logic(slicer, data):
    from SAHLoRATrainer import SAHLoRATrainerLogic

    return SAHLoRATrainerLogic(COMMAND)


@pytest.fixture
def settings(slicer):
    from SAHLoRATrainerLib.settings import TrainSettings

    return TrainSettings(name="Our scanner", model="random", preset="quick", epochs=4, device="cpu", seed=3)


def add_head(slicer, seed):
    """A head of 30 HU in a skull, with blood of 70 HU at a place of its own, and its outline."""
    z, y, x = np.ogrid[-1:1:8j, -1:1:64j, -1:1:64j]
    radius = np.sqrt(z**2 + y**2 + x**2 + 0 * (x + y + z))
    hu = np.where(radius < 0.85, 30, np.where(radius < 0.95, 900, -1000)).astype(np.int16)
    a, b = np.random.default_rng(seed).uniform(-0.3, 0.3, 2)
    blood = (np.abs(z) < 0.5) & ((y - a) ** 2 + (x - b) ** 2 < 0.06)
    hu[blood & (hu == 30)] = 70
    grid = slicer.util.vtkMatrixFromArray(np.diag([-3.0, -3.0, 10.0, 1.0]))
    volume = slicer.util.addVolumeFromArray(hu, ijkToRAS=grid, name=f"Doe^John {seed}")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"Outline {seed}")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("blood", "Blood")
    mask = (hu == 70).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, "blood", volume)
    return volume, segmentation, "blood"


@pytest.fixture
def cases(slicer):
    from SAHLoRATrainerLib.cases import SceneCase

    return [SceneCase(*add_head(slicer, seed), heldOut=seed == 2) for seed in range(3)]


@pytest.fixture
def open_panel(slicer, logic, monkeypatch):
    """Open the Trainer; it counts parameters when it is asked to."""
    from harness.application import show_module
    from SAHLoRATrainerLib import adapterpanel

    monkeypatch.setattr(adapterpanel, "COUNT_DELAY_MS", 10**8)

    panels = []

    def open_panel():
        panel = show_module("SAHLoRATrainer", logic=logic, installer=Installed())
        panels.append(panel)
        return panel

    yield open_panel
    for panel in panels:
        panel.cleanup()


@pytest.fixture
def panel(slicer, open_panel):
    """The panel with three heads of the scene, the last held out, and four quick epochs."""
    panel = open_panel()
    for seed in range(3):
        panel.addCase(*add_head(slicer, seed))
    panel.cases.change(panel.cases.rows()[2].key, heldOut=True)
    parameters = panel.parameters
    parameters.model, parameters.preset, parameters.epochs = "random", "quick", 4
    parameters.device, parameters.seed, parameters.runName = "cpu", 3, "Our scanner"
    return panel


def tensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


def assert_equal_adapters(first, second):
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name])


def finetune(manifest, output, models):
    """Do what the panel of the fixture does, with the command."""
    options = ["--model", "random", "--preset", "quick", "--epochs", "4", "--device", "cpu", "--seed", "3"]
    subprocess.run(
        [*COMMAND, "finetune", str(manifest), "-o", str(output), *options, "--progress", "none"],
        env={**os.environ, "SAHLORA_MODELS": str(models)},
        check=True,
        capture_output=True,
    )


def epochs_drawn(slicer):
    tables = [n for n in slicer.util.getNodesByClass("vtkMRMLTableNode") if n.GetAttribute("SAHLoRA.run")]
    return tables[0].GetNumberOfRows() if tables else 0


def exported(cases):
    from SAHLoRATrainerLib.export import exportCases

    steps = exportCases(cases)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_case_is_written_once_and_anew_only_when_it_changed(slicer, cases, data):
    first = exported(cases)
    written = {path: path.stat().st_mtime_ns for path in data.rglob("*.nrrd")}
    assert len(written) == 6
    assert exported(cases) == first
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*.nrrd")} == written
    array = slicer.util.arrayFromVolume(cases[0].volumeNode)
    array[0, 0, 0] += 1
    second = exported(cases)
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, True, True]
    assert [case.name for case in second] == ["case-001", "case-002", "case-003"]


def test_adapter_of_a_run_killed_and_resumed_in_the_panel_is_the_one_of_the_command(
    slicer, panel, data, models, tmp_path, monkeypatch
):
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda *_, **__: None)
    panel.ui.trainButton.click()
    assert not panel.ui.trainButton.enabled
    wait_for(slicer, lambda: epochs_drawn(slicer) >= 1)
    os.killpg(panel.parts.training._training._child._process.pid, signal.SIGKILL)
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    assert "ended from outside" in panel.ui.statusLabel.text
    assert panel.parts.training.selectedRun().state == "failed"
    panel.ui.resumeButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    run = panel.parts.training.selectedRun()
    finetune(run.manifest, tmp_path / "command.safetensors", models)

    assert run.state == "done"
    assert_equal_adapters(run.adapter, tmp_path / "command.safetensors")
    assert epochs_drawn(slicer) == 4
    assert "Best so far: Dice" in panel.ui.bestLabel.text
    everything = [path for path in data.rglob("*") if path.is_file()]
    assert not any(b"Doe" in path.read_bytes() for path in everything)
    assert not any("Doe" in str(path) for path in everything)
