"""Models that see the slices below and above: what they are shown, and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import HU_PREPROCESSING
from sahlora.adapters.attach import adapt, collect
from sahlora.adapters.config import AdapterConfig
from sahlora.errors import InputError
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import Volume
from sahlora.inference.predictor import InferenceSettings, predict
from sahlora.inference.slicing import neighbor_indices, neighbor_offset
from sahlora.models.adapter_file import Adapter, AdapterCard, load_adapter, merged_model, save_adapter
from sahlora.models.base_model import ViewModel, load_model, save_model
from sahlora.models.card import (
    BaseCard,
    Description,
    NetworkSpec,
    Preprocessing,
    Target,
    decode,
    encode,
)
from sahlora.models.network import MultiViewUNet

SPEC = NetworkSpec(level=1, width=4, in_channels=3)
CARD = BaseCard(
    Description("test"), Target(INTRACRANIAL_HEMORRHAGE), SPEC, Preprocessing(spacing=None, neighbors=5.0)
)


class Channels(nn.Module):
    """Remembers what it and its copies are shown, and finds nothing."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.remember = seen.append

    def forward(self, x: Tensor) -> Tensor:
        self.remember(x)
        return torch.full_like(x[:, :1], -9)


@pytest.mark.parametrize(("spacing", "offset"), [(5.0, 1), (2.5, 2), (1.0, 5), (8.0, 1)])
def test_neighbors_are_those_at_the_distance_on_the_card(spacing: float, offset: int) -> None:
    """Each slice holds its own number; the ends are their own neighbors."""
    hu = np.broadcast_to(np.arange(1, 13, dtype=np.int16)[:, None, None], (12, 40, 40)).copy()
    hu[:, 5:35, 5:35] += 400
    seen: list[Tensor] = []
    preprocessing = replace(HU_PREPROCESSING, spacing=None, neighbors=5.0, window=(0.0, 1000.0))
    low, high = preprocessing.intensity_range
    model = ViewModel(Channels(seen), preprocessing)
    settings = InferenceSettings(("axial",), batch_size=5, precision="float32")
    predict(Volume.from_array(hu, (spacing, 1, 1)), {"axial": model}, settings)
    shown = torch.cat(seen)[:, :, 20, 20]
    numbers = ((shown - low) / (high - low) * 1000 - 400).round().int()
    expected = 1 + neighbor_indices(np.arange(12), offset, 12)
    assert numbers.tolist() == expected.tolist()
    assert neighbor_offset(5.0, spacing) == offset


def test_a_base_with_neighbors_is_written_and_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "base.safetensors", MultiViewUNet(1, 4, 3), CARD)
    read = load_model(tmp_path / "base.safetensors")
    assert read.card == CARD and read.card.format_version == 2
    assert read.network.in_channels == 3


def test_a_card_without_neighbors_stays_what_older_software_reads() -> None:
    plain = replace(CARD, network=NetworkSpec(level=1, width=4), preprocessing=Preprocessing())
    content = json.loads(encode(plain))
    assert content["format_version"] == 1 and "neighbors" not in content["preprocessing"]
    assert decode(BaseCard, encode(plain)) == plain


@pytest.mark.parametrize(("channels", "neighbors"), [(1, 5.0), (3, None), (2, 5.0)])
def test_channels_and_neighbors_that_do_not_fit_are_refused(channels: int, neighbors: float | None) -> None:
    with pytest.raises(InputError) as caught:
        replace(
            CARD,
            network=NetworkSpec(level=1, width=4, in_channels=channels),
            preprocessing=Preprocessing(neighbors=neighbors),
        )
    assert caught.value.code == "bad-card"


def test_an_adapter_of_all_layers_of_such_a_base_is_written_read_and_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "base.safetensors", MultiViewUNet(1, 4, 3), CARD)
    base = load_model(tmp_path / "base.safetensors")
    config = AdapterConfig("cp-lora", 2, scope="all")
    network = load_model(tmp_path / "base.safetensors").network
    adapt(network, config)
    card = AdapterCard(Description("a"), CARD.target, base.sha256, "test", SPEC, {"axial": config})
    save_adapter(tmp_path / "adapter.safetensors", Adapter(card, {"axial": collect(network)}))
    adapter = load_adapter(tmp_path / "adapter.safetensors")
    assert adapter.card.format_version == 2
    merged = merged_model(adapter, base, "axial")
    stack = torch.rand(1, 3, 8, 8)
    assert torch.equal(merged.network(stack), base.network(stack))
