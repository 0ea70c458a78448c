"""The Trainer's table of cases from the user's side: filled, marked, refused, saved with the scene."""

from __future__ import annotations

import numpy as np
import pytest
from test_segmenter import Installed


@pytest.fixture
def add_case(slicer):
    """Add a CT with a segmentation of one segment and return volume, segmentation and segment's ID."""

    def add_case(name="CT"):
        hu = np.full((4, 20, 20), 30, dtype=np.int16)
        hu[1:3, 5:15, 5:15] = 70
        volume = slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name=name)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} segmentation")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        identifier = segmentation.GetSegmentation().AddEmptySegment("blood", "Blood")
        mask = (hu == 70).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, identifier, volume)
        return volume, segmentation, identifier

    return add_case


@pytest.fixture
def open_trainer(slicer, monkeypatch, tmp_path):
    """Open the Trainer with a user's models folder of its own."""
    from harness.application import show_module

    panels = []
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))

    def open_trainer(**parts):
        parts.setdefault("installer", Installed())
        panels.append(show_module("SAHLoRATrainer", **parts))
        return panels[-1]

    yield open_trainer
    for panel in panels:
        panel.cleanup()


def test_chosen_ct_and_segment_are_added_from_the_scene(open_trainer, add_case):
    volume, segmentation, _ = add_case("Head A")
    panel = open_trainer()
    panel.ui.caseVolumeSelector.setCurrentNode(None)
    panel.ui.caseVolumeSelector.setCurrentNode(volume)
    assert panel.ui.caseSegmentationSelector.currentNode() is segmentation
    panel.ui.addCaseButton.click()
    table = panel.ui.casesTable

    assert [table.item(0, column).text() for column in range(2)] == ["Head A", "Blood"]
    assert panel.cases.nodes(panel.cases.rows()[0].key) == (volume, segmentation)


def test_each_of_several_cts_is_added_with_its_own_segmentation(open_trainer, add_case):
    """Choosing a CT also chooses its segmentation, and what is chosen is what is added."""
    cases = [add_case(f"Head {name}") for name in "ABC"]
    panel = open_trainer()
    for volume, _segmentation, _segment in cases:
        panel.ui.caseVolumeSelector.setCurrentNode(volume)
        assert panel.ui.caseVolumeSelector.currentNode() is volume
        panel.ui.addCaseButton.click()

    assert [panel.cases.nodes(row.key) for row in panel.cases.rows()] == [case[:2] for case in cases]


def test_case_handed_over_is_in_the_table_once(open_trainer, add_case):
    panel, case = open_trainer(), add_case()
    panel.addCase(*case)
    panel.addCase(*case)

    assert panel.ui.casesTable.rowCount == 1


def test_case_without_a_segment_is_refused_with_the_reason(open_trainer, add_case):
    panel, (volume, segmentation, _) = open_trainer(), add_case()

    with pytest.raises(ValueError, match="segment that outlines the blood"):
        panel.addCase(volume, segmentation, "no such segment")
    with pytest.raises(ValueError, match="Choose a head CT"):
        panel.addCase(None, segmentation, "blood")


def test_list_of_files_is_added_without_reading_them(slicer, open_trainer, tmp_path):
    manifest = tmp_path / "cases.csv"
    manifest.write_text(
        "case,image,label,patient,held_out\na,a.nii.gz,al.nii.gz,P,yes\nb,b.nii.gz,bl.nii.gz,Q,\n"
    )
    panel = open_trainer()
    panel.parts.cases.addFiles(manifest)
    panel.parts.cases.addFiles(manifest)
    rows = panel.cases.rows()

    assert [(row.name, row.heldOut) for row in rows] == [("a", True), ("b", False)]
    assert len({row.patient for row in rows} - {"", "P", "Q"}) == 2
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_saved_table_names_no_patient_and_knows_scans_of_one_all_the_same(slicer, open_trainer, add_case):
    panel = open_trainer()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    for number, person in enumerate(("MUELLER^HANS", "MUELLER^HANS", "MAIER^EVA")):
        case = add_case(f"{person} CT {number}")
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), person)
        hierarchy.SetItemUID(patient, "DICOM", f"ID of {person}")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(case[0]), patient)
        panel.addCase(*case)
    rows = panel.cases.rows()

    assert [row.name for row in rows] == ["MUELLER^HANS CT 0", "MUELLER^HANS CT 1", "MAIER^EVA CT 2"]
    assert rows[0].patient == rows[1].patient != rows[2].patient
    for word in ("MUELLER", "HANS", "MAIER"):
        assert word not in panel.parameters.cases


def test_ticks_of_use_and_held_out_are_kept(open_trainer, add_case):
    import qt

    panel = open_trainer()
    for name in "AB":
        panel.addCase(*add_case(name))
    panel.ui.casesTable.item(0, 3).setCheckState(qt.Qt.Checked)
    panel.ui.casesTable.item(1, 0).setCheckState(qt.Qt.Unchecked)

    assert [(row.enabled, row.heldOut) for row in panel.cases.rows()] == [(True, True), (False, False)]


def test_what_can_not_be_trained_on_is_refused_with_the_reason(slicer, open_trainer, add_case):
    panel = open_trainer()
    obstacle = panel.parts.cases.obstacle
    assert "Add cases" in obstacle()
    first = add_case("A")
    panel.addCase(*first)
    assert "One case" in obstacle()
    panel.addCase(*add_case("B"))
    assert "No case is held out" in obstacle()
    panel.ui.holdOutButton.click()
    assert obstacle() == ""
    slicer.mrmlScene.RemoveNode(first[0])
    assert "No longer in the scene: case 1" in obstacle()
    assert panel.ui.casesTable.item(0, 0).text() == "case 1"


def test_fifth_of_the_patients_is_held_out(open_trainer, add_case):
    panel = open_trainer()
    for name in "ABCDEF":
        panel.addCase(*add_case(name))
    panel.ui.holdOutButton.click()

    assert sum(row.heldOut for row in panel.cases.rows()) == 2


def test_settings_that_train_nothing_are_refused_with_the_reason(open_trainer):
    panel = open_trainer()
    obstacle = panel.parts.adapter.obstacle
    assert obstacle() == ""
    panel.ui.rankSpinBox.value = 0
    assert "rank" in obstacle()
    panel.ui.rankSpinBox.value = 4
    panel.ui.axialCheckBox.checked = False
    assert "view" in obstacle()


def test_sections_need_no_more_than_350_pixels_of_width(open_trainer, add_case):
    panel = open_trainer()
    panel.addCase(*add_case("A rather long name of a head CT, as PACS like to make them"))
    for name in ("cases", "adapter", "adapterAdvanced", "training", "log", "judgement"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False

    assert panel.parent.minimumSizeHint.width() <= 350


def test_tab_key_goes_from_top_to_bottom(slicer, open_trainer):
    from PySide6.QtWidgets import QWidget

    panel = open_trainer()
    for name in ("cases", "adapter", "adapterAdvanced", "training", "judgement"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False
    panel.parent.resize(400, 1600)
    panel.parent.show()
    slicer.app.processEvents()
    names = ("caseSegmentSelector", "addCaseButton", "addListButton", "casesTable", "removeCaseButton")
    names += ("checkCasesButton", "modelSelector", "methodSelector", "rankSpinBox", "presetSelector")
    names += ("estimateButton", "scopeSelector", "axialCheckBox", "deviceSelector", "runNameEdit")
    names += ("trainButton", "cancelButton", "runsTable", "resumeButton", "deleteRunButton", "judgeButton")
    names += ("openEvaluationButton", "judgementTable")
    order, widget = [], panel.ui.caseSegmentSelector
    for _step in range(400):
        order.append(QWidget.objectName(widget))
        widget = QWidget.nextInFocusChain(widget)
    positions = [order.index(name) for name in names]
    panel.parent.hide()

    assert positions == sorted(positions)


def test_saved_scene_brings_back_the_table_and_its_nodes(slicer, open_trainer, add_case, tmp_path):
    panel = open_trainer()
    panel.addCase(*add_case("Head A"))
    panel.ui.rankSpinBox.value = 8
    key = panel.cases.rows()[0].key
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(1)
    assert panel.ui.casesTable.rowCount == 0
    slicer.mrmlScene.Connect()
    panel.enter()

    assert [node.GetName() for node in panel.cases.nodes(key)] == ["Head A", "Head A segmentation"]
    assert panel.ui.rankSpinBox.value == 8
    assert panel.ui.casesTable.item(0, 0).text() == "Head A"
