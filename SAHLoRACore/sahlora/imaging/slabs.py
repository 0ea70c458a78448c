"""Masks from slices of one thickness to slices of another, so that no milliliter is lost or gained.

Every slice stands for a slab. A target slab gets the area that the source slabs it overlaps have in it, and
of its pixels those that most of these slabs hold, at a tie the ones that lie deepest inside.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

DEPTH_PIXELS = 50.0
TIE = 1e-4
"""Weight of a pixel of depth against a whole slab: it orders pixels that equally large slabs hold."""
SLIVER = 1e-3
"""Part of a slab, or mm, that is rounding of positions."""

Placed = Callable[[int, int], np.ndarray]


def carry_masks(
    placed: Placed, source_edges: np.ndarray, target_edges: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Carry masks of source slabs to target slabs.

    Parameters
    ----------
    placed : callable
        Gives for a source and a target slab the part (0 to 1) of each pixel of the target, float (rows,
        columns), that the source's mask covers.
    source_edges, target_edges : np.ndarray
        (N + 1,), (M + 1,) ascending positions in mm between slabs.
    shape : tuple of int
        Rows and columns of a target slice.

    Returns
    -------
    np.ndarray
        bool (M, rows, columns). Its volume is the sources', but for half a voxel; what lies beyond the
        outermost targets goes to them.
    """
    result = np.zeros((len(target_edges) - 1, *shape), bool)
    thickness = np.diff(target_edges)
    reach = np.concatenate([[-np.inf], target_edges[1:-1], [np.inf]])
    owed = 0.0
    for target, mask in enumerate(result):
        coverage, depth = _seen_from(target, placed, source_edges, reach[target : target + 2], shape)
        coverage /= thickness[target]
        candidates = np.flatnonzero(coverage > SLIVER)
        if not candidates.size:
            continue
        owed += float(coverage.sum()) * thickness[target]
        count = min(round(owed / thickness[target]), candidates.size)
        owed -= count * thickness[target]
        score = coverage.flat[candidates] + TIE * depth.flat[candidates]
        mask.flat[candidates[np.argsort(-score, kind="stable")[:count]]] = True
    return result


def slab_edges(positions: np.ndarray) -> np.ndarray:
    """Return the (N + 1,) positions half way between slices, and as far outside the outermost as inside."""
    middle = (positions[1:] + positions[:-1]) / 2
    return np.concatenate([[2 * positions[0] - middle[0]], middle, [2 * positions[-1] - middle[-1]]])


def _seen_from(
    target: int, placed: Placed, source_edges: np.ndarray, reach: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many mm of a target slab the sources cover at each pixel, and how deep inside it lies."""
    low, high = reach
    overlaps = np.clip(np.minimum(source_edges[1:], high) - np.maximum(source_edges[:-1], low), 0, None)
    coverage, depth = np.zeros(shape), np.zeros(shape)
    for source in np.flatnonzero(overlaps > SLIVER).tolist():
        part = placed(source, target)
        coverage += overlaps[source] * part
        depth += overlaps[source] / overlaps.sum() * _depth(part >= 0.5)
    return coverage, depth


def _depth(mask: np.ndarray) -> np.ndarray:
    """Return the distance in pixels to the outline, positive inside, at most `DEPTH_PIXELS` either way."""
    if not mask.any():
        return np.full(mask.shape, -DEPTH_PIXELS)
    inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    return np.clip(inside - outside, -DEPTH_PIXELS, DEPTH_PIXELS)
