"""Simulated head CT with subarachnoid blood of a known volume: settings in, CT and exact mask out.

The data flow: `phantom.build_head` makes a healthy head, `bleeding.spread_from` decides where blood goes,
`scanner` lays the head into a CT, and the bleed is grown until the mask holds the volume asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import SimpleITK as sitk

from sahlora.errors import UsageError
from sahlora.runtime.progress import SILENT, Progress
from sahlora.simulation.bleeding import CLOT_HU, UNREACHABLE, Spread, grow, spread_from, volume_ml
from sahlora.simulation.fields import Array, Point, smooth_noise
from sahlora.simulation.phantom import Anatomy, build_head
from sahlora.simulation.scanner import AIR_HU, Acquisition, beam_hardening, gantry_grid, place, quantum_noise

SITES: dict[str, Point] = {
    "acom": (0, -22, 4),
    "mca-left": (33, -20, 5),
    "mca-right": (-33, -20, 5),
    "pcom": (-9, -10, 3),
    "basilar": (0, -4, -1),
}
"""Rupture sites in the head's frame (x, y, z in mm): where aneurysms are most often found."""

STRATA = ((0.50, 2.0, 25.0), (0.25, 25.0, 50.0), (0.20, 50.0, 100.0), (0.05, 100.0, 120.0))
"""Share of a cohort's cases, least and greatest volume in mL."""

LOWEST, HIGHEST = -62.0, 92.0
"""z in mm of the scan's lower and upper end."""
FIELD_OF_VIEW = 230.0
ROOM = (np.array([-90.0, -112, -72]), np.array([90.0, 110, 102]))
"""Corners (x, y, z in mm) of the box in which the head lies."""
FAR = 50.0
NOISE_HU = (3.0, 5.0)
"""Noise of 5 mm slices; that of others goes with thickness to the power -0.35."""


@dataclass(frozen=True)
class HeadPhantom:
    """Settings of one simulated head CT.

    Attributes
    ----------
    seed : int
        Decides anatomy, pose, spread and noise; equal settings give equal voxels.
    sah_volume_ml : float
        Volume of the mask in mL (met within 2 %); 0 is a healthy head.
    site : str
        Rupture site, one of `SITES`.
    spacing : tuple of float
        (z, y, x) in mm; z is slice thickness and step along the slices' normal.
    size : tuple of int, optional
        (Z, Y, X) voxels; by default what covers a head.
    orientation : str
        Axis order and flips of the stored array, e.g. ``"LPS"`` or ``"RIA"``; for images only.
    tilt : float
        Gantry tilt in degrees.
    base_step : float, optional
        Slice step in mm below the orbits' roof, finer than above, as older protocols have it: uneven slices.
    noise : float, optional
        Standard deviation of noise in HU; drawn from the seed by default.
    """

    seed: int = 1
    sah_volume_ml: float = 20.0
    site: str = "acom"
    spacing: tuple[float, float, float] = (5.0, 0.45, 0.45)
    size: tuple[int, int, int] | None = None
    orientation: str = "LPS"
    tilt: float = 0.0
    base_step: float | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        checks = (
            (self.sah_volume_ml >= 0, "bad-volume", f"A volume of {self.sah_volume_ml} mL is not possible.",
             "Give 0 (no blood) or more."),
            (self.site in SITES, "unknown-site", f"There is no rupture site {self.site!r}.",
             f"Choose one of: {', '.join(SITES)}."),
            (len(self.spacing) == 3 and all(0.2 <= s <= 20 for s in self.spacing), "bad-spacing",
             f"A spacing of {self.spacing} mm is not possible.", "Give z,y,x between 0.2 and 20 mm."),
            (self.size is None or (len(self.size) == 3 and all(1 <= n <= 2048 for n in self.size)),
             "bad-size",
             f"A size of {self.size} voxels is not possible.", "Give z,y,x between 1 and 2048."),
            (_is_orientation(self.orientation), "bad-orientation",
             f"{self.orientation!r} is not an orientation.", "Give three letters such as LPS, RAS or PIR."),
            (abs(self.tilt) <= 30, "bad-tilt", f"A gantry tilt of {self.tilt}° is not possible.",
             "Give -30 to 30 degrees."),
            (self.base_step is None or 0.2 <= self.base_step <= self.spacing[0], "bad-step",
             f"A slice step of {self.base_step} mm below the orbits is not possible.",
             "Give at most the slice spacing."),
            (self.noise is None or 0 <= self.noise <= 100, "bad-noise",
             f"A noise of {self.noise} HU is not possible.", "Give 0 to 100 HU."),
            (self.seed >= 0, "bad-seed", f"A seed of {self.seed} is not possible.", "Give 0 or more."),
        )  # fmt: skip
        for holds, code, message, hint in checks:
            if not holds:
                raise UsageError(code, message, hint)


def draw_volume_and_site(seed: int) -> tuple[float, str]:
    """Draw a bleed's volume in mL, by `STRATA`, and its site."""
    rng = np.random.default_rng([max(seed, 0), 5])
    _, low, high = STRATA[rng.choice(len(STRATA), p=[share for share, _, _ in STRATA])]
    return round(float(rng.uniform(low, high)), 1), str(rng.choice(list(SITES)))


def _is_orientation(text: str) -> bool:
    return len(text) == 3 and sorted("LPS".find(c) + "RAI".find(c) + 1 for c in text.upper()) == [0, 1, 2]


@dataclass(frozen=True)
class SimulatedHead:
    """A simulated CT and what is true about it.

    Attributes
    ----------
    settings : HeadPhantom
        What it was made from.
    acquisition : Acquisition
        Where its slices lie.
    hu : array (Z, Y, X) of int16
        The slices, bottom up, rows towards posterior, columns towards left.
    blood : array (Z, Y, X) of uint8
        1 where at least half of the voxel is blood.
    """

    settings: HeadPhantom
    acquisition: Acquisition
    hu: Array
    blood: Array

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in mL."""
        return volume_ml(self.blood, self.acquisition)

    @property
    def is_regular(self) -> bool:
        """Whether the slices form an orthogonal, even grid, as NIfTI needs it."""
        return self.settings.tilt == 0 and self.settings.base_step is None

    @property
    def ct(self) -> sitk.Image:
        """The CT in the settings' orientation, HU as int16."""
        return self._image(self.hu)

    @property
    def mask(self) -> sitk.Image:
        """The blood on the CT's grid, uint8."""
        return self._image(self.blood)

    def _image(self, array: Array) -> sitk.Image:
        if not self.is_regular:
            raise UsageError(
                "irregular-slices",
                "Tilted or uneven slices have no grid that an image file can hold.",
                "Write a DICOM series instead.",
            )
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.settings.spacing[::-1])
        image.SetOrigin(tuple(float(p) for p in self.acquisition.positions[0]))
        return sitk.DICOMOrient(image, self.settings.orientation.upper())


def simulate_head(settings: HeadPhantom, progress: Progress = SILENT) -> SimulatedHead:
    """Simulate one head CT.

    Raises
    ------
    UsageError
        ``volume-too-large`` if the subarachnoid space can't hold the volume.
    Cancelled
        If `progress` is asked to stop.
    """
    progress.stage("anatomy")
    healthy, spread = _patient(settings.seed, settings.site)
    acquisition = plan(settings)
    progress.stage("bleed")
    grid = gantry_grid(acquisition, *ROOM)
    fields = np.stack([healthy.hu - AIR_HU, spread.distance - FAR, spread.reach - UNREACHABLE], axis=-1)
    placed = place(fields, healthy.grid, grid, acquisition, np.random.default_rng([settings.seed, 3]))
    hu = placed[..., 0] + AIR_HU
    spread = Spread(placed[..., 1] + FAR, placed[..., 2] + UNREACHABLE)
    share = grow(spread, grid, acquisition, settings.sah_volume_ml)
    blood = acquisition.sample(share, grid) >= 0.5

    progress.stage("scan")
    rng = np.random.default_rng([settings.seed, 4])
    beam, noise, density = rng.uniform(3, 6), rng.uniform(*NOISE_HU), float(rng.uniform(0.3, 0.7))
    clot = CLOT_HU[0] + (CLOT_HU[1] - CLOT_HU[0]) * np.clip(density + 0.3 * smooth_noise(rng, grid, 25), 0, 1)
    hu += share * (clot - hu)
    hu += beam_hardening(hu, grid, float(beam))
    slices = acquisition.sample(hu - AIR_HU, grid) + AIR_HU
    usual = noise * (5 / np.array(acquisition.thickness)) ** 0.35
    deviation = usual if settings.noise is None else np.full_like(usual, settings.noise)
    slices += deviation[:, None, None] * quantum_noise(rng, slices.shape, acquisition.pixel)
    values = np.clip(np.rint(slices), -1024, 3071).astype(np.int16)
    return SimulatedHead(settings, acquisition, values, blood.astype(np.uint8))


@lru_cache(maxsize=1)
def _head(seed: int) -> Anatomy:
    return build_head(np.random.default_rng([seed, 1]))


@lru_cache(maxsize=1)
def _patient(seed: int, site: str) -> tuple[Anatomy, Spread]:
    """Return a head in its own frame and how blood spreads in it; the last one is kept."""
    healthy = _head(seed)
    spread = spread_from(SITES[site], healthy.subarachnoid, healthy.grid, np.random.default_rng([seed, 2]))
    return healthy, spread


def plan(settings: HeadPhantom) -> Acquisition:
    """Return where the slices of these settings lie."""
    step, row, column = settings.spacing
    rows, columns = int(np.ceil(FIELD_OF_VIEW / row)), int(np.ceil(FIELD_OF_VIEW / column))
    count = max(1, int((HIGHEST - LOWEST) / step))
    if settings.size is not None:
        count, rows, columns = settings.size
    edges = (HIGHEST + LOWEST) / 2 + (np.arange(count + 1) - count / 2) * step
    if settings.base_step is not None:
        above = edges[edges >= min(0.0, edges[-1])]
        below = np.arange(above[0], edges[0] - settings.base_step / 2, -settings.base_step)
        edges = np.concatenate([below[:0:-1], above])
    heights = (edges[1:] + edges[:-1]) / 2 / np.cos(np.deg2rad(settings.tilt))
    return Acquisition(
        tuple(heights.tolist()), tuple(np.diff(edges).tolist()), (row, column), (rows, columns), settings.tilt
    )
