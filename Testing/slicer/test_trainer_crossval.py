"""Cross-validation from the Trainer's panel: the real command on tiny cases of the scene, and its results."""

from __future__ import annotations

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from test_childprocess import wait_for
from test_trainer_cases import open_trainer  # noqa: F401 - fixture
from test_trainer_suggest import CORE, models  # noqa: F401 - fixture


@pytest.fixture
def data_folder(slicer, tmp_path):
    """A folder of runs and comparisons of its own."""
    import qt

    from SAHLoRACoreLib.settings import settingKey

    qt.QSettings().setValue(settingKey("dataFolder"), str(tmp_path / "data é"))
    yield tmp_path / "data é"
    qt.QSettings().remove(settingKey("dataFolder"))


@pytest.fixture
def panel(slicer, open_trainer, models, data_folder, monkeypatch):  # noqa: F811
    """The Trainer with the real command, a tiny model and one epoch."""
    from SAHLoRATrainer import SAHLoRATrainerLogic

    panel = open_trainer(logic=SAHLoRATrainerLogic(command=[sys.executable, str(CORE / "sahlora")]))
    monkeypatch.setenv("SAHLORA_MODELS", str(models))
    panel.parameters.model, panel.parameters.device = "base", "cpu"
    panel.parameters.preset, panel.parameters.epochs = "quick", 1
    panel.enter()
    return panel


def add_heads(slicer, panel, count: int) -> None:
    """Add cases to scene and table: a shell of bone around brain, with 2 blocks of blood."""
    z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (8, 40, 36)), indexing="ij")
    radius = np.sqrt((z / 1.3) ** 2 + y**2 + x**2)
    for number in range(count):
        hu = np.where(radius < 0.9, 35, np.where(radius < 1.0, 1000, -1000)).astype(np.int16)
        hu += np.random.default_rng(number).normal(0, 5, hu.shape).astype(np.int16)
        blood = np.zeros(hu.shape, np.uint8)
        blood[3:5, 12 + number : 20 + number, 12:24] = 1
        hu[blood > 0] = 70
        grid = np.diag([-4.0, -4.0, 5.0, 1.0])
        volume = slicer.util.addVolumeFromArray(hu, ijkToRAS=grid, name=f"Patient {number}")
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segment = segmentation.GetSegmentation().AddEmptySegment("blood", "Blood")
        slicer.util.updateSegmentBinaryLabelmapFromArray(blood, segmentation, segment, volume)
        panel.addCase(volume, segmentation, segment)


def tick(ui, *methods: str) -> None:
    import qt
    from SAHLoRATrainerLib.comparisons import METHODS

    for row, method in enumerate(METHODS):
        ticked = qt.Qt.Checked if method in methods else qt.Qt.Unchecked
        ui.crossvalMethodsList.item(row).setCheckState(ticked)


def cells(table) -> list[list[str]]:
    return [[table.item(row, column).text() for column in range(4)] for row in range(table.rowCount)]


@pytest.fixture
def started(slicer, panel):
    """The panel while it compares CP-LoRA with the model as it is, on 2 cases and one held out."""
    from SAHLoRATrainerLib.comparisons import HELD_OUT, SPLITS

    add_heads(slicer, panel, 3)
    panel.cases.change(panel.cases.rows()[2].key, heldOut=True)
    ui = panel.parts.crossval.ui
    tick(ui, "cp-lora")
    ui.crossvalSplitSelector.setCurrentIndex(SPLITS.index(HELD_OUT))
    assert ui.crossvalCountLabel.text == "Trainings: 1"
    ui.compareButton.click()
    assert panel.occupation == "Methods are being compared."
    return panel


def test_comparison_of_cases_of_the_scene_comes_as_table_and_page(slicer, started, data_folder, monkeypatch):
    import qt
    from SAHLoRATrainerLib.runs import removeUnusedCases

    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    ui = started.parts.crossval.ui
    wait_for(slicer, lambda: not started.occupation, patience_s=120)
    folder = data_folder / "comparisons" / "comparison-001"
    none, adapted = json.loads((folder / "study/results.json").read_text(encoding="utf-8"))["configurations"]
    rows = cells(ui.crossvalTable)

    assert ui.crossvalStatusLabel.text == "Done."
    assert [row[0] for row in rows] == [none["name"], adapted["name"]]
    dice = adapted["strata"]["all"]["measures"]["dice"]["mean"]
    assert rows[1][2].startswith(f"{dice:.2f}") and rows[1][2].endswith("n = 1")
    assert rows[1][1] == f"{adapted['parameters']:,}"
    ui.crossvalPageButton.click()
    assert opened == [str(folder / "study" / "crossval.html")]

    # The children read files without names; the exported cases stay as long as the comparison.
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["held_out"] for row in csv.DictReader(stream)] == ["no", "no", "yes"]
    assert not any("Patient" in path.read_text(errors="ignore") for path in folder.rglob("*.json"))
    removeUnusedCases()
    assert len(list((data_folder / "cases").iterdir())) == 3
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_: True)
    ui.deleteComparisonButton.click()
    assert not folder.exists() and not list((data_folder / "cases").iterdir())


@pytest.mark.proof
def test_canceled_comparison_goes_on_and_computes_nothing_twice(slicer, started, data_folder):
    ui = started.parts.crossval.ui
    wait_for(slicer, lambda: "of 2" in ui.crossvalStatusLabel.text, patience_s=120)
    ui.crossvalCancelButton.click()
    wait_for(slicer, lambda: not started.occupation)
    done = list(data_folder.rglob("study/jobs/*/result.json"))
    written = {path: path.stat().st_mtime_ns for path in done}

    assert ui.crossvalStatusLabel.text == "Canceled. Continue it below."
    assert len(done) == 1
    assert not ui.crossvalPageButton.enabled
    ui.continueButton.click()
    wait_for(slicer, lambda: not started.occupation, patience_s=120)
    assert ui.crossvalStatusLabel.text == "Done."
    assert {path: path.stat().st_mtime_ns for path in done} == written
    assert ui.crossvalTable.rowCount == 2


def test_comparison_canceled_before_its_cases_are_written_leaves_nothing(slicer, started, data_folder):
    started.parts.crossval.ui.crossvalCancelButton.click()

    assert not started.occupation
    assert list((data_folder / "comparisons").iterdir()) == []


def configuration(method, rank=None, parameters=None, dice=0.5, small=0.4) -> dict:
    def summary(mean):
        return {"measures": {"dice": {"mean": mean, "sd": 0.1, "n": 4}}}

    test = {"mean_difference": 0.125, "p_value": 0.25, "n": 4}
    return {
        "name": method if rank is None else f"{method} {rank}",
        "method": method,
        "rank": rank,
        "parameters": parameters,
        "failed": [],
        "strata": {"all": summary(dice), "0-25 mL": summary(small), "25-50 mL": summary(None)},
        "against_none": None if method == "none" else test,
    }


CONFIGURATIONS = [
    configuration("none", dice=0.4),
    configuration("cp-lora", 16, 4000, 0.7),
    configuration("cp-lora", 4, 1000, 0.6),
    configuration("standard", None, 100_000, 0.65),
]


@pytest.mark.parametrize(
    ("chart", "expected"),
    [
        ("rank", {"cp-lora": [(4.0, 0.6), (16.0, 0.7)]}),
        ("parameters", {"cp-lora": [(1000.0, 0.6), (4000.0, 0.7)], "standard": [(100_000.0, 0.65)] * 2}),
        ("stratum", {name: [(0.0, 0.4)] for name in ("none", "cp-lora 16", "cp-lora 4", "standard")}),
    ],
)
def test_chart_shows_the_results_and_replaces_the_one_before(slicer, monkeypatch, chart, expected):
    from SAHLoRATrainerLib.comparisoncharts import showComparison

    for _time in range(2):
        node = showComparison(CONFIGURATIONS, chart, "Dice")
    series = [node.GetNthPlotSeriesNode(index) for index in range(node.GetNumberOfPlotSeriesNodes())]
    shown = {}
    for one in series:
        table = one.GetTableNode().GetTable()
        columns = [table.GetColumnByName(name) for name in (one.GetXColumnName(), one.GetYColumnName())]
        values = [[c.GetValue(row) for row in range(table.GetNumberOfRows())] for c in columns]
        shown[one.GetName()] = list(zip(*values, strict=True))

    assert shown == expected
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == len(expected)


def write_comparison(configurations, *, page=True):
    """Write a comparison as the panel and the command leave it."""
    from SAHLoRATrainerLib.comparisons import CrossvalSettings, newComparison

    comparison = newComparison(CrossvalSettings())
    comparison.study.mkdir()
    text = json.dumps({"configurations": configurations})
    (comparison.study / "results.json").write_text(text, encoding="utf-8")
    if page:
        comparison.page.write_text("<p>Results</p>", encoding="utf-8")
    return comparison


def test_results_are_shown_with_n_and_what_failed(slicer, panel, data_folder):
    failed = {**configuration("dora-c", 4), "strata": {}, "against_none": None}
    failed["failed"] = [{"code": "diverged", "message": "Its loss became infinite."}]
    write_comparison([*CONFIGURATIONS, failed])
    panel.enter()
    ui = panel.parts.crossval.ui
    rows = cells(ui.crossvalTable)

    assert rows[1] == ["cp-lora 16", "4,000", "0.70 ± 0.10, n = 4", "+0.12, n = 4"]
    assert rows[0][3] == "\N{EN DASH}"
    assert rows[4][0] == "dora-c 4, 1 failed"
    assert "n = 4 patients, Wilcoxon's p = 0.250" in ui.crossvalTable.item(1, 0).toolTip()
    assert ui.crossvalTable.item(4, 0).toolTip() == "Its loss became infinite."
    ui.crossvalChartSelector.setCurrentIndex(1)
    ui.crossvalChartButton.click()
    assert slicer.util.getNode("Dice by rank").GetNumberOfPlotSeriesNodes() == 1


def test_button_says_what_is_missing(slicer, panel):
    import qt

    ui = panel.parts.crossval.ui
    assert ui.compareButton.toolTip == "3 folds need as many patients; there are 0. Add cases."
    add_heads(slicer, panel, 3)
    panel.refresh()
    assert ui.compareButton.enabled
    assert ui.crossvalCountLabel.text == "Trainings: 6"  # cp-lora and standard, 3 folds
    for wrong in ("0", "x", "", "4;16"):
        ui.crossvalRanksEdit.text = wrong
        assert "ranks from 1" in ui.compareButton.toolTip
    ui.crossvalRanksEdit.text = "4, 16"
    assert ui.crossvalCountLabel.text == "Trainings: 9"
    tick(ui)
    assert ui.compareButton.toolTip == "Tick at least one method."
    tick(ui, "threshold")
    panel.cases.change(panel.cases.rows()[0].key, heldOut=True)
    ui.crossvalSplitSelector.setCurrentIndex(1)  # those held out are kept
    assert "there are 2" in ui.compareButton.toolTip
    ui.crossvalSplitSelector.setCurrentIndex(2)
    assert ui.compareButton.enabled and not ui.crossvalFoldsSpinBox.enabled
    panel.occupy("A model is being trained.")
    assert ui.compareButton.toolTip == "A model is being trained."
    panel.release()
    assert isinstance(ui.crossvalMethodsList.item(0), qt.QListWidgetItem)


def test_comparison_is_found_again_and_a_broken_one_left_out(slicer, panel, data_folder):
    from SAHLoRATrainerLib.comparisons import allComparisons

    kept = write_comparison(CONFIGURATIONS, page=False)
    broken = write_comparison([])
    (broken.folder / "comparison.json").write_text("{")
    panel.enter()
    ui = panel.parts.crossval.ui

    assert allComparisons() == [kept]
    assert ui.comparisonSelector.count == 1
    assert ui.comparisonSelector.currentText.endswith("(not done)")
    shutil.rmtree(kept.folder)
    panel.enter()
    assert ui.crossvalTable.rowCount == 0


def test_every_option_is_one_of_the_command(slicer):
    import argparse
    from dataclasses import replace

    from SAHLoRATrainerLib.comparisons import METHODS, CrossvalSettings
    from SAHLoRATrainerLib.settings import TrainSettings

    command = pytest.importorskip("sahlora.commands.crossval")
    grid = pytest.importorskip("sahlora.crossval.grid")
    training = TrainSettings(model="m", scope="all", epochs=7, learningRate=0.01, seed=3, device="cuda:1")
    settings = CrossvalSettings(METHODS, (4, 16), "kept", 5, training)
    parser = argparse.ArgumentParser()
    command.configure(parser)
    args = parser.parse_args(["cases.csv", "-o", "study", *settings.arguments()])
    held_out = parser.parse_args(["c", "-o", "s", *replace(settings, split="held-out").arguments()])

    assert (args.model, args.scopes, args.ranks, args.folds) == ("m", "all", "4,16", 5)
    assert (args.epochs, args.learning_rate, args.seed, args.device) == (7, "0.01", 3, "cuda:1")
    assert (held_out.held_out, held_out.folds) == (True, None)
    assert args.methods.split(",") == list(METHODS)
    known = {*grid.DEFAULT_METHODS, "locon"}
    assert {method.removeprefix(grid.SHUFFLED) for method in METHODS} <= known
