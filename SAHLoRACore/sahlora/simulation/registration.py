"""Where the phantom's head frame lies in a real head: the affine map that lays the phantom's skull on it.

The prior anatomy, cisterns, ventricles and rupture sites, is the phantom's own, a few shapes in
millimeters; nothing of any patient or template is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage
from scipy.optimize import OptimizeResult, least_squares
from scipy.spatial.transform import Rotation

from sahlora.errors import InputError
from sahlora.simulation.fields import Array, Grid, Point, fraction
from sahlora.simulation.phantom import AVERAGE, cisterns, ventricles
from sahlora.simulation.skull import cavity_of, surroundings

MODEL = Grid.spanning((-92, -116, -84), (92, 108, 100), 2.0)
"""Grid of the phantom's skull that is laid on a patient's."""
BONE_HU = (80.0, 350.0)
"""HU from which a voxel counts as bone, and at which it does fully."""
BLUR_MM = 4.0
SAMPLES_MM = 8.0, 5.0
"""Distance of the points compared, first from every start and then from the best."""
STARTS = [(pitch, shift) for pitch in (0.0, -20.0, 20.0) for shift in (0.0, 30.0)]
"""Angle about x in degrees (gantry tilt, chin up or down) and mm of the vertex missing above the scan."""
EXPECTED = np.array([0.3, 0.12, 0.25, 0.07, 0.07, 0.07])
"""How far angles (radians) and logarithms of scales usually deviate from 0."""
SCALE = np.array([0.1, 0.1, 0.1, 5, 5, 5, 0.05, 0.05, 0.05])
"""Steps of the search: radians, mm, logarithms of scales."""
WORST_FIT = 0.6
"""Least correlation of bone at which a fit is believed."""


@dataclass(frozen=True)
class HeadFrame:
    """An affine map from a patient's millimeters to the phantom's head frame.

    Attributes
    ----------
    matrix : array (3, 3)
        Applied to (x, y, z).
    shift : array (3,)
        Added afterwards, in mm.
    correlation : float
        Of the blurred bone of patient and phantom: 1 is a perfect fit.
    """

    matrix: Array
    shift: Array
    correlation: float

    def to_patient(self, point: Point) -> Point:
        """Map one point of the head frame to the patient."""
        x, y, z = np.linalg.solve(self.matrix, np.subtract(point, self.shift))
        return float(x), float(y), float(z)

    def heads(self, grid: Grid, axis: int) -> Array:
        """Return the head's x (0), y (1) or z (2) in mm at every voxel of a patient's grid, (Z, Y, X)."""
        parts = [m * p for m, p in zip(self.matrix[axis], grid.coordinates, strict=True)]
        return parts[0] + parts[1] + parts[2] + self.shift[axis]

    def carry(self, field: Array, head: Grid, grid: Grid, outside: float) -> Array:
        """Bring a field on a grid of the head frame to a patient's grid."""
        scale = self.matrix[::-1, ::-1] * (grid.step / head.step)
        origin = self.matrix @ np.array(grid.start) + self.shift - np.array(head.start)
        return ndimage.affine_transform(
            field, scale, origin[::-1] / head.step, grid.shape, order=1, mode="constant", cval=outside
        )


@cache
def _model() -> tuple[Array, Array]:
    """Bone of the phantom's head, blurred, and its CSF in cisterns and ventricles."""
    rng = np.random.default_rng(0)
    cavity = cavity_of(rng, MODEL)
    hu = surroundings(rng, MODEL, cavity, AVERAGE.skull, AVERAGE.scalp)
    hu[cavity < 0] = 35
    fluid = fraction(np.minimum(cisterns(MODEL, AVERAGE), ventricles(MODEL, AVERAGE)), MODEL.step)
    return _bone(hu, MODEL.step), ndimage.gaussian_filter(fluid, BLUR_MM / MODEL.step)


def _bone(hu: Array, step: float) -> Array:
    low, high = BONE_HU
    return ndimage.gaussian_filter(np.clip((hu - low) / (high - low), 0, 1), BLUR_MM / step)


def fit_head_frame(hu: Array, fluid: Array, grid: Grid) -> HeadFrame:
    """Lay the phantom's head on a patient's: rotation, shift and a scale for each axis.

    Parameters
    ----------
    hu : array (Z, Y, X)
        The patient's head in HU.
    fluid : array (Z, Y, X)
        Fraction of CSF in each voxel, 0 outside the skull.
    grid : Grid
        Grid of both.

    Raises
    ------
    InputError
        ``no-fit`` if the skull doesn't look like a head's.

    Notes
    -----
    Least squares (Levenberg-Marquardt) of blurred bone, then of bone and blurred CSF, so that cisterns and
    ventricles settle where the patient has them; a start from several pitches and heights, a weak pull to
    upright heads of average size.
    """
    images = np.stack([_bone(hu, grid.step), ndimage.gaussian_filter(fluid, BLUR_MM / grid.step)])
    bone = images[0] > 0.3
    top, middle = _vertex(bone, grid)

    def fit(start: Array, samples: float, weights: tuple[float, float]) -> OptimizeResult:
        points, targets = _sampled(images, grid, samples)

        def residuals(parameters: Array) -> Array:
            return _residuals(parameters, points, targets, middle, weights)

        return least_squares(residuals, start, diff_step=1e-3, x_scale=SCALE, max_nfev=30)

    starts = []
    for pitch, missing in STARTS:
        start = np.zeros(9)
        start[0] = np.deg2rad(pitch)
        start[3:6] = (0, 0, 78 - missing - (top - middle[2]))
        starts.append(fit(start, SAMPLES_MM[0], (1, 0)))
    best = min(starts, key=lambda found: float(found.cost))
    best = fit(best.x, SAMPLES_MM[1], (1, 2))
    matrix, shift = _affine(best.x, middle)
    points, targets = _sampled(images, grid, SAMPLES_MM[1])
    found = _at(_model()[0], points @ matrix.T + shift)
    correlation = float(np.corrcoef(found, targets[0])[0, 1])
    if correlation < WORST_FIT:
        raise InputError(
            "no-fit",
            f"The skull could not be matched with a head's (correlation {correlation:.2f}).",
            "Give a CT of a whole head in HU, without metal that hides the skull.",
        )
    return HeadFrame(matrix, shift, correlation)


def _vertex(bone: Array, grid: Grid) -> tuple[float, Array]:
    """Height of the skull's top in mm, and the middle of what lies up to 100 mm below."""
    area = bone.sum(axis=(1, 2)) * grid.step**2
    if area.max() <= 100:
        raise InputError("no-fit", "No skull is seen in this CT.", "Give a CT of the head in HU.")
    highest = int(np.flatnonzero(area > 100).max())
    lowest = max(0, highest - round(100 / grid.step))
    z, y, x = (float(axis.mean()) for axis in np.nonzero(bone[lowest : highest + 1]))
    start = np.array(grid.start)
    return start[2] + highest * grid.step, start + np.array([x, y, z + lowest]) * grid.step


def _sampled(images: Array, grid: Grid, spacing: float) -> tuple[Array, Array]:
    every = max(1, round(spacing / grid.step))
    z, y, x = (axis.ravel() for axis in np.mgrid[tuple(slice(every // 2, n, every) for n in grid.shape)])
    return np.stack([x, y, z], axis=1) * grid.step + np.array(grid.start), images[:, z, y, x]


def _residuals(
    parameters: Array, points: Array, targets: Array, middle: Array, weights: tuple[float, float]
) -> Array:
    matrix, shift = _affine(parameters, middle)
    where = points @ matrix.T + shift
    parts = [w * (_at(m, where) - t) for m, t, w in zip(_model(), targets, weights, strict=True) if w]
    pull = np.concatenate([parameters[:3], parameters[6:]]) / EXPECTED
    return np.concatenate([*parts, 0.02 * np.sqrt(len(points)) * pull])


def _at(field: Array, points: Array) -> Array:
    where = (points - np.array(MODEL.start)) / MODEL.step
    return ndimage.map_coordinates(field, where[:, ::-1].T, order=1, mode="nearest")


def _affine(parameters: Array, middle: Array) -> tuple[Array, Array]:
    matrix = np.diag(np.exp(parameters[6:])) @ Rotation.from_rotvec(parameters[:3]).as_matrix()
    return matrix, parameters[3:6] - matrix @ middle
