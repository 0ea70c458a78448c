"""Building blocks of simulated anatomy: grids in millimeters, shapes as signed distances, smooth noise.

Everything is in LPS millimeters and arrays are (Z, Y, X). A signed distance is negative inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Protocol

import numpy as np
import SimpleITK as sitk
from scipy import fft, ndimage

Array = np.ndarray
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """An even grid along the axes x (left), y (posterior), z (superior).

    Attributes
    ----------
    start : tuple of float
        (x, y, z) of the first voxel's center in mm.
    shape : tuple of int
        (Z, Y, X).
    step : float
        Distance of neighboring voxels in mm, the same along every axis.
    """

    start: Point
    shape: tuple[int, int, int]
    step: float = 1.0

    @classmethod
    def spanning(cls, low: Point, high: Point, step: float = 1.0) -> Grid:
        """Return the grid that covers a box given by two corners (x, y, z)."""
        counts = [int(np.ceil((b - a) / step)) + 1 for a, b in zip(low, high, strict=True)]
        return cls(low, (counts[2], counts[1], counts[0]), step)

    def axis(self, index: int) -> Array:
        """Return the coordinates in mm along x (0), y (1) or z (2)."""
        return (self.start[index] + self.step * np.arange(self.shape[2 - index])).astype(np.float32)

    @cached_property
    def coordinates(self) -> tuple[Array, Array, Array]:
        """x, y and z in mm, shaped to broadcast over (Z, Y, X)."""
        return self.axis(0)[None, None, :], self.axis(1)[None, :, None], self.axis(2)[:, None, None]

    def box(self, low: Point | Array, high: Point | Array) -> tuple[Grid, tuple[slice, slice, slice]]:
        """Return the part of the grid inside a box, and where it lies in the array."""
        slices, start = [], []
        for index in range(3):
            count = self.shape[2 - index]
            first = int(np.clip(np.floor((low[index] - self.start[index]) / self.step), 0, count - 1))
            last = int(np.clip(np.ceil((high[index] - self.start[index]) / self.step), 0, count - 1))
            slices.append(slice(first, last + 1))
            start.append(self.start[index] + first * self.step)
        x, y, z = slices
        shape = (z.stop - z.start, y.stop - y.start, x.stop - x.start)
        return Grid((start[0], start[1], start[2]), shape, self.step), (z, y, x)

    def image(self, array: Array) -> sitk.Image:
        """Return an array on this grid as an image; a last axis beyond (Z, Y, X) holds components."""
        image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
        image.SetSpacing((self.step,) * 3)
        image.SetOrigin(self.start)
        return image


# ----------------------------------------------------------------------------------------------- shapes


class Shape(Protocol):
    """Something with a signed distance."""

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Two corners (x, y, z) of a box around the shape."""

    def distance(self, grid: Grid) -> Array:
        """Return the signed distance in mm at every voxel of the grid."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with axes along x, y, z; mirrored at the midplane if asked."""

    center: Point
    radii: Point
    mirrored: bool = False

    @property
    def bounds(self) -> tuple[Array, Array]:
        low, high = np.subtract(self.center, self.radii), np.add(self.center, self.radii)
        return _mirrored_bounds(low, high) if self.mirrored else (low, high)

    def distance(self, grid: Grid) -> Array:
        """Return the first-order distance f(f - 1)/|∇(f²/2)| with f = |(p - center)/radii|."""
        x, y, z = grid.coordinates
        squares, gradients = [], []
        for p, c, r in zip((np.abs(x) if self.mirrored else x, y, z), self.center, self.radii, strict=True):
            scaled = (p - np.float32(c)) / np.float32(r)
            squares.append(scaled**2)
            gradients.append((scaled / np.float32(r)) ** 2)
        f = np.sqrt(squares[0] + squares[1] + squares[2])
        slope = np.sqrt(gradients[0] + gradients[1] + gradients[2])
        return f * (f - 1) / np.maximum(slope, 1e-3)


@dataclass(frozen=True)
class Tube:
    """A chain of capsules through points, the radius varying linearly between them; may be mirrored."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]
    mirrored: bool = False

    @property
    def bounds(self) -> tuple[Array, Array]:
        reach = max(self.radii)
        low, high = np.min(self.points, axis=0) - reach, np.max(self.points, axis=0) + reach
        return _mirrored_bounds(low, high) if self.mirrored else (low, high)

    def distance(self, grid: Grid) -> Array:
        x, y, z = grid.coordinates
        position = (np.abs(x) if self.mirrored else x, y, z)
        nearest: Array | None = None
        for a, b, ra, rb in zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False):
            axis = np.subtract(b, a).astype(np.float32)
            offset = [p - np.float32(c) for p, c in zip(position, a, strict=True)]
            along = sum(o * d for o, d in zip(offset, axis, strict=True)) / np.float32(axis @ axis)
            along = np.clip(along, 0, 1)
            gap = np.sqrt(sum((o - along * d) ** 2 for o, d in zip(offset, axis, strict=True)))
            distance = gap - (np.float32(ra) + along * np.float32(rb - ra))
            nearest = distance if nearest is None else np.minimum(nearest, distance)
        assert nearest is not None
        return nearest


def _mirrored_bounds(low: Array, high: Array) -> tuple[Array, Array]:
    side = max(abs(low[0]), abs(high[0]))
    return np.array([-side, *low[1:]]), np.array([side, *high[1:]])


def fraction(distance: Array, step: float = 1.0) -> Array:
    """Return how much of each voxel lies inside (0 to 1), taking the boundary as flat within the voxel."""
    return np.clip(0.5 - distance / np.float32(step), 0, 1)


def union(*distances: Array) -> Array:
    """Return the signed distance to what lies in any of some shapes."""
    return reduce(np.minimum, distances)


def intersection(*distances: Array) -> Array:
    """Return the signed distance to what lies in all of some shapes."""
    return reduce(np.maximum, distances)


def smooth_union(first: Array, second: Array, radius: float) -> Array:
    """Return the union of two shapes with its crease rounded over some millimeters (polynomial minimum)."""
    blend = np.clip(1 - np.abs(first - second) / np.float32(radius), 0, 1)
    return np.minimum(first, second) - blend * blend * np.float32(radius / 4)


def nearby(grid: Grid, shapes: Iterable[Shape], limit: float = 12.0) -> Array:
    """Return the signed distance to the nearest of some small shapes, cut off at `limit` mm."""
    nearest = np.full(grid.shape, limit, np.float32)
    for shape in shapes:
        low, high = shape.bounds
        part, where = grid.box(low - limit, high + limit)
        nearest[where] = np.minimum(nearest[where], shape.distance(part))
    return nearest


def paint(target: Array, grid: Grid, shape: Shape, value: float | Array, margin: float = 0.0) -> None:
    """Fill a shape, grown by `margin` mm, with a value; voxels at its border are mixed."""
    reach = max(margin, 0) + 2 * grid.step
    low, high = shape.bounds
    part, where = grid.box(low - reach, high + reach)
    inside = fraction(shape.distance(part) - np.float32(margin), grid.step)
    new = value[where] if isinstance(value, np.ndarray) else np.float32(value)
    target[where] += inside * (new - target[where])


# ------------------------------------------------------------------------------------------------ noise


def smooth_noise(rng: np.random.Generator, grid: Grid, wavelength: float) -> Array:
    """Return noise of zero mean and unit deviation whose blobs are about half a wavelength (mm) wide."""
    cell = wavelength / 6
    counts = [int(np.ceil(n * grid.step / cell)) + 2 for n in grid.shape]
    coarse = ndimage.gaussian_filter(rng.standard_normal(counts).astype(np.float32), 1.2, mode="wrap")
    coarse = (coarse - coarse.mean()) / coarse.std()
    weights = [averaging(np.arange(n) * grid.step / cell + 0.5, 0.05, count)
               for n, count in zip(grid.shape, counts, strict=True)]  # fmt: skip
    return resample(coarse, *weights)


def band_noise(rng: np.random.Generator, count: int, step: float, wavelength: float) -> Array:
    """Return cubic noise (count³) whose power lies in a shell around one wavelength (mm), unit deviation."""
    along, last = fft.fftfreq(count, step), fft.rfftfreq(count, step)
    radius = np.sqrt(along[:, None, None] ** 2 + along[None, :, None] ** 2 + last[None, None, :] ** 2)
    shell = np.exp(-0.5 * ((radius * wavelength - 1) / 0.22) ** 2)
    noise = fft.irfftn(fft.rfftn(rng.standard_normal((count,) * 3)) * shell, s=(count,) * 3)
    return (noise / noise.std()).astype(np.float32)


# ------------------------------------------------------------------------------------------- resampling


def averaging(centers: Array, width: float | Array, count: int) -> Array:
    """Return the matrix that averages linearly interpolated samples over intervals.

    Parameters
    ----------
    centers : array (n,)
        Middle of each interval, in samples of the source axis.
    width : float or array (n,)
        Length of the intervals, in samples.
    count : int
        Number of source samples; beyond them the source is 0.

    Returns
    -------
    array (n, count) of float32
        Row i holds the integral of each sample's hat function over interval i, divided by its length.
    """

    def hat_integral(t: Array) -> Array:
        t = np.clip(t, -1, 1)
        return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

    offset = np.asarray(centers, float)[:, None] - np.arange(count)[None, :]
    width = np.broadcast_to(width, len(offset))[:, None]
    weights = (hat_integral(offset + width / 2) - hat_integral(offset - width / 2)) / width
    return weights.astype(np.float32)


def resample(array: Array, along_z: Array, along_y: Array, along_x: Array) -> Array:
    """Apply matrices of `averaging` along the axes of an array (Z, Y, X); `along_y` may hold one a slice."""
    slabs = np.tensordot(along_z, array, axes=1) @ along_x.T
    if along_y.ndim == 3:  # one matrix a slice
        return np.matmul(along_y, slabs)
    return np.ascontiguousarray(np.moveaxis(np.tensordot(along_y, slabs, axes=(1, 1)), 0, 1))
