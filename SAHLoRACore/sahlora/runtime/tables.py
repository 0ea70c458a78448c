"""Figures as text and tables as files, the same way in every result."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sahlora.evaluation.statistics import Summary
from sahlora.runtime.files import replacing

UNDEFINED = "–"


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as CSV; what is undefined is an empty cell.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value


def number(value: float, digits: int = 3) -> str:
    """Return e.g. “0.812”; a dash if undefined."""
    return UNDEFINED if np.isnan(value) else f"{value:.{digits}f}"


def p_value(value: float) -> str:
    """Return e.g. “0.0312” or “below 0.0001”; a dash if undefined."""
    return "below 0.0001" if value < 0.0001 else number(value, 4)


def mean_and_n(summary: Summary) -> str:
    """Return e.g. “0.812 ± 0.074 (n = 30)”."""
    return f"{number(summary.mean)} ± {number(summary.sd)} (n = {summary.n})"
