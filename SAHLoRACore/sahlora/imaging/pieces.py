"""Connected pieces of a mask: voxels that touch by a face, an edge or a corner are one piece, everywhere."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

NEIGHBORS = np.ones((3, 3, 3), dtype=bool)
"""26-connectivity."""


def connected_pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the connected pieces of a mask (Z, Y, X).

    Returns
    -------
    numbered : np.ndarray
        int32 (Z, Y, X): 0 outside, 1 to `count` inside.
    count : int
    """
    numbered, count = ndimage.label(mask, structure=NEIGHBORS)
    return numbered, int(count)
