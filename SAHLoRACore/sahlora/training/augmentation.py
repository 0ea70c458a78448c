"""Augmentations by name: MONAI transforms of single slices, or `RobustAugmentation` of whole batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
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
from monai.utils import convert_to_tensor
from torch import Tensor

from sahlora.errors import UsageError
from sahlora.inference.slicing import window
from sahlora.training.robust import RobustAugmentation

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


class Augmentation(Protocol):
    """What makes batches of a network's input of slices in HU."""

    def __call__(self, hu: Tensor, label: Tensor, seeds: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return images float32 (N, C, H, W) from 0 to 1 and labels uint8 (N, 1, H, W).

        Parameters
        ----------
        hu, label : Tensor (N, C, H, W)
            Slices with their neighbors; only the middle one's label is learned.
        seeds : sequence of tuple of int
            One for each slice: what is drawn for it depends on nothing else.
        """


class SliceAugmentation:
    """MONAI transforms, applied to one windowed slice after the other.

    Parameters
    ----------
    low_high : tuple of float
        Window in HU.
    transforms : Compose
    """

    def __init__(self, low_high: tuple[float, float], transforms: Compose) -> None:
        self._window, self._transforms = low_high, transforms

    def __call__(self, hu: Tensor, label: Tensor, seeds: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Transform each slice as its seed says."""
        images, labels = [], []
        middle = label.shape[1] // 2
        for image, mask, seed in zip(
            window(hu, self._window, (0.0, 1.0)), label[:, middle : middle + 1], seeds, strict=True
        ):
            self._transforms.set_random_state(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            data = self._transforms({"image": image, "label": mask})
            images.append(convert_to_tensor(data["image"], track_meta=False))
            labels.append(convert_to_tensor(data["label"], track_meta=False).to(torch.uint8))
        return torch.stack(images), torch.stack(labels)


def augmentation(name: str, low_high: tuple[float, float] = (0.0, 120.0)) -> Augmentation:
    """Return the augmentation of a preset, for a window in HU.

    Raises
    ------
    UsageError
        ``unknown-augmentation``.
    """
    if name == "robust":
        return RobustAugmentation(low_high)
    return SliceAugmentation(low_high, _transforms(name))


def _transforms(name: str) -> Compose:
    """Return transforms of ``image`` (C, H, W) in about [0, 1] and ``label`` (1, H, W).

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
        "unknown-augmentation", f"There is no augmentation “{name}”.", "Use none, paper, default or robust."
    )
