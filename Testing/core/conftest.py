"""Fixtures that several folders use."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import random_card, random_network
from sahlora.models.base_model import save_model


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
