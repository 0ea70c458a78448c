"""The Segmenter with the real command: a simulated head, a model of random weights, real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CORE = Path(__file__).resolve().parents[2] / "SAHLoRACore"
MAKE_MODEL_AND_HEAD = """
import sys
from pathlib import Path
import SimpleITK as sitk, torch
from sahlora.models.card import BaseCard, Description, NetworkSpec
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.models.card import Preprocessing, Target
from sahlora.models.base_model import save_model
from sahlora.models.network import MultiViewUNet
from sahlora.simulation.head import HeadPhantom, simulate_head

folder = Path(sys.argv[1])
torch.manual_seed(0)
target = Target(INTRACRANIAL_HEMORRHAGE, threshold=0.5)
words, spec = Description("Random weights"), NetworkSpec(level=2, width=8)
card = BaseCard(words, target, spec, Preprocessing(spacing=2.0))
network = MultiViewUNet(2, 8).eval()
weight, bias = list(network.parameters())[-2:]
with torch.no_grad():  # probabilities on both sides of 0.5, and mirrored passes that disagree
    weight *= 1000
    bias -= network(torch.full((1, 1, 64, 64), 0.3) + torch.rand(1, 1, 64, 64) / 10).mean()
save_model(folder / "random.safetensors", network, card)
head = simulate_head(HeadPhantom(spacing=(12.0, 2.0, 2.0), sah_volume_ml=30))
sitk.WriteImage(head.ct, str(folder / "head.nrrd"))
"""


# Rows and columns of the oblique head: turned by 20 and 15 degrees, stored from the top down.
TURNED = [[0.9659, 0.0885, -0.2432], [0.0, 0.9397, 0.342], [-0.2588, 0.3304, -0.9077]]


def run_python(*arguments: object, **environment: str) -> None:
    subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(CORE), **environment},
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a head CT and a model of random weights."""
    pytest.importorskip("sahlora")
    folder = tmp_path_factory.mktemp("head and model")
    run_python("-c", MAKE_MODEL_AND_HEAD, folder)
    return folder


@pytest.fixture
def logic(slicer, folder, monkeypatch):
    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    monkeypatch.setenv("SAHLORA_MODELS", str(folder))
    return SAHLoRASegmenterLogic(command=[sys.executable, str(CORE / "sahlora")])


@pytest.fixture
def head(slicer, folder):
    import SimpleITK as sitk

    image = sitk.ReadImage(str(folder / "head.nrrd"))
    directions = np.diag([-1.0, -1.0, 1.0]) @ np.reshape(image.GetDirection(), (3, 3))
    grid = np.eye(4)
    grid[:3, :3] = directions @ np.diag(image.GetSpacing())
    grid[:3, 3] = np.diag([-1.0, -1.0, 1.0]) @ image.GetOrigin()
    return slicer.util.addVolumeFromArray(sitk.GetArrayFromImage(image), ijkToRAS=grid, name="Head")


@pytest.fixture
def settings(slicer):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    return SegmentSettings(model="random", device="cpu", keepProbability=True, makePage=True)


@pytest.mark.proof
def test_result_in_the_scene_is_the_label_map_the_command_writes(
    slicer, logic, head, folder, settings, tmp_path
):
    import SimpleITK as sitk

    run = logic.segment(head, settings, waitForCompletion=True)
    segmentation = run.segmentationNode.GetSegmentation()
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(
        run.segmentationNode, segmentation.GetNthSegmentID(0), head
    )
    run_python(
        CORE / "sahlora", "segment", folder / "head.nrrd", "-o", tmp_path / "label.nrrd",
        "--model", folder / "random.safetensors", "--device", "cpu",
    )  # fmt: skip
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "label.nrrd")))

    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(mask, expected)
    assert segmentation.GetNthSegment(0).GetName() == "Intracranial hemorrhage"
    assert run.result["segment"] == "Intracranial hemorrhage"


@pytest.mark.proof
def test_measurements_and_probability_of_the_command_come_to_the_scene(slicer, logic, head, settings):
    run = logic.segment(head, settings, waitForCompletion=True)
    probability = slicer.util.arrayFromVolume(run.probabilityNode)
    voxel_ml = float(np.prod(head.GetSpacing())) / 1000

    assert run.measurementsNode.GetCellText(0, 1) == f"{run.result['volume_ml']:.2f}"
    assert (probability >= 0.5).sum() * voxel_ml == pytest.approx(run.result["volume_ml"], abs=1e-2)


@pytest.mark.proof
def test_threshold_moved_away_and_back_measures_what_the_command_measured(slicer, logic, head, settings):
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    def rows():
        table = run.measurementsNode
        return [[table.GetCellText(row, c) for c in range(3)] for row in range(table.GetNumberOfRows())]

    run = logic.segment(head, settings, waitForCompletion=True)
    measured = rows()
    probability = slicer.util.arrayFromVolume(run.probabilityNode)
    live = LiveThreshold(run.segmentedResult)
    live.apply(float(probability[probability >= 0.5].mean()))
    assert rows()[0] != measured[0]
    live.finish(0.5)

    assert rows() == measured
    assert run.segmentedResult.page.stat().st_size > 1000


@pytest.mark.proof
def test_error_of_the_command_comes_with_its_hint(slicer, logic, head):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    from SAHLoRACoreLib.childprocess import ChildFailedError

    with pytest.raises(ChildFailedError) as raised:
        logic.segment(head, SegmentSettings(model="not-there", device="cpu"), waitForCompletion=True)
    assert raised.value.error.code == "unknown-model"
    assert "random" in raised.value.error.hint


@pytest.mark.proof
def test_cancelled_command_ends_and_leaves_the_scene(slicer, logic, head, settings):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    run = logic.segment(head, settings)
    run.progress.connect(lambda event: run.cancel())

    with pytest.raises(ChildFailedError) as raised:
        run.wait()
    assert raised.value.error.code == "cancelled"
    assert list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == []


def test_oblique_flipped_anisotropic_volume_gets_the_label_map_of_the_command_in_its_place(
    slicer, logic, folder, tmp_path
):
    """From a click on Segment to the segmentation, each voxel and point, with the real child."""
    import SimpleITK as sitk
    from harness.application import show_module
    from test_segmenter import Installed, wait_for

    directions = np.linalg.qr(np.array(TURNED))[0]
    hu = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "head.nrrd")))[::-1]
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu))
    image.SetSpacing((2.0, 1.9, 11.0))
    image.SetOrigin((-30.5, 12.25, 70.0))
    image.SetDirection(directions.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "oblique.nrrd"))
    grid = np.eye(4)
    grid[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ directions @ np.diag(image.GetSpacing())
    grid[:3, 3] = np.diag([-1.0, -1.0, 1.0]) @ image.GetOrigin()
    volume = slicer.util.addVolumeFromArray(np.ascontiguousarray(hu), ijkToRAS=grid, name="Oblique")
    panel = show_module("SAHLoRASegmenter", logic=logic, installer=Installed())
    panel.ui.inputSelector.setCurrentNode(volume)
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText("Random weights"))
    panel.ui.deviceSelector.setCurrentIndex(panel.ui.deviceSelector.findData("cpu"))
    panel.ui.flipCheckBox.checked = panel.ui.keepDisagreementCheckBox.checked = True
    panel.ui.makePageCheckBox.checked = False
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    result = panel._resultPanel._result
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentationNode, result.segmentID, volume)
    run_python(
        CORE / "sahlora", "segment", tmp_path / "oblique.nrrd", "-o", tmp_path / "label.nrrd", "--flip",
        "--model", folder / "random.safetensors", "--device", "cpu", "--disagreement", tmp_path / "d.nrrd",
    )  # fmt: skip
    label = sitk.ReadImage(str(tmp_path / "label.nrrd"))
    expected = sitk.GetArrayFromImage(label)
    panel.cleanup()

    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(mask, expected)
    cropped, to_world = result._mask()
    world = np.argwhere(cropped)[:, ::-1] @ to_world[:3, :3].T + to_world[:3, 3]
    inside = np.argwhere(expected)[:, ::-1].tolist()
    ras = np.array([label.TransformIndexToPhysicalPoint(index) for index in inside]) * [-1, -1, 1]
    np.testing.assert_allclose(world, ras, atol=1e-3)
    disagreement = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "d.nrrd")))
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(result.disagreementNode), disagreement)
    assert disagreement.any()


@pytest.mark.parametrize("stage", ["checking", "reading", "axial", "writing"])
def test_run_is_cancelled_at_every_stage(slicer, logic, head, settings, stage):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    before = slicer.mrmlScene.GetNumberOfNodes()
    run = logic.segment(head, settings)
    run.progress.connect(lambda event: run.cancel() if event.get("stage") == stage else None)
    with pytest.raises(ChildFailedError) as raised:
        run.wait()

    assert raised.value.error.code == "cancelled"
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert list(Path(slicer.app.temporaryPath).glob("SAHLoRA-*")) == []


@pytest.mark.proof
def test_steps_of_the_readme_lead_to_the_first_result(slicer, monkeypatch):
    """Sample Data, adapter, Segment: with the real commands and the shipped model; 20.03 mL are simulated."""
    import types

    from harness.application import show_module
    from test_segmenter import Installed, wait_for

    from SAHLoRACoreLib.sampledata import downloadHead

    dialog = types.SimpleNamespace(connect=lambda *_: None, close=lambda: None)
    monkeypatch.setattr(slicer.util, "createProgressDialog", lambda **_: dialog, raising=False)
    (node,) = downloadHead(None)
    panel = show_module("SAHLoRASegmenter", installer=Installed())
    assert panel.ui.inputSelector.currentNode() is node
    panel.ui.adapterSelector.setCurrentIndex(panel.ui.adapterSelector.findText("sah-phantom"))
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    result = panel._resultPanel._result
    volume_ml = float(result.measurementsNode.GetCellText(0, 1))
    page = result.page.read_text(encoding="utf-8")
    panel.cleanup()

    assert result.segmentName == "Subarachnoid hemorrhage"
    assert volume_ml == pytest.approx(20.03, rel=0.25)
    assert "Subarachnoid hemorrhage" in page
