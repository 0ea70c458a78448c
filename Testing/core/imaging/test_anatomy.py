"""A head CT's values, size and position are judged by its anatomy, over whole ranges of what can go wrong."""

from __future__ import annotations

import numpy as np
import pytest

from sahlora.errors import InputError
from sahlora.imaging.plausibility import doubts, require_ct

SPACING = (5.0, 4.0, 4.0)
SHAPE = (28, 56, 48)  # the lowest slice cuts the head, air is above


def head() -> np.ndarray:
    """Draw scalp, skull, brain of 35 HU, nose and sinuses, in air."""
    z, y, x = np.meshgrid(
        *((np.arange(n) + 0.5) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    z, y, x = z - 45, y - 112, x - 96
    radius = np.sqrt((z / 85) ** 2 + (y / 95) ** 2 + (x / 80) ** 2)
    hu = np.select([radius < 0.85, radius < 0.95, radius < 1], [35, 1000, 20], -1000).astype(float)
    hu[(np.abs(x) < 22) & (y > -95) & (y < -50) & (z < -15) & (radius < 0.9)] = -950
    return np.rint(hu + np.random.default_rng(0).normal(0, 6, SHAPE)).astype(np.int16)


def verdict(hu: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> str:
    """Return the code of the refusal or of the first doubt, or an empty string."""
    try:
        seen = require_ct(np.clip(np.rint(hu), -32768, 32767).astype(np.int16), "this volume")
    except InputError as error:
        return error.code
    return next((remark.code for remark in doubts(seen, spacing)), "")


def test_a_good_head_raises_no_doubt() -> None:
    hu = head()
    assert verdict(hu) == ""
    assert verdict(hu[::2], (10.0, 4.0, 4.0)) == ""
    assert verdict(np.where(hu < -900, -3024, hu)) == ""
    assert verdict(hu[8:20]) == ""


@pytest.mark.parametrize("offset", [*range(-1100, 0, 100), *range(100, 1101, 100)])
def test_shifted_values_are_refused(offset: int) -> None:
    assert verdict(head().astype(int) + offset) == "not-ct"


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.25, 1.5, 2.0])
def test_scaled_values_are_refused_or_doubted(factor: float) -> None:
    assert verdict(head() * factor) in ("not-ct", "doubtful-values")


def test_what_has_no_anatomy_is_refused() -> None:
    rng, hu = np.random.default_rng(0), head()
    for other in (
        rng.normal(0, 300, SHAPE),
        rng.normal(30, 100, SHAPE),
        rng.permutation(hu.ravel()).reshape(SHAPE),
        -hu.astype(int),
        np.where(hu > -500, np.abs(rng.normal(900, 300, SHAPE)), 10),
    ):
        assert verdict(other) == "not-ct"


@pytest.mark.parametrize(
    "spacing", [(1, 4, 4), (2, 4, 4), (12, 4, 4), (5, 4, 8), (5, 8, 4), (1, 1, 1), (10, 8, 8)]
)
def test_a_wrong_step_is_doubted(spacing: tuple[float, float, float]) -> None:
    assert verdict(head(), spacing) == "doubtful-size"


def test_a_lost_slice_step_is_named() -> None:
    found = doubts(require_ct(head(), "this volume"), (1.0, 4.0, 4.0))
    assert [remark.code for remark in found] == ["doubtful-size"]
    assert "slice step of 1 mm may be wrong" in found[0].message


@pytest.mark.parametrize("turned", ["back", "down", "both", "side", "lying"])
def test_a_turned_head_is_doubted(turned: str) -> None:
    hu = head()
    z, y, x = SPACING
    array, spacing = {
        "back": (hu[:, ::-1], SPACING),
        "down": (hu[::-1], SPACING),
        "both": (hu[::-1, ::-1], SPACING),
        "side": (hu.transpose(0, 2, 1), (z, x, y)),
        "lying": (hu.transpose(1, 0, 2), (y, z, x)),
    }[turned]
    assert verdict(array, spacing) in ("doubtful-orientation", "doubtful-size" if turned == "side" else None)
