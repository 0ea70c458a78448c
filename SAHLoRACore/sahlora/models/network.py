"""MultiViewUNet: a small 2D U-Net whose skip connections look at several dilations ("views").

Architecture after Yao et al. 2020 (doi 10.1016/j.artmed.2020.101910), as used for the study of LoRA on
aneurysmal SAH (Minoccheri et al. 2026, doi 10.1186/s12880-025-02116-y).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm_relu(in_channels: int, out_channels: int, dilation: int = 1) -> list[nn.Module]:
    """Return a "same" 3×3 convolution with bias, BatchNorm and ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class DoubleConv(nn.Sequential):
    """Two 3×3 convolutions, (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            *conv_norm_relu(in_channels, out_channels), *conv_norm_relu(out_channels, out_channels)
        )


class DilatedConv(nn.Sequential):
    """Three 3×3 convolutions of dilation 1, 2, 4 beside their input, (N, C, H, W) → (N, 2C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            *(layer for dilation in (1, 2, 4) for layer in conv_norm_relu(channels, channels, dilation))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the input with its dilated view."""
        return torch.cat([x, super().forward(x)], dim=1)


class Down(nn.Module):
    """One level down: (N, C, H, W) → (N, C, H/2, W/2), with a skip (N, 2C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = DoubleConv(channels, channels)
        self.skip = DilatedConv(channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled features and the skip, which views the block's input."""
        return self.pool(self.conv(x)), self.skip(x)


class Up(nn.Module):
    """One level up: (N, in, H, W) and a skip (N, 2C, 2H, 2W) → (N, 3C, 2H, 2W)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = DoubleConv(in_channels, channels)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Convolve, double the size and join the skip."""
        return torch.cat([self.upsample(self.conv(x)), skip], dim=1)


class MultiViewUNet(nn.Module):
    """2D U-Net with dilated skip connections; one logit a pixel.

    Parameters
    ----------
    level : int
        Number of times the image is halved; 2 (232,737 parameters) and 4 (399,969) are the published sizes.
    width : int
        Channels of every convolution, 32 in the published network.
    in_channels, out_channels : int
        Channels of the input slice and number of logits.

    Notes
    -----
    Height and width of the input must be multiples of ``2 ** level``: pad, never stretch.
    """

    def __init__(self, level: int = 2, width: int = 32, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        if min(level, width, in_channels, out_channels) < 1:
            raise ValueError("level, width and channels are at least 1")
        self.level, self.width = level, width
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stem = DoubleConv(in_channels, width)
        self.downs = nn.ModuleList(Down(width) for _ in range(level))
        self.bottleneck = DilatedConv(width)
        self.ups = nn.ModuleList(Up(2 * width if i == 0 else 3 * width, width) for i in range(level))
        self.head = nn.Sequential(
            *conv_norm_relu(3 * width, width),
            *conv_norm_relu(width, width),
            nn.Conv2d(width, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map slices (N, in_channels, H, W) to logits (N, out_channels, H, W)."""
        factor = 2**self.level
        if x.shape[-1] % factor or x.shape[-2] % factor:
            raise ValueError(f"height and width must be multiples of {factor}, not {tuple(x.shape[-2:])}")
        x = self.stem(x)
        skips = []
        for down in self.downs:
            x, skip = down(x)
            skips.append(skip)
        x = self.bottleneck(x)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.head(x)

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """Name the module prefixes of each part that can be fine-tuned or adapted alone."""
        encoder = ("stem", *(f"downs.{i}.conv" for i in range(self.level)))
        return {
            "shallow": ("stem", "head"),
            "deep": (f"downs.{self.level - 1}.conv", "ups.0.conv"),
            "encoding": encoder,
            "decoding": (*(f"ups.{i}.conv" for i in range(self.level)), "head"),
            "all": ("stem", "downs", "bottleneck", "ups", "head"),
        }


def initialize_as_published(network: nn.Module) -> None:
    """Draw initial weights as the published pipeline does: Xavier normal of gain 0.02, norms N(1, 0.02)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight, gain=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


# --------------------------------------------------------------- checkpoints of the published pipeline
