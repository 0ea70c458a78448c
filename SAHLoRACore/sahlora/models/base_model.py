"""Model files: safetensors whose header holds a JSON card; reading them safely; the models installed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from sahlora.errors import InputError
from sahlora.models.card import (
    BaseCard,
    NetworkSpec,
    Preprocessing,
    decode_card,
    encode,
    in_one_line,
)
from sahlora.models.header import card_kind, read_card_json
from sahlora.models.network import MultiViewUNet
from sahlora.models.registry import find
from sahlora.models.tensors import read_tensors, require_tensors, weights_sha256, write_tensors

C = TypeVar("C")


@dataclass(frozen=True)
class Model:
    """A base model ready to run: its card, network (in eval mode, float32) and the SHA-256 of its weights."""

    card: BaseCard
    network: MultiViewUNet
    sha256: str

    def for_inference(self) -> ViewModel:
        """Return what inference needs."""
        return ViewModel(self.network, self.card.preprocessing, 2**self.card.network.level)

    def facts(self) -> dict[str, str]:
        """Return the card's facts for a report."""
        about = self.card.description
        facts = {
            "name": about.title,
            "outlines": self.card.target.segment.name,
            "about": about.summary,
            "data": in_one_line(about.data),
            "limits": in_one_line(about.limits),
            "adapted from": _origin(self.card.training.get("merged_from")),
            "author": about.author,
            "license": about.license,
            "created": about.created,
            "SHA-256 of the weights": self.sha256,
        }
        return {key: value for key, value in facts.items() if value}


def _origin(merged: Any) -> str:
    """Say which base an adapter was merged into, and how strongly; empty if none was."""
    match merged:
        case {"base": str(base), "base_sha256": str(sha256), "strength": float() | int() as strength}:
            return f"{base}, SHA-256 {sha256}, at strength {strength:g}"
    return ""


# ------------------------------------------------------------------------------------------------ files


def save_model(path: Path, network: MultiViewUNet, card: BaseCard) -> None:
    """Write a base model."""
    write_tensors(path, network.state_dict(), encode(card))


def load_model(model: Path | str) -> Model:
    """Read a base model; everything is checked before anything is used.

    Parameters
    ----------
    model : Path or str
        A file, or as text the name of an installed base or the path of a file.

    Raises
    ------
    InputError
        As `read_tensors`, `sahlora.models.card.decode_card` and `require_tensors`, ``not-a-base``, or
        ``unknown-model``.
    """
    path = find(model, "base") if isinstance(model, str) else model
    card = read_base_card(path)
    with torch.device("meta"):
        expected = _build(card.network).state_dict()
    tensors = read_tensors(path)
    require_tensors(tensors, expected, path)
    network = _build(card.network)
    network.load_state_dict(tensors)
    return Model(card, network.eval(), weights_sha256(card.network, tensors))


def read_base_card(path: Path) -> BaseCard:
    """Read the card of a base model file."""
    return _read_card(path, BaseCard, "base", "not-a-base")


def _read_card(path: Path, card_type: type[C], kind: str, code: str) -> C:
    text = read_card_json(path)
    if card_kind(text) not in (kind, None):
        raise InputError(code, f"{path.name} is no {kind} model.", f"Give a file of kind “{kind}”.")
    return decode_card(card_type, text)


def _build(spec: NetworkSpec) -> MultiViewUNet:
    return MultiViewUNet(spec.level, spec.width, spec.in_channels, spec.out_channels)


# --------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class ViewModel:
    """What inference needs of a model: slices (N, C, H, W) → logits (N, 1, H, W).

    C is 1, or 3 where the preprocessing adds neighbors.

    Parameters
    ----------
    network : nn.Module
        In eval mode, adapters merged.
    preprocessing : Preprocessing
        As the model was trained with.
    multiple : int
        Height and width of slices are padded to multiples of this.
    """

    network: nn.Module
    preprocessing: Preprocessing
    multiple: int = 1
