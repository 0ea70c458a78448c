"""Checkpoints of the published pipeline: reading them safely into a network and a card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sahlora.errors import InputError
from sahlora.models.card import (
    BaseCard,
    Description,
    NetworkSpec,
    Preprocessing,
    Target,
)
from sahlora.models.network import Down, MultiViewUNet, Up


def import_published(path: Path, title: str, target: Target) -> tuple[MultiViewUNet, BaseCard]:
    """Read a checkpoint of the published pipeline (a pickled state dict, loaded as weights only).

    Raises
    ------
    InputError
        ``not-found``, ``unsafe-checkpoint`` if it holds anything but tensors, ``foreign-checkpoint``.
    """
    if not path.is_file():
        raise InputError("not-found", f"There is no checkpoint {path}.", "Check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            "unsafe-checkpoint",
            f"{path.name} is no state dict of tensors, or a damaged one.",
            "Save the network with torch.save(network.state_dict(), path) and import that.",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise InputError("foreign-checkpoint", f"{path.name} holds no state dict.", "Give a MultiViewUNet's.")
    network = network_from_published(state).eval()
    spec = NetworkSpec(
        level=network.level,
        width=network.width,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
    )
    card = BaseCard(
        Description(
            title, summary="Imported checkpoint of the published pipeline; what it saw is not recorded."
        ),
        target,
        spec,
        Preprocessing(window=(0.0, 140.0), intensity_range=(0.0, 255.0), spacing=None, views=("axial",)),
    )
    return network, card


Layers = list[tuple[str, dict[str, Tensor]]]


def network_from_published(state: Mapping[str, Tensor]) -> MultiViewUNet:
    """Build the network that a state dict of the published pipeline describes, with its weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        Keys ``M1``, ``down_list.i.M1/M2``, ``M2``, ``up_list.i.M1``, ``M3``, each followed by the layer's
        own name. Inside a block, layers are matched by order and shape, whatever they are called.

    Raises
    ------
    InputError
        ``foreign-checkpoint`` if an entry is unknown, a block is missing or a shape does not fit.
    """
    blocks = _blocks_of_published(state)
    level = sum(name.startswith("up_list.") for name in blocks)
    try:
        first, last = blocks["M1"][0][1]["weight"], blocks["M3"][-1][1]["weight"]
        (width, in_channels), out_channels = first.shape[:2], last.shape[0]
    except (KeyError, ValueError):
        raise _foreign("its first or last convolution is missing") from None
    if not 1 <= level <= 8 or not 1 <= width <= 512:
        raise _foreign(f"level {level} and width {width} are those of no published network")

    network = MultiViewUNet(level, width, in_channels, out_channels)
    targets: dict[str, nn.Module] = {"M1": network.stem, "M2": network.bottleneck, "M3": network.head}
    for i, (down, up) in enumerate(zip(network.downs, network.ups, strict=True)):
        assert isinstance(down, Down) and isinstance(up, Up)
        dilated_first = len(blocks.get(f"down_list.{i}.M1", ())) > len(blocks.get(f"down_list.{i}.M2", ()))
        roles = (down.skip, down.conv) if dilated_first else (down.conv, down.skip)
        targets[f"down_list.{i}.M1"], targets[f"down_list.{i}.M2"] = roles
        targets[f"up_list.{i}.M1"] = up.conv
    if missing := targets.keys() ^ blocks.keys():
        raise _foreign(f"its blocks differ from MultiViewUNet's in {', '.join(sorted(missing))}")
    for name, module in targets.items():
        _load_block(name, module, blocks[name])
    return network


def _foreign(reason: str) -> InputError:
    return InputError(
        "foreign-checkpoint",
        f"This checkpoint is not a MultiViewUNet of the published pipeline: {reason}.",
        "Give the state dict saved by that pipeline (a .pt or .pth file of tensors).",
    )


def _blocks_of_published(state: Mapping[str, Tensor]) -> dict[str, Layers]:
    """Group entries such as ``down_list.0.M2.TripleDia.3.weight`` by block and, in order, by layer."""
    blocks: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"(?:module\.)?((?:(?:down_list|up_list)\.\d+\.)?M[123])\.(.+)\.(\w+)", str(key))
        if match is None or not isinstance(tensor, Tensor):
            raise _foreign(f"it has an entry “{key}”")
        blocks.setdefault(match[1], {}).setdefault(match[2], {})[match[3]] = tensor

    def natural(layer: tuple[str, dict[str, Tensor]]) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in layer[0].split(".")]

    return {name: sorted(layers.items(), key=natural) for name, layers in blocks.items()}


def _load_block(name: str, module: nn.Module, layers: Layers) -> None:
    """Copy the layers of one block, in order, into the block's layers that have parameters."""
    own = [child for child in module.modules() if isinstance(child, (nn.Conv2d, nn.BatchNorm2d))]
    if len(own) != len(layers):
        raise _foreign(f"block {name} has {len(layers)} layers with weights instead of {len(own)}")
    for child, (layer, tensors) in zip(own, layers, strict=True):
        expected = child.state_dict()
        tensors = (
            {"num_batches_tracked": torch.tensor(0), **tensors} if "running_mean" in expected else tensors
        )
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
        if shapes != {key: tuple(value.shape) for key, value in expected.items()}:
            raise _foreign(f"layer {name}.{layer} has the shapes {shapes}")
        child.load_state_dict(tensors)
