"""How subarachnoid blood spreads: where it may be and how far it gets, for any map of the CSF space.

The only inputs are a signed distance to the subarachnoid space and a rupture site, so the same spreading
serves the phantom and, given a map of its CSF, a real head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from sahlora.errors import UsageError
from sahlora.simulation.fields import Array, Grid, Point, averaging, resample, smooth_noise
from sahlora.simulation.scanner import Acquisition

DISTENSION = 1.0
"""Furthest, in mm, that blood pushes the walls of the subarachnoid space apart."""
DECAY = 14.0
"""Way along the space, in mm, over which the layer of blood loses 1 mm, where nothing else is said."""
UNREACHABLE = 1e3
LOWEST_LEVEL, HIGHEST_LEVEL = -8.0, 24.0
"""Levels of a bleed in mm between which every volume lies, where nothing else is said."""
VOLUME_TOLERANCE = 0.002

CLOT_HU = (47.0, 70.0)
"""HU of pure clot, from its thinnest to its densest parts."""


@dataclass(frozen=True)
class Spread:
    """What decides where blood lies.

    Attributes
    ----------
    distance : array (Z, Y, X)
        Signed distance to the wall of the subarachnoid space in mm, negative inside.
    reach : array (Z, Y, X)
        Loss of the blood's thickness on the way from the rupture, in mm.
    """

    distance: Array
    reach: Array

    def blood(self, level: float) -> Array:
        """Return the fraction of each voxel that is blood (0 to 1) after a bleed of a given level in mm.

        Blood fills the space up to `level - reach` mm beyond its walls: a negative value leaves blood only in
        the core of wide cisterns, a positive one distends the space, by `DISTENSION` at most.
        """
        thickness = np.minimum(np.float32(level) - self.reach, np.float32(DISTENSION))
        return np.clip(np.float32(0.5) + thickness - self.distance, 0, 1)


def spread_from(
    site: Point,
    distance: Array,
    grid: Grid,
    rng: np.random.Generator,
    seeping: Array | None = None,
    decay: float = DECAY,
) -> Spread:
    """Let blood spread through the subarachnoid space from the point of it nearest to `site`.

    Parameters
    ----------
    site : tuple of float
        (x, y, z) of the rupture in mm.
    distance : array (Z, Y, X)
        Signed distance to the wall of the subarachnoid space in mm.
    grid : Grid
        Grid of `distance`.
    rng : numpy.random.Generator
        Makes blood patchy.
    seeping : array (Z, Y, X), optional
        Least speed of the front: where the space goes on though it is too narrow to be seen.
    decay : float
        Way along the space, in mm, over which the layer of blood loses 1 mm.

    Notes
    -----
    The way is a geodesic: first-arrival time of a front (fast marching, Sethian 1996, PNAS 93(4):1591) that
    moves fast through cisterns and slowly through narrow sulci.
    """
    coarse, pooled = _halved(grid, distance)
    x, y, z = coarse.coordinates
    away = np.sqrt((x - site[0]) ** 2 + (y - site[1]) ** 2 + (z - site[2]) ** 2)
    start = np.unravel_index(int(np.argmin(np.where(pooled < -0.3, away, np.inf))), pooled.shape)
    speed = np.clip(0.55 - 0.35 * pooled, 0.08, 1.2)
    speed[pooled > DISTENSION + 1] = 0
    if seeping is not None:
        speed = np.maximum(speed, -_halved(grid, -seeping)[1])
    marching = sitk.FastMarchingImageFilter()
    marching.SetTrialPoints([tuple(int(i) for i in start[::-1])])
    arrival = sitk.GetArrayFromImage(marching.Execute(coarse.image(speed.astype(np.float32))))
    patchy = 0.7 * smooth_noise(rng, coarse, 45) + 0.35 * smooth_noise(rng, coarse, 14)
    reach = np.where(arrival < UNREACHABLE, arrival, UNREACHABLE) / np.float32(decay) + patchy
    where = [averaging(np.arange(n) / 2 - 0.25, 0.05, (n + 1) // 2) for n in grid.shape]
    return Spread(distance, resample(reach.astype(np.float32), *where))


def _halved(grid: Grid, distance: Array) -> tuple[Grid, Array]:
    """Halve the resolution, keeping the smallest distance, so that narrow sulci stay connected."""
    padded = np.pad(distance, [(0, n % 2) for n in distance.shape], mode="edge")
    depth, rows, columns = (n // 2 for n in padded.shape)
    pooled = padded.reshape(depth, 2, rows, 2, columns, 2).min(axis=(1, 3, 5))
    x, y, z = (s + grid.step / 2 for s in grid.start)
    return Grid((x, y, z), pooled.shape, 2 * grid.step), pooled


def volume_ml(blood: Array, acquisition: Acquisition) -> float:
    """Return the volume in mL of a mask (Z, Y, X) on the slices."""
    return float(blood.sum(axis=(1, 2), dtype=np.int64) @ acquisition.voxel_ml)


def grow(
    spread: Spread, grid: Grid, acquisition: Acquisition, wanted_ml: float, highest: float = HIGHEST_LEVEL
) -> Array:
    """Return the fraction of blood, on `grid`, whose mask on the CT's grid has the given volume.

    The mask holds voxels that are at least half blood. `highest` is the greatest level of a bleed in mm.

    Raises
    ------
    UsageError
        ``volume-too-large`` if the space can't hold the volume.
    """
    share = np.zeros(grid.shape, np.float32)
    if wanted_ml == 0:
        return share
    near = np.argwhere(spread.distance < DISTENSION + 1)
    low, high = near.min(axis=0), near.max(axis=0)
    part, where = grid.box(*(np.array(grid.start) + corner[::-1] * grid.step for corner in (low, high)))
    inside = Spread(spread.distance[where], spread.reach[where])

    def reached(level: float) -> float:
        return volume_ml(acquisition.sample(inside.blood(level), part) >= 0.5, acquisition)

    low_level, high_level = LOWEST_LEVEL, highest
    most = reached(high_level)
    if most < wanted_ml:
        raise UsageError(
            "volume-too-large",
            f"The subarachnoid space of this head holds {most:.1f} mL of blood, not {wanted_ml:g} mL.",
            "Ask for less, or take another seed.",
        )
    while high_level - low_level > 1e-5:
        level = (low_level + high_level) / 2
        found = reached(level)
        low_level, high_level = (level, high_level) if found < wanted_ml else (low_level, level)
        if abs(found - wanted_ml) <= VOLUME_TOLERANCE * wanted_ml:
            high_level = level
            break
    share[where] = inside.blood(high_level)
    return share
