"""Augmentations by name, made of MONAI transforms on dictionaries of ``image`` and ``label`` (C, H, W)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import set_track_meta
from monai.transforms import (
    Compose,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from sahlora.errors import UsageError

BOTH = ("image", "label")
MODES = ("bilinear", "nearest")
PADDING = ("border", "zeros")


class RandPublishedElasticd(RandomizableTransform):
    """Elastic deformation of the published pipeline: smoothed uniform noise, about 0.1 pixel.

    Noise U(−1, 1), Gaussian of σ 4 pixels, times 5/size in coordinates that run from −1 to 1.
    """

    SIGMA = 4.0

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__(prob)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Deform image (linear) and label (nearest) alike."""
        self.randomize(None)
        if not self._do_transform:
            return data
        _, height, width = data["image"].shape
        noise = torch.from_numpy(self.R.uniform(-1, 1, (2, 1, height, width))).float()
        radius = math.ceil(4 * self.SIGMA)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / self.SIGMA) ** 2)
        kernel = kernel / kernel.sum()
        smooth = F.conv2d(
            F.conv2d(noise, kernel[None, None, :, None], padding="same"),
            kernel[None, None, None],
            padding="same",
        )
        scale = torch.tensor([5 / width, 5 / height])
        identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)
        grid = identity + smooth[:, 0].permute(1, 2, 0)[None] * scale
        return {
            key: F.grid_sample(data[key][None].float(), grid, mode, padding, align_corners=False)[0].to(
                data[key].dtype
            )
            for key, mode, padding in zip(BOTH, MODES, PADDING, strict=True)
        }


def augmentation(name: str) -> Compose:
    """Return the augmentation of a preset; images are in the network's range, about [0, 1].

    Raises
    ------
    UsageError
        ``unknown-augmentation``.
    """
    set_track_meta(False)  # plain tensors give the same slices in four fifths of the time
    match name:
        case "none":
            return Compose([])
        case "paper":
            return Compose([RandPublishedElasticd(0.5), RandFlipd(BOTH, 0.5, spatial_axis=1)])
        case "default":
            return Compose(
                [
                    RandFlipd(BOTH, 0.5, spatial_axis=1),
                    RandAffined(
                        BOTH,
                        prob=0.8,
                        rotate_range=math.radians(12),
                        scale_range=(0.12, 0.12),
                        translate_range=(12, 12),
                        mode=MODES,
                        padding_mode=PADDING,
                    ),
                    Rand2DElasticd(
                        BOTH,
                        spacing=(32, 32),
                        magnitude_range=(0.5, 2.0),
                        prob=0.2,
                        mode=MODES,
                        padding_mode=PADDING,
                    ),
                    RandScaleIntensityd("image", 0.1, prob=0.5),
                    RandShiftIntensityd("image", 0.04, prob=0.5),
                    RandAdjustContrastd("image", prob=0.2, gamma=(0.8, 1.25)),
                    RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), prob=0.2),
                    RandGaussianNoised("image", prob=0.5, std=0.03),
                ]
            )
    raise UsageError(
        "unknown-augmentation", f"There is no augmentation “{name}”.", "Use none, paper or default."
    )
