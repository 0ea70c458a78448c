"""What to annotate next, from the user's side: the real command, a real scene, tiny scans and models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_childprocess import wait_for
from test_trainer_cases import open_trainer  # noqa: F401 - fixture

CORE = Path(__file__).resolve().parents[2] / "SAHLoRACore"
MAKE_MODELS = """
import sys
from pathlib import Path
import torch
from sahlora.models.adapter_file import Adapter, AdapterCard, save_adapter
from sahlora.adapters.attach import adapt, collect
from sahlora.adapters.config import AdapterConfig
from sahlora.models.card import BaseCard, Description, NetworkSpec
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.models.card import Preprocessing, Target
from sahlora.models.base_model import load_model, save_model
from sahlora.models.network import MultiViewUNet

folder, spec, target = Path(sys.argv[1]), NetworkSpec(level=1, width=4), Target(INTRACRANIAL_HEMORRHAGE)
torch.manual_seed(1)
network = MultiViewUNet(1, 4).eval()
with torch.no_grad():  # logits of about -3 to 3 on noise
    logits, last = network(torch.rand(1, 1, 40, 40)), network.head[-1]
    last.weight *= 3 / logits.std()
    last.bias.copy_((last.bias - logits.mean()) * 3 / logits.std())
save_model(folder / "base.safetensors", network,
           BaseCard(Description("Our base"), target, spec, Preprocessing(spacing=3.0)))
base = load_model(folder / "base.safetensors")
for seed in (1, 2):
    torch.manual_seed(seed)
    network, config = MultiViewUNet(1, 4), AdapterConfig("lora-c", 1)
    adapt(network, config)
    state = {key: tensor + 0.1 * torch.randn(tensor.shape) for key, tensor in collect(network).items()}
    card = AdapterCard(Description(f"Fold {seed}"), target, base.sha256, "Our base", spec, {"axial": config})
    save_adapter(folder / f"fold-{seed}.safetensors", Adapter(card, {"axial": state}))
"""


def run_python(*arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CORE)}
    subprocess.run([sys.executable, *map(str, arguments)], env=environment, check=True, capture_output=True)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a base model of random weights and two adapters of it."""
    pytest.importorskip("sahlora")
    folder = tmp_path_factory.mktemp("models")
    run_python("-c", MAKE_MODELS, folder)
    return folder


def write_scan(path: Path, seed: int, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)) -> Path:
    """Write a head: a shell of bone around brain with noise."""
    z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (12, 48, 40)), indexing="ij")
    radius = np.sqrt((z / 1.3) ** 2 + y**2 + x**2)
    hu = np.where(radius < 0.9, 35, np.where(radius < 1.0, 1000, -1000)).astype(np.int16)
    hu[radius < 0.9] += np.random.default_rng(seed).normal(0, 25, int((radius < 0.9).sum())).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((3.0, 3.0, 5.0))
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def scans(tmp_path):
    """Three scans, one of them stored upside down, and one file that is none."""
    folder = tmp_path / "scans é"
    write_scan(folder / "a.nii.gz", 1)
    write_scan(folder / "b.nrrd", 2, (1, 0, 0, 0, -1, 0, 0, 0, -1))
    write_scan(folder / "deep" / "c.mha", 3)
    (folder / "broken.nrrd").write_bytes(b"NRRD0004")
    return folder


@pytest.fixture
def panel(slicer, open_trainer, models, monkeypatch):  # noqa: F811
    """The Trainer with the real command and the small models."""
    from SAHLoRATrainer import SAHLoRATrainerLogic

    panel = open_trainer(logic=SAHLoRATrainerLogic(command=[sys.executable, str(CORE / "sahlora")]))
    monkeypatch.setenv("SAHLORA_MODELS", str(models))
    panel.parameters.model, panel.parameters.device = "base", "cpu"
    panel.enter()
    return panel


def rank(slicer, panel, folder) -> None:
    panel.parts.suggest.chooseFolder(folder)
    panel.parts.suggest.ui.rankButton.click()
    wait_for(slicer, lambda: not panel.occupation)


def cells(table) -> list[list[str]]:
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


def selected(panel, scan: str) -> None:
    table = panel.parts.suggest.ui.suggestTable
    table.selectRow([row[0] for row in cells(table)].index(scan))


def test_ranked_scan_is_opened_corrected_and_added(slicer, panel, scans):
    import qt

    ui = panel.parts.suggest.ui
    for row in range(2):
        ui.suggestAdaptersList.item(row).setCheckState(qt.Qt.Checked)
    rank(slicer, panel, scans)
    table = cells(ui.suggestTable)
    assert [row[3] for row in table] == ["", "", "", "not readable"]
    assert [row[1] for row in table[:3]] == sorted((row[1] for row in table[:3]), reverse=True)
    assert ui.rankStatusLabel.text.startswith("3 of 4 scans ranked")

    for suggestion in panel.parts.suggest._shown[:3]:
        assert suggestion.reason.startswith("4 predictions")  # two adapters, each also mirrored
        selected(panel, suggestion.scan)
        ui.openSuggestionButton.click()
        opened = panel.parts.suggest._opened[suggestion.scan]
        outline = slicer.util.arrayFromSegmentBinaryLabelmap(
            opened.segmentationNode, opened.segmentID, opened.volumeNode
        )
        inside = slicer.util.arrayFromVolume(opened.volumeNode)[outline > 0]
        # The voxels outlined in the scene are those outlined in the files.
        image, label = (sitk.GetArrayFromImage(sitk.ReadImage(path))
                        for path in (suggestion.image, suggestion.proposal))  # fmt: skip
        assert inside.size > 10
        assert sorted(inside) == sorted(image[label == 1])

    # A corrected outline becomes a case.
    opened = panel.parts.suggest._opened[suggestion.scan]
    corrected = np.zeros_like(outline)
    corrected[3:5, 10:20, 10:20] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        corrected, opened.segmentationNode, opened.segmentID, opened.volumeNode
    )
    ui.addSuggestionButton.click()
    (case,) = panel.cases.rows()
    assert panel.cases.nodes(case.key) == (opened.volumeNode, opened.segmentationNode)
    assert case.segment == opened.segmentID
    assert cells(ui.suggestTable)[2][3] == "added"

    # What was opened is used again; what was removed is opened anew.
    ui.openSuggestionButton.click()
    assert panel.parts.suggest._opened[suggestion.scan] == opened
    slicer.mrmlScene.RemoveNode(opened.volumeNode)
    selected(panel, suggestion.scan)
    assert not ui.addSuggestionButton.enabled
    ui.openSuggestionButton.click()
    assert panel.parts.suggest._opened[suggestion.scan].volumeNode is not opened.volumeNode


def test_canceled_ranking_keeps_the_scans_that_are_done(slicer, panel, scans):
    for number in range(12):
        write_scan(scans / f"more-{number}.nrrd", number)
    part = panel.parts.suggest
    part.chooseFolder(scans)
    part.ui.rankButton.click()
    assert not part.ui.rankButton.enabled
    wait_for(slicer, lambda: any(row.score is not None for row in part._shown))
    part.ui.rankCancelButton.click()
    wait_for(slicer, lambda: not panel.occupation)

    assert 1 <= len(part._shown) < 16
    assert part.ui.rankStatusLabel.text.startswith("Canceled. ")
    part.ui.suggestTable.selectRow(0)
    part.ui.openSuggestionButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert part.ui.rankButton.enabled


def test_folder_without_a_scan_is_refused_and_the_panel_is_free_again(slicer, panel, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: told.append(text))
    (tmp_path / "empty").mkdir()
    rank(slicer, panel, tmp_path / "empty")
    ui = panel.parts.suggest.ui

    assert "There is no scan in" in told[0]
    assert ui.rankStatusLabel.text == told[0]
    assert ui.rankButton.enabled and not ui.openSuggestionButton.enabled


def test_no_file_of_a_patient_stays_behind(slicer, panel, scans):
    rank(slicer, panel, scans)
    folder = Path(panel.parts.suggest._shown[0].proposal).parents[1]
    assert list(folder.rglob("*.seg.nrrd"))
    panel.parts.suggest.close()

    assert not folder.exists()
    assert panel.parts.suggest.ui.suggestTable.rowCount == 0


def test_button_says_what_is_missing(slicer, panel, tmp_path):
    part = panel.parts.suggest
    assert part.ui.rankButton.toolTip == "Choose a folder with scans."
    assert part.ui.suggestModelName.text == "Our base"
    part.chooseFolder(tmp_path)
    assert part.ui.rankButton.enabled
    panel.occupy("A model is being trained.")
    assert (part.ui.rankButton.enabled, part.ui.rankButton.toolTip) == (False, "A model is being trained.")
    panel.release()
    slicer.mrmlScene.Clear(0)
    assert part.ui.suggestModelName.text == "hemorrhage-base"


@pytest.mark.parametrize("is_dicom", [True, False])
def test_scene_holds_the_voxels_of_a_scan_whose_file_goes_with_the_ranking(slicer, tmp_path, is_dicom):
    from SAHLoRATrainerLib.suggest import Suggestion, openSuggestion

    from SAHLoRACoreLib.testdoubles.fakechild import write_segmentation

    path, outline = write_scan(tmp_path / "ct.nrrd", 1), tmp_path / "ct.seg.nrrd"
    write_segmentation(sitk.ReadImage(str(path)) > 500, outline)
    image = str(tmp_path / "dicom" if is_dicom else path)
    opened = openSuggestion(Suggestion(1, "a", 0.5, 1.0, 3, "", image, str(outline), str(path)))
    voxels = slicer.util.arrayFromVolume(opened.volumeNode)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(
        opened.segmentationNode, opened.segmentID, opened.volumeNode
    )

    assert (opened.volumeNode.GetStorageNode() is None) == is_dicom  # else a saved scene would point to it
    np.testing.assert_array_equal(mask > 0, voxels > 500)


def test_scan_that_could_not_be_ranked_is_not_opened(slicer):
    from SAHLoRATrainerLib.suggest import Suggestion, openSuggestion

    with pytest.raises(ValueError, match="can't be read"):
        openSuggestion(Suggestion(None, "a", None, None, None, "It can't be read.", "a.nrrd", "", ""))
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_slices_are_counted_from_below_however_the_scan_is_stored(slicer, flip):
    from SAHLoRATrainerLib.suggest import OpenedScan

    hu = np.zeros((6, 8, 10), np.int16)
    node = slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, flip * 5.0, 1.0]), name="CT")
    opened = OpenedScan(node, slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    bounds = np.zeros(6)
    node.GetSliceBounds(bounds, None)
    heights = [opened.position(number)[2] for number in range(1, 7)]

    assert heights[0] == pytest.approx(bounds[4] + 2.5)
    np.testing.assert_allclose(np.diff(heights), 5.0)


def test_options_are_those_of_the_command(slicer):
    import argparse

    from SAHLoRATrainerLib.suggest import RankSettings

    command = pytest.importorskip("sahlora.commands.cases")
    parser = argparse.ArgumentParser()
    command.configure("rank", parser)
    options = RankSettings("m", ("a", "b"), "cuda:1").arguments()
    args = parser.parse_args(["scans", "-o", "r.json", "--proposals", "p", *options])

    assert (args.model, args.adapter, args.device) == ("m", ["a", "b"], "cuda:1")
