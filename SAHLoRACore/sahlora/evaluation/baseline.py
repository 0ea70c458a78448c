"""The plain method any model must beat: bright voxels inside an automatically found brain."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sahlora.imaging.pieces import connected_pieces

Array = np.ndarray

BONE_HU = 200
TISSUE_HU = (-20, 100)
MARGIN_MM = 3.0
SMALLEST_ML = 0.1


def brain_threshold(
    hu: Array, spacing: tuple[float, float, float], low: float = 50, high: float = 90
) -> Array:
    """Outline bright voxels inside the brain.

    Parameters
    ----------
    hu : array (Z, Y, X)
        CT in HU, slices bottom up.
    spacing : tuple of float
        (z, y, x) in mm.
    low, high : float
        Window of acute blood in HU, both ends included; it is applied after an in-plane median of some 2 mm.

    Returns
    -------
    array (Z, Y, X) of bool
        True for blood; components below 0.1 mL are dropped.
    """
    inside = find_brain(hu, spacing)
    window = [1, *(2 * round(1 / step) + 1 for step in spacing[1:])]
    smooth = ndimage.median_filter(hu.astype(np.int16, copy=False), size=window)
    bright = inside & (smooth >= low) & (smooth <= high)
    return _without_small(bright, SMALLEST_ML * 1000 / float(np.prod(spacing)))


def find_brain(hu: Array, spacing: tuple[float, float, float]) -> Array:
    """Return the soft tissue inside the skull, some millimeters away from bone.

    Each slice's bone is closed over gaps of some 4 mm and its inside filled; what is left of soft
    tissue after an erosion is opened, and its largest component in the volume is the brain.
    """
    tissue = np.zeros(hu.shape, bool)
    in_plane = spacing[1:]
    for index, image in enumerate(hu):
        bone = image > BONE_HU
        if not bone.any():
            continue
        ring = _within(bone, 4.0, in_plane)
        enclosed = ndimage.binary_fill_holes(ring) & ~ring
        soft = _within(enclosed, 4.0, in_plane) & (image > TISSUE_HU[0]) & (image < TISSUE_HU[1])
        tissue[index] = ~_within(~soft, MARGIN_MM, in_plane)
    labels, count = connected_pieces(tissue)
    if count == 0:
        return tissue
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    core = labels == sizes.argmax()
    return np.stack([_within(part, 1.0, in_plane) for part in core]) if core.any() else core


def _within(mask: Array, distance: float, spacing: tuple[float, ...]) -> Array:
    """Grow a 2D mask by a distance in mm."""
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= distance


def _without_small(mask: Array, smallest: float) -> Array:
    labels, _ = connected_pieces(mask)
    keep = np.bincount(labels.ravel()) >= smallest
    keep[0] = False
    return keep[labels]
