"""What is said of an adapter: better or worse, on how many cases, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from test_trainer_training import as_in_slicer, cases, data, exported  # noqa: F401 - fixtures
from test_trainer_troubles import models  # noqa: F401 - fixture


@pytest.fixture
def verdict(slicer):
    """Make a verdict of pairs of Dice, base and adapter."""
    from SAHLoRATrainerLib.judgement import JudgedCase, Verdict

    def verdict(*pairs, p_value=None):
        judged = tuple(JudgedCase(f"case-{i}", 20.0, *pair, 18.0, 19.0) for i, pair in enumerate(pairs))
        defined = sum(None not in pair for pair in pairs)
        return Verdict(judged, defined, p_value)

    return verdict


def test_better_on_few_cases_is_said_to_be_unsure(verdict):
    said = verdict((0.5, 0.7), (0.6, 0.62), (0.4, 0.38)).sentence()

    assert said == (
        "The adapter is better on 2 of 3 held-out cases, mean Dice +0.07 (0.50 with the base, 0.57 with the"
        " adapter, n = 3); too few cases to be sure."
    )


def test_better_on_many_cases_is_told_with_its_p(verdict):
    said = verdict(*[(0.5, 0.6)] * 8, p_value=0.0078).sentence()

    assert "better on 8 of 8" in said
    assert "unlikely to be chance (Wilcoxon's p = 0.008, 8 patients)" in said


def test_difference_that_can_be_chance_is_called_so(verdict):
    assert "this can be chance" in verdict(*[(0.5, 0.6), (0.5, 0.45)] * 4, p_value=0.3).sentence()


@pytest.mark.parametrize("pairs", [[(0.5, 0.4), (0.6, 0.55), (0.4, 0.42)], [(0.5, 0.5)]])
def test_worse_is_said_as_plainly_as_better(verdict, pairs):
    made = verdict(*pairs)

    assert not made.isBetter
    assert made.sentence().startswith("Use the base: the adapter is worse on")


def test_cases_without_blood_are_left_out_and_nothing_is_said_without_others(verdict):
    assert "1 of 1 held-out cases" in verdict((0.5, 0.7), (None, None)).sentence()
    assert "nothing can be said" in verdict((None, None)).sentence()


# ------------------------------------------------------------------------------------------------ showing


@pytest.fixture
def judged(slicer, tmp_path, cases, data):  # noqa: F811
    """A run whose one held-out case was segmented; the outlines are those annotated."""
    from SAHLoRATrainerLib.runs import newRun
    from SAHLoRATrainerLib.settings import TrainSettings

    case = cases[2]
    run = newRun(TrainSettings()).changed(cases=exported([case]))
    folder = run.evaluationFolder / "outlines"
    folder.mkdir(parents=True)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    for number in (1, 2):
        storage.SetFileName(str(folder / f"case-001-{number}.seg.nrrd"))
        assert storage.WriteData(case.segmentationNode)
    return run, case


def volumes(slicer):
    return slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")


def blood_is_outlined(slicer, volume, segmentation):
    identifier = segmentation.GetSegmentation().GetNthSegmentID(0)
    outline = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, volume) > 0
    return np.array_equal(outline, slicer.util.arrayFromVolume(volume) == 70)


@pytest.mark.parametrize("hardened", [False, True])
def test_outlines_lie_on_the_blood_also_if_the_ct_was_moved_since(slicer, judged, monkeypatch, hardened):
    from SAHLoRATrainerLib.judgement import showJudged

    shown = []
    monkeypatch.setattr("SAHLoRATrainerLib.judgement.showVolume", lambda node, _middle: shown.append(node))
    run, case = judged
    showJudged(run, "case-001")
    assert shown == [case.volumeNode]
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = 40, -20, 10
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    case.volumeNode.SetAndObserveTransformNodeID(transform.GetID())
    if hardened:
        case.volumeNode.HardenTransform()
    before = volumes(slicer)
    for _time in range(2):
        outlines = showJudged(run, "case-001")

    assert volumes(slicer) == before + 1
    assert shown[2] is shown[1] is not case.volumeNode
    assert shown[1].GetName() == f"{case.volumeNode.GetName()}, before it was moved"
    assert all(blood_is_outlined(slicer, shown[1], node) for node in outlines)
    case.volumeNode.SetAndObserveTransformNodeID(None)
    if not hardened:
        showJudged(run, "case-001")
        assert shown[3] is case.volumeNode


def test_ct_with_two_segments_is_one_volume_for_both_cases(slicer, cases, data):  # noqa: F811
    from SAHLoRATrainerLib.cases import SceneCase
    from SAHLoRATrainerLib.caseviews import volumeOf

    volume, segmentation = cases[0].volumeNode, cases[0].segmentationNode
    segmentation.GetSegmentation().AddEmptySegment("other", "Other")
    mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    mask[2:4, 20:30, 20:30] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, "other", volume)
    first, second = exported([cases[0], SceneCase(volume, segmentation, "other")])
    before = volumes(slicer)

    assert first.image != second.image
    assert volumeOf(first.image, "case-001") is volumeOf(second.image, "case-002") is volume
    assert volumes(slicer) == before


def test_chart_of_strata_takes_the_place_of_the_one_before_and_is_not_saved(slicer, verdict, judged):
    from SAHLoRATrainerLib.judgement import showStrata

    run, _ = judged
    kinds = ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode")
    for _time in range(3):
        showStrata(run, verdict((0.5, 0.7), (0.6, 0.62)))
    made = [slicer.util.getNodesByClass(kind) for kind in kinds]

    assert [len(nodes) for nodes in made] == [1, 2, 1]
    assert not any(node.GetSaveWithScene() for nodes in made for node in nodes)
