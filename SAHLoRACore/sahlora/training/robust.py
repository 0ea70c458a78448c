"""Augmentation of whole batches in HU: what scanners, bleeds and patients differ in, in a few operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sahlora.inference.slicing import window

ROTATION = math.radians(15)
USUAL_ZOOM, WIDE_ZOOM, WIDE_ZOOM_CHANCE = (0.88, 1.14), (0.7, 1.6), 0.35
STRETCH = 0.06
SHIFT_PIXELS = 12.0
ELASTIC_CHANCE, ELASTIC_CELL, ELASTIC_PIXELS = 0.3, 32, 1.6
LESION_CHANCE, LESION_HU = 0.5, (-15.0, 25.0)
"""How far the blood of a slice is moved, in HU, and how often."""
LESION_STAYS_HU = (40.0, 90.0)
"""Its mean is not moved beyond these."""
SCAN_HU, CONTRAST, TISSUE_HU = 8.0, 0.08, 35.0
"""The scan's shift, and the change of its contrast around tissue."""
GLARE_CHANCE, GLARE_HU, GLARE_PIXELS = 0.6, 50.0, (5, 9, 15)
"""What beam hardening and the kernel add beside bone: HU of a point within bone, and its reach."""
CUPPING_CHANCE, CUPPING_HU, CUPPING_POWER = 0.5, (-6.0, 16.0), (2.0, 6.0)
"""HU added at the skull, none in the middle of the head, and how steeply they rise."""
FIELD_HU = 3.0
"""Standard deviation of a smooth field."""
BONE_HU = 250.0
KERNEL_CHANCE, KERNEL = 0.4, (-0.35, 1.0)
"""From sharper to smoother than the scan."""
NOISE_CHANCE, NOISE_HU = 0.5, 7.0
GAMMA_CHANCE, GAMMA = 0.3, 1.25
MISSING_CHANCE = 0.08
"""Chance that a neighbor is not there, as at the ends of a scan."""
HU_RANGE = (-300.0, 600.0)


class RobustAugmentation:
    """Mirrors, turns, zooms and bends slices, changes blood, scan, kernel and noise, and then windows them.

    Parameters
    ----------
    low_high : tuple of float
        Window in HU.

    Notes
    -----
    All that is random about a slice is drawn from its own seed, so that a batch can be divided.
    """

    def __init__(self, low_high: tuple[float, float]) -> None:
        self._window = low_high

    def __call__(self, hu: Tensor, label: Tensor, seeds: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return images float32 (N, C, H, W) from 0 to 1 and labels uint8 (N, 1, H, W)."""
        draws = [np.random.default_rng(np.random.SeedSequence(seed)) for seed in seeds]
        hu, label = _moved(hu.clamp(*HU_RANGE), label, draws)
        hu = _with_other_blood(hu, label, draws)
        hu = _with_artifacts(hu, draws)
        hu = _with_other_scan(hu, draws)
        hu = _without_neighbors(hu, draws)
        image = window(hu, self._window, (0.0, 1.0))
        gamma = [GAMMA ** g.uniform(-1, 1) if g.random() < GAMMA_CHANCE else 1.0 for g in draws]
        middle = label.shape[1] // 2
        return image.pow_(_column(gamma)), label[:, middle : middle + 1].contiguous()


Draws = Sequence[np.random.Generator]


def _column(values: Sequence[float]) -> Tensor:
    """One value a slice, shaped to broadcast over (N, C, H, W)."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


def _moved(hu: Tensor, label: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Resample slices and labels where an affine map and a gentle bend take their pixels."""
    size = hu.shape[-2:]
    theta = torch.from_numpy(np.stack([_affine(g, size) for g in draws])).float()
    grid = F.affine_grid(theta, [len(hu), 1, *size], align_corners=False)
    grid = grid + _bends(draws, size)
    image = F.grid_sample(hu, grid, "bilinear", "border", align_corners=False)
    mask = F.grid_sample(label.float(), grid, "nearest", "zeros", align_corners=False)
    return image, mask.to(torch.uint8)


def _affine(g: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Draw the map from the result's pixels to the slice's, in coordinates from -1 to 1, (2, 3)."""
    angle = g.uniform(-ROTATION, ROTATION)
    zoom = np.exp(g.uniform(*np.log(WIDE_ZOOM if g.random() < WIDE_ZOOM_CHANCE else USUAL_ZOOM)))
    stretch = np.exp(g.uniform(-STRETCH, STRETCH))
    mirror = -1 if g.random() < 0.5 else 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([mirror / (zoom * stretch), stretch / zoom])
    shift = g.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, 2)
    half = np.array([size[1], size[0]]) / 2
    return np.concatenate([matrix * half / half[:, None], (shift / half)[:, None]], axis=1)


def _bends(draws: Draws, size: tuple[int, ...]) -> Tensor:
    """Draw displacements for some slices, (N, H, W, 2) in coordinates from -1 to 1."""
    cells = [n // ELASTIC_CELL + 2 for n in size]
    coarse = np.zeros((len(draws), 2, *cells), np.float32)
    for i, g in enumerate(draws):
        if g.random() < ELASTIC_CHANCE:
            coarse[i] = g.normal(0, ELASTIC_PIXELS, coarse.shape[1:])
    fine = F.interpolate(torch.from_numpy(coarse), size=size, mode="bicubic", align_corners=True)
    return fine.movedim(1, -1) * torch.tensor([2 / size[1], 2 / size[0]])


def _with_other_blood(hu: Tensor, label: Tensor, draws: Draws) -> Tensor:
    """Make the blood of some slices denser or fainter; its edge stays as soft as it is."""
    blood = (label == 1).float()
    if not blood.any():
        return hu
    middle = label.shape[1] // 2
    change = []
    for i, g in enumerate(draws):
        wanted = g.uniform(*LESION_HU) if g.random() < LESION_CHANCE else 0.0
        inside = hu[i, middle][label[i, middle] == 1]
        mean = float(inside.mean()) if len(inside) else 0.0
        low, high = (bound - mean for bound in LESION_STAYS_HU)
        change.append(float(np.clip(wanted, min(low, 0), max(high, 0))) if len(inside) else 0.0)
    return hu + _column(change) * F.avg_pool2d(blood, 3, 1, 1)


def _with_artifacts(hu: Tensor, draws: Draws) -> Tensor:
    """Add what other scanners leave: glare beside bone, cupping, a smooth field; none of it is blood."""
    size = hu.shape[-2:]
    bone = (hu > BONE_HU).float()
    y, x = (torch.linspace(-1, 1, n) for n in size)
    radius = torch.sqrt(y[:, None] ** 2 + x[None, :] ** 2).clamp(max=1)
    coarse = np.zeros((len(draws), 1, 4, 4), np.float32)
    glare, cupping = torch.zeros_like(hu[:, :1]), torch.zeros_like(hu[:, :1])
    for i, g in enumerate(draws):
        coarse[i] = g.normal(0, FIELD_HU * g.random(), coarse.shape[1:])
        if g.random() < GLARE_CHANCE:
            reach = int(g.choice(GLARE_PIXELS))
            spread = bone[i : i + 1, hu.shape[1] // 2][None]
            for _ in range(2):
                spread = F.avg_pool2d(spread, reach, 1, reach // 2)
            glare[i] = float(g.uniform(0, GLARE_HU)) * spread[0]
        if g.random() < CUPPING_CHANCE:
            cupping[i, 0] = float(g.uniform(*CUPPING_HU)) * radius ** float(g.uniform(*CUPPING_POWER))
    field = F.interpolate(torch.from_numpy(coarse), size=size, mode="bicubic", align_corners=True)
    return hu + glare + cupping + field


def _with_other_scan(hu: Tensor, draws: Draws) -> Tensor:
    """Change HU as other scanners, kernels and doses would."""
    shift = _column([g.uniform(-SCAN_HU, SCAN_HU) for g in draws])
    contrast = _column([1 + g.uniform(-CONTRAST, CONTRAST) for g in draws])
    kernel = _column([g.uniform(*KERNEL) if g.random() < KERNEL_CHANCE else 0.0 for g in draws])
    hu = (hu - TISSUE_HU) * contrast + (TISSUE_HU + shift)
    smooth = F.avg_pool2d(F.avg_pool2d(F.pad(hu, (2, 2, 2, 2), mode="replicate"), 3, 1), 3, 1)
    hu = hu + kernel * (smooth - hu)
    noise = torch.zeros_like(hu)
    for i, g in enumerate(draws):
        if g.random() < NOISE_CHANCE:
            generator = torch.Generator().manual_seed(int(g.integers(2**62)))
            noise[i].normal_(0, float(g.uniform(0, NOISE_HU)), generator=generator)
    return hu + noise


def _without_neighbors(hu: Tensor, draws: Draws) -> Tensor:
    """Put slices themselves in the place of some of their neighbors."""
    middle = hu.shape[1] // 2
    for i, g in enumerate(draws):
        for channel in range(hu.shape[1]):
            if channel != middle and g.random() < MISSING_CHANCE:
                hu[i, channel] = hu[i, middle]
    return hu
