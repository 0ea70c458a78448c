"""What is shown: blood in a brain window, and one outline at a time."""

from __future__ import annotations

import numpy as np
import pytest
from test_segmenter import ct, logic, model, open_panel, wait_for  # noqa: F401 - fixtures

GRID = np.diag([-1.0, -1.0, 5.0, 1.0])


def head():
    """HU with air and bone, as a head has them."""
    hu = np.full((4, 20, 20), 30, np.int16)
    hu[0, 0, :10], hu[0, 0, 10:] = -1000, 1500
    return hu


@pytest.fixture
def add_ct(slicer):
    """Add a CT that has the automatic window, as the archetype reader gives it."""

    def add(name="CT"):
        node = slicer.util.addVolumeFromArray(head(), ijkToRAS=GRID, name=name)
        node.GetDisplayNode().SetAutoWindowLevel(True)
        return node

    return add


@pytest.fixture
def outline(slicer):
    """Add an outline that was drawn on a CT."""

    def add(volume):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} outline")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.CreateDefaultDisplayNodes()
        return node

    return add


def window(volume):
    return volume.GetDisplayNode().GetWindow(), volume.GetDisplayNode().GetLevel()


def visible(*nodes):
    return [bool(node.GetDisplayNode().GetVisibility()) for node in nodes]


# -------------------------------------------------------------------------------------------------- window


def test_ct_that_is_loaded_while_the_panel_is_open_gets_one_too(slicer, open_panel):  # noqa: F811
    open_panel()
    node = slicer.util.addVolumeFromArray(head(), ijkToRAS=GRID, name="CT")

    assert window(node) == (80, 40)


def test_chosen_ct_gets_a_brain_window(slicer, open_panel, add_ct):  # noqa: F811
    node = add_ct()
    open_panel()

    assert window(node) == (80, 40)


def test_window_that_somebody_chose_stays(slicer, open_panel, add_ct):  # noqa: F811
    node = add_ct()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(2000, 500)
    panel = open_panel()
    assert window(node) == (2000, 500)
    panel.ui.brainWindowButton.click()
    assert window(node) == (80, 40)


def test_volume_that_is_no_ct_keeps_its_window(slicer, open_panel):  # noqa: F811
    panel = open_panel()
    values = np.random.default_rng(0).integers(0, 4000, (4, 20, 20), dtype=np.int16)
    node = slicer.util.addVolumeFromArray(values, ijkToRAS=GRID, name="MR")
    node.GetDisplayNode().SetAutoWindowLevel(True)
    before = window(node)
    panel.ui.inputSelector.setCurrentNode(node)

    assert window(node) == before


# ------------------------------------------------------------------------------------------------ outlines


def test_outlines_of_other_cts_and_of_earlier_runs_are_hidden(slicer, add_ct, outline):
    from SAHLoRACoreLib.showing import showOutlines

    first, second = add_ct("first"), add_ct("second")
    shown, ours, own, other = outline(first), outline(first), outline(first), outline(second)
    ours.SetAttribute("SAHLoRA.threshold", "0.5")
    showOutlines([shown], first)

    assert visible(shown, ours, own, other) == [True, False, True, False]


def test_second_run_hides_the_first_and_a_chosen_result_comes_back(slicer, open_panel, ct):  # noqa: F811
    panel = open_panel()
    results = []
    for _run in range(2):
        panel.ui.applyButton.click()
        wait_for(slicer, lambda: panel.ui.applyButton.enabled)
        results.append(panel.ui.resultSelector.currentNode())

    assert visible(*results) == [False, True]
    panel.ui.resultSelector.activate(results[0])
    wait_for(slicer, lambda: visible(*results) == [True, False])


def test_shown_case_hides_those_of_other_cases_of_the_same_ct(slicer, add_ct, outline):
    from SAHLoRATrainerLib.cases import SceneCase
    from SAHLoRATrainerLib.caseviews import showCase

    volume = add_ct()
    shown, other = outline(volume), outline(volume)
    showCase(SceneCase(volume, shown, "blood"), "CT", [shown, other, None])

    assert visible(shown, other) == [True, False]


def test_map_of_another_ct_is_taken_from_the_slices(slicer, add_ct):
    from SAHLoRACoreLib.showing import showVolume
    from SAHLoRACoreLib.volumes import MAP

    first, second, disagreement = add_ct("first"), add_ct("second"), add_ct("first disagreement")
    disagreement.SetAttribute(MAP, "disagreement")
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    view.SetBackgroundVolumeID(first.GetID())
    view.SetForegroundVolumeID(disagreement.GetID())
    showVolume(first)
    assert view.GetForegroundVolumeID() == disagreement.GetID()
    showVolume(second)
    assert view.GetForegroundVolumeID() is None


# ------------------------------------------------------------------------------------------ added segments


def test_second_outline_in_one_segmentation_has_its_own_name_and_color(slicer, logic, ct):  # noqa: F811
    first = logic.segment(ct, waitForCompletion=True)
    second = logic.segment(ct, None, first.segmentationNode, waitForCompletion=True)
    segmentation = second.segmentationNode.GetSegmentation()
    segments = [segmentation.GetNthSegment(number) for number in range(2)]

    assert [segment.GetName() for segment in segments] == ["Hemorrhage", "Hemorrhage 2"]
    assert segments[0].GetColor() != segments[1].GetColor()


# ------------------------------------------------------------------------------------- what can be chosen


def test_ct_that_is_loaded_while_the_panel_is_open_is_chosen(slicer, open_panel, add_ct):  # noqa: F811
    panel = open_panel()
    node = add_ct()

    assert panel.ui.inputSelector.currentNode() is node
    assert panel.ui.applyButton.enabled


def test_only_cts_are_offered(slicer, open_panel, add_ct):  # noqa: F811
    from SAHLoRACoreLib.volumes import MAP

    panel = open_panel()
    color = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    ours = slicer.vtkMRMLScalarVolumeNode()
    ours.SetAttribute(MAP, "probability")
    slicer.mrmlScene.AddNode(ours)
    node = add_ct()
    selector = panel.ui.inputSelector
    offered = []
    for each in (color, ours, node):
        selector.setCurrentNode(each)
        offered.append(selector.currentNode() is each)

    assert offered == [False, False, True]


def test_empty_volume_can_not_be_segmented_until_its_image_comes(slicer, open_panel):  # noqa: F811
    panel = open_panel()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    panel.ui.inputSelector.setCurrentNode(node)
    assert not panel.ui.applyButton.enabled
    assert "empty" in panel.ui.obstacleLabel.text
    slicer.util.updateVolumeFromArray(node, np.full((4, 20, 20), 30, np.int16))
    assert panel.ui.applyButton.enabled


def test_batch_shows_its_last_result(slicer, open_panel, add_ct):  # noqa: F811
    import qt

    panel = open_panel()
    for name in ("first", "second"):
        add_ct(name)
    for row in range(2):
        panel.ui.batchList.item(row).setCheckState(qt.Qt.Checked)
    panel.ui.batchVolumesButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)

    assert panel.ui.resultSelector.currentNode().GetName() == "second segmentation"


# -------------------------------------------------------------------------------------------- closed scene


def test_closed_scene_leaves_no_word_of_its_patients(slicer, open_panel, ct):  # noqa: F811
    import qt

    panel = open_panel()
    ui = panel.ui
    ui.applyButton.click()
    wait_for(slicer, lambda: ui.applyButton.enabled)
    assert ui.resultLabel.text
    ui.batchList.item(0).setCheckState(qt.Qt.Checked)
    ui.batchVolumesButton.click()
    wait_for(slicer, lambda: ui.applyButton.enabled)
    slicer.mrmlScene.Clear(0)

    assert (ui.statusLabel.text, ui.resultLabel.text, ui.logText.plainText) == ("", "", "")
    assert (ui.progressBar.value, ui.batchTable.rowCount, ui.measurementsTable.rowCount) == (0, 0, 0)


# -------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("width", [350, 600])
def test_names_of_cases_get_the_width_that_is_left(slicer, add_ct, outline, monkeypatch, tmp_path, width):
    from harness.application import show_module
    from test_segmenter import Installed

    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path))
    panel = show_module("SAHLoRATrainer", installer=Installed())
    volume = add_ct("Simulated patient 1")
    segmentation = outline(volume)
    segment_id = segmentation.GetSegmentation().AddEmptySegment("blood", "Subarachnoid hemorrhage")
    panel.addCase(volume, segmentation, segment_id)
    panel.parent.resize(width, 1600)
    panel.parent.show()
    slicer.app.processEvents()
    table = panel.ui.casesTable
    widths = [table.columnWidth(column) for column in range(table.columnCount)]
    viewport = table.viewport().width()
    panel.parent.hide()
    panel.cleanup()

    assert abs(sum(widths) - viewport) <= 2  # no gap, nothing out of sight
    assert widths[0] == max(widths)
