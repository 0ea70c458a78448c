"""The three views of a volume: their names, their slice axes, and which are used by default."""

from __future__ import annotations

from typing import Literal, get_args

from sahlora.errors import UsageError

View = Literal["axial", "coronal", "sagittal"]

VIEWS: tuple[View, ...] = get_args(View)

SLICE_AXIS: dict[View, int] = {"axial": 0, "coronal": 1, "sagittal": 2}

THICK_SLICE_MM = 3.0


def parse_views(text: str) -> tuple[View, ...]:
    """Read ``"axial,coronal"``; order and repeats don't matter.

    Raises
    ------
    UsageError
        ``unknown-view`` for any other name or none at all.
    """
    names = {name.strip().lower() for name in text.split(",") if name.strip()}
    if not names or not names <= set(VIEWS):
        raise UsageError(
            "unknown-view", f"“{text}” names no set of views.", f"Choose among {', '.join(VIEWS)}."
        )
    return tuple(view for view in VIEWS if view in names)


def default_views(available: tuple[View, ...], slice_spacing: float) -> tuple[View, ...]:
    """Choose axial alone above 3 mm between slices, where reformatted views carry little, else all."""
    if slice_spacing > THICK_SLICE_MM and "axial" in available:
        return ("axial",)
    return available
