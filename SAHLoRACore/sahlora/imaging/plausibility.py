"""Is this head CT in Hounsfield units, as large as a head and the right way round? See Docs/volumes.md."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sahlora.errors import InputError
from sahlora.imaging.anatomy import Anatomy
from sahlora.imaging.geometry import FARTHEST_MM, Grid
from sahlora.imaging.stored import Remark

SPACING_MM = (0.05, 20.0)
MINIMUM_SLICES = 3
AIR_OR_FAT_HU = -100
BRAIN_MODE_HU = (-10.0, 100.0)
POSSIBLE_BRAIN_HU, USUAL_BRAIN_HU = (0, 80), (15, 60)
"""Median of what the skull encloses: 31 to 41 in 72 scans of patients, less with large ventricles."""

AIR_HU, REPLACED_AIR_HU = (-1100, -900), -1900
LEAST_SOFT_SHARE = 0.1

RADIUS_MM = (50.0, 115.0)
"""Radius of a disk as large as the head's largest cross-section: 72 to 96 mm in adults, 50 in the newborn."""

LENGTH_TO_WIDTH = (0.85, 1.6)
HEIGHT_TO_RADIUS, USUAL_HEIGHT_TO_RADIUS = (0.6, 1.75), 1.08
"""From 0.67 to 1.54 in 79 heads."""

LEAST_AIR_ML, FACE_AT_THE_BACK, FACE_AT_THE_TOP, FACE_AT_THE_SIDE = 15.0, 0.15, 0.1, 0.45
"""Where the center of nose, sinuses and throat lies: -1 is the front, lower or right end of the head."""

VERTEX_SHARE, UNCUT_SHARE, NECK_SHARE = 0.6, 0.15, 0.3
"""Parts of the head's largest cross-section: at most at the vertex, where it ends, at least at the neck."""

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
    if not np.isfinite(grid.origin).all() or np.abs(grid.origin).max() > FARTHEST_MM:
        raise InputError(
            "bad-geometry", f"The origin of {what} is no place near a patient.", "Export the CT again."
        )
    direction = np.reshape(grid.direction, (3, 3))
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
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


def require_ct(hu: np.ndarray, what: str) -> Anatomy:
    """Check that values can be Hounsfield units of a head, whatever their spacing.

    Refused is what has a histogram unlike a head's; what holds other values than a brain's inside its skull;
    and what has no closed skull and either no coherent soft tissue or no air near -1000 HU around it. A brain
    cut out on a background of 0 passes.

    Returns
    -------
    Anatomy
        What was seen, for `doubts`.

    Raises
    ------
    InputError
        ``constant`` or ``not-ct``.
    """
    sample = _sample(hu)
    low, high = int(sample.min()), int(sample.max())
    if hu.min() == hu.max():
        raise InputError("constant", f"All voxels of {what} have the value {low}.", "Choose a head CT.")
    seen = Anatomy.of(hu)
    wrong = ""
    if low >= AIR_OR_FAT_HU:
        if not _looks_like_cut_out_brain(sample):
            wrong = "nothing in it is as dark as air or fat"
    elif not _looks_like_head(sample):
        wrong = "its most frequent values are not those of a brain"
    else:
        wrong = _impossible(seen)
    if not wrong:
        return seen
    hint = "Export the CT in Hounsfield units (air near -1000, brain near 35)"
    if low >= 0 and high > 1500:
        hint += "; values from 0 suggest MR, or CT without its rescale intercept"
    raise InputError(
        "not-ct",
        f"{what} does not look like a head CT: its values are {low} to {high}, and {wrong}.",
        hint + ".",
    )


def _impossible(seen: Anatomy) -> str:
    """Return what can't be in a head CT, or an empty string."""
    brain = seen.brain_hu
    if brain is not None and not POSSIBLE_BRAIN_HU[0] <= brain <= POSSIBLE_BRAIN_HU[1]:
        return f"what the skull encloses has {brain:.0f} HU"
    if brain is None and seen.air.size and not _is_air(seen):
        return f"there is no closed skull and the air around has {np.median(seen.air):.0f} HU"
    if brain is None and seen.soft_share < LEAST_SOFT_SHARE:
        return "there is neither a closed skull nor coherent soft tissue"
    return ""


def _is_air(seen: Anatomy) -> bool:
    """Whether what lies around the head is air, or was replaced by one value far below."""
    air = float(np.median(seen.air))
    replaced = air <= REPLACED_AIR_HU and float((seen.air == air).mean()) > 0.5
    return replaced or AIR_HU[0] <= air <= AIR_HU[1]


# ------------------------------------------------------------------------------------------------- doubts


def doubts(seen: Anatomy, spacing: tuple[float, float, float]) -> tuple[Remark, ...]:
    """Say what looks wrong in a CT that may still be right: values, size, or how the head lies.

    Parameters
    ----------
    seen : Anatomy
        From `require_ct`, of a volume in canonical order.
    spacing : tuple of float
        (z, y, x) in mm.
    """
    if int(seen.hu.min()) >= AIR_OR_FAT_HU:
        return ()
    values = _doubtful_values(seen)
    if values or not seen.air.size:
        return values
    if seen.is_cropped:
        return _doubtful_neck(seen)
    return _doubtful_orientation(seen, spacing) or _doubtful_size(seen, spacing)


def _doubtful_values(seen: Anatomy) -> tuple[Remark, ...]:
    brain = seen.brain_hu
    if brain is None and not seen.air.size:
        wrong = "there is no closed skull and no air around the head to check them by"
    elif brain is not None and not USUAL_BRAIN_HU[0] <= brain <= USUAL_BRAIN_HU[1]:
        wrong = f"what the skull encloses has {brain:.0f} HU, a brain about 35"
    elif seen.air.size and not _is_air(seen):
        wrong = f"the air around the head has {np.median(seen.air):.0f} HU, air about -1000"
    else:
        return ()
    return (
        Remark(
            "doubtful-values",
            f"The values may not be Hounsfield units: {wrong}.",
            "Check slope and intercept; export the CT again.",
        ),
    )


def _doubtful_size(seen: Anatomy, spacing: tuple[float, float, float]) -> tuple[Remark, ...]:
    hint = "Check the spacing of the voxels: volumes in mL follow from it."
    radius, aspect = seen.radius_mm(spacing), seen.length_to_width(spacing)
    height, step = seen.height_to_radius(spacing), spacing[0]
    found = []
    if not RADIUS_MM[0] <= radius <= RADIUS_MM[1]:
        found.append(f"The head is about {2 * radius:.0f} mm across, a head about 150 to 190 mm.")
    if not LENGTH_TO_WIDTH[0] <= aspect <= LENGTH_TO_WIDTH[1]:
        found.append(f"The head is {aspect:.2f} times as long as it is wide, a head about 1.2 times.")
    if height is not None and not HEIGHT_TO_RADIUS[0] <= height <= HEIGHT_TO_RADIUS[1]:
        times = height / USUAL_HEIGHT_TO_RADIUS
        found.append(
            f"The head is {times:.1f} times as high as its width suggests: the slice step of {step:.3g} mm "
            f"may be wrong, about {step / times:.2g} mm would fit."
        )
    return tuple(Remark("doubtful-size", message, hint) for message in found)


def _doubtful_orientation(seen: Anatomy, spacing: tuple[float, float, float]) -> tuple[Remark, ...]:
    ml, (upward, backward, sideward) = seen.inner_air(spacing)
    if ml < LEAST_AIR_ML:
        return ()
    below, above = seen.cut[0]
    found = []
    if backward > FACE_AT_THE_BACK:
        found.append("the face looks to where the file says the back is")
    if upward > FACE_AT_THE_TOP and below < VERTEX_SHARE and above > below + 0.15:
        found.append("the face lies at the end where the file says the vertex is")
    if abs(sideward) > FACE_AT_THE_SIDE:
        found.append("the face looks to where the file says a side is")
    return tuple(_turned(f"{place} (by the air in nose and sinuses)") for place in found)


def _doubtful_neck(seen: Anatomy) -> tuple[Remark, ...]:
    """Doubt a head that is cut at its sides, but neither below nor above."""
    if seen.cut[0].max() > UNCUT_SHARE or seen.cut[1:].max() < NECK_SHARE:
        return ()
    return (_turned("it is cut off where the file says a side, the front or the back is, and not below"),)


def _turned(how: str) -> Remark:
    return Remark(
        "doubtful-orientation",
        f"The head may lie otherwise than the file says: {how}.",
        "Check left and right, front and top; convert the DICOM series again.",
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
