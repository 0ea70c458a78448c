"""Is the adapter better than its base? Both segment the held-out cases, and the answer is put in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.plots import drawSeries, paintable
from SAHLoRACoreLib.scene import importSegmentation, volumeInWorld
from SAHLoRACoreLib.settings import deviceFor
from SAHLoRACoreLib.showing import showOutlines, showVolume
from SAHLoRATrainerLib.caseviews import center, volumeOf, volumesInScene
from SAHLoRATrainerLib.charts import addNode, removeNodes
from SAHLoRATrainerLib.runs import Run

FEWEST = 6  # patients: with fewer, Wilcoxon's test can't fall below 0.05, however large the difference
SIGNIFICANT = 0.05
STRATA = "SAHLoRA.strata"  # attribute of the chart of the last judgment, and of what belongs to it
OUTLINE = "SAHLoRA.judgement"  # attribute of the outlines that a click brings and the next one takes
NO_BLOOD = "0 mL"  # stratum of cases without annotated blood, as the command calls it
ADAPTED, BASE = 1, 2  # numbers of the two in the names of their outlines
COLORS = {ADAPTED: (0.9, 0.45, 0.0), BASE: (0.1, 0.45, 0.85)}


@dataclass(frozen=True)
class JudgedCase:
    """A held-out case: annotated volume, and Dice and volume with base and adapter; None: undefined."""

    name: str
    annotatedMl: float
    baseDice: float | None
    adaptedDice: float | None
    baseMl: float
    adaptedMl: float

    @property
    def change(self) -> float | None:
        """Dice gained."""
        if self.baseDice is None or self.adaptedDice is None:
            return None
        return self.adaptedDice - self.baseDice


@dataclass(frozen=True)
class Verdict:
    """What an evaluation says of adapter and base.

    Parameters
    ----------
    cases : tuple of JudgedCase
    patients : int
        That the test counts.
    pValue : float, optional
        Of Wilcoxon's paired test of Dice; None where there is nothing to test.
    strata : tuple of (str, float, float, int)
        Name, mean Dice of base and adapter, and number of cases.
    failures : tuple of str
        Names of cases that could not be read.
    """

    cases: tuple[JudgedCase, ...]
    patients: int
    pValue: float | None
    strata: tuple[tuple[str, float, float, int], ...] = ()
    failures: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Verdict:
        """Read the results of ``sahlora evaluate``; raise OSError, ValueError or KeyError if that fails."""
        record = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        adapted, base = record["models"]
        cases = tuple(
            JudgedCase(
                after["case"],
                after["annotated_ml"],
                before["dice"],
                after["dice"],
                before["predicted_ml"],
                after["predicted_ml"],
            )
            for after, before in zip(adapted["cases"], base["cases"], strict=True)
        )
        test = record["comparison"]["dice"]
        strata = [
            (name, *(model["strata"][name]["measures"]["dice"] for model in (base, adapted)))
            for name in adapted["strata"]
            if name not in ("all", NO_BLOOD)
        ]
        return cls(
            cases,
            test["n"],
            test["p_value"],
            tuple((name, before["mean"], after["mean"], after["n"]) for name, before, after in strata),
            tuple(failure["name"] for failure in record["failures"]),
        )

    @property
    def changes(self) -> list[float]:
        """Dice gained, of the cases in which it is defined."""
        return [case.change for case in self.cases if case.change is not None]

    @property
    def isBetter(self) -> bool:
        """Whether the mean Dice is higher with the adapter."""
        return bool(self.changes) and float(np.mean(self.changes)) > 0

    def sentence(self) -> str:
        """Say in plain words whether to use the adapter."""
        changes = self.changes
        if not changes:
            return _("No held-out case shows blood, so nothing can be said. Hold out cases with blood.")
        better, worse = (sum(sign * change > 0 for change in changes) for sign in (1, -1))
        base, adapted = (
            float(np.mean([getattr(case, name) for case in self.cases if case.change is not None]))
            for name in ("baseDice", "adaptedDice")
        )
        figures = _(
            "mean Dice {change:+.2f} ({base:.2f} with the base, {adapted:.2f} with the adapter, n = {n})"
        )
        figures = figures.format(change=adapted - base, base=base, adapted=adapted, n=len(changes))
        if not self.isBetter:
            return _(
                "Use the base: the adapter is worse on {worse} of {n} held-out cases, {figures}{doubt}."
            ).format(worse=worse, n=len(changes), figures=figures, doubt=self._doubt())
        return _("The adapter is better on {better} of {n} held-out cases, {figures}{doubt}.").format(
            better=better, n=len(changes), figures=figures, doubt=self._doubt()
        )

    def strataText(self) -> str:
        """Tell the mean Dice of each stratum of annotated volume."""
        line = _("{stratum}: Dice {base:.2f} with the base, {adapted:.2f} with the adapter (n = {n})")
        return "\n".join(
            line.format(stratum=name, base=base, adapted=adapted, n=n)
            for name, base, adapted, n in self.strata
            if n
        )

    def _doubt(self) -> str:
        if self.patients < FEWEST:
            return _("; too few cases to be sure")
        if self.pValue is None or self.pValue >= SIGNIFICANT:
            return _("; this can be chance")
        return _("; unlikely to be chance (Wilcoxon's p = {p:.3f}, {n} patients)").format(
            p=self.pValue, n=self.patients
        )


class Judging(ChildWork):
    """Base and adapter of a run segment its held-out cases in a child.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    run : Run
        Done.

    Attributes
    ----------
    error : Signal
        Emits a `ChildError`; an earlier judgement stays as it was.
    verdict : Verdict
        None before the end.
    """

    def __init__(self, command: Sequence[str], run: Run) -> None:
        self.run = run
        self.verdict: Verdict | None = None
        options = ["--held-out", "--outlines", "--model", run.settings.model, "--adapter", str(run.adapter)]
        options += ["--compare", run.settings.model, "--device", deviceFor(run.settings.device)]
        arguments = ["evaluate", str(run.manifest), "-o", str(run.evaluationFolder), *options]
        super().__init__([*command, *arguments])

    def _receive(self, result: Event) -> None:
        self.verdict = Verdict.read(self.run.evaluationFolder)


def verdictOf(run: Run) -> Verdict | None:
    """Return the verdict on a run, if it was judged."""
    try:
        return Verdict.read(run.evaluationFolder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ------------------------------------------------------------------------------------------------- showing


def showJudged(run: Run, name: str) -> list[Any]:
    """Show a held-out case with the outlines of adapter and base, which replace those shown before.

    Raises
    ------
    RuntimeError
        If a file can't be read.
    """
    case = next(case for case in run.cases if case.name == name)
    removeOutlines()
    volumeNode = volumeOf(case.image, name)
    made = []
    for number, words in ((ADAPTED, _("{case} with the adapter")), (BASE, _("{case} with the base"))):
        path = run.evaluationFolder / "outlines" / f"{name}-{number}.seg.nrrd"
        node = importSegmentation(path, volumeInWorld(volumeNode, path))
        node.SetName(slicer.mrmlScene.GenerateUniqueName(words.format(case=volumeNode.GetName())))
        node.SetAttribute(OUTLINE, "1")
        node.GetSegmentation().GetNthSegment(0).SetColor(*COLORS[number])
        node.GetDisplayNode().SetVisibility2DFill(False)
        made.append(node)
    showOutlines(made, volumeNode)
    showVolume(volumeNode, center(made))
    return made


def shownName(run: Run, name: str) -> str:
    """Return what a case is called here: its CT's name if the scene has it, else its name in the run."""
    case = next((case for case in run.cases if case.name == name), None)
    nodes = volumesInScene(case.image) if case is not None else []
    return nodes[0].GetName() if nodes else name


def removeOutlines() -> None:
    """Take the outlines that `showJudged` brought from the scene."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(OUTLINE):
            slicer.mrmlScene.RemoveNode(node)


def showStrata(run: Run, verdict: Verdict) -> Any:
    """Show Dice over annotated volume, a point a case for base and adapter; return the chart's node.

    It takes the place of the one before.
    """
    removeNodes(STRATA)
    title = _("{name}: Dice by annotated volume").format(name=run.settings.name)
    table = addNode("vtkMRMLTableNode", title, STRATA)
    cases = paintable([case for case in verdict.cases if case.change is not None])
    columns = [[getattr(case, name) for case in cases] for name in ("annotatedMl", "baseDice", "adaptedDice")]
    names = [_("Annotated (mL)"), _("Base"), _("Adapter")]
    slicer.util.updateTableFromArray(table, [np.array(column, float) for column in columns], names)
    chart = addNode("vtkMRMLPlotChartNode", title, STRATA)
    chart.SetTitle(title)
    chart.SetXAxisTitle(names[0])
    chart.SetYAxisTitle(_("Dice"))
    shown = []
    for name, color in zip(names[1:], (COLORS[BASE], COLORS[ADAPTED]), strict=True):
        series = addNode("vtkMRMLPlotSeriesNode", name, STRATA)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(names[0])
        series.SetYColumnName(name)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetColor(*color)
        shown.append(series)
    drawSeries(chart, shown)
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    return chart
