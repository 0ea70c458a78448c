"""Where voxels lie in the patient: even grids, stacks of tilted or uneven slices, canonical axis order.

Patient coordinates are DICOM's and SimpleITK's LPS in mm: x towards left, y towards posterior, z towards
superior. Arrays in canonical order have axes (z, y, x) that point the same way as nearly as the grid allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from sahlora.errors import InputError
from sahlora.imaging.slabs import carry_masks, slab_edges

OUTSIDE_HU = -1024
"""HU given to what was never scanned."""

EVEN_TOLERANCE_MM = 0.1
"""Slices this close to an even, orthogonal grid count as lying on it (positions are stored rounded)."""


@dataclass(frozen=True)
class Axes:
    """The permutation and flips that bring a stored array to canonical order and back, as views.

    Parameters
    ----------
    order : tuple of int
        ``order[c]`` is the stored array axis that becomes canonical axis c.
    flipped : tuple of int
        Canonical axes that run against the stored axis.
    """

    order: tuple[int, int, int]
    flipped: tuple[int, ...]

    @classmethod
    def of(cls, direction: np.ndarray) -> Axes:
        """Choose the axes whose cosines with the patient's are largest in total.

        Parameters
        ----------
        direction : np.ndarray
            (3, 3) direction cosines; columns are the grid's x, y and z axes in LPS.
        """
        patient, grid = linear_sum_assignment(-np.abs(direction))
        order = tuple(int(2 - grid[2 - c]) for c in range(3))
        flipped = tuple(2 - int(p) for p, g in zip(patient, grid, strict=True) if direction[p, g] < 0)
        return cls((order[0], order[1], order[2]), flipped)

    def to_canonical(self, stored: np.ndarray) -> np.ndarray:
        """View a stored array (slice, row, column) in canonical order (z, y, x)."""
        return np.flip(stored.transpose(self.order), self.flipped)

    def to_stored(self, canonical: np.ndarray) -> np.ndarray:
        """View a canonical array in stored order: the exact inverse of `to_canonical`."""
        inverse = np.argsort(self.order)
        return np.flip(canonical, self.flipped).transpose([int(axis) for axis in inverse])


@dataclass(frozen=True)
class Grid:
    """An even, orthogonal voxel grid, with axes in SimpleITK's order (x, y, z)."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def axes(self) -> Axes:
        """How the grid's array comes to canonical order."""
        return Axes.of(np.reshape(self.direction, (3, 3)))

    @property
    def canonical_spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm of the canonical array."""
        stored = self.spacing[::-1]
        z, y, x = (stored[axis] for axis in self.axes.order)
        return z, y, x

    def image(self, array: np.ndarray) -> sitk.Image:
        """Place an array in stored order (slice, row, column) on this grid."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Parallel slices at their true positions: evenly spaced or not, shifted in-plane by gantry tilt or not.

    Parameters
    ----------
    origins : np.ndarray
        (N, 3) LPS position in mm of each slice's first pixel, in order of position along the normal.
    row, column : np.ndarray
        (3,) unit vectors along a row (towards the next column) and along a column (towards the next row).
    pixel : tuple of float
        Distance in mm between rows and between columns.
    shape : tuple of int
        Number of rows and columns.
    """

    origins: np.ndarray
    row: np.ndarray
    column: np.ndarray
    pixel: tuple[float, float]
    shape: tuple[int, int]

    @cached_property
    def normal(self) -> np.ndarray:
        """Unit vector across the slices."""
        return np.cross(self.row, self.column)

    @cached_property
    def positions(self) -> np.ndarray:
        """(N,) position of each slice along the normal in mm."""
        return self.origins @ self.normal

    @property
    def steps(self) -> np.ndarray:
        """(N-1,) distances between neighboring slices along the normal in mm."""
        return np.diff(self.positions)

    @property
    def thickness(self) -> np.ndarray:
        """(N,) slab in mm each slice stands for: to the midpoints to its neighbors, symmetric at the ends."""
        steps = self.steps
        return (np.concatenate([steps[:1], steps]) + np.concatenate([steps, steps[-1:]])) / 2

    @property
    def tilt_degrees(self) -> float:
        """Angle between the direction in which slices follow each other and their normal."""
        across = self.origins[-1] - self.origins[0]
        along = abs(float(across @ self.normal))
        return float(
            np.degrees(np.arctan2(np.linalg.norm(across - (across @ self.normal) * self.normal), along))
        )

    @property
    def is_even(self) -> bool:
        """Whether every slice lies within `EVEN_TOLERANCE_MM` of one even, orthogonal grid."""
        count = len(self.origins)
        step = (self.positions[-1] - self.positions[0]) / (count - 1)
        ideal = self.origins[0] + np.arange(count)[:, None] * step * self.normal
        return bool(np.linalg.norm(self.origins - ideal, axis=1).max() < EVEN_TOLERANCE_MM)

    @cached_property
    def even_grid(self) -> Grid:
        """The even, orthogonal grid that covers all slices, with their orientation and pixel size.

        An even stack is its own grid. Otherwise one plane is the first slice, and the step is the tenth
        percentile of the steps, so that the finer part of a series keeps its resolution and an occasional
        short step does not make the grid needlessly fine. As many planes lie below and above as the slabs of
        the outermost slices need.
        """
        count, below, step = len(self.origins), 0, float(np.mean(self.steps))
        low, high = np.zeros(2), np.zeros(2)
        if not self.is_even:
            step = float(np.percentile(self.steps, 10, method="lower"))
            below = int(np.ceil((self.steps[0] / step - 1) / 2 - 1e-3))
            reach = self.positions[-1] + self.steps[-1] / 2 - self.positions[0]
            count = below + int(np.ceil(reach / step + 0.5 - 1e-3))
            low, high = np.floor(self._shifts.min(axis=0)), np.ceil(self._shifts.max(axis=0))
        rows, columns = (int(size + grown) for size, grown in zip(self.shape, high - low, strict=True))
        origin = self.origins[0] + low[0] * self.pixel[0] * self.column + low[1] * self.pixel[1] * self.row
        origin = origin - below * step * self.normal
        direction = np.stack([self.row, self.column, self.normal], axis=1)
        return Grid(
            (columns, rows, count),
            (self.pixel[1], self.pixel[0], step),
            tuple(origin.tolist()),
            tuple(direction.ravel().tolist()),
        )

    @cached_property
    def _shifts(self) -> np.ndarray:
        """(N, 2) in-plane displacement of each slice from the first in rows and columns."""
        moved = self.origins - self.origins[0]
        return np.stack([moved @ self.column / self.pixel[0], moved @ self.row / self.pixel[1]], axis=1)

    @property
    def _corner(self) -> np.ndarray:
        """(2,) row and column of the first slice's first pixel on the even grid."""
        return -np.floor(self._shifts.min(axis=0))

    @property
    def _planes(self) -> np.ndarray:
        """Position of each plane of the even grid along the normal in mm."""
        grid = self.even_grid
        return np.asarray(grid.origin) @ self.normal + np.arange(grid.size[2]) * grid.spacing[2]

    def to_even(self, acquired: np.ndarray, outside: float) -> np.ndarray:
        """Interpolate acquired slices (N, rows, columns) linearly on the even grid.

        Planes beyond the outermost slice repeat it; pixels that no slice has get `outside`.

        Returns
        -------
        np.ndarray
            float32 in the even grid's stored order (slice, row, column).
        """
        columns, rows, count = self.even_grid.size
        result = np.empty((count, rows, columns), np.float32)
        for k, plane in enumerate(self._planes):
            lower, upper, weight = _between(self.positions, plane)
            result[k] = (1 - weight) * self._placed(acquired, lower, outside)
            if weight > 0:
                result[k] += weight * self._placed(acquired, upper, outside)
        return result

    def mask_to_even(self, mask: np.ndarray) -> np.ndarray:
        """Bring a mask of the acquired slices, bool (N, rows, columns), to the even grid with its volume."""
        columns, rows, _ = self.even_grid.size

        def placed(k: int, _: int) -> np.ndarray:
            return self._placed(mask, k, 0.0)

        return carry_masks(placed, slab_edges(self.positions), slab_edges(self._planes), (rows, columns))

    def mask_from_even(self, mask: np.ndarray) -> np.ndarray:
        """Bring a mask on the even grid to the acquired slices with its volume, bool (N, rows, columns)."""

        def placed(plane: int, k: int) -> np.ndarray:
            return _shifted(mask[plane], -(self._corner + self._shifts[k]), self.shape, 0.0)

        return carry_masks(placed, slab_edges(self._planes), slab_edges(self.positions), self.shape)

    def from_even(self, even: np.ndarray) -> np.ndarray:
        """Interpolate an array on the even grid linearly at the acquired slices.

        Returns
        -------
        np.ndarray
            float32 (N, rows, columns).
        """
        planes = self._planes
        result = np.empty((len(self.origins), *self.shape), np.float32)
        for k, position in enumerate(self.positions):
            lower, upper, weight = _between(planes, position)
            plane = (1 - weight) * even[lower].astype(np.float32) + weight * even[upper].astype(np.float32)
            result[k] = _shifted(plane, -(self._corner + self._shifts[k]), self.shape, 0.0)
        return result

    def _placed(self, acquired: np.ndarray, k: int, outside: float) -> np.ndarray:
        columns, rows, _ = self.even_grid.size
        return _shifted(acquired[k], self._corner + self._shifts[k], (rows, columns), outside)


def _between(positions: np.ndarray, position: float) -> tuple[int, int, float]:
    """Find the two neighbors of a position in an ascending list and the weight of the upper one."""
    index = np.interp(position, positions, np.arange(len(positions)))
    lower = int(index)
    return lower, min(lower + 1, len(positions) - 1), float(index - lower)


def _shifted(plane: np.ndarray, shift: np.ndarray, shape: tuple[int, int], outside: float) -> np.ndarray:
    """Move a plane by rows and columns (bilinear) into a plane of another shape."""
    whole = np.where(np.abs(shift - np.round(shift)) < 1e-3, np.round(shift), shift)
    return ndimage.affine_transform(
        plane.astype(np.float32), np.ones(2), -whole, output_shape=shape, order=1, cval=outside
    )


DECIMALS = 6  # of quotients of millimeters


def whole_number(quotient: float) -> int:
    """Round so that spacings which differ only by how a file rounds them (0.5 and 0.49999999) count alike."""
    return round(round(quotient, DECIMALS))


def milliliters(mask: np.ndarray, voxel_ml: np.ndarray) -> float:
    """Return the volume in mL of a mask (Z, Y, X), whose voxels have `voxel_ml` (Z,) each."""
    return float(np.count_nonzero(mask, axis=(1, 2)) @ voxel_ml)


# -------------------------------------------------------------------------------------------------- affine


EXACT = 1e-6
ROUNDED_DEGREES = 0.2
"""Axes that lean by less than this were perpendicular before they were rounded: 0.35 mm over 100 mm."""

FARTHEST_MM = 1e5


def orthogonal(steps: np.ndarray, what: str) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Split the steps of a grid into spacing and perpendicular directions.

    Parameters
    ----------
    steps : np.ndarray
        (3, 3) whose columns lead from a voxel to the next along each axis, in mm.

    Returns
    -------
    spacing : tuple of float
    direction : tuple of float
        Nine cosines, row by row: as stored if they are perpendicular, else the nearest that are.
    shear : float
        By how many degrees the axes leaned at most.

    Raises
    ------
    InputError
        ``bad-geometry`` for axes that lean further than rounding explains, or that are no axes at all.
    """
    spacing = np.linalg.norm(steps, axis=0)
    if not np.isfinite(spacing).all() or not (spacing > 0).all() or not (spacing < FARTHEST_MM).all():
        raise InputError(
            "bad-geometry",
            f"The steps between voxels of {what} are not usable numbers.",
            "Export the CT again.",
        )
    direction = steps / spacing
    product = direction.T @ direction - np.eye(3)
    shear = float(np.degrees(np.arcsin(np.clip(np.abs(product).max(), 0, 1))))
    if not shear <= ROUNDED_DEGREES:
        raise InputError(
            "bad-geometry",
            f"{what} has axes that are not perpendicular: they lean by {shear:.1f} degrees.",
            "A CT with gantry tilt has no grid this format can hold: use its DICOM series.",
        )
    if np.abs(product).max() > EXACT:
        left, _, right = np.linalg.svd(direction)
        direction = left @ right
    return tuple(spacing.tolist()), tuple(direction.ravel().tolist()), shear
