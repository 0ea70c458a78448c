"""Plots of a cross-validation as PNG: Dice against trained parameters, by rank, by stratum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sahlora.adapters.config import STANDARD
from sahlora.cases.strata import NOTHING, STRATA
from sahlora.crossval.grid import NONE, THRESHOLD, Configuration
from sahlora.crossval.summary import Comparison
from sahlora.evaluation.evaluate import ALL
from sahlora.evaluation.plots import QUIET, Axes, tidy, to_png
from sahlora.evaluation.statistics import Summary

COLORS = {
    "lora-c": "#0072b2", "conv-lora": "#009e73", "cp-lora": "#d55e00", "dora-c": "#56b4e9",
    "conv-dora": "#7fc97f", "cp-dora": "#e69f00", "locon": "#cc79a7", STANDARD: "#1b1d21",
}  # fmt: skip
"""Told apart by color-blind readers (after Okabe & Ito); a DoRA is the lighter form of its LoRA."""
REFERENCES = {NONE: ("no fine-tuning", "-"), THRESHOLD: ("HU threshold", ":")}
MARKERS = "os^Dvp*X"


def dice_by_parameters(comparisons: Sequence[Comparison]) -> bytes:
    """Draw mean Dice ± sd over the number of trained parameters; what trains nothing is a line."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    shown: set[str] = set()
    trained = [one for one in comparisons if one.outcome.configuration.trained and one.strata]
    scopes = list(dict.fromkeys(one.outcome.configuration.scope for one in trained))
    for one in trained:
        what, dice = one.outcome.configuration, _dice(one)
        name = what.method if len(scopes) == 1 else f"{what.method}, {what.scope}"
        axes.errorbar(
            one.outcome.parameters or 0, dice.mean, yerr=np.nan_to_num(dice.sd),
            color=_color(what), ecolor=(*_rgb(_color(what)), 0.25), capsize=3, markersize=7,
            marker="x" if what.is_control else MARKERS[scopes.index(what.scope) % len(MARKERS)],
            linestyle="", label=None if name in shown else name,
        )  # fmt: skip
        if what.rank is not None:
            axes.annotate(
                f"{what.rank}", (one.outcome.parameters, dice.mean), xytext=(6, 3),
                textcoords="offset points", fontsize=7, color=QUIET,
            )  # fmt: skip
        shown.add(name)
    _references(axes, comparisons)
    if trained:
        axes.set_xscale("log")
    axes.set(ylim=(-0.02, 1.02), ylabel="Dice (mean ± sd)")
    axes.set_xlabel(f"Trained parameters (numbers at the points: rank; {_n_words(comparisons)})")
    _legend(figure, axes)
    tidy(axes)
    return to_png(figure)


def dice_by_rank(comparisons: Sequence[Comparison]) -> bytes:
    """Draw mean Dice over rank, one panel a scope, one line a method."""
    adapters = [c for c in comparisons if c.outcome.configuration.rank is not None and c.strata]
    scopes = list(dict.fromkeys(one.outcome.configuration.scope for one in adapters)) or [None]
    figure = Figure(figsize=(max(8.0, 4.2 * len(scopes)), 4.4), layout="constrained")
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    ranks = sorted({one.outcome.configuration.rank or 0 for one in adapters})
    for axes, scope in zip(panels, scopes, strict=True):
        members = [one for one in adapters if one.outcome.configuration.scope == scope]
        for method in dict.fromkeys(one.outcome.configuration.method for one in members):
            line = sorted(
                (one for one in members if one.outcome.configuration.method == method),
                key=lambda one: one.outcome.configuration.rank or 0,
            )
            what = line[0].outcome.configuration
            axes.plot(
                [ranks.index(one.outcome.configuration.rank or 0) for one in line],
                [_dice(one).mean for one in line],
                color=_color(what), label=method, linewidth=1.5, markersize=6,
                marker="x" if what.is_control else "o", linestyle="--" if what.is_control else "-",
            )  # fmt: skip
        _references(axes, comparisons, scope)
        axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        axes.set(ylim=(-0.02, 1.02), xlim=(-0.4, max(0.4, len(ranks) - 0.6)), xlabel="Rank")
        if len(scopes) > 1:
            axes.set_title(str(scope), fontsize=10)
        tidy(axes)
    panels[0].set_ylabel(f"Mean Dice ({_n_words(comparisons)})")
    _legend(figure, panels[0])
    return to_png(figure)


def dice_by_stratum(comparisons: Sequence[Comparison]) -> bytes:
    """Draw mean Dice ± sd of every configuration in each stratum of annotated volume."""
    found = [one for one in comparisons if one.strata]
    present = {name for one in found for name in one.strata}
    strata = [name for name in (*STRATA, ALL) if name in present and name != NOTHING]
    height = 1.4 + 0.17 * len(found)
    figure = Figure(figsize=(8, max(4.2, height)), layout="constrained")
    panels = figure.subplots(1, len(strata), sharey=True, squeeze=False)[0]
    for axes, stratum in zip(panels, strata, strict=True):
        for place, one in enumerate(found):
            if stratum not in one.strata:
                continue
            dice, what = one.strata[stratum].measures["dice"], one.outcome.configuration
            axes.errorbar(
                dice.mean, place, xerr=np.nan_to_num(dice.sd), color=_color(what), capsize=2, linewidth=1,
                marker="x" if what.is_control else "o", markersize=5,
            )  # fmt: skip
        n = max(c.strata[stratum].measures["dice"].n for c in found if stratum in c.strata)
        axes.set_title(f"{stratum}\nn = {n}", fontsize=9)
        axes.set(xlim=(-0.02, 1.02), xlabel="Dice")
        axes.set_xticks([0, 0.5, 1])
        tidy(axes)
        axes.grid(axis="x", color="#e4e6ea", linewidth=0.6)
    panels[0].set_yticks(range(len(found)), [str(c.outcome.configuration) for c in found], fontsize=8)
    panels[0].invert_yaxis()
    return to_png(figure)


def _dice(one: Comparison) -> Summary:
    return one.strata[ALL].measures["dice"]


def _color(what: Configuration) -> str:
    return QUIET if what.trained is None else COLORS[what.trained]


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _references(axes: Axes, comparisons: Sequence[Comparison], scope: str | None = None) -> None:
    """Draw what trains nothing, and the standard strategy of a scope, as lines."""
    for one in comparisons:
        what = one.outcome.configuration
        if not one.strata:
            continue
        if what.method in REFERENCES:
            name, style = REFERENCES[what.method]
        elif scope is not None and what == Configuration(STANDARD, None, scope):
            name, style = STANDARD, "-."
        else:
            continue
        axes.axhline(_dice(one).mean, color=_color(what), linestyle=style, linewidth=1.2, label=name)


def _n_words(comparisons: Sequence[Comparison]) -> str:
    counts = {_dice(one).n for one in comparisons if one.strata}
    low, high = min(counts), max(counts)
    return f"n = {low} cases" if low == high else f"n = {low} to {high} cases"


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside right center", fontsize=8)
