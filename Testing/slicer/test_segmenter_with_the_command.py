"""The Segmenter with the real command: a simulated head, a model of random weights, real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.proof

CORE = Path(__file__).resolve().parents[2] / "SAHLoRACore"
MAKE_MODEL_AND_HEAD = """
import sys
from pathlib import Path
import SimpleITK as sitk, torch
from sahlora.card import BaseCard, Description, INTRACRANIAL_HEMORRHAGE, Preprocessing, Target
from sahlora.model import save_model
from sahlora.networks import MultiViewUNet
from sahlora.simulation import HeadPhantom, simulate_head

folder = Path(sys.argv[1])
torch.manual_seed(0)
target = Target(INTRACRANIAL_HEMORRHAGE, threshold=0.5)
card = BaseCard(Description("Random weights"), target, preprocessing=Preprocessing(spacing=2.0))
save_model(folder / "random.safetensors", MultiViewUNet(2, 32), card)
head = simulate_head(HeadPhantom(spacing=(12.0, 1.5, 1.5), sah_volume_ml=30))
sitk.WriteImage(head.ct, str(folder / "head.nrrd"))
"""


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


def test_measurements_and_probability_of_the_command_come_to_the_scene(slicer, logic, head, settings):
    run = logic.segment(head, settings, waitForCompletion=True)
    probability = slicer.util.arrayFromVolume(run.probabilityNode)
    voxel_ml = float(np.prod(head.GetSpacing())) / 1000

    assert run.measurementsNode.GetCellText(0, 1) == f"{run.result['volume_ml']:.2f}"
    assert (probability >= 0.5).sum() * voxel_ml == pytest.approx(run.result["volume_ml"], abs=1e-2)


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


def test_error_of_the_command_comes_with_its_hint(slicer, logic, head):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    from SAHLoRACoreLib.childprocess import ChildFailedError

    with pytest.raises(ChildFailedError) as raised:
        logic.segment(head, SegmentSettings(model="not-there", device="cpu"), waitForCompletion=True)
    assert raised.value.error.code == "unknown-model"
    assert "random" in raised.value.error.hint


def test_cancelled_command_ends_and_leaves_the_scene(slicer, logic, head, settings):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    run = logic.segment(head, settings)
    run.progress.connect(lambda event: run.cancel())

    with pytest.raises(ChildFailedError) as raised:
        run.wait()
    assert raised.value.error.code == "cancelled"
    assert list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == []
