"""Strata of annotated volume."""

from __future__ import annotations

import numpy as np

STRATA_ML = ((0.0, 25.0), (25.0, 50.0), (50.0, 100.0), (100.0, np.inf))


def stratum(annotated_ml: float) -> str:
    """Name of the stratum of an annotated volume above 0 mL: (0, 25], (25, 50], (50, 100], (100, ∞)."""
    return next(stratum_name(low, high) for low, high in STRATA_ML if low < annotated_ml <= high)


def stratum_name(low: float, high: float) -> str:
    """Name of a stratum, e.g. ``"25-50 mL"`` or ``"above 100 mL"``."""
    return f"{low:g}-{high:g} mL" if np.isfinite(high) else f"above {low:g} mL"


NOTHING = "0 mL"
STRATA = (NOTHING, *(stratum_name(*bounds) for bounds in STRATA_ML))
"""Names of all strata of annotated volume, without blood first."""


def volume_stratum(annotated_ml: float) -> str:
    """Name of the stratum of an annotated volume, ``"0 mL"`` if there is none."""
    return stratum(annotated_ml) if annotated_ml > 0 else NOTHING
