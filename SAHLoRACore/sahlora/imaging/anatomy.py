"""What a head looks like in a CT: where air, skull and brain lie, seen on a coarse copy.

All that is measured in voxels is independent of the spacing, so that a wrong spacing can't hide itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

BONE_HU = 250
TISSUE_HU = -300
SOFT_HU = (-10, 100)
MOST_COARSE = (48, 96, 96)
"""Voxels of the coarse copy along each axis: 2 to 3 mm in plane for a head."""

SKULL_GAP, SPECK = 3, 2
"""Coarse voxels: half the widest gap of the skull that is closed, half the least opening that counts."""

CAVITY_SHARE = 0.25
"""Part of the largest cross-section of the head from which a closed space counts as that of the brain."""

CROPPED_SHARE = 0.2
"""Part of its largest cross-section at a side of the volume from which the head counts as cropped."""

IN_PLANE = ndimage.generate_binary_structure(2, 1)[None]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A coarse copy of a CT in canonical order (z, y, x), and what it shows.

    Parameters
    ----------
    hu : np.ndarray
        (Z, Y, X) every so manyth voxel, before values are limited to -1024 HU.
    step : tuple of int
        How many voxels of the CT lie between two of the copy.
    """

    hu: np.ndarray
    step: tuple[int, int, int]

    @classmethod
    def of(cls, hu: np.ndarray) -> Anatomy:
        """Look at a CT."""
        z, y, x = (-(-size // most) for size, most in zip(hu.shape, MOST_COARSE, strict=True))
        return cls(hu[::z, ::y, ::x], (z, y, x))

    @cached_property
    def head(self) -> np.ndarray:
        """Mask of the largest piece denser than -300 HU, filled slice by slice."""
        pieces, count = ndimage.label(self.hu > TISSUE_HU)
        if count == 0:
            return np.zeros(self.hu.shape, bool)
        return _filled(pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax()))

    @cached_property
    def cavity(self) -> np.ndarray:
        """Mask of what bone encloses in slices where that is a large part of the head; it may have gaps."""
        margin = ((0, 0), (2 * SKULL_GAP, 2 * SKULL_GAP), (2 * SKULL_GAP, 2 * SKULL_GAP))
        bone = ndimage.binary_closing(np.pad(self.hu > BONE_HU, margin), IN_PLANE, iterations=SKULL_GAP)
        inside = ndimage.binary_opening(_filled(bone) & ~bone, IN_PLANE, iterations=SPECK)
        inside = inside[:, 2 * SKULL_GAP : -2 * SKULL_GAP, 2 * SKULL_GAP : -2 * SKULL_GAP]
        large = inside.sum(axis=(1, 2)) >= CAVITY_SHARE * max(1, self.areas.max())
        return inside & large[:, None, None]

    @cached_property
    def brain_hu(self) -> float | None:
        """Median of what the skull encloses; None without a closed skull."""
        return float(np.median(self.hu[self.cavity])) if self.cavity.any() else None

    @cached_property
    def air(self) -> np.ndarray:
        """Values of the air close around the head."""
        near = ndimage.binary_dilation(self.head, IN_PLANE, iterations=5)
        return self.hu[near & ~ndimage.binary_dilation(self.head, IN_PLANE, iterations=2)]

    @cached_property
    def cut(self) -> np.ndarray:
        """(3, 2) how much of the head each face of the volume cuts, lower and upper face of (z, y, x).

        1 is the head's largest cross-section along that axis. A scan cuts neck or face at the lower end.
        """
        cut = np.zeros((3, 2))
        for axis in range(3):
            areas = self.head.sum(axis=tuple(other for other in range(3) if other != axis))
            cut[axis] = areas[[0, -1]] / max(1, areas.max())
        return cut

    @cached_property
    def is_cropped(self) -> bool:
        """Whether a side of the volume cuts the head, which then is larger than what can be measured."""
        return bool(self.cut[1:].max() > CROPPED_SHARE)

    @cached_property
    def soft_share(self) -> float:
        """Part of the head that is one coherent piece of -10 to 100 HU; noise has none."""
        soft = (self.hu >= SOFT_HU[0]) & (self.hu <= SOFT_HU[1])
        pieces, count = ndimage.label(ndimage.binary_erosion(soft, IN_PLANE))
        if count == 0 or not self.head.any():
            return 0.0
        return float(np.bincount(pieces.ravel())[1:].max() / self.head.sum())

    # --------------------------------------------------------------------------------------------- shape

    @cached_property
    def areas(self) -> np.ndarray:
        """(Z,) cross-section of the head in coarse voxels."""
        return self.head.sum(axis=(1, 2))

    def radius_mm(self, spacing: tuple[float, float, float]) -> float:
        """Radius of a disk as large as the largest cross-section: about 85 mm in adults."""
        _, y, x = (mm * step for mm, step in zip(spacing, self.step, strict=True))
        return float(np.sqrt(self.areas.max() * y * x / np.pi))

    def length_to_width(self, spacing: tuple[float, float, float]) -> float:
        """How much longer than wide the largest cross-section is, by its second moments."""
        rows, columns = np.nonzero(self.head[int(self.areas.argmax())])
        _, y, x = (mm * step for mm, step in zip(spacing, self.step, strict=True))
        return float(rows.std() * y / max(columns.std() * x, 1e-6))

    def height_to_radius(self, spacing: tuple[float, float, float]) -> float | None:
        """Half height over radius of the ellipsoid that narrows towards the vertex as the head does.

        None where the scan does not reach high enough to tell. A slice step lost in conversion shows here.
        """
        part = self.areas / max(1, self.areas.max())
        widest = int(np.nonzero(part >= 0.9)[0][-1])
        top = widest
        while top + 1 < len(part) and 0.15 < part[top + 1] < 1.02 * part[top]:
            top += 1
        if part[top] > 0.75 or top == widest:
            return None
        rise = (top - widest) * spacing[0] * self.step[0]
        half_height = rise / (np.sqrt(1 - part[top]) - np.sqrt(1 - part[widest]))
        return float(half_height / self.radius_mm(spacing))

    def inner_air(self, spacing: tuple[float, float, float]) -> tuple[float, np.ndarray]:
        """Measure the air in nose, sinuses and throat: mL, and where its center lies.

        The center is given along (z, y, x) from -1 to 1, from the lower, front and right end of the head to
        the other.
        """
        air = self.head & (self.hu < TISSUE_HU)
        ml = float(air.sum() * np.prod(np.multiply(spacing, self.step)) / 1000)
        if not air.any():
            return 0.0, np.zeros(3)
        box = ndimage.find_objects(self.head.astype(np.int8))[0]
        middle = np.array([(side.start + side.stop - 1) / 2 for side in box])
        half = np.array([(side.stop - side.start) / 2 for side in box])
        return ml, (np.mean(np.nonzero(air), axis=1) - middle) / half


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill holes slice by slice."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
