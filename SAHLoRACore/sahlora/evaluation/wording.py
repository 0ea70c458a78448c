"""Figures as text, the same way in every result."""

from __future__ import annotations

import numpy as np

from sahlora.evaluation.statistics import Summary

UNDEFINED = "–"


def number(value: float, digits: int = 3) -> str:
    """Return e.g. “0.812”; a dash if undefined."""
    return UNDEFINED if np.isnan(value) else f"{value:.{digits}f}"


def p_value(value: float) -> str:
    """Return e.g. “0.0312” or “below 0.0001”; a dash if undefined."""
    return "below 0.0001" if value < 0.0001 else number(value, 4)


def mean_and_n(summary: Summary) -> str:
    """Return e.g. “0.812 ± 0.074 (n = 30)”."""
    return f"{number(summary.mean)} ± {number(summary.sd)} (n = {summary.n})"
