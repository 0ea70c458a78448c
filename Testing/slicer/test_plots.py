"""Charts are seen to grow in a plot view that draws as Slicer's does, and nothing reaches the error log."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_segmenter import ct, logic, model, open_panel, wait_for  # noqa: F401 - fixtures

METRICS = [{"epoch": n, "loss": 1 / n, "held_out_dice": n / 10} for n in range(1, 6)]
LOSS, DICE = "Ours (run-001): loss", "Ours (run-001): held-out Dice"


@pytest.fixture
def run():
    """A run of one view without an epoch so far."""
    settings = SimpleNamespace(name="Ours", views=("axial",))
    return SimpleNamespace(folder=Path("run-001"), settings=settings, metrics=lambda: {})


def test_view_that_observes_the_chart_alone_misses_a_table_that_grows(slicer, plot_view, run):
    """What Slicer's plot view does, and why charts are drawn anew."""
    from SAHLoRATrainerLib.charts import Curves, showRuns

    curves = Curves(run, "axial")
    curves.append(METRICS[:2])
    showRuns([run])
    curves.append(METRICS)

    assert plot_view.points == {LOSS: 2, DICE: 2}


def test_chart_of_a_training_grows_from_its_second_epoch_on(slicer, plot_view, run):
    from SAHLoRATrainerLib.charts import Curves, drawRuns, showRuns

    showRuns([run])
    drawn = [plot_view.points]
    for epoch in METRICS:
        Curves(run, "axial").append([epoch])
        drawRuns([run])
        drawn.append(plot_view.points)

    assert drawn == [{}, {}, *({LOSS: n, DICE: n} for n in range(2, 6))]


def test_chart_of_areas_follows_the_threshold(slicer, plot_view, open_panel, ct, complaints):  # noqa: F811
    panel = open_panel()
    panel.ui.keepProbabilityCheckBox.checked = True
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    panel.ui.showChartButton.click()
    before, added = list(plot_view.points.values()), plot_view.added
    panel.ui.resultThresholdSlider.value = 0.9
    plot_view.render()

    assert before == list(plot_view.points.values()) == [4]
    assert plot_view.added == added + 1
    areas = panel.ui.resultSelector.currentNode().GetNodeReference("SAHLoRA.areas")
    assert [areas.GetCellText(row, 1) for row in range(4)] == ["0"] * 4


def test_results_of_a_single_case_are_drawn(slicer, plot_view):
    from SAHLoRATrainerLib.judgement import JudgedCase, Verdict, showStrata

    verdict = Verdict((JudgedCase("case-001", 12.0, 0.5, 0.6, 10.0, 11.0),), 1, None)
    showStrata(SimpleNamespace(settings=SimpleNamespace(name="Ours")), verdict)

    assert plot_view.points == {"Base": 2, "Adapter": 2}  # one point, painted twice


def test_comparison_at_one_rank_is_drawn(slicer, plot_view):
    from SAHLoRATrainerLib.comparisoncharts import RANK, showComparison

    measures = {"all": {"measures": {"dice": {"mean": 0.6}}}}
    one = {"name": "cp-lora 4", "method": "cp-lora", "rank": 4, "parameters": 988, "strata": measures}
    showComparison([one], RANK, "Dice by rank")

    assert plot_view.points == {"cp-lora": 2}
