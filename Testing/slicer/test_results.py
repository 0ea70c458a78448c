"""A result in the scene: threshold on the kept probabilities, views, chart, report page, correction."""

from __future__ import annotations

import numpy as np
import pytest

# Rows and columns of the CT run along axes tilted by 20 degrees about x: the result must lie on its voxels.
TILTED = np.array([[-1, 0, 0, 0], [0, -0.9397, -0.342, 0], [0, -0.342, 0.9397, 0], [0, 0, 0, 1.0]])


@pytest.fixture
def logic(slicer):
    from SAHLoRASegmenter import SAHLoRASegmenterLogic

    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.testdoubles import fakechild

    return SAHLoRASegmenterLogic(command=[pythonExecutable(), fakechild.__file__])


@pytest.fixture
def ct(slicer):
    """30 HU, a ramp of 40 to 85 HU in slices 1 to 5, of which 3 is largest, and a small piece apart."""
    hu = np.full((7, 20, 24), 30, dtype=np.int16)
    for k, width in zip(range(1, 6), (4, 6, 10, 6, 4), strict=True):
        hu[k, 4 : 4 + width, 5:15] = np.linspace(40, 85, 10).astype(np.int16)
    hu[5, 17:19, 20:22] = 80
    grid = TILTED @ np.diag([0.5, 0.5, 5.0, 1.0])
    grid[:3, 3] = (11, -7, 30)
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=grid, name="CT")


@pytest.fixture
def result(slicer, logic, ct):
    """The result of the fake command, whose probability is (HU - 30) / 60."""
    from SAHLoRASegmenterLib.settings import SegmentSettings

    settings = SegmentSettings(keepProbability=True, makePage=True)
    return logic.segment(ct, settings, waitForCompletion=True).segmentedResult


def probability(slicer, result):
    return slicer.util.arrayFromVolume(result.probabilityNode)


def mask_of(slicer, result):
    return slicer.util.arrayFromSegmentBinaryLabelmap(
        result.segmentationNode, result.segmentID, result.volumeNode
    ).astype(bool)


def table_of(node):
    return {node.GetCellText(row, 0): node.GetCellText(row, 1) for row in range(node.GetNumberOfRows())}


# ------------------------------------------------------------------------------------------------ threshold


@pytest.mark.parametrize("threshold", [0.2, 0.55, 0.9, 0.99])
def test_moved_threshold_outlines_exactly_the_probable_voxels(slicer, result, threshold):
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    LiveThreshold(result).apply(threshold)

    np.testing.assert_array_equal(mask_of(slicer, result), probability(slicer, result) >= threshold)


def test_moved_threshold_follows_a_ct_under_a_transform(slicer, logic, ct):
    import vtk
    from SAHLoRASegmenterLib.settings import SegmentSettings
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    turn = vtk.vtkTransform()
    turn.RotateWXYZ(90, 1, 0, 0)  # what was axial is now coronal
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(turn.GetMatrix())
    ct.SetAndObserveTransformNodeID(transform.GetID())
    run = logic.segment(ct, SegmentSettings(keepProbability=True), waitForCompletion=True)
    LiveThreshold(run.segmentedResult).apply(0.3)

    np.testing.assert_array_equal(
        mask_of(slicer, run.segmentedResult), probability(slicer, run.segmentedResult) >= 0.3
    )


def test_table_and_areas_are_measured_anew(slicer, result):
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    LiveThreshold(result).finish(0.6)
    mask = probability(slicer, result) >= 0.6
    voxel_ml = 0.5 * 0.5 * 5 / 1000
    hu = slicer.util.arrayFromVolume(result.volumeNode)
    table = table_of(result.measurementsNode)

    assert float(table["Volume"]) == pytest.approx(mask.sum() * voxel_ml, abs=0.0051)  # two decimals
    assert table["Mean intensity"] == f"{hu[mask].mean():.2f}"
    assert table["Largest area"] == f"{mask[3].sum() * 0.25:.2f}"
    assert table["Largest slice, from below"] == "4"
    np.testing.assert_allclose(
        slicer.util.arrayFromTableColumn(result.areasNode, "Area (mm²)"), mask.sum(axis=(1, 2)) * 0.25
    )
    assert result.threshold == 0.6


def test_small_pieces_stay_dropped_at_another_threshold(slicer, logic, ct):
    from SAHLoRASegmenterLib.settings import SegmentSettings
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    settings = SegmentSettings(keepProbability=True, minimumComponentMl=0.01)
    result = logic.segment(ct, settings, waitForCompletion=True).segmentedResult
    LiveThreshold(result).apply(0.55)
    expected = probability(slicer, result) >= 0.55
    assert expected[5, 17:19, 20:22].all()
    expected[5, 17:19, 20:22] = False

    np.testing.assert_array_equal(mask_of(slicer, result), expected)


def test_surface_is_gone_while_the_threshold_moves_and_new_when_it_is_settled(slicer, result):
    from SAHLoRASegmenterLib.results import isShownIn3D, showIn3D
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    def points():
        name = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
        segment = result.segmentationNode.GetSegmentation().GetNthSegment(0)
        return segment.GetRepresentation(name).GetNumberOfPoints()

    showIn3D(result, True)
    before = points()
    live = LiveThreshold(result)
    live.apply(0.2)
    assert not isShownIn3D(result)
    live.finish(0.2)
    assert points() > before


def test_threshold_above_everything_gives_an_empty_outline(slicer, logic, ct):
    from SAHLoRASegmenterLib.settings import SegmentSettings
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    slicer.util.arrayFromVolume(ct)[:] = 20
    run = logic.segment(ct, SegmentSettings(keepProbability=True), waitForCompletion=True)
    LiveThreshold(run.segmentedResult).finish(0.5)
    table = table_of(run.measurementsNode)

    assert (table["Volume"], table["Mean intensity"]) == ("0.00", "\N{EN DASH}")
    assert run.segmentedResult.largestSlicePosition() is None


def test_ct_with_other_voxels_than_segmented_is_refused(slicer, result):
    from SAHLoRASegmenterLib.threshold import LiveThreshold

    slicer.util.updateVolumeFromArray(result.volumeNode, np.zeros((3, 4, 5), np.int16))

    with pytest.raises(ValueError, match="Segment it again"):
        LiveThreshold(result)


# -------------------------------------------------------------------------------------------------- showing


def test_correction_by_hand_is_noticed_and_the_own_outline_is_not_taken_for_one(slicer, result):
    assert not result.isCorrected()
    mask = mask_of(slicer, result)
    mask[0, 0, 0] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        mask.astype(np.uint8), result.segmentationNode, result.segmentID, result.volumeNode
    )

    assert result.isCorrected()


def test_slices_jump_to_the_middle_of_the_largest_area(slicer, result):
    from SAHLoRASegmenterLib.results import showInSlices

    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetOrientationToAxial()
    showInSlices(result)
    mask = mask_of(slicer, result)
    k, j, i = np.argwhere(mask * (np.arange(7) == 3)[:, None, None]).mean(axis=0)
    import vtk

    grid = vtk.vtkMatrix4x4()
    result.volumeNode.GetIJKToRASMatrix(grid)
    expected = grid.MultiplyPoint((i, j, k, 1))[:3]

    assert result.largestSlicePosition() == pytest.approx(expected, abs=1e-6)
    assert view.GetSliceOffset() == pytest.approx(expected[2], abs=1e-6)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActiveVolumeID() == result.volumeNode.GetID()


def test_chart_shows_the_area_of_every_slice_with_units(slicer, result):
    chart = result.chartNode
    series = chart.GetNthPlotSeriesNode(0)
    areas = slicer.util.arrayFromTableColumn(series.GetTableNode(), series.GetYColumnName())

    np.testing.assert_allclose(areas, mask_of(slicer, result).sum(axis=(1, 2)) * 0.25)
    assert ("mm" in chart.GetXAxisTitle(), "mm²" in chart.GetYAxisTitle()) == (True, True)


def test_report_page_lives_as_long_as_the_scene(slicer, result):
    from SAHLoRASegmenterLib.results import removePages

    page = result.page

    assert "made-up" in page.read_text(encoding="utf-8")
    removePages()
    assert (page.exists(), result.page) == (False, None)


def test_saved_scene_brings_the_result_back_with_all_that_belongs_to_it(slicer, result, tmp_path):
    from SAHLoRASegmenterLib.results import Result

    for node in (result.segmentationNode, result.volumeNode, result.probabilityNode):
        storage = node.CreateDefaultStorageNode()
        slicer.mrmlScene.AddNode(storage)
        storage.SetFileName(
            str(tmp_path / f"{node.GetName()}{'.seg' * node.IsA('vtkMRMLSegmentationNode')}.nrrd")
        )
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
    expected = probability(slicer, result) >= 0.5
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(1)
    slicer.mrmlScene.Connect()
    again = Result.of(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0])

    assert (again.threshold, again.isCorrected()) == (0.5, False)
    np.testing.assert_array_equal(probability(slicer, again) >= 0.5, expected)
    assert again.chartNode is not None


def test_segmentation_of_somebody_else_is_no_result(slicer):
    from SAHLoRASegmenterLib.results import Result

    assert Result.of(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")) is None


def test_segment_editor_without_a_main_window_is_an_error_that_says_so(slicer, result):
    from SAHLoRASegmenterLib.results import openInSegmentEditor

    with pytest.raises(RuntimeError, match="main window"):
        openInSegmentEditor(result)


def test_segment_editor_opens_with_outline_and_ct(slicer, result, monkeypatch):
    import types

    from SAHLoRASegmenterLib.results import openInSegmentEditor

    calls = []
    names = ("setSegmentationNode", "setSourceVolumeNode", "setCurrentSegmentID")
    editor = types.SimpleNamespace(**dict.fromkeys(names, calls.append))
    widget = types.SimpleNamespace(self=lambda: types.SimpleNamespace(editor=editor))
    module = types.SimpleNamespace(widgetRepresentation=lambda: widget)
    monkeypatch.setattr(slicer.modules, "segmenteditor", module, raising=False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())
    monkeypatch.setattr(slicer.util, "selectModule", calls.append)
    openInSegmentEditor(result)

    assert calls == ["SegmentEditor", result.segmentationNode, result.volumeNode, result.segmentID]


def test_scene_bundle_brings_panel_settings_result_and_links_back(slicer, result, logic, tmp_path):
    """Through a real .mrb file."""
    from SAHLoRASegmenterLib.results import Result

    parameters = logic.getParameterNode()
    parameters.inputVolume, parameters.result = result.volumeNode, result.segmentationNode
    parameters.flip, parameters.threshold, parameters.batchSize = True, 0.25, 4
    expected, names = mask_of(slicer, result), table_of(result.measurementsNode)
    values = probability(slicer, result).copy()
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "a scene é.mrb"), None)
    slicer.mrmlScene.Clear(1)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "a scene é.mrb"), True)
    parameters = logic.getParameterNode()
    again = Result.of(parameters.result)

    assert (parameters.flip, parameters.threshold, parameters.batchSize) == (True, 0.25, 4)
    assert parameters.inputVolume.GetName() == "CT"
    assert again.volumeNode is parameters.inputVolume
    assert (again.threshold, again.isCorrected()) == (0.5, False)
    np.testing.assert_array_equal(mask_of(slicer, again), expected)
    assert table_of(again.measurementsNode) == names
    assert again.chartNode.GetNthPlotSeriesNode(0).GetTableNode() is again.areasNode
    np.testing.assert_array_equal(probability(slicer, again), values)


# ----------------------------------------------------------------------------- disagreement, chart, hand-over


def test_disagreement_is_laid_over_the_ct_and_taken_away_again(slicer, logic, ct):
    from SAHLoRASegmenterLib.results import isDisagreementShown, showDisagreement
    from SAHLoRASegmenterLib.settings import SegmentSettings

    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    settings = SegmentSettings(keepDisagreement=True, views=("axial",), flip=True)
    result = logic.segment(ct, settings, waitForCompletion=True).segmentedResult
    assert view.GetForegroundVolumeID() is None
    showDisagreement(result, True)
    display = result.disagreementNode.GetDisplayNode()

    assert isDisagreementShown(result)
    assert view.GetBackgroundVolumeID() == ct.GetID()
    assert view.GetForegroundVolumeID() == result.disagreementNode.GetID()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 0.5)
    assert (display.GetApplyThreshold(), display.GetLowerThreshold()) == (1, 0.01)
    showDisagreement(result, False)
    assert not isDisagreementShown(result)
    assert view.GetForegroundVolumeID() is None


@pytest.mark.parametrize("row", [0, 3, 6])
@pytest.mark.parametrize("upside_down", [False, True])
def test_click_on_a_point_of_the_chart_goes_to_its_slice(slicer, logic, ct, monkeypatch, row, upside_down):
    """What Slicer's plot view announces, from a stand-in that keeps to its signal."""
    import types

    import vtk
    from SAHLoRASegmenterLib.chartclicks import SIGNAL, ChartClicks
    from SAHLoRASegmenterLib.settings import SegmentSettings

    if upside_down:
        grid = vtk.vtkMatrix4x4()
        ct.GetIJKToRASMatrix(grid)
        for line in range(3):
            grid.SetElement(line, 2, -grid.GetElement(line, 2))
        ct.SetIJKToRASMatrix(grid)
    result = logic.segment(ct, SegmentSettings(), waitForCompletion=True).segmentedResult
    slots = {}
    view = types.SimpleNamespace(
        connect=slots.__setitem__, disconnect=lambda signal, _slot: slots.pop(signal)
    )
    layout = types.SimpleNamespace(
        plotViewCount=1, plotWidget=lambda _: types.SimpleNamespace(plotView=lambda: view)
    )
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: layout)
    clicked = []
    clicks = ChartClicks(lambda *point: clicked.append(point))
    clicks.listen()
    series, rows, selections = vtk.vtkStringArray(), vtk.vtkIdTypeArray(), vtk.vtkCollection()
    series.InsertNextValue(result.chartNode.GetNthPlotSeriesNodeID(0))
    rows.InsertNextValue(row)
    selections.AddItem(rows)
    slots[SIGNAL](series, selections)
    clicks.close()

    assert clicked == [(result.chartNode.GetNthPlotSeriesNodeID(0), row)]
    grid = vtk.vtkMatrix4x4()
    ct.GetIJKToRASMatrix(grid)
    stored = 6 - row if upside_down else row
    expected = grid.MultiplyPoint((11.5, 9.5, stored, 1))[:3]
    assert result.slicePosition(row) == pytest.approx(expected, abs=1e-6)
    assert slots == {}


def test_training_case_is_handed_to_the_trainer(slicer, result, monkeypatch):
    """To the Trainer's own panel."""
    from harness.application import show_module
    from SAHLoRASegmenterLib.results import useAsTrainingCase

    calls = []
    trainer = show_module("SAHLoRATrainer")
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())
    monkeypatch.setattr(slicer.util, "selectModule", calls.append)
    monkeypatch.setattr(slicer.util, "getModuleWidget", {"SAHLoRATrainer": trainer}.get)
    useAsTrainingCase(result)
    (row,) = trainer.cases.rows()

    assert calls == ["SAHLoRATrainer"]
    assert trainer.cases.nodes(row.key) == (result.volumeNode, result.segmentationNode)
    trainer.cleanup()


def test_trainer_without_a_main_window_is_an_error_that_says_so(slicer, result):
    from SAHLoRASegmenterLib.results import useAsTrainingCase

    with pytest.raises(RuntimeError, match="main window"):
        useAsTrainingCase(result)
