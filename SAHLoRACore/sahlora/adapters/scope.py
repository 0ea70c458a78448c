"""What an adapter acts on: its settings, the tensors in its scope, and how many parameters it would train."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.adapters.methods import Shape, Shapes, swapped_shape
from sahlora.errors import UsageError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


# ------------------------------------------------------------------------------------ which tensors, how many


class Site(NamedTuple):
    """A tensor of a layer that an adapter acts on."""

    layer: str
    module: nn.Module
    tensor: str

    @property
    def base(self) -> Tensor:
        """The frozen tensor underneath."""
        adapted = parametrizations(self.module)
        tensor = (
            adapted[self.tensor].original if self.tensor in adapted else getattr(self.module, self.tensor)
        )
        assert isinstance(tensor, Tensor)
        return tensor

    @property
    def shape(self) -> Shape:
        """Shape of the tensor, of a convolution's weight as (Cout, Cin/groups, *kernel)."""
        shape = tuple(self.base.shape)
        return swapped_shape(shape, self.groups) if self.is_transposed else shape

    @property
    def is_transposed(self) -> bool:
        """Whether this is the weight of a transposed convolution."""
        return self.tensor == "weight" and isinstance(self.module, TRANSPOSED)

    @property
    def groups(self) -> int:
        """Groups of the convolution."""
        return int(self.module.groups)  # type: ignore[arg-type]

    def key(self, name: str) -> str:
        """Return the plain key of one of its adapter's tensors, e.g. ``ups.0.conv.0.A``."""
        return f"{self.layer}.{name}" if self.layer else name


def plan(network: nn.Module, config: AdapterConfig) -> list[Site]:
    """List the tensors that `adapt` would act on, in the network's order.

    Raises
    ------
    UsageError
        ``unknown-scope`` if the network has no such part or no layer fits.
    """
    named = config.scope in _scopes(network)
    layers = [
        (name, module) for name, module in base_layers(network) if _in_scope(network, config.scope, name)
    ]
    if config.method == STANDARD:
        sites = [Site(name, module, tensor) for name, module in layers for tensor in _own_parameters(module)]
    else:
        sites = [
            Site(name, module, "weight")
            for name, module in layers
            if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED))
            and not (named and math.prod(module.kernel_size) == 1)
        ]
    if not sites:
        raise UsageError(
            "unknown-scope",
            f"No layer fits the scope {config.scope!r:.80}.",
            f"Choose one of {', '.join(_scopes(network))}, or patterns of convolutions' names.",
        )
    if config.adapt_batchnorm_statistics:
        sites += [Site(name, module, tensor) for name, module in norms(network) for tensor in STATISTICS]
    return sites


def unused_patterns(network: nn.Module, config: AdapterConfig) -> list[str]:
    """Return the patterns of a configuration that decide nothing: each fits no layer, or none first."""
    layers = {site.layer for site in plan(network, config)}
    scope = [] if config.scope in _scopes(network) else config.scope.split(",")
    unused = [part for part in scope if not any(fnmatchcase(name, part) for name, _ in base_layers(network))]
    for patterns in (config.ranks, config.alphas):
        first = {next((one for one in patterns if fnmatchcase(layer, one)), None) for layer in layers}
        unused += [pattern for pattern in patterns if pattern not in first]
    return unused


def state_shapes(network: nn.Module, config: AdapterConfig) -> Shapes:
    """Return key and shape of each tensor of such an adapter, before building anything."""
    shapes: Shapes = {}
    for site in plan(network, config):
        if is_low_rank(site, config):
            factors = METHODS[config.method].shapes(site.shape, config.rank_of(site.layer))
        else:
            factors = {site.tensor: site.shape}
        shapes |= {site.key(name): shape for name, shape in factors.items()}
    return shapes


def count_parameters(network: nn.Module, config: AdapterConfig) -> int:
    """Return how many parameters such an adapter would train, before building anything."""
    shapes = state_shapes(network, config)
    return sum(math.prod(shape) for key, shape in shapes.items() if key.rpartition(".")[2] not in STATISTICS)


class Count(NamedTuple):
    """Parameters that an adapter trains at a rank, and how many each further rank adds."""

    parameters: int
    each_rank: int


def count_methods(network: nn.Module, rank: int) -> dict[str, dict[str, Count]]:
    """Count the parameters of every method, ``standard`` among them, in every scope that the network names.

    Raises
    ------
    UsageError
        ``bad-adapter-config`` if no adapter can have this rank.
    """

    def count(method: str, scope: str) -> Count:
        here, beyond = (
            count_parameters(network, AdapterConfig(method, r, scope=scope)) for r in (rank, rank + 1)
        )
        return Count(here, beyond - here)

    return {
        scope: {method: count(method, scope) for method in (*METHODS, STANDARD)} for scope in _scopes(network)
    }


def is_low_rank(site: Site, config: AdapterConfig) -> bool:
    """Whether a site is adapted by a low-rank ΔW rather than trained as it is."""
    return config.method != STANDARD and site.tensor not in STATISTICS


def _scopes(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the prefixes of the parts the network names; ``all`` is known of any network."""
    scopes = network.scopes() if hasattr(network, "scopes") else {}  # type: ignore[operator]
    return {**scopes, "all": ("",)}


def _in_scope(network: nn.Module, scope: str, layer: str) -> bool:
    if (parts := _scopes(network).get(scope)) is not None:
        return any(part in ("", layer) or layer.startswith(f"{part}.") for part in parts)
    return any(fnmatchcase(layer, pattern.strip()) for pattern in scope.split(","))


def base_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the base's own modules, none of those that adapters brought."""
    for name, module in network.named_modules():
        if "parametrizations" not in name.split("."):
            yield name, module


def norms(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that keep running statistics."""
    return ((n, m) for n, m in base_layers(network) if isinstance(getattr(m, "running_mean", None), Tensor))


def _own_parameters(module: nn.Module) -> list[str]:
    """Name the layer's own parameters, adapted already or not."""
    adapted = parametrizations(module)
    plain = {name for name, _ in module.named_parameters(recurse=False)}
    hidden = {name for name in adapted if isinstance(adapted[name].original, nn.Parameter)}
    return sorted(plain | hidden, reverse=True)  # weight before bias


def parametrizations(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """Return the parametrizations of a layer's own tensors by name."""
    return dict(getattr(module, "parametrizations", {}))
