"""Hemorrhages of every kind, put into a real, blood-free head CT with their exact mask.

Every kind is a field of levels on the head's grid of 1 mm: blood lies where the level is below a bound, which
rises until the volume asked for is reached, and only where that kind of blood can be (`Region`). What the
kinds have in common, density and texture of clot, partial volume, swelling and the scan's own noise, is in
`simulate_lesion`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from sahlora.errors import UsageError
from sahlora.imaging.labels import UNKNOWN
from sahlora.runtime.progress import SILENT, Progress
from sahlora.simulation.bleeding import volume_ml
from sahlora.simulation.fields import Array, Grid, smooth_noise
from sahlora.simulation.in_ct import LEAST_SHARE, Patient, exchanged
from sahlora.simulation.lesion_kinds import KINDS, Region, region_of

DENSITY_HU = (35.0, 95.0)
"""Least and greatest mean HU of clot."""
DRAWN_DENSITY = (61.0, 10.0)
"""Mean and standard deviation of what is drawn."""
CALCIFIED_HU = 85.0
"""Voxels that were denser before are calcification or bone: whether blood is there can't be seen."""
VISIBLE_HU = 5.0
"""A voxel of the mask that blood changes by less can't be told from its surroundings."""
MIXED_KINDS = (2, 3)
MIXTURE = "mixture"
ANY = "any"
COHORT_KINDS = (
    "subarachnoid", "intraparenchymal", "subdural", "sulcal", "layering", "epidural", "contusion",
    "subarachnoid", "subdural", "cast", "cerebellar", MIXTURE, "interhemispheric", "tentorial",
    "intraparenchymal", "layering",
)  # fmt: skip
"""What a cohort of any kind has, in turn with the seed."""


@dataclass(frozen=True)
class Lesion:
    """Settings of one simulated hemorrhage.

    Attributes
    ----------
    seed : int
        Decides place, shape and texture; equal settings give equal voxels.
    kind : str
        One of `sahlora.simulation.lesion_kinds.KINDS`, or ``mixture`` for two or three of them.
    blood_ml : float, optional
        Volume of blood in mL; None draws it as the kind has it. A place too small for it is filled.
    density_hu : float
        Mean HU of clot, 35 to 95.
    """

    seed: int = 1
    kind: str = "intraparenchymal"
    blood_ml: float | None = None
    density_hu: float = 60.0

    @classmethod
    def draw(cls, seed: int, kind: str = ANY) -> Lesion:
        """Draw a lesion of a kind, or of any: clot of 61 ± 10 HU, the volume as the kind has it."""
        if kind == ANY:
            kind = COHORT_KINDS[seed % len(COHORT_KINDS)]
        rng = np.random.default_rng([max(seed, 0), 12])
        return cls(seed, kind, None, round(float(np.clip(rng.normal(*DRAWN_DENSITY), *DENSITY_HU)), 1))

    def __post_init__(self) -> None:
        low, high = DENSITY_HU
        checks = (
            (self.blood_ml is None or self.blood_ml > 0, "bad-volume",
             f"A volume of {self.blood_ml} mL is not possible.", "Give more than 0."),
            (self.kind in (*KINDS, MIXTURE), "unknown-kind", f"There is no kind of hemorrhage {self.kind!r}.",
             f"Choose one of: {', '.join((*KINDS, MIXTURE))}."),
            (low <= self.density_hu <= high, "bad-density", f"Clot of {self.density_hu} HU is not possible.",
             f"Give {low:g} to {high:g} HU."),
            (self.seed >= 0, "bad-seed", f"A seed of {self.seed} is not possible.", "Give 0 or more."),
        )  # fmt: skip
        for holds, code, message, hint in checks:
            if not holds:
                raise UsageError(code, message, hint)


@dataclass(frozen=True, eq=False)
class SimulatedLesion:
    """A CT with a simulated hemorrhage and what is true about it.

    Attributes
    ----------
    settings : Lesion
        What it was made from.
    hu : array (Z, Y, X) of int16
        The CT in canonical order; voxels that neither blood nor swelling reaches are the input's.
    share : array (Z, Y, X) of float32
        How much of each voxel is blood, 0 to 1.
    blood : array (Z, Y, X) of uint8
        1 where at least half of the voxel is blood.
    label : array (Z, Y, X) of uint8
        `blood`, but 255 (unknown) where nobody could see whether there is blood: in calcifications, and where
        clot is no denser than what it replaces.
    volume_ml : float
        Volume in mL of `blood`.
    """

    settings: Lesion
    hu: Array
    share: Array
    blood: Array
    label: Array
    volume_ml: float


def simulate_lesion(patient: Patient, settings: Lesion, progress: Progress = SILENT) -> SimulatedLesion:
    """Simulate one hemorrhage into a prepared CT.

    Raises
    ------
    UsageError
        ``no-room`` if this head has no place for the kind.
    Cancelled
        If `progress` is asked to stop.
    """
    progress.stage("bleed")
    rng = np.random.default_rng([settings.seed, 11])
    kinds = _kinds(settings.kind, rng)
    regions = [region_of(kind, patient.spaces, rng) for kind in kinds]
    volumes = [
        region.draw_ml(rng) if settings.blood_ml is None else settings.blood_ml / len(regions)
        for region in regions
    ]
    clots = [_clot(settings.density_hu, patient, rng) for _ in regions]

    progress.stage("scan")
    acquisition, grid = patient.acquisition, patient.spaces.grid
    before = patient.volume.hu[patient.box].astype(np.float32)
    hu, within = before, np.zeros(before.shape, np.float32)
    for region, wanted_ml, clot in zip(regions, volumes, clots, strict=True):
        level = _level_of(region, grid, wanted_ml)
        share = acquisition.sample(region.blood(level), grid)
        share[share < LEAST_SHARE] = 0
        swelling = acquisition.sample(region.swelling(level), grid)
        hu = hu - swelling * np.clip((hu - 18) / 12, 0, 1) * (hu < CALCIFIED_HU)
        hu = hu + exchanged(patient, share, clot)
        within = np.maximum(within, share)
    blood = within >= 0.5
    if not blood.any():
        raise UsageError("no-room", f"This head has no room for {settings.kind} blood.", "Take another seed.")
    label = blood.astype(np.uint8)
    smooth = acquisition.sample(patient.spaces.hu, grid)
    label[(ndimage.uniform_filter(before, (1, 3, 3)) > CALCIFIED_HU) & (within > LEAST_SHARE)] = UNKNOWN
    label[blood & (ndimage.uniform_filter(hu, (1, 3, 3)) - smooth < VISIBLE_HU)] = UNKNOWN
    changed = np.where(hu != before, np.rint(hu), before).astype(patient.volume.hu.dtype)
    empty = np.zeros(patient.volume.hu.shape, np.uint8)
    return SimulatedLesion(
        replace(settings, blood_ml=round(float(sum(volumes)), 2)),
        _in_volume(patient, changed, patient.volume.hu),
        _in_volume(patient, within, empty.astype(np.float32)),
        _in_volume(patient, blood.astype(np.uint8), empty),
        _in_volume(patient, label, empty),
        volume_ml(blood, acquisition),
    )


def _kinds(kind: str, rng: np.random.Generator) -> list[str]:
    if kind != MIXTURE:
        return [kind]
    count = int(rng.integers(MIXED_KINDS[0], MIXED_KINDS[1] + 1))
    return [str(name) for name in rng.choice(list(KINDS), count, replace=False)]


def _in_volume(patient: Patient, part: Array, volume: Array) -> Array:
    """Put what was made in the head box into a copy of a whole volume."""
    whole = volume.copy()
    whole[patient.box] = part
    return whole


def _level_of(region: Region, grid: Grid, wanted_ml: float) -> float:
    """Return the bound of the levels below which a volume of blood lies; the highest if all hold less."""
    low, high = region.lowest, region.highest
    for _ in range(14):
        middle = (low + high) / 2
        found_ml = float(region.blood(middle).sum()) * grid.step**3 / 1000
        low, high = (middle, high) if found_ml < wanted_ml else (low, middle)
    return high


def _clot(density: float, patient: Patient, rng: np.random.Generator) -> Array:
    """HU of clot in every voxel: coarse and fine texture, sometimes with fluid parts or settled cells."""
    grid = patient.spaces.grid
    spread = float(rng.uniform(2, 7))
    clot = density + spread * (0.8 * smooth_noise(rng, grid, 22) + 0.6 * smooth_noise(rng, grid, 7))
    if rng.random() < 0.3:  # blood that has not clotted yet, or old beside new
        fluid = np.clip(smooth_noise(rng, grid, float(rng.uniform(14, 40))) - 0.4, 0, 1)
        clot = clot - float(rng.uniform(8, 22)) * fluid
    if rng.random() < 0.3:  # cells settle towards posterior
        y = grid.coordinates[1]
        clot = clot + float(rng.uniform(0.05, 0.25)) * (y - float(np.median(y)))
    return np.clip(clot, 25, 110).astype(np.float32)
