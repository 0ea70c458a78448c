"""Adapter files: the adapters of a base, one for each view, in one safetensors file with a card."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sahlora.adapters.attach import activate, adapt, load, merge
from sahlora.adapters.config import AdapterConfig
from sahlora.adapters.scope import STATISTICS, state_shapes, unused_patterns
from sahlora.errors import InputError, UsageError
from sahlora.imaging.planes import View
from sahlora.models.base_model import Model, load_model
from sahlora.models.card import Description, NetworkSpec, Plain, Target, decode_card, encode, require_version
from sahlora.models.header import AGAIN, LARGEST_HEADER, card_kind, read_card_json
from sahlora.models.network import MultiViewUNet
from sahlora.models.registry import find, installed
from sahlora.models.tensors import read_tensors, require_tensors, weights_sha256, write_tensors

LEAST_STRENGTH = 0.01
MOST_BATCHES = 2**31


@dataclass(frozen=True)
class AdapterCard:
    """Card of an adapter file.

    Parameters
    ----------
    description : Description
        Words for people.
    target : Target
        What the adapted model outlines.
    base_sha256 : str
        `Model.sha256` of the base it belongs to.
    base_title : str
        What that base is called.
    network : NetworkSpec
        The base's network, so that every shape can be checked without the base.
    adapters : dict of View to AdapterConfig
        Settings of each view's adapter.
    training : dict
        Record of the training; never a name, path or identifier of a patient.
    strength : float
        w of W + w·(W' − W): how far each weight goes from the base, 0, to what was trained, 1. In between, a
        fine-tuned network keeps more of what its base knew (Wortsman et al. 2022, arXiv 2109.01903).

    Raises
    ------
    UsageError
        ``bad-strength`` unless it is from `LEAST_STRENGTH` to 1.
    """

    description: Description
    target: Target
    base_sha256: str
    base_title: str
    network: NetworkSpec
    adapters: dict[View, AdapterConfig]
    training: dict[str, Plain] = field(default_factory=dict)
    strength: float = 1.0
    kind: Literal["adapter"] = "adapter"
    format_version: int = 1

    def __post_init__(self) -> None:
        require_strength(self.strength)
        require_version(self)


def require_strength(strength: float) -> None:
    """Check that a strength lies between base and trained adapter.

    Raises
    ------
    UsageError
        ``bad-strength``.
    """
    if not LEAST_STRENGTH <= strength <= 1:
        raise UsageError(
            "bad-strength",
            f"An adapter can't have the strength {strength}.",
            f"Give one from {LEAST_STRENGTH} to 1.",
        )


@dataclass(frozen=True)
class Adapter:
    """What an adapter file holds: its card and, by view, tensors as `adapters.attach.collect` gives them."""

    card: AdapterCard
    states: dict[View, dict[str, Tensor]]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(
            tensor.numel()
            for state in self.states.values()
            for key, tensor in state.items()
            if key.rpartition(".")[2] not in STATISTICS
        )


def save_adapter(path: Path, adapter: Adapter) -> None:
    """Write an adapter file, in one piece or not at all.

    Raises
    ------
    InputError
        ``wrong-tensors`` or ``not-finite`` if the tensors are not those the card describes.
    """
    tensors = {f"{view}.{key}": t.float() if t.is_floating_point() else t
               for view, state in adapter.states.items() for key, t in state.items()}  # fmt: skip
    require_tensors(tensors, _expected(adapter.card), path)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InputError("not-finite", "The adapter holds NaN or infinity.", "Its training diverged.")
    write_tensors(path, tensors, encode(adapter.card))


def read_adapter_card(path: Path) -> AdapterCard:
    """Read the card of an adapter file, nothing else.

    Raises
    ------
    InputError
        ``not-found``, ``not-a-model``, ``no-card``, ``not-an-adapter``, ``bad-card`` or ``newer-format``.
    """
    text = read_card_json(path)
    if card_kind(text) not in ("adapter", None):
        raise InputError("not-an-adapter", f"{path.name} is no adapter.", "Give a file of kind “adapter”.")
    try:
        card = decode_card(AdapterCard, text)
    except UsageError as error:
        raise InputError(
            "bad-card", f"{path.name}: {error.message}", "Get the file again from its author."
        ) from None
    if not card.adapters:
        raise InputError("bad-card", f"{path.name} holds no adapter.", "Get the file again from its author.")
    return card


def load_adapter(adapter: Path | str) -> Adapter:
    """Read an adapter file; every name, shape and number is checked before anything is used.

    Parameters
    ----------
    adapter : Path or str
        A file, or as text the name of an installed adapter or the path of a file.

    Raises
    ------
    InputError
        As `read_adapter_card`, ``wrong-tensors``, ``not-finite``, or ``unknown-model``.
    """
    path = find(adapter, "adapter") if isinstance(adapter, str) else adapter
    card = read_adapter_card(path)
    expected = _expected(card)
    if path.stat().st_size > LARGEST_HEADER + 8 * sum(tensor.numel() for tensor in expected.values()):
        raise InputError(
            "wrong-tensors", f"{path.name} is larger than what its card describes.", "Get it again."
        )
    tensors = read_tensors(path)
    require_tensors(tensors, expected, path)
    counts = [tensor for tensor in tensors.values() if not tensor.is_floating_point()]
    if not all(int(count.min()) >= 0 and int(count.max()) < MOST_BATCHES for count in counts):
        raise InputError("wrong-tensors", f"{path.name} counts more batches than a training has.", AGAIN)
    states: dict[View, dict[str, Tensor]] = {view: {} for view in card.adapters}
    for view, state in states.items():
        prefix = f"{view}."
        state |= {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return Adapter(card, states)


def _expected(card: AdapterCard) -> dict[str, Tensor]:
    """Describe each tensor of the file, without memory for its values."""
    with torch.device("meta"):
        spec = card.network
        network = MultiViewUNet(spec.level, spec.width, spec.in_channels, spec.out_channels)
    try:
        if unused := [p for config in card.adapters.values() for p in unused_patterns(network, config)]:
            raise UsageError("bad-card", f"the pattern {unused[0]!r:.80} decides nothing.", "Leave it out.")
        shapes = {f"{view}.{key}": shape for view, config in card.adapters.items()
                  for key, shape in state_shapes(network, config).items()}  # fmt: skip
    except UsageError as error:
        raise InputError(
            "bad-card", f"The adapter's card can't be used: {error.message}", error.hint
        ) from None
    integer = "num_batches_tracked"
    return {
        key: torch.empty(shape, device="meta", dtype=torch.int64 if key.endswith(integer) else torch.float32)
        for key, shape in shapes.items()
    }


# --------------------------------------------------------------------------------------------- with a base


def require_base(card: AdapterCard, model: Model) -> None:
    """Check that an adapter belongs to this base.

    Raises
    ------
    InputError
        ``other-base``.
    """
    if card.base_sha256 != model.sha256:
        raise InputError(
            "other-base",
            f"This adapter belongs to the base “{card.base_title:.80}” ({card.base_sha256[:12]}), "
            f"not to “{model.card.description.title:.80}” ({model.sha256[:12]}).",
            "Give that base, or an adapter of this one.",
        )


def find_base(card: AdapterCard) -> Model:
    """Return the installed base that an adapter belongs to.

    Raises
    ------
    InputError
        ``base-not-installed``.
    """
    for entry in installed("base"):
        try:
            model = load_model(entry.path)
        except InputError:
            continue
        if model.sha256 == card.base_sha256:
            return model
    raise InputError(
        "base-not-installed",
        f"The base “{card.base_title:.80}” ({card.base_sha256[:12]}) of this adapter is not installed.",
        "Install it with “sahlora models import FILE”, then give the command again.",
    )


def apply_adapter(network: nn.Module, adapter: Adapter, view: View, name: str | None = None) -> None:
    """Attach one view's adapter to a base network, as the active one, at the strength of its card.

    Parameters
    ----------
    network : nn.Module
        Network of the base, checked by `require_base`.
    adapter : Adapter
        Content of a file.
    view : View
        Which of its adapters.
    name : str, optional
        What to call it on the network; the view's name if not given.

    Raises
    ------
    InputError
        ``no-such-view`` if the file holds no adapter of this view.
    """
    if view not in adapter.states:
        held = ", ".join(adapter.states)
        raise InputError(
            "no-such-view", f"The adapter was not trained on {view} slices.", f"It holds: {held}."
        )
    name = name or view
    adapt(network, adapter.card.adapters[view], name)
    load(network, adapter.states[view], name)
    activate(network, {name: adapter.card.strength})


def merged_model(adapter: Adapter, base: Model, view: View) -> Model:
    """Return one view's adapter merged into a copy of its base: a model as fast as the base.

    Raises
    ------
    InputError
        As `require_base` and `apply_adapter`.
    """
    require_base(adapter.card, base)
    network = copy.deepcopy(base.network)
    apply_adapter(network, adapter, view)
    merge(network)
    card = replace(
        base.card,
        description=adapter.card.description,
        target=adapter.card.target,
        preprocessing=replace(base.card.preprocessing, views=(view,)),
        training={
            **adapter.card.training,
            "merged_from": {
                "base": base.card.description.title,
                "base_sha256": adapter.card.base_sha256,
                "strength": adapter.card.strength,
            },
        },
    )
    return Model(card, network, weights_sha256(card.network, network.state_dict()))
