"""Plots of an evaluation as PNG: Dice by stratum, predicted against annotated volume, Bland–Altman."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sahlora.cases.strata import NOTHING
from sahlora.evaluation.evaluate import ALL, CaseResult, Evaluation, by_stratum
from sahlora.evaluation.statistics import summarize

COLORS = ("#0072b2", "#d55e00")
"""Told apart by color-blind readers (Okabe & Ito)."""
QUIET = "#5b616b"
DPI = 120
NAME_WIDTH = 44

Axes = Any


def dice_by_stratum(evaluation: Evaluation) -> bytes:
    """Draw every case's Dice by stratum of annotated volume, with mean ± standard deviation of each."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    first = evaluation.results[evaluation.systems[0].name]
    strata = [name for name in (*by_stratum(first), ALL) if name != NOTHING][1:]
    width = 0.7 / len(evaluation.systems)
    for number, system in enumerate(evaluation.systems):
        results = evaluation.results[system.name]
        for place, name in enumerate(strata):
            values = _dice(results, name)
            center = place + (number - (len(evaluation.systems) - 1) / 2) * width
            spread = np.linspace(-0.25, 0.25, values.size) if values.size > 1 else np.zeros(values.size)
            axes.scatter(
                center + width * spread, values, s=18, color=COLORS[number], alpha=0.55, linewidths=0
            )
            summary = summarize(values)
            axes.errorbar(
                center, summary.mean, yerr=np.nan_to_num(summary.sd), color=COLORS[number], capsize=4,
                marker="_", markersize=16, markeredgewidth=2, linewidth=1.5,
                label=_name(system.name) if place == 0 else None,
            )  # fmt: skip
    counts = [_dice(first, name).size for name in strata]
    axes.set_xticks(range(len(strata)), [f"{s}\nn = {n}" for s, n in zip(strata, counts, strict=True)])
    axes.set(
        ylim=(-0.02, 1.02),
        xlim=(-0.6, len(strata) - 0.4),
        ylabel="Dice",
        xlabel="Annotated volume (bars: mean ± sd)",
    )
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(evaluation.systems))
    tidy(axes)
    return to_png(figure)


def volumes(evaluation: Evaluation) -> bytes:
    """Draw predicted over annotated volume with the line of identity, one panel a model."""

    def draw(axes: Axes, annotated: np.ndarray, predicted: np.ndarray, color: str, name: str) -> None:
        end = 1.05 * max(1.0, *(max(_volumes(results)[0].max(), _volumes(results)[1].max())
                                for results in evaluation.results.values()))  # fmt: skip
        axes.plot([0, end], [0, end], color=QUIET, linewidth=1, label="identity")
        axes.scatter(annotated, predicted, s=22, color=color, alpha=0.7, linewidths=0, clip_on=False)
        axes.set(xlim=(0, end), ylim=(0, end), aspect="equal", xlabel="Annotated, mL", ylabel="Predicted, mL")
        axes.set_title(name, fontsize=10)
        axes.legend(frameon=False, loc="upper left")

    return _panels(evaluation, draw, 4.4)


def bland_altman(evaluation: Evaluation) -> bytes:
    """Draw the difference of volumes over their mean, with bias and limits of agreement, one panel a model.

    Source: Bland & Altman, Lancet 1986, 1:307.
    """

    def draw(axes: Axes, annotated: np.ndarray, predicted: np.ndarray, color: str, name: str) -> None:
        difference = predicted - annotated
        spread = summarize(difference)
        axes.scatter((predicted + annotated) / 2, difference, s=22, color=color, alpha=0.7, linewidths=0)
        axes.axhline(0, color=QUIET, linewidth=0.6)
        for words, height, style in (
            ("bias", spread.mean, "-"),
            ("+1.96 sd", spread.mean + 1.96 * spread.sd, "--"),
            ("−1.96 sd", spread.mean - 1.96 * spread.sd, "--"),
        ):
            if np.isnan(height):
                continue
            axes.axhline(height, color=color, linewidth=1.2, linestyle=style)
            axes.annotate(
                f"{words}: {height:.1f}".replace("-", "−"), (1, height), xycoords=("axes fraction", "data"),
                xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=QUIET,
                annotation_clip=False,
            )  # fmt: skip
        axes.set(xlabel="Mean of both, mL", ylabel="Predicted − annotated, mL")
        axes.set_title(name, fontsize=10)

    return _panels(evaluation, draw, 3.8)


def _panels(
    evaluation: Evaluation, draw: Callable[[Axes, np.ndarray, np.ndarray, str, str], None], height: float
) -> bytes:
    """Draw one panel a model, with the same axes."""
    count = len(evaluation.systems)
    figure = Figure(figsize=(max(8.0, 4.8 * count), height), layout="constrained")
    panels = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
    for axes, system, color in zip(panels, evaluation.systems, COLORS, strict=False):
        results = evaluation.results[system.name]
        draw(axes, *_volumes(results), color, f"{_name(system.name)} (n = {len(results)})")
        tidy(axes)
    return to_png(figure)


def _dice(results: tuple[CaseResult, ...], stratum: str) -> np.ndarray:
    """Return the defined Dice of a stratum, ascending."""
    values = [r.score.dice for r in results if stratum in (ALL, r.stratum)]
    return np.sort([value for value in values if not np.isnan(value)])


def _volumes(results: tuple[CaseResult, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return annotated and predicted mL."""
    return (
        np.array([result.score.annotated_ml for result in results]),
        np.array([result.score.predicted_ml for result in results]),
    )


def _name(name: str) -> str:
    """Return a model's name as plain text, shortened: a dollar sign would start a formula."""
    return textwrap.shorten(name, NAME_WIDTH, placeholder="…").replace("$", r"\$")


def tidy(axes: Axes) -> None:
    """Leave out what carries no data, and draw quiet lines behind it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.6)
    axes.set_axisbelow(True)


def to_png(figure: Figure) -> bytes:
    """Render with the same bytes for the same figure."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()
