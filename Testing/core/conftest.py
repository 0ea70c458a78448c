"""What several tests share: a simple head, a network that thresholds HU, the command as a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sahlora.models.base_model import save_model
from sahlora.models.card import (
    INTRACRANIAL_HEMORRHAGE,
    BaseCard,
    Description,
    NetworkSpec,
    Preprocessing,
    Target,
)
from sahlora.models.network import MultiViewUNet

CORE = Path(__file__).resolve().parents[2] / "SAHLoRACore"
Spacing = tuple[float, float, float]


def simple_head(shape: tuple[int, int, int], spacing: Spacing) -> np.ndarray:
    """Return HU int16 (Z, Y, X): air, a shell of bone, brain, and two lesions of 70 HU."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    reach = [n * mm / 2 for n, mm in zip(shape, spacing, strict=True)]
    radius = np.sqrt((z / (reach[0] * 1.1)) ** 2 + (y / (reach[1] * 0.8)) ** 2 + (x / (reach[2] * 0.75)) ** 2)
    hu = np.full(shape, -1000, dtype=np.int16)
    hu[radius < 1] = 1000
    hu[radius < 0.88] = 30
    for center, size in (((0.1, -0.2, 0.25), 0.18), ((-0.2, 0.25, -0.1), 0.11)):
        distance = sum(
            ((a - c * r) / (size * r)) ** 2 for a, c, r in zip((z, y, x), center, reach, strict=True)
        )
        hu[distance < 1] = 70
    noise = np.random.default_rng(0).normal(0, 3, shape)
    return np.where(hu > -1000, hu + noise, hu).round().astype(np.int16)


class HUThreshold(nn.Module):
    """The golden network: a logit that is certain above 50 and below 90 HU. Input must be in HU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x > 50) & (x < 90), 20.0, -20.0).to(x.dtype)


HU_PREPROCESSING = Preprocessing(
    window=(-1024.0, 3000.0),
    intensity_range=(-1024.0, 3000.0),
    spacing=None,
    views=("axial", "coronal", "sagittal"),
)


def random_network(seed: int = 0, level: int = 2, width: int = 8) -> MultiViewUNet:
    """Return a network whose output varies over the image, with lively BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MultiViewUNet(level, width)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def random_card(level: int = 2, width: int = 8, **preprocessing: Any) -> BaseCard:
    return BaseCard(
        Description("random network", data=("nothing",)),
        Target(INTRACRANIAL_HEMORRHAGE),
        NetworkSpec(level=level, width=width),
        Preprocessing(**preprocessing),
    )


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    """A small model file with random weights for all three views, at 2 mm."""
    path = tmp_path / "random.safetensors"
    save_model(path, random_network(), random_card(spacing=2.0, views=("axial", "coronal", "sagittal")))
    return path


@pytest.fixture
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the user's models."""
    folder = tmp_path / "user models é"
    monkeypatch.setenv("SAHLORA_MODELS", str(folder))
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CORE), "PYTHONUTF8": "1"}


def sahlora(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a child process and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "sahlora", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", env=environment(), timeout=300, **options,
    )  # fmt: skip


def start_sahlora(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command in a child process with JSON events on standard output."""
    return subprocess.Popen(
        [sys.executable, "-m", "sahlora", *map(str, arguments), "--progress", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment(),
    )  # fmt: skip


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def real_data(*parts: str) -> Path:
    """Return a path in the folder named by SAHLORA_DATA, or skip the test, saying so."""
    root = os.environ.get("SAHLORA_DATA")
    if not root:
        pytest.skip("needs real CT: SAHLORA_DATA names no folder")
    path = Path(root).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs real CT: {Path(*parts)} is not in the folder that SAHLORA_DATA names")
    return path
