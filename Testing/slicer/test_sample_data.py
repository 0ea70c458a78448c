"""Sample Data offers a simulated head, which a child makes on this computer."""

from __future__ import annotations

import sys
import types

import pytest


@pytest.fixture
def progress_dialog(slicer, monkeypatch):
    """Slicer's progress dialog, noted instead of shown."""
    calls = []

    def create(**options):
        calls.append(options)
        connect = lambda signal, slot: calls.append(signal)  # noqa: E731
        show = lambda: calls.append("shown")  # noqa: E731
        return types.SimpleNamespace(connect=connect, show=show, close=lambda: calls.append("closed"))

    monkeypatch.setattr(slicer.util, "createProgressDialog", create, raising=False)
    return calls


def fake_command():
    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.testdoubles import fakechild

    return [pythonExecutable(), fakechild.__file__]


def test_simulated_head_is_registered_once_slicer_has_started(slicer, monkeypatch):
    registered = []

    class SampleDataLogic:
        registerCustomSampleDataSource = staticmethod(lambda **source: registered.append(source))  # noqa: N815

    module = types.SimpleNamespace(SampleDataLogic=SampleDataLogic)
    monkeypatch.setitem(sys.modules, "SampleData", module)
    slicer.app.completeStartup()

    from SAHLoRACoreLib.sampledata import downloadCohort, downloadHead

    assert [source["customDownloader"] for source in registered] == [downloadHead, downloadCohort]
    assert {source["category"] for source in registered} == {"SAHLoRA"}


def test_slicer_without_sample_data_starts_all_the_same(slicer, monkeypatch):
    monkeypatch.setitem(sys.modules, "SampleData", None)
    slicer.app.completeStartup()


def test_simulated_head_comes_to_the_scene_and_leaves_no_file(slicer, progress_dialog):
    from pathlib import Path

    from SAHLoRACoreLib.sampledata import downloadHead

    (node,) = downloadHead(None, fake_command())

    assert node.GetName() == "SAHLoRA simulated SAH"
    assert set(slicer.util.arrayFromVolume(node).flat) == {30}
    assert progress_dialog[1:] == ["shown", "canceled()", "closed"]
    assert list(Path(slicer.app.temporaryPath).rglob("*.nii.gz")) == []


def test_simulation_blocks_the_window_and_a_second_click_does_nothing(slicer, progress_dialog, monkeypatch):
    import qt

    from SAHLoRACoreLib import sampledata

    monkeypatch.setenv("SAHLORA_FAKE", "polite")
    clicks = []

    def click_again_and_cancel(child):
        child.start_without_test()
        clicks.append(sampledata.downloadHead(None, fake_command()))
        child.cancel()

    child = sampledata.ChildProcess
    monkeypatch.setattr(child, "start_without_test", child.start, raising=False)
    monkeypatch.setattr(child, "start", click_again_and_cancel)

    assert sampledata.downloadHead(None, fake_command()) == []
    assert clicks == [[]]
    assert [call["windowModality"] for call in progress_dialog if isinstance(call, dict)] == [
        qt.Qt.WindowModal
    ]


def test_source_that_is_opened_as_an_address_says_what_to_call(slicer, monkeypatch):
    """What Slicer's SampleDataLogic.downloadFromSource does, and why it can't work."""
    from urllib.request import urlopen

    from SAHLoRACoreLib import sampledata

    registered = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    sampledata.register()

    for source in registered:
        with pytest.raises(
            ValueError, match=rf"call SAHLoRACoreLib.sampledata.{source['customDownloader'].__name__}"
        ):
            urlopen(source["uris"])


def test_head_is_shown_with_a_brain_window_and_one_outline(slicer, progress_dialog):
    from SAHLoRACoreLib.sampledata import downloadCohort, downloadHead

    (head,) = downloadHead(None, fake_command())
    selection = slicer.app.applicationLogic().GetSelectionNode()
    display = head.GetDisplayNode()
    assert selection.GetActiveVolumeID() == head.GetID()
    assert (display.GetWindow(), display.GetLevel()) == (80, 40)

    nodes = downloadCohort(None, fake_command())
    outlines = [node for node in nodes if node.IsA("vtkMRMLSegmentationNode")]
    assert selection.GetActiveVolumeID() == nodes[0].GetID()
    assert [bool(node.GetDisplayNode().GetVisibility()) for node in outlines] == [True, False, False]


def test_failed_simulation_is_told_and_adds_nothing(slicer, progress_dialog, monkeypatch):
    from SAHLoRACoreLib.sampledata import downloadHead

    told = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: told.append(text))
    monkeypatch.setenv("SAHLORA_FAKE", "error")

    assert downloadHead(None, fake_command()) == []
    assert told == ["This is no CT. Choose a CT."]


def test_simulated_patients_come_with_their_blood_outlined_but_the_new_one(slicer, progress_dialog, tmp_path):
    from SAHLoRACoreLib.sampledata import downloadCohort

    nodes = downloadCohort(None, fake_command())
    volumes, segmentations = [nodes[0], nodes[2], nodes[4]], [nodes[1], nodes[3], nodes[5]]

    assert nodes[6].GetName() == "Simulated new patient"
    for number, (volume, segmentation) in enumerate(zip(volumes, segmentations, strict=True)):
        assert volume.GetName() == f"Simulated patient {number + 1}"
        segments = segmentation.GetSegmentation()
        assert segments.GetNthSegment(0).GetName() == "Subarachnoid hemorrhage"
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segments.GetNthSegmentID(0), volume)
        assert list(zip(*mask.nonzero(), strict=True)) == [(number, 0, 0)]
        assert volume.GetStorageNode() is None  # the files are gone
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0


@pytest.mark.proof
def test_real_command_simulates_a_head_without_torch(slicer, progress_dialog):
    from SAHLoRACoreLib.sampledata import downloadHead

    (node,) = downloadHead(None)
    hu = slicer.util.arrayFromVolume(node)

    assert (hu.min() < -900, hu.max() > 500) == (True, True)
    assert node.GetSpacing() == pytest.approx((0.45, 0.45, 5.0), abs=1e-4)
