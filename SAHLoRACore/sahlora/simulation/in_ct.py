"""Subarachnoid blood simulated into a real, blood-free head CT, with its exact mask.

The data flow: `csf.find_spaces` finds where fluid is, `bleeding.spread_from` decides where blood goes,
`bleeding.grow` lets it grow until the mask holds the volume asked for, and `exchanged` replaces fluid and
brain by blood in proportion to its share of each voxel, leaving the scan's noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sahlora.errors import UsageError
from sahlora.imaging.head import Box, head_box
from sahlora.imaging.volume import Volume
from sahlora.runtime.progress import SILENT, Progress
from sahlora.simulation.bleeding import Spread, grow, spread_from, volume_ml
from sahlora.simulation.csf import Spaces, find_spaces
from sahlora.simulation.fields import Array, smooth_noise
from sahlora.simulation.head import SITES, draw_volume_and_site
from sahlora.simulation.scanner import Acquisition

DENSITY_HU = (50.0, 80.0)
"""Least and greatest mean HU of clot."""
CLOT_VARIATION_HU = 5.0
"""Standard deviation of clot's HU within a bleed."""
REFLUX_SHARE = 0.4
"""Share of a cohort's bleeds that reach the ventricles."""
LEAST_SHARE = 0.01
"""A voxel with less blood than this has none."""
SEEPING = (0.06, 0.3)
"""Speed of blood where no space is seen, within the brain and over its surface; 1.2 in wide cisterns."""
SURFACE_MM = 6.0
"""Depth below the inner table of the brain's surface."""
HIGHEST_LEVEL = 80.0
"""Greatest level of a bleed in mm: as far as the vertex."""
DECAY_MM = (7.0, 14.0)
"""Way over which the layer of blood loses 1 mm: from focal to diffuse bleeds."""
MOST_SPACE = 1.2
"""A bleed drawn for a cohort is at most this many times as large as the subarachnoid fluid seen."""
SUSPICIOUS_ML = 2.0
"""mL of dense voxels inside the brain from which a scan may hold blood already."""
REFLUX_DECAY = 4.0
"""Height in mm above the ventricles' deepest point over which refluxed blood loses 1 mm of thickness."""


@dataclass(frozen=True)
class Bleed:
    """Settings of one simulated bleed.

    Attributes
    ----------
    seed : int
        Decides spread and texture; equal settings give equal voxels.
    sah_volume_ml : float
        Volume of the mask in mL (met within 2 %).
    site : str
        Rupture site, one of `sahlora.simulation.head.SITES`.
    density_hu : float
        Mean HU of clot, 50 to 80.
    reflux : bool
        Whether blood also settles in the ventricles.
    """

    seed: int = 1
    sah_volume_ml: float = 20.0
    site: str = "acom"
    density_hu: float = 64.0
    reflux: bool = False

    @classmethod
    def draw(cls, seed: int) -> Bleed:
        """Draw a bleed as cohorts have them: clot 62 ± 5 HU, 40 % with reflux, the rest as for phantoms."""
        volume, site = draw_volume_and_site(seed)
        rng = np.random.default_rng([max(seed, 0), 7])
        density = float(np.clip(rng.normal(62, 5), *DENSITY_HU))
        return cls(seed, volume, site, round(density, 1), bool(rng.random() < REFLUX_SHARE))

    def __post_init__(self) -> None:
        low, high = DENSITY_HU
        checks = (
            (self.sah_volume_ml > 0, "bad-volume", f"A volume of {self.sah_volume_ml} mL is not possible.",
             "Give more than 0."),
            (self.site in SITES, "unknown-site", f"There is no rupture site {self.site!r}.",
             f"Choose one of: {', '.join(SITES)}."),
            (low <= self.density_hu <= high, "bad-density", f"Clot of {self.density_hu} HU is not possible.",
             f"Give {low:g} to {high:g} HU."),
            (self.seed >= 0, "bad-seed", f"A seed of {self.seed} is not possible.", "Give 0 or more."),
        )  # fmt: skip
        for holds, code, message, hint in checks:
            if not holds:
                raise UsageError(code, message, hint)


@dataclass(frozen=True, eq=False)
class Patient:
    """A real CT made ready to bleed: the same for every bleed simulated into it.

    Attributes
    ----------
    volume : Volume
        The CT on an even, orthogonal grid.
    box : Box
        The head in it, (z, y, x).
    acquisition : Acquisition
        Where the slices of the box lie.
    spaces : Spaces
        Where CSF is.
    """

    volume: Volume
    box: Box
    acquisition: Acquisition
    spaces: Spaces


@dataclass(frozen=True, eq=False)
class SimulatedBleed:
    """A CT with simulated blood and what is true about it.

    Attributes
    ----------
    settings : Bleed
        What it was made from.
    hu : array (Z, Y, X) of int16
        The CT in canonical order; where `share` is 0, the input's voxels.
    share : array (Z, Y, X) of float32
        How much of each voxel is blood, 0 to 1.
    blood : array (Z, Y, X) of uint8
        1 where at least half of the voxel is blood.
    volume_ml, ventricular_ml : float
        Volume in mL of the mask, and of its part in the ventricles.
    """

    settings: Bleed
    hu: Array
    share: Array
    blood: Array
    volume_ml: float
    ventricular_ml: float

    @property
    def label(self) -> Array:
        """What a label map says: the mask."""
        return self.blood


def bleed_that_fits(patient: Patient, settings: Bleed, progress: Progress = SILENT) -> SimulatedBleed:
    """Simulate a bleed, its volume halved until it is at most 1.2 times that of the fluid seen."""
    spaces, halved = patient.spaces, settings
    room_ml = float((spaces.subarachnoid < 0).sum()) * spaces.grid.step**3 / 1000
    while halved.sah_volume_ml > MOST_SPACE * room_ml:
        halved = replace(halved, sah_volume_ml=halved.sah_volume_ml / 2)
    return simulate_bleed(patient, halved, progress)


def prepare(volume: Volume, progress: Progress = SILENT) -> Patient:
    """Find the head and its spaces of CSF.

    Raises
    ------
    InputError
        ``no-head``, ``no-brain``, ``no-fit`` or ``no-csf``.
    """
    progress.stage("anatomy")
    volume = volume.rectified()
    box = head_box(volume.hu, volume.spacing)
    hu = volume.hu[box]
    thickness = volume.slice_thickness
    heights = np.cumsum(thickness) - thickness / 2
    acquisition = Acquisition(
        tuple(heights.tolist()), tuple(thickness.tolist()), volume.spacing[1:], hu.shape[1:], 0.0
    )
    spaces = find_spaces(hu, acquisition)
    dense_ml = dense_volume(spaces)
    if dense_ml > SUSPICIOUS_ML:
        progress.warning(
            "dense-brain",
            f"{dense_ml:.0f} mL inside the brain are as dense as blood: this scan may hold a hemorrhage.",
            "Simulate into scans without hemorrhage: the mask holds simulated blood alone.",
        )
    return Patient(volume, box, acquisition, spaces)


def dense_volume(spaces: Spaces) -> float:
    """Return the mL as dense as blood in a head, away from skull, falx and venous sinuses."""
    sideways = np.abs(spaces.frame.heads(spaces.grid, 0))
    dense = (spaces.hu > 52) & (spaces.hu < 90) & (spaces.depth > 8) & (sideways > 8)
    return float(dense.sum()) * spaces.grid.step**3 / 1000


def simulate_bleed(patient: Patient, settings: Bleed, progress: Progress = SILENT) -> SimulatedBleed:
    """Simulate one bleed into a prepared CT.

    Raises
    ------
    UsageError
        ``volume-too-large`` if the subarachnoid space can't hold the volume.
    Cancelled
        If `progress` is asked to stop.
    """
    progress.stage("bleed")
    spaces, acquisition = patient.spaces, patient.acquisition
    rng = np.random.default_rng([settings.seed, 6])
    spread = spread_from(
        spaces.frame.to_patient(SITES[settings.site]),
        spaces.subarachnoid,
        spaces.grid,
        rng,
        seeping(spaces),
        float(rng.uniform(*DECAY_MM)),
    )
    if settings.reflux:
        spread = _with_reflux(spread, spaces, rng)
    share = grow(spread, spaces.grid, acquisition, settings.sah_volume_ml, HIGHEST_LEVEL)
    clot = settings.density_hu + CLOT_VARIATION_HU * (
        0.8 * smooth_noise(rng, spaces.grid, 22) + 0.6 * smooth_noise(rng, spaces.grid, 7)
    )

    progress.stage("scan")
    within = acquisition.sample(share, spaces.grid)
    within[within < LEAST_SHARE] = 0
    blood = within >= 0.5
    in_ventricles = blood & (acquisition.sample(spaces.ventricles, spaces.grid) < 0.5)
    hu, shares = patient.volume.hu.copy(), np.zeros(patient.volume.hu.shape, np.float32)
    original = hu[patient.box]
    change = exchanged(patient, within, clot)
    hu[patient.box] = np.where(within > 0, np.rint(original + change), original).astype(hu.dtype)
    shares[patient.box] = within
    return SimulatedBleed(
        settings,
        hu,
        shares,
        (shares >= 0.5).astype(np.uint8),
        volume_ml(blood, acquisition),
        volume_ml(in_ventricles, acquisition),
    )


def seeping(spaces: Spaces) -> Array:
    """Speed of blood where the subarachnoid space is too narrow to be seen."""
    within, over = SEEPING
    speed = np.where(spaces.depth < SURFACE_MM, over, within)
    return np.where((spaces.depth > 0) & (spaces.ventricles > 2), speed, 0).astype(np.float32)


def _with_reflux(spread: Spread, spaces: Spaces, rng: np.random.Generator) -> Spread:
    """Let blood also settle in the ventricles, deepest (most posterior) parts first."""
    inside = spaces.ventricles < 0
    if not inside.any():
        return spread
    y = np.broadcast_to(spaces.grid.coordinates[1], inside.shape)
    deepest = float(np.percentile(y[inside], 99.5))
    height = np.maximum(deepest - y, 0)
    reach = float(rng.uniform(-1, 1)) + height / REFLUX_DECAY
    closer = spaces.ventricles < spread.distance
    distance = np.where(closer, spaces.ventricles, spread.distance)
    return Spread(distance, np.where(closer, reach, spread.reach).astype(np.float32))


def exchanged(patient: Patient, share: Array, clot: Array) -> Array:
    """Change of HU in the slices when blood takes its share of each voxel: first of fluid, then of tissue.

    What is replaced are the HU without noise, so that the noise stays.

    Parameters
    ----------
    share : array (Z, Y, X)
        Share of blood in each voxel of the head box.
    clot : array (Z, Y, X)
        HU of clot on the grid of the spaces.
    """
    spaces, acquisition = patient.spaces, patient.acquisition
    fluid, smooth, clot = (
        acquisition.sample(field, spaces.grid) for field in (spaces.fluid, spaces.hu, clot)
    )
    tissue = np.clip((smooth - fluid * spaces.csf) / np.maximum(1 - fluid, 0.1), spaces.csf, 70)
    change = np.minimum(share, fluid) * (clot - spaces.csf)
    return change + np.maximum(share - fluid, 0) * np.maximum(clot - tissue, 0)
