"""The spaces of cerebrospinal fluid in a real head CT: where blood can go, told from HU and a prior.

The patient's own HU decide where fluid is; the phantom's cisterns and ventricles, carried to the patient by
`sahlora.simulation.registration`, decide how little of it is believed and what is a ventricle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from sahlora.errors import InputError
from sahlora.simulation.fields import Array, Grid, averaging, resample
from sahlora.simulation.phantom import AVERAGE, cisterns, fissures, ventricles
from sahlora.simulation.registration import MODEL, HeadFrame, fit_head_frame
from sahlora.simulation.scanner import Acquisition
from sahlora.simulation.skull import cavity_of

TISSUE_HU = (-15.0, 75.0)
"""HU of what can be brain or fluid: below is fat or air, above bone, calcification or clot."""
CSF_HU = (2.0, 12.0)
SMOOTHING_MM = 0.9
AROUND_MM = 9.0
"""Reach of the average that tells the HU of the tissue around a voxel."""
LEAST_FLUID = (0.20, 0.28, 0.38, 0.60)
"""Fluid from which a voxel belongs to a space: in a cistern, a fissure, a sulcus, deep in the brain."""
SULCI_MM = 26.0
"""Depth below the inner table that sulci reach."""
SMALLEST_ML = 5.0
SMALLEST_PIECE_MM3 = 120
"""Pieces of space smaller than this are noise."""


@dataclass(frozen=True)
class Spaces:
    """What of a real head a bleed needs to know, on one even grid.

    Attributes
    ----------
    grid : Grid
        Grid of 1 mm in the frame of the slices.
    frame : HeadFrame
        Where the phantom's head lies in this one.
    hu : array (Z, Y, X) of float32
        HU without most of the noise.
    fluid : array (Z, Y, X) of float32
        Fraction of CSF in each voxel.
    csf : float
        HU of CSF.
    depth : array (Z, Y, X) of float32
        Distance in mm to the wall of the skull's cavity; 0 outside.
    subarachnoid, ventricles : array (Z, Y, X) of float32
        Signed distance in mm to the wall of the spaces, negative inside.
    """

    grid: Grid
    frame: HeadFrame
    hu: Array
    fluid: Array
    csf: float
    depth: Array
    subarachnoid: Array
    ventricles: Array


def find_spaces(hu: Array, acquisition: Acquisition) -> Spaces:
    """Find the spaces of CSF in a head CT.

    Parameters
    ----------
    hu : array (Z, Y, X)
        Slices bottom up, rows towards posterior, columns towards left.
    acquisition : Acquisition
        Where they lie; without tilt.

    Raises
    ------
    InputError
        ``no-fit`` if no head is recognized; ``no-csf`` if less than 5 mL of fluid are seen.
    """
    grid, fine = _upsampled(hu, acquisition)
    tissue = (fine > TISSUE_HU[0]) & (fine < TISSUE_HU[1])
    away_from_bone = ndimage.minimum_filter(tissue, 5)
    rough = np.clip((26 - ndimage.gaussian_filter(fine, 1.0)) / 18, 0, 1) * away_from_bone
    frame = fit_head_frame(fine, rough, grid)

    cavity = frame.carry(cavity_of(np.random.default_rng(0), MODEL), MODEL, grid, 50.0)
    inside = _connected(tissue & (cavity < 5), grid)
    smooth = _average(fine, inside, SMOOTHING_MM / grid.step)
    prior_fissures = frame.carry(fissures(MODEL, 1.5, 1.5), MODEL, grid, 50.0)
    prior_cisterns = frame.carry(cisterns(MODEL, AVERAGE), MODEL, grid, 12.0)
    prior_ventricles = frame.carry(ventricles(MODEL, AVERAGE), MODEL, grid, 12.0)

    core = inside & (cavity < -3)
    csf = float(np.clip(np.percentile(smooth[core], 1), *CSF_HU))
    around = _average(smooth, core & (smooth > 22) & (smooth < 50), AROUND_MM / grid.step)
    fluid = np.clip((around - smooth) / np.maximum(around - csf, 10), 0, 1) * inside
    if (fluid[core] > 0.5).sum() * grid.step**3 / 1000 < SMALLEST_ML:
        raise InputError(
            "no-csf",
            f"Less than {SMALLEST_ML:g} mL of cerebrospinal fluid are seen in this head.",
            "Take a CT in HU in which cisterns or sulci can be told from brain.",
        )
    filled = ndimage.binary_fill_holes(inside)  # of the holes that calcifications leave
    depth = np.maximum(-_distance_to(filled, grid), 0)
    level = np.where(inside, _least_fluid(depth, prior_cisterns, prior_fissures) - fluid, np.float32(0.5))
    space = _distance(_without_specks(level, grid), grid)
    ventricle = _ventricular(fluid, space, prior_ventricles, prior_cisterns, depth, grid)
    apart = np.maximum(space, 1.5 - ventricle)
    apart = _without_pockets(apart, (depth < 6) | (prior_cisterns < 2))
    return Spaces(grid, frame, smooth, fluid, csf, depth, apart, ventricle)


def _upsampled(hu: Array, acquisition: Acquisition) -> tuple[Grid, Array]:
    """Bring slices to an even grid of 1 mm, averaging pixels and interpolating between slices."""
    row, column = acquisition.pixel
    rows, columns = acquisition.size
    heights, thickness = np.array(acquisition.heights), np.array(acquisition.thickness)
    low = (-(columns - 1) / 2 * column, -(rows - 1) / 2 * row, float(heights[0] - thickness[0] / 2 + 0.5))
    high = (-low[0], -low[1], float(heights[-1] + thickness[-1] / 2 - 0.5))
    grid = Grid.spanning(low, high)
    at = np.interp(grid.axis(2), heights, np.arange(len(heights)))
    step = float(np.median(thickness))
    along_z = averaging(at, max(grid.step / step, 0.05) if step < grid.step else 0.05, len(heights))
    along_z /= along_z.sum(axis=1, keepdims=True)
    along_y = averaging((grid.axis(1) - low[1]) / row, max(grid.step / row, 0.05), rows)
    along_x = averaging((grid.axis(0) - low[0]) / column, max(grid.step / column, 0.05), columns)
    return grid, resample(np.clip(hu, -1000, 1500).astype(np.float32), along_z, along_y, along_x)


def _average(values: Array, where: Array, sigma: float) -> Array:
    """Gaussian average over the voxels that count."""
    weight = where.astype(np.float32)
    total = ndimage.gaussian_filter(values * weight, sigma, truncate=3)
    return total / np.maximum(ndimage.gaussian_filter(weight, sigma, truncate=3), 1e-3)


def _connected(soft: Array, grid: Grid) -> Array:
    """Keep the largest piece of soft tissue, cut where it is narrower than some 4 mm."""
    labels, count = ndimage.label(_distance_to(soft, grid) < -1.5)
    if count == 0:
        raise InputError(
            "no-brain", "No brain was found inside a skull.", "Give a CT of the whole head in HU."
        )
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    core = labels == sizes.argmax()
    return soft & (_distance_to(core, grid) <= 3.5)


def _least_fluid(depth: Array, prior_cisterns: Array, prior_fissures: Array) -> Array:
    """Fraction of fluid from which a voxel belongs to a space."""
    cistern, fissure, sulcus, deep = LEAST_FLUID
    least = sulcus + (deep - sulcus) * np.clip((depth - SULCI_MM) / 8, 0, 1)
    for prior, lowered in ((prior_fissures, fissure), (prior_cisterns, cistern)):
        near = np.clip(1 - (prior - 1) / 7, 0, 1)
        least += near * np.minimum(lowered - least, 0)
    return least


def _without_specks(level: Array, grid: Grid) -> Array:
    labels, _ = ndimage.label(level < 0)
    small = np.bincount(labels.ravel()) * grid.step**3 < SMALLEST_PIECE_MM3
    small[0] = False
    return np.where(small[labels], np.float32(0.1), level).astype(np.float32)


def _distance(level: Array, grid: Grid) -> Array:
    """Signed distance in mm to where `level` crosses 0, to first order exact within a voxel of it."""
    far = _distance_to(level < 0, grid) - grid.step / 2
    steepness = np.sqrt(sum(np.square(g) for g in np.gradient(level, grid.step)))
    near = np.clip(level / np.maximum(steepness, 0.05), -grid.step, grid.step)
    return np.where(np.abs(far) < grid.step, near, far).astype(np.float32)


def _ventricular(
    fluid: Array, space: Array, prior_ventricles: Array, prior_cisterns: Array, depth: Array, grid: Grid
) -> Array:
    """Signed distance to the ventricles: fluid that a front from them reaches before one from outside."""
    wet = fluid > 0.5
    from_inside = wet & (prior_ventricles < 0) & (prior_cisterns > 2)
    from_outside = wet & ((depth < 12) | (prior_cisterns < -0.5)) & (prior_ventricles > 5)
    speed = np.where(space < 1, np.clip(fluid, 0.02, 1) ** 2, 0.0).astype(np.float32)
    inner, outer = (_arrival(speed, seeds, grid) for seeds in (from_inside, from_outside))
    belongs = (inner < outer) & (prior_ventricles < 16)
    return np.where(belongs, space, np.maximum(space, _distance_to(belongs, grid)))


def _without_pockets(distance: Array, outlets: Array) -> Array:
    """Close what no way of the space's own leads to: temporal horns, cysts, old infarcts."""
    labels, count = ndimage.label(distance < 0.7)
    open_ = np.zeros(count + 1, bool)
    open_[np.unique(labels[outlets])] = True
    open_[0] = True
    return np.where(open_[labels], distance, np.float32(5))


def _distance_to(mask: Array, grid: Grid) -> Array:
    """Signed distance in mm to the border of a mask, negative inside; far away of an empty one."""
    if not mask.any():
        return np.full(mask.shape, 50, np.float32)
    image = grid.image(mask.astype(np.uint8))
    return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, False, False, True))


def _arrival(speed: Array, seeds: Array, grid: Grid) -> Array:
    """First-arrival time of a front from many points."""
    if not seeds.any():
        return np.full(speed.shape, np.inf)
    marching = sitk.FastMarchingImageFilter()
    marching.SetTrialPoints([tuple(int(i) for i in point[::-1]) for point in np.argwhere(seeds)])
    return sitk.GetArrayFromImage(marching.Execute(grid.image(speed)))
