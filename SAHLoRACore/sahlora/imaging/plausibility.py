"""Is this head CT in Hounsfield units? Rules on geometry and values, stated in Docs/volumes.md."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sahlora.errors import InputError
from sahlora.imaging.geometry import Grid

SPACING_MM = (0.05, 20.0)
MINIMUM_SLICES = 3
AIR_OR_FAT_HU = -100
BRAIN_MODE_HU = (-10.0, 100.0)
CONTRAST_FRACTION = 0.004
"""Part of the brain at 150 to 500 HU, away from bone, above which contrast agent is suspected."""


def require_grid(grid: Grid, shape: tuple[int, ...], what: str) -> None:
    """Check that a grid has sensible spacing, orthogonal axes and enough slices.

    Parameters
    ----------
    shape : tuple of int
        Canonical shape (Z, Y, X).

    Raises
    ------
    InputError
        ``bad-geometry`` or ``too-few-slices``.
    """
    low, high = SPACING_MM
    if not all(low <= s <= high for s in grid.spacing):
        spacing = " x ".join(f"{s:g}" for s in grid.spacing)
        raise InputError(
            "bad-geometry",
            f"{what} has a voxel spacing of {spacing} mm.",
            "Spacing must be in mm and right: export the CT again.",
        )
    direction = np.reshape(grid.direction, (3, 3))
    if not np.isfinite(grid.origin).all() or not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise InputError(
            "bad-geometry",
            f"{what} has axes that are not perpendicular.",
            "A CT with gantry tilt has no grid this format can hold: use its DICOM series.",
        )
    if min(shape) < MINIMUM_SLICES:
        raise InputError(
            "too-few-slices",
            f"{what} has {shape[0]} slices of {shape[1]} x {shape[2]}.",
            "A head CT volume is needed.",
        )


def require_ct(hu: np.ndarray, what: str) -> None:
    """Check that values can be Hounsfield units of a head.

    Accepted is what has air or fat (below -100 HU), its most frequent value of -200 to 300 HU in
    -10 to 100 HU, and at least 0.5 % of its voxels in 0 to 100 HU; and a brain cut out on a background of 0,
    if at least 90 % of the rest lies in -50 to 150 HU with its median in 10 to 60 HU.

    Raises
    ------
    InputError
        ``constant`` or ``not-ct``.
    """
    sample = _sample(hu)
    low, high = int(sample.min()), int(sample.max())
    if hu.min() == hu.max():
        raise InputError("constant", f"All voxels of {what} have the value {low}.", "Choose a head CT.")
    if _looks_like_head(sample) if low < AIR_OR_FAT_HU else _looks_like_cut_out_brain(sample):
        return
    hint = "Export the CT in Hounsfield units (air near -1000, brain near 35)"
    if low >= 0 and high > 1500:
        hint += "; values from 0 suggest MR, or CT without its rescale intercept"
    raise InputError(
        "not-ct", f"{what} does not look like a head CT: its values are {low} to {high}.", hint + "."
    )


def _sample(hu: np.ndarray) -> np.ndarray:
    """Take about a million voxels from everywhere."""
    step = max(1, int(np.ceil((hu.size / 1e6 / min(1, hu.shape[0] / 16)) ** 0.5)))
    return hu[:: max(1, hu.shape[0] // 16), ::step, ::step]


def _looks_like_head(sample: np.ndarray) -> bool:
    counts, edges = np.histogram(sample, bins=np.arange(-200, 301, 10))
    smooth = ndimage.uniform_filter1d(counts.astype(float), 3)
    mode = edges[int(smooth.argmax())] + 5
    brain = (sample >= 0) & (sample <= 100)
    return bool(BRAIN_MODE_HU[0] <= mode <= BRAIN_MODE_HU[1] and brain.mean() >= 0.005)


def _looks_like_cut_out_brain(sample: np.ndarray) -> bool:
    rest = sample[sample != 0]
    inside = (rest >= -50) & (rest <= 150)
    return bool(rest.size > 0 and inside.mean() >= 0.9 and 10 <= np.median(rest) <= 60)


def contrast_fraction(hu: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Measure the part of the brain at 150 to 500 HU, at least 6 mm away from bone, on a grid of about 2 mm.

    The brain is the largest piece of soft tissue, closed and filled slice by slice.
    """
    step = [max(1, round(2 / s)) for s in spacing]
    coarse = hu[:: step[0], :: step[1], :: step[2]]
    mm = [s * k for s, k in zip(spacing, step, strict=True)]
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    far = ndimage.distance_transform_edt(coarse <= 500, sampling=mm) > 6
    soft = (coarse > 0) & (coarse < 100) & far
    pieces, count = ndimage.label(ndimage.binary_erosion(soft, in_plane, iterations=max(1, round(4 / mm[1]))))
    if count == 0:
        return 0.0
    brain = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    reach = max(1, round(12 / mm[1]))
    margin = ((0, 0), (reach, reach), (reach, reach))
    closed = ndimage.binary_closing(np.pad(brain, margin), in_plane, iterations=reach)
    filled = (
        np.stack([ndimage.binary_fill_holes(plane) for plane in closed])[:, reach:-reach, reach:-reach] & far
    )
    values = coarse[filled]
    return float(((values > 150) & (values < 500)).mean()) if values.size else 0.0
