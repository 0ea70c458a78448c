"""Where each kind of hemorrhage lies in a head: the regions that blood may fill, and in which order.

Places are named in the phantom's head frame (x left, y posterior, z superior, mm), which
`sahlora.simulation.registration` lays on the patient. Sizes are choices of this project within what real CT
shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sahlora.errors import UsageError
from sahlora.simulation.bleeding import spread_from
from sahlora.simulation.csf import Spaces
from sahlora.simulation.fields import Array, Point, smooth_noise
from sahlora.simulation.head import SITES
from sahlora.simulation.in_ct import DECAY_MM, seeping
from sahlora.simulation.phantom import tentorium_height

FAR = 1e3
MIDDLE = np.array([0.0, -5.0, 22.0])
"""Middle of the head, from which directions to the vault are told."""
VAULT_MM = 75.0
"""Distance of the vault from there, with which angles become lengths."""


@dataclass(frozen=True, eq=False)
class Region:
    """What blood of one kind may fill.

    Attributes
    ----------
    level : array (Z, Y, X)
        Blood lies where this is below a bound; it rises by about 1 a mm.
    limit : array (Z, Y, X)
        Most of each voxel that may be blood, 0 to 1.
    least_ml, most_ml : float
        Volumes drawn, evenly in their logarithm.
    lowest, highest : float
        Bounds of an empty and of a full region.
    swelling_mm, swelling_hu : float
        Reach and greatest loss of HU of the swelling around.
    """

    level: Array
    limit: Array
    least_ml: float
    most_ml: float
    lowest: float = -8.0
    highest: float = 60.0
    swelling_mm: float = 0.0
    swelling_hu: float = 0.0

    def blood(self, bound: float) -> Array:
        """Return how much of each voxel is blood, 0 to 1."""
        return np.minimum(np.clip(np.float32(0.5 + bound) - self.level, 0, 1), self.limit)

    def swelling(self, bound: float) -> Array:
        """Return the HU that tissue around the blood has lost."""
        if self.swelling_mm == 0:
            return np.zeros_like(self.level)
        away = (self.level - np.float32(bound)) / np.float32(self.swelling_mm)
        return np.float32(self.swelling_hu) * np.clip(1 - away, 0, 1) * (1 - self.blood(bound))

    def draw_ml(self, rng: np.random.Generator) -> float:
        """Draw a volume."""
        return float(np.exp(rng.uniform(np.log(self.least_ml), np.log(self.most_ml))))


def region_of(kind: str, spaces: Spaces, rng: np.random.Generator) -> Region:
    """Return the region of a kind, drawn from `rng`."""
    return KINDS[kind](_Head.of(spaces), rng)


@dataclass(frozen=True, eq=False)
class _Head:
    """A head with the coordinates of the phantom's frame, each (Z, Y, X) in mm."""

    spaces: Spaces
    x: Array
    y: Array
    z: Array

    @classmethod
    def of(cls, spaces: Spaces) -> _Head:
        return cls(spaces, *(spaces.frame.heads(spaces.grid, axis).astype(np.float32) for axis in range(3)))

    @property
    def brain(self) -> Array:
        """How much of each voxel lies within the cavity of the skull."""
        return np.clip(self.spaces.depth, 0, 1)

    @property
    def above_tentorium(self) -> Array:
        """Height in mm above the tentorium."""
        return self.z - tentorium_height(self.x, self.y)

    def from_point(self, point: Point | Array, radii: Point | Array) -> Array:
        """Return the distance to an ellipsoid's surface, about in mm."""
        squares = sum(
            ((p - c) / r) ** 2 for p, c, r in zip((self.x, self.y, self.z), point, radii, strict=True)
        )
        return (np.sqrt(squares) - 1) * float(np.min(radii))

    def noise(self, rng: np.random.Generator, wavelength: float) -> Array:
        return smooth_noise(rng, self.spaces.grid, wavelength)


# ----------------------------------------------------------------------------------------- subarachnoid


def _subarachnoid(head: _Head, rng: np.random.Generator) -> Region:
    """Blood that spreads from a ruptured aneurysm through cisterns and fissures."""
    site = SITES[list(SITES)[rng.integers(len(SITES))]]
    return _spread(head, head.spaces.frame.to_patient(site), rng, (2.0, 60.0))


def _sulcal(head: _Head, rng: np.random.Generator) -> Region:
    """Thin blood in some sulci of the convexity, as after trauma."""
    return _spread(head, _point_in_space(head, rng, head.above_tentorium > 15), rng, (0.5, 8.0))


def _cerebellar(head: _Head, rng: np.random.Generator) -> Region:
    """Blood on the cerebellum and in the cisterns around it."""
    return _spread(
        head, _point_in_space(head, rng, (head.above_tentorium < 4) & (head.y > 12)), rng, (0.5, 8.0)
    )


def _point_in_space(head: _Head, rng: np.random.Generator, where: Array) -> Point:
    """Draw a voxel of the subarachnoid space near the surface; its place in the patient in mm."""
    spaces = head.spaces
    found = np.argwhere(where & (spaces.subarachnoid < -0.3) & (spaces.depth > 0) & (spaces.depth < 18))
    if not len(found):
        raise UsageError("no-room", "No fluid is seen there in this head.", "Take another seed.")
    z, y, x = found[rng.integers(len(found))] * spaces.grid.step + np.array(spaces.grid.start)[::-1]
    return float(x), float(y), float(z)


def _spread(head: _Head, site: Point, rng: np.random.Generator, ml: tuple[float, float]) -> Region:
    spaces = head.spaces
    spread = spread_from(
        site, spaces.subarachnoid, spaces.grid, rng, seeping(spaces), float(rng.uniform(*DECAY_MM))
    )
    # 1 mm of distension at most: beyond, the level can't be reached
    level = np.where(spread.distance < 1.5, spread.reach + spread.distance, FAR)
    return Region(level.astype(np.float32), np.clip(1.5 - spread.distance, 0, 1), *ml, highest=80.0)


# -------------------------------------------------------------------------------------- intraventricular


def _layering(head: _Head, rng: np.random.Generator) -> Region:
    """Blood that has settled in the dependent, posterior horns, with a level."""
    ventricles, (_, y, _) = head.spaces.ventricles, head.spaces.grid.coordinates
    level = np.full(ventricles.shape, FAR, np.float32)
    sides = [1, -1] if rng.random() < 0.65 else [int(rng.choice([1, -1]))]
    tilt = float(rng.normal(0, 0.06))
    for side in sides:
        horn = (ventricles < 0.7) & (head.x * side > 4) & (head.z > -12)
        inside = horn & (ventricles < 0)
        if inside.sum() < 60:
            continue
        deepest = float(np.percentile(np.broadcast_to(y, horn.shape)[inside], 99.5))
        height = deepest - y + tilt * head.z + float(rng.normal(0, 1.5))
        level = np.where(horn, height, level)
    if (level == FAR).all():
        raise UsageError("no-room", "No posterior horn is seen in this head.", "Take another seed.")
    return Region(level.astype(np.float32), np.clip(1.0 - ventricles, 0, 1), 0.2, 6.0, -2, 40)


def _cast(head: _Head, rng: np.random.Generator) -> Region:
    """Clot that fills a part of the ventricles or all of them."""
    spaces = head.spaces
    inside = np.argwhere(spaces.ventricles < -1.0)
    if len(inside) < 50:
        raise UsageError("no-room", "The ventricles are too narrow.", "Take another seed.")
    start = inside[rng.integers(len(inside))]
    away = np.sqrt(
        sum(
            np.square(axis - s)
            for axis, s in zip(np.ogrid[tuple(map(slice, head.x.shape))], start, strict=True)
        )
    )
    level = np.where(spaces.ventricles < 1.2, away * spaces.grid.step + 3 * head.noise(rng, 20), FAR)
    return Region(level.astype(np.float32), np.clip(0.9 - spaces.ventricles, 0, 1), 0.8, 25.0, -5, 150)


# ------------------------------------------------------------------------------------------- parenchyma

INTRAPARENCHYMAL_SITES: tuple[Point, ...] = (
    (25, -6, 14), (25, -6, 14), (12, 10, 15), (27, -45, 32), (28, 40, 45), (48, 6, 3), (24, 64, 18),
    (25, 42, -24), (3, 10, -13), (22, 0, 62), (25, -30, 55), (20, 45, 62),
)  # fmt: skip
"""Basal ganglia, thalamus, lobes, cerebellum, pons, and lobes near the vertex."""

CONTUSION_SITES: tuple[Point, ...] = (
    (16, -58, 12), (30, -50, 12), (40, -26, -2), (52, -10, -4), (58, 10, 2), (45, -38, 28), (18, 72, 8),
    (25, 62, -18), (30, 10, 66), (22, -40, 58),
)  # fmt: skip
"""Base and poles of the frontal and temporal lobes, their sides, occipital pole, cerebellum, vertex."""


def _intraparenchymal(head: _Head, rng: np.random.Generator) -> Region:
    """A clot in the brain with a rim of swelling."""
    site = _beside(INTRAPARENCHYMAL_SITES, rng, 8)
    radii = rng.uniform(0.6, 1.5, 3)
    radii *= 10 / radii.prod() ** (1 / 3)
    rough = float(rng.uniform(0.6, 2.5))
    level = head.from_point(site, radii) + rough * head.noise(rng, 20) + 0.3 * rough * head.noise(rng, 8)
    limit = np.clip(head.spaces.depth - 1.5, 0, 1)
    return Region(
        level.astype(np.float32), limit, 0.3, 70.0, -10, 45,
        swelling_mm=float(rng.uniform(1.5, 9)), swelling_hu=float(rng.uniform(2, 11)),
    )  # fmt: skip


def _contusion(head: _Head, rng: np.random.Generator) -> Region:
    """Patches of blood in swollen brain near the surface."""
    site = _beside(CONTUSION_SITES, rng, 6)
    level: Array = np.full(head.x.shape, FAR, np.float32)
    for _ in range(int(rng.integers(2, 9))):
        center = site + rng.normal(0, 9, 3) * (1, 1, 0.8)
        level = np.minimum(level, head.from_point(center, rng.uniform(1.5, 6, 3)))
    level = level + 1.2 * head.noise(rng, 12) + 0.8 * head.noise(rng, 6)
    limit = np.clip(head.spaces.depth - 0.5, 0, 1)
    return Region(
        level.astype(np.float32), limit, 0.3, 20.0, -8, 20,
        swelling_mm=float(rng.uniform(3, 10)), swelling_hu=float(rng.uniform(4, 12)),
    )  # fmt: skip


def _beside(sites: tuple[Point, ...], rng: np.random.Generator, spread_mm: float) -> Array:
    """Draw a place, on either side, some way beside a named one."""
    site = np.array(sites[rng.integers(len(sites))], float) + rng.normal(0, spread_mm, 3)
    return site * (rng.choice([-1, 1]), 1, 1)


# ------------------------------------------------------------------------------------------- extra-axial


def _subdural(head: _Head, rng: np.random.Generator) -> Region:
    """A crescent along the vault of one side, up to the vertex."""
    side = int(rng.choice([-1, 1]))
    direction = _direction(side, float(rng.uniform(-70, 70)), float(rng.uniform(-5, 75)))
    reach = rng.uniform((35, 30), (100, 70))
    taper = 9 * _beyond(head, direction, reach) ** float(rng.uniform(2.5, 5))
    level = head.spaces.depth + taper + 0.8 * head.noise(rng, 30)
    may = (head.x * side > 1) & (head.above_tentorium > 1)
    return Region(_where(may, level), head.brain, 1.0, 90.0, -3, 30)


def _epidural(head: _Head, rng: np.random.Generator) -> Region:
    """A lens under the vault."""
    side = int(rng.choice([-1, 1]))
    direction = _direction(side, float(rng.uniform(-85, 88)), float(rng.uniform(-25, 80)))
    reach = rng.uniform(18, 38, 2)
    taper = 14 * _beyond(head, direction, reach) ** 2
    level = head.spaces.depth + taper + 0.4 * head.noise(rng, 25)
    return Region(_where(head.spaces.depth > 0, level), head.brain, 0.6, 70.0, -2, 40)


def _interhemispheric(head: _Head, rng: np.random.Generator) -> Region:
    """Subdural blood along one side of the falx."""
    side = int(rng.choice([-1, 1]))
    middle, reach = float(rng.uniform(-45, 65)), float(rng.uniform(20, 60))
    height = float(rng.uniform(30, 85))
    taper = 5 * (np.abs(head.y - middle) / reach) ** 3 + 5 * (np.abs(head.z - height) / 28) ** 4
    level = head.x * side + 0.5 * head.noise(rng, 25) + taper
    callosum = head.from_point((0, 2, 18), (30, 44, 21))
    may = (callosum > 8) & (head.above_tentorium > 3) & (head.x * side > -0.5)
    return Region(_where(may, level), head.brain, 0.6, 15.0, -2, 12)


def _tentorial(head: _Head, rng: np.random.Generator) -> Region:
    """Subdural blood on the tentorium of one side."""
    side, above = int(rng.choice([-1, 1])), head.above_tentorium
    back = float(rng.uniform(15, 60))
    taper = 6 * (np.abs(head.y - back) / float(rng.uniform(20, 45))) ** 3
    taper += 5 * ((head.x * side - float(rng.uniform(22, 38))) / 18) ** 4
    level = np.abs(above - 1.5) + taper + 0.6 * head.noise(rng, 25)
    free = np.sqrt(head.x**2 + (head.y - 10) ** 2) > 21
    may = free & (head.x * side > 1) & (head.y > -8)
    return Region(_where(may, level), head.brain, 3.0, 18.0, -2, 14)


def _direction(side: int, along: float, up: float) -> Array:
    """Return the unit vector to the vault: degrees from the side towards posterior, and upward."""
    along, up = np.deg2rad([along, up])
    return np.array([side * np.cos(along) * np.cos(up), np.sin(along) * np.cos(up), np.sin(up)])


def _beyond(head: _Head, direction: Array, reach: Array) -> Array:
    """Return the way along the vault from a point of it, in units of the reach along it and upward."""
    away = [p - m for p, m in zip((head.x, head.y, head.z), MIDDLE, strict=True)]
    length = np.sqrt(sum(a**2 for a in away)) + 1e-3
    along = np.cross((0.0, 0.0, 1.0), direction)
    along /= np.linalg.norm(along) + 1e-6
    upward = np.cross(direction, along)
    out, sideways, up = (
        sum(a * np.float32(v) for a, v in zip(away, vector, strict=True)) / length
        for vector in (direction, along, upward)
    )
    angle = np.arccos(np.clip(out, -1, 1)) / np.maximum(np.hypot(sideways, up), 1e-3)
    return np.hypot(angle * sideways * VAULT_MM / reach[0], angle * up * VAULT_MM / reach[1])


def _where(may: Array, level: Array) -> Array:
    return np.where(may, level, FAR).astype(np.float32)


KINDS: dict[str, Callable[[_Head, np.random.Generator], Region]] = {
    "subarachnoid": _subarachnoid,
    "sulcal": _sulcal,
    "cerebellar": _cerebellar,
    "layering": _layering,
    "cast": _cast,
    "intraparenchymal": _intraparenchymal,
    "contusion": _contusion,
    "subdural": _subdural,
    "interhemispheric": _interhemispheric,
    "tentorial": _tentorial,
    "epidural": _epidural,
}
