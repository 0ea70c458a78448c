"""Where the head is in a CT volume."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sahlora.errors import InputError
from sahlora.imaging.geometry import DECIMALS, whole_number
from sahlora.imaging.pieces import connected_pieces

BONE_HU = 250
TISSUE_HU = -300
HEAD_MARGIN_MM = 8.0
SEARCH_SPACING_MM = 2.0

SMALLEST_HEAD_MM3 = 5000.0

Box = tuple[slice, slice, slice]


def head_box(hu: np.ndarray, spacing: tuple[float, float, float]) -> Box:
    """Find the box around the skull, or around the soft tissue where there is no skull.

    Parameters
    ----------
    hu : ndarray (Z, Y, X)
        Volume in HU.
    spacing : tuple of float
        Voxel size (z, y, x) in mm.

    Raises
    ------
    InputError
        ``no-head`` if nothing as dense as tissue is found.

    Notes
    -----
    All slices are kept, so that a blank one cuts nothing off. In plane the box holds the largest connected
    piece of bone and those at least a fifth as large, which leaves head rests and tables outside, and 8 mm
    more on each side. It is looked for on every second millimeter.
    """
    step = tuple(max(1, whole_number(SEARCH_SPACING_MM / mm)) for mm in spacing)
    margin = tuple(round(HEAD_MARGIN_MM / mm, DECIMALS) for mm in spacing)
    coarse = hu[:: step[0], :: step[1], :: step[2]]
    enough = SMALLEST_HEAD_MM3 / float(np.prod(np.multiply(spacing, step)))
    for threshold in (BONE_HU, TISSUE_HU):
        labels, _ = connected_pieces(coarse > threshold)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        if sizes.max() < enough:
            continue
        _, *in_plane = ndimage.find_objects((sizes >= sizes.max() / 5)[labels].astype(np.int8))[0]
        rows, columns = (
            slice(
                max(0, int(found.start * step[axis] - margin[axis])),
                min(hu.shape[axis], int(np.ceil(found.stop * step[axis] + margin[axis]))),
            )
            for axis, found in enumerate(in_plane, start=1)
        )
        return slice(0, hu.shape[0]), rows, columns
    raise InputError("no-head", "No head was found in this volume.", "Give a CT of the head in HU.")
