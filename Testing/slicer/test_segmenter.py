"""The Segmenter from the user's side: panel, scene, and real child processes of a fake command."""

from __future__ import annotations

import time

import numpy as np
import pytest


class Installed:
    """An installer that finds everything in place and notes that it was asked."""

    def __init__(self, findings=None, obstacle=""):
        from SAHLoRACoreLib.installation import Findings

        self.findings, self._obstacle, self.installed = findings or Findings(), obstacle, []

    def obstacle(self):
        return self._obstacle

    def probe(self):
        return self.findings

    def forget(self):
        self.forgotten = True

    def installObstacle(self, findings):  # noqa: N802 - Slicer's style
        return ""

    def consentText(self, findings):  # noqa: N802 - Slicer's style
        return "Install?"

    def install(self, findings):
        self.installed.append(findings)


@pytest.fixture
def model(monkeypatch, tmp_path):
    """A user's models folder with one base model, which the panel lists and the fake child ignores."""
    from test_models import write_model

    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    write_model(tmp_path / "models" / "site.safetensors", title="Our site")
    return "site"


@pytest.fixture
def ct(slicer):
    """A CT of 30 HU with 1 mL of 70 HU: 2 slices of 5 mm, 10 by 10 voxels of 1 mm."""
    hu = np.full((4, 20, 20), 30, dtype=np.int16)
    hu[1:3, 5:15, 5:15] = 70
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="CT")


@pytest.fixture
def logic(slicer):
    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.testdoubles import fakechild

    return SAHLoRASegmenterLogic(command=[pythonExecutable(), fakechild.__file__])


@pytest.fixture
def open_panel(slicer, model, logic):
    """Open the panel with the fake command, a given installer and the user's model chosen."""
    from harness.application import show_module

    panels = []

    def open_panel(installer=None):
        panel = show_module("SAHLoRASegmenter", logic=logic, installer=installer or Installed())
        panels.append(panel)
        panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText("Our site"))
        return panel

    yield open_panel
    for panel in panels:
        panel.cleanup()


def wait_for(slicer, condition, seconds=60):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited in vain"
        slicer.app.processEvents()
        time.sleep(0.01)


def segmentations(slicer):
    return list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


# ----------------------------------------------------------------------------------------------- self-tests


@pytest.mark.parametrize("module", ["SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer"])
def test_self_test_of_the_module_passes(slicer, module):
    import importlib
    import unittest

    case = getattr(importlib.import_module(module), f"{module}Test")
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)

    assert result.testsRun > 0
    assert result.wasSuccessful(), result.errors + result.failures


@pytest.mark.parametrize(
    ("module", "hidden"), [("SAHLoRACore", True), ("SAHLoRASegmenter", False), ("SAHLoRATrainer", False)]
)
def test_module_says_who_it_is(slicer, module, hidden):
    parent = getattr(slicer.modules, module.lower()).parent

    assert parent.title.startswith("SAHLoRA")
    assert parent.categories == ["Segmentation"]
    assert parent.hidden is hidden
    assert parent.dependencies == ([] if hidden else ["SAHLoRACore"])
    assert (parent.icon is None) == hidden


# ---------------------------------------------------------------------------------------------------- logic


def test_segmentation_from_a_script_waits_and_measures(slicer, logic, ct):
    run = logic.segment(ct, waitForCompletion=True)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(
        run.segmentationNode, run.segmentationNode.GetSegmentation().GetNthSegmentID(0), ct
    )

    np.testing.assert_array_equal(mask > 0, slicer.util.arrayFromVolume(ct) == 70)
    assert run.result["volume_ml"] == pytest.approx(1.0)
    assert run.measurementsNode.GetCellText(0, 1) == "1.00"


def test_probability_map_comes_only_if_asked_for(slicer, logic, ct):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    assert logic.segment(ct, waitForCompletion=True).probabilityNode is None
    probability = logic.segment(
        ct, SegmentSettings(keepProbability=True), waitForCompletion=True
    ).probabilityNode
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(probability) > 0.5, slicer.util.arrayFromVolume(ct) == 70
    )


def test_earlier_segmentation_stays_as_it_was(slicer, logic, ct):
    first = logic.segment(ct, waitForCompletion=True).segmentationNode
    first.GetSegmentation().GetNthSegment(0).SetName("Corrected by hand")
    second = logic.segment(ct, waitForCompletion=True).segmentationNode

    assert second is not first
    assert first.GetSegmentation().GetNthSegment(0).GetName() == "Corrected by hand"
    assert first.GetName() != second.GetName()


def test_disagreement_comes_only_if_asked_for(slicer, logic, ct):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    assert logic.segment(ct, waitForCompletion=True).disagreementNode is None
    settings = SegmentSettings(keepDisagreement=True, views=("axial",), flip=True)
    run = logic.segment(ct, settings, waitForCompletion=True)
    values = slicer.util.arrayFromVolume(run.disagreementNode)

    assert run.disagreementNode.GetName() == "CT disagreement"
    assert (values.min(), values.max()) == pytest.approx((1 / 6, 0.5))
    assert run.segmentedResult.disagreementNode is run.disagreementNode


def test_chosen_segmentation_gets_one_more_segment_and_loses_none(slicer, logic, ct):
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    chosen.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    chosen.GetSegmentation().AddEmptySegment("hemorrhage", "By hand")
    everywhere = np.ones(slicer.util.arrayFromVolume(ct).shape, np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(everywhere, chosen, "hemorrhage", ct)
    runs = [logic.segment(ct, None, chosen, waitForCompletion=True) for _time in range(2)]
    segments = chosen.GetSegmentation()
    masks = [
        slicer.util.arrayFromSegmentBinaryLabelmap(chosen, segments.GetNthSegmentID(index), ct)
        for index in range(segments.GetNumberOfSegments())
    ]

    assert segmentations(slicer) == [chosen]
    assert [run.segmentationNode for run in runs] == [chosen, chosen]
    names = [segments.GetNthSegment(index).GetName() for index in range(3)]
    assert names == ["By hand", "Hemorrhage", "Hemorrhage 2"]
    assert masks[0].all()
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask > 0, slicer.util.arrayFromVolume(ct) == 70)
    assert runs[1].segmentedResult.segmentID == segments.GetNthSegmentID(2)


def test_segmentation_under_another_transform_is_refused_before_the_child_starts(slicer, logic, ct):
    from pathlib import Path

    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    chosen.SetAndObserveTransformNodeID(transform.GetID())
    before = list(Path(slicer.app.temporaryPath).glob("SAHLoRA-*"))
    with pytest.raises(ValueError, match="transform"):
        logic.segment(ct, None, chosen)
    assert list(Path(slicer.app.temporaryPath).glob("SAHLoRA-*")) == before


def test_result_goes_to_a_new_segmentation_if_the_chosen_one_was_removed_meanwhile(slicer, logic, ct):
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    run = logic.segment(ct, None, chosen)
    slicer.mrmlScene.RemoveNode(chosen)
    run.wait()
    assert segmentations(slicer) == [run.segmentationNode]


def test_failed_command_raises_its_message_and_leaves_the_scene(slicer, logic, ct, monkeypatch):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    monkeypatch.setenv("SAHLORA_FAKE", "error")
    before = slicer.mrmlScene.GetNumberOfNodes()

    with pytest.raises(ChildFailedError, match=r"This is no CT\. Choose a CT\."):
        logic.segment(ct, waitForCompletion=True)
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_no_file_of_the_patient_stays_behind(slicer, logic, ct, monkeypatch):
    from pathlib import Path

    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    from SAHLoRACoreLib.childprocess import ChildFailedError

    def left():
        return list(Path(slicer.app.temporaryPath).rglob("*.nrrd"))

    logic.segment(ct, waitForCompletion=True)
    assert left() == []
    monkeypatch.setenv("SAHLORA_FAKE", "crash")
    with pytest.raises(ChildFailedError):
        logic.segment(ct, waitForCompletion=True)
    assert left() == []
    with pytest.raises(OSError, match="no-such-python"):
        SAHLoRASegmenterLogic(command=["no-such-python"]).segment(ct)
    assert left() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"views": ("oblique",)},
        {"threshold": 1.0},
        {"minimumComponentMl": -1.0},
        {"precision": "double"},
        {"batchSize": -1},
        {"keepDisagreement": True, "views": ("axial",)},
        {"keepDisagreement": True, "views": ("sagittal",), "flip": True},
    ],
)
def test_settings_that_can_not_run_are_refused_with_a_way_out(slicer, logic, ct, wrong):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    with pytest.raises(ValueError, match="Choose"):
        logic.segment(ct, SegmentSettings(**wrong))


def test_every_option_the_settings_make_is_one_of_the_command(slicer):
    """The real parser of ``sahlora segment`` reads them back."""
    import argparse

    from SAHLoRASegmenterLib.settings import SegmentSettings

    segment = pytest.importorskip("sahlora.commands.segment")
    settings = SegmentSettings(
        "m", ("axial", "sagittal"), "cuda:1", 0.35, True, 0.2, True, "site", precision="bf16", batchSize=4
    )
    parser = argparse.ArgumentParser()
    segment.configure(parser)
    args = parser.parse_args(
        [
            "ct.nrrd",
            "-o",
            "l.seg.nrrd",
            "--report",
            "r.json",
            "--probability",
            "p.nrrd",
            "--disagreement",
            "d.nrrd",
            *settings.arguments(),
        ]
    )

    assert (args.model, args.views, args.device, args.threshold) == ("m", "axial,sagittal", "cuda:1", 0.35)
    assert (args.flip, args.minimum_component, args.adapter) == (True, 0.2, "site")
    assert (args.precision, args.batch_size) == ("bf16", 4)


# ---------------------------------------------------------------------------------------------------- panel


def test_click_on_segment_brings_result_and_summary(slicer, open_panel, ct):
    panel = open_panel()
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)

    assert len(segmentations(slicer)) == 1
    assert "Hemorrhage: 1.0 mL" in panel.ui.resultLabel.text
    assert panel.ui.progressBar.value == panel.ui.progressBar.maximum
    assert "made up" in panel.ui.logText.plainText


def test_panel_can_be_cancelled_and_used_again(slicer, open_panel, ct, monkeypatch):
    panel = open_panel()
    monkeypatch.setenv("SAHLORA_FAKE", "polite")
    panel.ui.applyButton.click()
    assert panel.ui.cancelButton.enabled
    assert not panel.ui.applyButton.enabled
    panel.ui.cancelButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    assert (segmentations(slicer), panel.ui.cancelButton.enabled) == ([], False)

    monkeypatch.setenv("SAHLORA_FAKE", "segment")
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    assert len(segmentations(slicer)) == 1


def test_segment_becomes_cancel_while_it_runs_and_keeps_the_focus(slicer, open_panel, ct, monkeypatch):
    panel = open_panel()
    panel.parent.show()
    panel.ui.applyButton.setFocus()
    slicer.app.processEvents()
    assert (panel.ui.applyButton.visible, panel.ui.cancelButton.visible) == (True, False)
    monkeypatch.setenv("SAHLORA_FAKE", "polite")
    panel.ui.applyButton.click()
    assert (panel.ui.applyButton.visible, panel.ui.cancelButton.visible) == (False, True)
    panel.ui.cancelButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.visible)
    panel.parent.hide()

    assert not panel.ui.cancelButton.visible


def test_run_goes_on_while_another_module_is_shown(slicer, open_panel, ct):
    panel = open_panel()
    panel.ui.applyButton.click()
    panel.exit()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)

    assert panel.ui.statusLabel.text == "Done."
    assert panel.ui.resultSelector.currentNode() is segmentations(slicer)[0]


def test_log_can_be_copied(slicer, open_panel, ct):
    import qt

    panel = open_panel()
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    panel.ui.copyLogButton.click()

    assert "This result is made up." in qt.QApplication.clipboard().text()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((30, 70), ""),
        ((0, 4000), "does not look like a head CT: its values are 0 to 4000"),
        ((7, 7), "value 7"),
    ],
    ids=["brain in HU", "MR", "constant"],
)
def test_volume_that_is_no_head_ct_is_told_when_it_is_chosen(slicer, open_panel, ct, values, told):
    hu = np.linspace(*values, 20 * 40 * 40).reshape(20, 40, 40).astype(np.int16)
    if not told:
        hu[:, :8] = -1000
    volume = slicer.util.addVolumeFromArray(hu, name="Chosen")
    panel = open_panel()
    panel.ui.inputSelector.setCurrentNode(volume)

    assert told in panel.ui.inputNoteLabel.text
    assert bool(told) == bool(panel.ui.inputNoteLabel.text)


def test_map_of_an_earlier_run_is_told_from_a_ct(slicer, open_panel, ct, logic):
    """It is not offered, but a scene may have been saved with one chosen."""
    from SAHLoRASegmenterLib.settings import SegmentSettings

    run = logic.segment(ct, SegmentSettings(keepProbability=True), waitForCompletion=True)
    panel = open_panel()
    panel.logic.getParameterNode().inputVolume = run.probabilityNode

    assert panel.ui.obstacleLabel.text == "This is a map made by SAHLoRA. Choose the head CT."


def test_error_of_the_command_is_shown_with_its_hint(slicer, open_panel, ct, monkeypatch):
    panel = open_panel()
    monkeypatch.setenv("SAHLORA_FAKE", "error")
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)

    assert panel.ui.statusLabel.text == "This is no CT. Choose a CT."
    log = panel.ui.logText.plainText
    assert '"CT" looks odd.' in log
    assert 'made-up error about "CT"' in log
    assert slicer.app.temporaryPath not in log


def test_segment_button_says_what_is_missing(slicer, open_panel):
    panel = open_panel()

    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == "Load and choose a head CT."
    assert panel.ui.obstacleLabel.text == "Load and choose a head CT."


def test_views_must_be_chosen_if_they_are_not_automatic(slicer, open_panel, ct):
    panel = open_panel()
    panel.ui.automaticViewsCheckBox.checked = False
    panel.ui.axialCheckBox.checked = False

    assert (panel.ui.applyButton.enabled, panel.ui.applyButton.toolTip) == (
        False,
        "Choose at least one view.",
    )


def test_disagreement_of_a_single_prediction_is_refused_with_a_way_out(slicer, open_panel, ct):
    """Slices of 5 mm: automatic views are axial alone."""
    panel = open_panel()
    panel.ui.keepDisagreementCheckBox.checked = True
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip.startswith("Tick the mirrored pass or choose several views")
    panel.ui.flipCheckBox.checked = True
    assert panel.ui.applyButton.enabled


def test_what_the_panel_shows_is_what_the_command_gets(slicer, open_panel, ct):
    from SAHLoRASegmenterLib.parameters import settingsOf
    from SAHLoRASegmenterLib.settings import SegmentSettings

    panel = open_panel()
    assert settingsOf(panel.logic.getParameterNode()) == SegmentSettings(model="site", makePage=True)
    panel.ui.automaticViewsCheckBox.checked = False
    panel.ui.sagittalCheckBox.checked = True
    panel.ui.deviceSelector.setCurrentIndex(1)
    panel.ui.modelThresholdCheckBox.checked = False
    panel.ui.thresholdSlider.value = 0.3
    panel.ui.minimumComponentSpinBox.value = 0.5
    panel.ui.flipCheckBox.checked = True
    panel.ui.keepProbabilityCheckBox.checked = True
    panel.ui.keepDisagreementCheckBox.checked = True
    panel.ui.makePageCheckBox.checked = False
    panel.ui.precisionSelector.setCurrentIndex(2)
    panel.ui.batchSizeSpinBox.value = 4

    assert settingsOf(panel.logic.getParameterNode()) == SegmentSettings(
        "site", ("axial", "sagittal"), "cpu", 0.3, True, 0.5, True, "", False, True, "bf16", 4
    )


def test_declined_installation_starts_nothing(slicer, open_panel, ct, monkeypatch):
    from SAHLoRACoreLib.installation import Findings

    installer = Installed(Findings(missing=("torch",)))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: False)
    panel = open_panel(installer)
    panel.ui.applyButton.click()

    assert (installer.installed, segmentations(slicer)) == ([], [])
    assert panel.ui.statusLabel.text == "Nothing was installed."
    assert panel.ui.applyButton.enabled


def test_computer_that_can_not_run_models_is_told_so(slicer, open_panel, ct):
    from SAHLoRACoreLib.installation import InstallationError

    panel = open_panel(Installed(obstacle="Not on this computer."))

    with pytest.raises(InstallationError, match="Not on this computer"):
        panel.onApply()
    assert panel.ui.statusLabel.text == "Not on this computer."


def test_closing_the_scene_ends_the_run_and_the_panel_goes_on(slicer, open_panel, ct, logic, monkeypatch):
    panel = open_panel()
    monkeypatch.setenv("SAHLORA_FAKE", "polite")
    panel.ui.applyButton.click()
    run = panel._run
    slicer.mrmlScene.Clear(0)

    assert not run.isRunning()
    assert (panel.ui.cancelButton.enabled, panel.ui.inputSelector.currentNode()) == (False, None)
    again = slicer.util.addVolumeFromArray(np.full((3, 4, 5), 70, np.int16), name="Next")
    panel.ui.inputSelector.setCurrentNode(again)
    assert panel.logic.getParameterNode().inputVolume is again


def test_volume_removed_during_the_run_is_an_error_not_a_crash(slicer, logic, ct):
    run = logic.segment(ct)
    errors = []
    run.error.connect(errors.append)
    slicer.mrmlScene.RemoveNode(ct)
    wait_for(slicer, lambda: errors)

    assert errors[0].code == "volume-removed"
    assert segmentations(slicer) == []


def test_waiting_for_a_run_whose_volume_is_removed_raises(slicer, logic, ct):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    run = logic.segment(ct)
    slicer.mrmlScene.RemoveNode(ct)

    with pytest.raises(ChildFailedError, match="removed"):
        run.wait()


def test_models_that_came_meanwhile_are_offered_when_a_scene_is_loaded(slicer, open_panel, ct, tmp_path):
    from test_models import write_model

    panel = open_panel()
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    write_model(tmp_path / "models" / "later.safetensors", title="Came later")
    assert panel.ui.modelSelector.findText("Came later") == -1
    slicer.mrmlScene.Clear(1)
    slicer.mrmlScene.Import()

    assert panel.ui.modelSelector.findText("Came later") >= 0


def test_model_of_a_loaded_scene_that_is_not_here_is_named(slicer, open_panel, ct, tmp_path):
    panel = open_panel()
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    (tmp_path / "models" / "site.safetensors").unlink()
    slicer.mrmlScene.Clear(1)
    slicer.mrmlScene.Import()

    assert not panel.ui.applyButton.enabled
    assert "“site” can't be used here" in panel.ui.applyButton.toolTip


def test_saved_scene_restores_the_panel(slicer, open_panel, ct, tmp_path):
    panel = open_panel()
    panel.ui.flipCheckBox.checked = True
    panel.ui.thresholdSlider.value = 0.25
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(1)
    assert not panel.ui.flipCheckBox.checked
    slicer.mrmlScene.Connect()

    parameters = panel.logic.getParameterNode()
    assert (parameters.flip, parameters.threshold, parameters.model) == (True, 0.25, "site")
