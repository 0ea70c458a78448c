"""From simulated patients to a better outline of a new one: real children, real MRML, the shipped model."""

from __future__ import annotations

import csv
import subprocess

import numpy as np
import pytest
from test_segmenter import Installed, wait_for
from test_trainer_clicks import click, show
from test_trainer_training import (  # noqa: F401 - fixtures
    COMMAND,
    as_in_slicer,
    data,
    logic,
    models,
    open_panel,
)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Four simulated patients, as paths of CT and mask."""
    folder = tmp_path_factory.mktemp("patients")
    options = ["--count", "4", "--sah-ml", "40", "--spacing", "12,2,2", "--seed", "1", "--overwrite"]
    subprocess.run([*COMMAND, "simulate", str(folder), *options], check=True, capture_output=True)
    with (folder / "manifest.csv").open(newline="") as stream:
        return [(folder / row["image"], folder / row["label"]) for row in csv.DictReader(stream)]


def load(slicer, image, mask, name):
    """A CT and its outline in the scene."""
    volumes = slicer.modules.volumes.logic()
    volume = volumes.AddArchetypeVolume(str(image), name)
    label = volumes.AddArchetypeVolume(str(mask), "mask")
    truth = slicer.util.arrayFromVolume(label).astype(np.uint8)
    slicer.mrmlScene.RemoveNode(label)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} outline")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("blood", "Blood")
    slicer.util.updateSegmentBinaryLabelmapFromArray(truth, segmentation, "blood", volume)
    return volume, segmentation, truth


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture
def segmenter(slicer):
    """The Segmenter's panel with the real command, open before there is an adapter."""
    from harness.application import show_module
    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    panel = show_module("SAHLoRASegmenter", logic=SAHLoRASegmenterLogic(COMMAND), installer=Installed())
    panel.exit()
    yield panel
    panel.cleanup()


def outlined(slicer, segmenter, volume, adapter):
    """What the Segmenter outlines with an adapter, chosen by its title, or with none."""
    ui = segmenter.ui
    ui.inputSelector.setCurrentNode(volume)
    ui.adapterSelector.setCurrentIndex(ui.adapterSelector.findText(adapter))
    assert ui.adapterSelector.currentText == adapter
    ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))
    before = set(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    ui.applyButton.click()
    wait_for(slicer, lambda: ui.applyButton.enabled, seconds=300)
    (made,) = set(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) - before
    identifier = made.GetSegmentation().GetNthSegmentID(0)
    return slicer.util.arrayFromSegmentBinaryLabelmap(made, identifier, volume) > 0


def test_adapter_trained_in_the_panel_outlines_a_new_patient_better_than_its_base(
    slicer,
    open_panel,  # noqa: F811 - the fixtures
    patients,
    segmenter,
):
    panel = open_panel()
    for number, (image, mask) in enumerate(patients[:3]):
        volume, segmentation, _ = load(slicer, image, mask, f"Patient {number}")
        panel.addCase(volume, segmentation, "blood")
    panel.cases.change(panel.cases.rows()[2].key, heldOut=True)
    parameters = panel.parameters
    parameters.method, parameters.preset, parameters.epochs = "conv-lora", "quick", 4
    parameters.device = "cpu"
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled, seconds=300)
    run = panel.parts.training.selectedRun()
    assert run.state == "done", run.message
    panel.ui.judgeButton.click()
    wait_for(slicer, lambda: panel.ui.judgeButton.enabled, seconds=300)
    assert panel.ui.verdictLabel.text.startswith("The adapter is better on 1 of 1 held-out cases")
    assert "too few cases to be sure" in panel.ui.verdictLabel.text

    panel.ui.judgementCollapsibleButton.collapsed = False
    show(panel)
    click(panel.ui.judgementTable, 0, 0)
    shown = [
        n
        for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if n.GetAttribute("SAHLoRA.judgement")
    ]
    assert [node.GetName() for node in shown] == ["Patient 2 with the adapter", "Patient 2 with the base"]
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 3

    share = panel.parts.share.ui
    share.keepNameEdit.text, share.keepTitleEdit.text = "site", "Our scanner"
    share.keepButton.click()
    wait_for(slicer, lambda: not panel.occupation, seconds=300)
    assert share.shareStatusLabel.text.startswith("Our scanner is installed"), share.shareStatusLabel.text
    panel.exit()
    volume, _, truth = load(slicer, *patients[3], "New patient")
    segmenter.enter()
    before = dice(outlined(slicer, segmenter, volume, "None: the model as it is"), truth > 0)
    after = dice(outlined(slicer, segmenter, volume, "Our scanner"), truth > 0)
    assert after > before + 0.05
