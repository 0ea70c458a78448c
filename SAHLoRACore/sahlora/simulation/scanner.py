"""A simulated CT scanner: pose of the head, slabs along a tilted gantry, beam hardening and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from sahlora.simulation.fields import Array, Grid, averaging, resample, smooth_noise

AIR_HU = -1000
SKIP = 6
"""Millimeters between the slices in which beam hardening, which is smooth, is worked out."""
GLARE = 30.0
"""HU that bone of 1000 HU adds to its close surroundings: what is left of cupping after correction."""


@dataclass(frozen=True)
class Acquisition:
    """Where the slices lie: parallel planes, tilted about x, along the table's axis z.

    Attributes
    ----------
    heights : tuple of float
        z in mm at which each slice's center cuts the table's axis, ascending.
    thickness : tuple of float
        Thickness of each slice in mm, along its normal.
    pixel : tuple of float
        (y, x) distance of pixels in mm.
    size : tuple of int
        Rows and columns.
    tilt : float
        Gantry tilt in degrees; positive lowers the image's posterior edge.
    """

    heights: tuple[float, ...]
    thickness: tuple[float, ...]
    pixel: tuple[float, float]
    size: tuple[int, int]
    tilt: float

    @property
    def down(self) -> Array:
        """Direction (x, y, z) from one row to the next."""
        angle = np.deg2rad(self.tilt)
        return np.array([0.0, np.cos(angle), -np.sin(angle)])

    @property
    def normal(self) -> Array:
        """Direction (x, y, z) of the slices' normal, upward."""
        angle = np.deg2rad(self.tilt)
        return np.array([0.0, np.sin(angle), np.cos(angle)])

    @property
    def positions(self) -> Array:
        """(Z, 3) x, y, z in mm of each slice's first pixel."""
        rows, columns = self.size
        corner = -self.pixel[1] * (columns - 1) / 2 * np.array([1.0, 0, 0])
        corner = corner - self.pixel[0] * (rows - 1) / 2 * self.down
        return corner + np.array([[0, 0, z] for z in self.heights], float)

    @property
    def voxel_ml(self) -> Array:
        """Volume of one voxel of each slice in mL, (Z,)."""
        return np.array(self.thickness) * self.pixel[0] * self.pixel[1] / 1000

    def sample(self, array: Array, grid: Grid) -> Array:
        """Average an array in the gantry's frame over each voxel (slab × pixel); 0 beyond the grid."""
        x = (np.arange(self.size[1]) - (self.size[1] - 1) / 2) * self.pixel[1]
        y = (np.arange(self.size[0]) - (self.size[0] - 1) / 2) * self.pixel[0]
        depth, count_y, count_x = grid.shape
        heights = np.array(self.heights)
        middles = (heights * self.normal[2] - grid.start[2]) / grid.step
        along_z = averaging(middles, np.array(self.thickness) / grid.step, depth)
        along_x = averaging((x - grid.start[0]) / grid.step, self.pixel[1] / grid.step, count_x)
        along_y = np.stack(
            [averaging((y + z * self.down[2] - grid.start[1]) / grid.step, self.pixel[0] / grid.step, count_y)
             for z in (heights if self.tilt else heights[:1])]
        )  # fmt: skip
        return resample(array, along_z, along_y, along_x)


def gantry_grid(acquisition: Acquisition, low: Array, high: Array) -> Grid:
    """Return a 1 mm grid in the gantry's frame that covers a box of the room."""
    corners = np.array(
        [[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    turned = np.stack([corners[:, 0], corners @ acquisition.down, corners @ acquisition.normal], axis=1)
    first, last = np.floor(turned.min(axis=0)), np.ceil(turned.max(axis=0))
    return Grid.spanning((first[0], first[1], first[2]), (last[0], last[1], last[2]))


def place(fields: Array, head: Grid, grid: Grid, acquisition: Acquisition, rng: np.random.Generator) -> Array:
    """Lay a head in the scanner: scale, warp and turn its fields as a generator draws.

    Parameters
    ----------
    fields : array (Z, Y, X, n)
        Fields in the head's own frame.
    head, grid : Grid
        The head's grid and the one in the gantry's frame.

    Returns
    -------
    array (Z, Y, X, n)
        The fields in the gantry's frame; 0 where there is no head.
    """
    into_room = np.stack([[1.0, 0, 0], acquisition.down, acquisition.normal]).T
    into_head = Rotation.from_rotvec(np.deg2rad(rng.normal(0, (3.0, 2.0, 3.5)))).as_matrix()
    scale = np.diag(rng.normal(1, 0.03) * rng.normal(1, 0.02, 3))
    pose = sitk.AffineTransform((scale @ into_head @ into_room).ravel(), rng.normal(0, 2.5, 3))
    transform = sitk.CompositeTransform([_warp(rng, head), pose])
    reference = grid.image(np.zeros(grid.shape, np.uint8))
    moved = sitk.Resample(
        head.image(fields), reference, transform, sitk.sitkLinear, 0.0, sitk.sitkVectorFloat32
    )
    return sitk.GetArrayFromImage(moved)


def _warp(rng: np.random.Generator, head: Grid) -> sitk.Transform:
    """Asymmetry: a smooth displacement of some millimeters."""
    coarse = Grid(head.start, tuple(n // 8 + 2 for n in head.shape), 8.0)  # type: ignore[arg-type]
    shift = np.stack([1.8 * smooth_noise(rng, coarse, 110) for _ in range(3)], axis=-1)
    return sitk.DisplacementFieldTransform(sitk.Cast(coarse.image(shift), sitk.sitkVectorFloat64))


def beam_hardening(hu: Array, grid: Grid, strength: float, step: float = 5.0, views: int = 24) -> Array:
    """Return the HU error that a water-corrected scanner leaves behind bone.

    The line integral p of bone is reconstructed with an error proportional to p² (Joseph and Spital 1978,
    J Comput Assist Tomogr 2(1):100), which darkens the bands between dense bones, most of all petrous
    ones. Bone is projected in parallel beams on a coarse grid, squared, and back-projected after a ramp
    filter.

    Parameters
    ----------
    hu : array (Z, Y, X)
        HU on `grid`, slices being the scanner's planes.
    strength : float
        HU per (10 cm of 1000 HU bone)², along one ray.
    step : float
        Pixel of the coarse grid in mm.
    views : int
        Number of directions over 180°.
    """
    _, rows, columns = hu.shape
    side = int(np.hypot(rows, columns) * grid.step / step) + 2
    half = (side - 1) / 2 * step / grid.step
    along_y = averaging(
        np.linspace((rows - 1) / 2 - half, (rows - 1) / 2 + half, side), step / grid.step, rows
    )
    along_x = averaging(
        np.linspace((columns - 1) / 2 - half, (columns - 1) / 2 + half, side), step / grid.step, columns
    )
    bone = np.matmul(np.matmul(along_y, np.clip(hu - 150, 0, None)[::SKIP]), along_x.T) / 1000
    ramp = np.abs(fft.fftfreq(2 * side, step))[None, :]
    error = np.zeros_like(bone)
    for angle in np.arange(views) * 180 / views:
        turned = ndimage.rotate(bone, angle, axes=(1, 2), reshape=False, order=1)
        path = turned.sum(axis=1) * (step / 100)
        filtered = fft.ifft(fft.fft(path**2, 2 * side, axis=1) * ramp, axis=1).real[:, :side]
        smear = np.broadcast_to(filtered[:, None, :].astype(np.float32), bone.shape)
        error += ndimage.rotate(smear, -angle, axes=(1, 2), reshape=False, order=1)
    error *= -strength * np.pi / views * 100
    error += np.float32(GLARE) * ndimage.gaussian_filter(bone, (0, 1.3, 1.3))
    slices = averaging(np.arange(hu.shape[0]) / SKIP, 1.0, bone.shape[0])
    back_y = averaging((np.arange(rows) - (rows - 1) / 2) * grid.step / step + (side - 1) / 2, 1.0, side)
    back_x = averaging(
        (np.arange(columns) - (columns - 1) / 2) * grid.step / step + (side - 1) / 2, 1.0, side
    )
    return resample(error, slices, back_y, back_x)


def quantum_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], pixel: tuple[float, float], cutoff: float = 0.28
) -> Array:
    """Return CT noise of unit deviation, correlated in the plane as filtered back-projection leaves it.

    Its power spectrum is a ramp times a Gaussian apodization: |f| exp(-(f/cutoff)²), f in 1/mm.
    """
    rows, columns = shape[1:]
    radius = np.hypot(fft.fftfreq(rows, pixel[0])[:, None], fft.rfftfreq(columns, pixel[1])[None, :])
    amplitude = np.sqrt(radius) * np.exp(-0.5 * (radius / cutoff) ** 2)
    white = rng.standard_normal(shape, dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(white) * amplitude.astype(np.float32), s=(rows, columns))
    return (noise / max(float(noise.std()), 1e-6)).astype(np.float32)
