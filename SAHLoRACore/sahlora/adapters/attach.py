"""Adapters on a network: attach, switch, blend, merge, collect, remove.

An adapter is a weight parametrization: it composes the weight, then the layer's own convolution runs once,
whatever its stride, groups or padding mode. The base is frozen and comes back bit for bit whenever adapters
are disabled, unmerged or removed. The methods themselves are in `sahlora.adapters.methods`.

>>> from sahlora.adapters.config import AdapterConfig
>>> from sahlora.models.network import MultiViewUNet
>>> network = MultiViewUNet()
>>> adapt(network, AdapterConfig(method="cp-lora", rank=4, scope="decoding"))
>>> sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
2320
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sahlora.adapters.config import METHODS, AdapterConfig
from sahlora.adapters.methods import DoRA, Replacement, Transposed, swap_channels
from sahlora.adapters.scope import (
    Site,
    base_layers,
    is_low_rank,
    norms,
    parametrizations,
    plan,
)
from sahlora.errors import InputError, UsageError

MERGED = "_sahlora_merged"  # attribute of a layer: what unmerging puts back
FROZEN = "_sahlora_frozen"  # attribute of a norm: handle of the hook that keeps its statistics


class AdaptedTensor(nn.Module):
    """A tensor of the base under named adapters: W + Σ wₙ·(Wₙ − W) over the active ones."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        self.configs: dict[str, AdapterConfig] = {}
        self.weights: dict[str, float] = {}

    def add(self, name: str, config: AdapterConfig, adapter: nn.Module) -> None:
        """Add an adapter, inactive."""
        self.adapters[name], self.configs[name] = adapter, config

    def activate(self, weights: Mapping[str, float]) -> None:
        """Blend these adapters from now on; only they are trainable."""
        self.weights = {name: weights[name] for name in self.adapters if weights.get(name)}
        for name, adapter in self.adapters.items():
            adapter.requires_grad_(name in self.weights)

    def forward(self, base: Tensor) -> Tensor:
        """Compose the tensor that the layer uses, in full precision also under autocast."""
        if not self.weights:
            return base
        with torch.autocast(base.device.type, enabled=False):
            adapted = [(weight, self.adapters[name](base)) for name, weight in self.weights.items()]
        if len(adapted) == 1 and adapted[0][0] == 1:
            return adapted[0][1]
        return (base + sum(weight * (tensor - base) for weight, tensor in adapted)).to(base.dtype)


# --------------------------------------------------------------------------------------------------- attach


def adapt(network: nn.Module, config: AdapterConfig, name: str = "default") -> None:
    """Freeze the network and attach a fresh adapter, which becomes the only active and trainable one.

    Parameters
    ----------
    network : nn.Module
        Any network with convolutions; changed in place. Its output is bit for bit what it was.
    config : AdapterConfig
        Method, rank, scope and so on.
    name : str
        What to call the adapter; letters, digits, ``_`` and ``-``.

    Raises
    ------
    UsageError
        ``adapter-exists``, ``bad-adapter-name``, ``merged`` or ``unknown-scope``; nothing is changed then.
    """
    _require_unmerged(network)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or hasattr(nn.ModuleDict(), name):
        raise UsageError(
            "bad-adapter-name", f"{name!r} can't name an adapter.", "Use letters, digits, _ and -."
        )
    if name in adapters(network):
        raise UsageError(
            "adapter-exists", f"The network has an adapter {name!r}.", "Remove it or choose a name."
        )
    built = [(site, _build(site, config)) for site in plan(network, config)]

    network.requires_grad_(False)
    for site, adapter in built:
        if site.tensor not in _adapted(site.module):
            _register(site.module, site.tensor, AdaptedTensor())
        _adapted(site.module)[site.tensor].add(name, config, adapter.train(site.module.training))
    for _, norm in norms(network):
        if not hasattr(norm, FROZEN):
            setattr(norm, FROZEN, norm.register_forward_pre_hook(_keep_statistics))
    activate(network, name)


def _build(site: Site, config: AdapterConfig) -> nn.Module:
    if not is_low_rank(site, config):
        return Replacement(site.tensor, site.base)
    weight = swap_channels(site.base, site.groups) if site.is_transposed else site.base
    method = METHODS[config.method]
    delta = method.delta(weight, config.rank_of(site.layer), config.scale_of(site.layer), config.dropout)
    adapter = DoRA(weight, delta, config.detach_norm) if method.dora else delta
    return Transposed(adapter, site.groups) if site.is_transposed else adapter


def _keep_statistics(norm: nn.Module, _: Any) -> None:
    """Put a norm in evaluation mode before each forward, unless an active adapter owns its statistics."""
    if norm.training:
        adapted = _adapted(norm).get("running_mean")
        norm.training = adapted is not None and bool(adapted.weights)


def _register(module: nn.Module, tensor: str, adapted: AdaptedTensor) -> None:
    _unshare_class(module)
    parametrize.register_parametrization(module, tensor, adapted)


def _unregister(module: nn.Module, tensor: str) -> None:
    _unshare_class(module)
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)


def _unshare_class(module: nn.Module) -> None:
    """Give a parametrized layer its own class: torch edits the class, which deep copies of a layer share."""
    if parametrize.is_parametrized(module):
        shared = type(module)
        module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))


def _adapted(module: nn.Module) -> dict[str, AdaptedTensor]:
    """Return the layer's adapted tensors by name."""
    lists = {name: chain[0] for name, chain in parametrizations(module).items()}
    return {name: adapted for name, adapted in lists.items() if isinstance(adapted, AdaptedTensor)}


def _sites(network: nn.Module) -> list[tuple[Site, AdaptedTensor]]:
    """List what is adapted, merged or not."""
    found = []
    for name, module in base_layers(network):
        merged = {tensor: adapted for tensor, (_, adapted) in getattr(module, MERGED, {}).items()}
        found += [(Site(name, module, tensor), a) for tensor, a in (_adapted(module) | merged).items()]
    return found


# -------------------------------------------------------------------------------------- switch, blend, remove


def adapters(network: nn.Module) -> dict[str, AdapterConfig]:
    """Return name and settings of each adapter the network carries."""
    return {name: config for _, adapted in _sites(network) for name, config in adapted.configs.items()}


def activate(network: nn.Module, adapter: str | Mapping[str, float]) -> None:
    """Switch to one adapter, or blend several: W + Σ wₙ·(Wₙ − W). Only active adapters are trainable.

    Parameters
    ----------
    network : nn.Module
        Network with adapters.
    adapter : str or mapping of str to float
        One name, or the weight of each; adapters not named are switched off.

    Raises
    ------
    UsageError
        ``unknown-adapter`` or ``merged``.
    """
    _require_unmerged(network)
    weights = {adapter: 1.0} if isinstance(adapter, str) else dict(adapter)
    for name in weights:
        _require_adapter(network, name)
    for _, adapted in _sites(network):
        adapted.activate(weights)


@contextmanager
def disabled(network: nn.Module) -> Iterator[None]:
    """Run the base alone within this context, bit for bit."""
    _require_unmerged(network)
    sites = [adapted for _, adapted in _sites(network)]
    active, modes = [adapted.weights for adapted in sites], [norm.training for _, norm in norms(network)]
    for adapted in sites:
        adapted.weights = {}
    try:
        yield
    finally:
        for adapted, weights in zip(sites, active, strict=True):
            adapted.weights = weights
        for (_, norm), mode in zip(norms(network), modes, strict=True):
            norm.training = mode


def remove(network: nn.Module, name: str) -> None:
    """Remove an adapter; with the last one the network is plain again, its base bit-equal and still frozen.

    Raises
    ------
    UsageError
        ``unknown-adapter`` or ``merged``.
    """
    _require_unmerged(network)
    _require_adapter(network, name)
    for site, adapted in _sites(network):
        if name in adapted.adapters:
            del adapted.adapters[name], adapted.configs[name]
            adapted.weights.pop(name, None)
        if not adapted.adapters:
            _unregister(site.module, site.tensor)
    if not adapters(network):
        for _, norm in norms(network):
            getattr(norm, FROZEN).remove()
            delattr(norm, FROZEN)


def _require_adapter(network: nn.Module, name: str) -> None:
    if name not in (known := adapters(network)):
        raise UsageError(
            "unknown-adapter",
            f"The network has no adapter {name!r}.",
            f"It has: {', '.join(known) or 'none'}.",
        )


def _require_unmerged(network: nn.Module) -> None:
    if is_merged(network):
        raise UsageError(
            "merged", "The adapters are merged into the weights.", "Call unmerge(network) first."
        )


# ---------------------------------------------------------------------------------------------------- merge


def is_merged(network: nn.Module) -> bool:
    """Tell whether adapters are merged into the weights."""
    return any(hasattr(module, MERGED) for _, module in base_layers(network))


def merge(network: nn.Module) -> None:
    """Write the active adapters into the weights: a plain network with plain keys and no extra cost.

    The original tensors are kept aside, so that `unmerge` brings them back bit for bit.

    Raises
    ------
    UsageError
        ``merged`` if that was done before, ``unknown-adapter`` if there is nothing to merge.
    InputError
        ``not-finite`` if a merged weight would be NaN or infinite; the network is then unchanged.
    """
    _require_unmerged(network)
    sites = _sites(network)
    if not sites:
        raise UsageError(
            "unknown-adapter", "The network has no adapter to merge.", "Call adapt or load one first."
        )
    composed = [_compose(site, adapted) for site, adapted in sites]
    for (site, adapted), tensor in zip(sites, composed, strict=True):
        _unregister(site.module, site.tensor)
        base = site.base
        site.module.__dict__.setdefault(MERGED, {})[site.tensor] = (base.data, adapted)
        base.data = tensor


@torch.no_grad()
def _compose(site: Site, adapted: AdaptedTensor) -> Tensor:
    """Compose a tensor as in evaluation, without dropout."""
    training = adapted.training
    tensor = adapted.eval()(site.base).clone()
    adapted.train(training)
    if not torch.isfinite(tensor).all():
        raise InputError(
            "not-finite",
            f"The adapter makes {site.key(site.tensor)} NaN or infinite.",
            "Use an adapter whose training did not diverge.",
        )
    return tensor


def unmerge(network: nn.Module) -> None:
    """Undo `merge`: the base is bit-equal to what it was, the adapters are as active as before.

    Raises
    ------
    UsageError
        ``not-merged`` if nothing is merged.
    """
    if not is_merged(network):
        raise UsageError("not-merged", "No adapter is merged into the weights.", "Call merge(network) first.")
    for _, module in base_layers(network):
        for name, (original, adapted) in module.__dict__.pop(MERGED, {}).items():
            tensor = Site("", module, name).base
            tensor.data = original.to(tensor.device)
            adapted.to(tensor.device).train(module.training)
            _register(module, name, adapted)


# ---------------------------------------------------------------------------------------------------- state


def collect(network: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """Copy an adapter's tensors under plain keys, e.g. ``ups.0.conv.0.A``.

    Raises
    ------
    UsageError
        ``unknown-adapter``.
    """
    return {key: tensor.detach().clone() for key, tensor in _state(network, name).items()}


def load(network: nn.Module, state: Mapping[str, Tensor], name: str = "default") -> None:
    """Copy tensors from `collect` into an adapter of the same settings, all or none.

    Raises
    ------
    InputError
        ``adapter-mismatch`` if a key, shape or kind of number differs, ``not-finite`` for NaN or infinity.
    UsageError
        ``unknown-adapter``.
    """
    own = _state(network, name)
    if problem := _mismatch({key: tuple(t.shape) for key, t in own.items()}, state):
        raise InputError(
            "adapter-mismatch", f"This adapter does not fit: {problem}.", "Use the base it belongs to."
        )
    for key, tensor in state.items():
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise InputError("adapter-mismatch", f"{key} holds {tensor.dtype}.", "The file is damaged.")
        if not torch.isfinite(tensor).all():
            raise InputError(
                "not-finite", f"{key} is NaN or infinite.", "The file is damaged or training diverged."
            )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


def _state(network: nn.Module, name: str) -> dict[str, Tensor]:
    _require_adapter(network, name)
    return {
        site.key(path.rpartition(".")[2]): tensor
        for site, adapted in _sites(network)
        if name in adapted.adapters
        for path, tensor in adapted.adapters[name].state_dict().items()
    }


def _mismatch(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> str:
    """Name the first difference between the tensors expected and those given."""
    for key in expected:
        if key not in state:
            return f"{key} is missing"
        if tuple(state[key].shape) != expected[key]:
            return f"{key} has shape {tuple(state[key].shape)} instead of {expected[key]}"
    return next((f"{key} belongs to no layer" for key in state if key not in expected), "")
