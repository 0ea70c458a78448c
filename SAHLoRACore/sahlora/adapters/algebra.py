"""Algebra on trained adapters: the average of several, a lower rank, the CP form, each with its error."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tensorly.base import unfold
from tensorly.decomposition import parafac
from tensorly.tenalg import multi_mode_dot
from torch import Tensor, nn

from sahlora.adapters.config import MAX_RANK, METHODS, STANDARD, AdapterConfig
from sahlora.adapters.methods import CPLoRA, LowRank, Shape
from sahlora.adapters.scope import Site, is_low_rank, plan
from sahlora.errors import UsageError

State = dict[str, Tensor]
CP_FORM = {"lora-c": "cp-lora", "conv-lora": "cp-lora", "dora-c": "cp-dora", "conv-dora": "cp-dora"}
PARAFAC_STEPS, PARAFAC_TOLERANCE = 100, 1e-6


@dataclass(frozen=True)
class Fit:
    """How well a layer's ΔW is kept.

    Parameters
    ----------
    rank : int
        Rank of the new factors.
    error : float
        ‖new ΔW − old ΔW‖ / ‖old ΔW‖ (Frobenius); 0 where the old ΔW is zero.
    """

    rank: int
    error: float


@dataclass(frozen=True)
class Reshaped:
    """An adapter in its new form, with the fit of each layer."""

    config: AdapterConfig
    state: State
    fits: dict[str, Fit]


def deltas(network: nn.Module, config: AdapterConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return s·ΔW of each layer in float64, (Cout, Cin/groups, *kernel).

    Parameters
    ----------
    network : nn.Module
        The base or any network of its shape; only shapes are read.
    config, state
        An adapter, as `sahlora.adapters.attach.collect` gives it.
    """
    return {
        site.layer: _delta(site, config, state) for site in plan(network, config) if is_low_rank(site, config)
    }


@torch.no_grad()
def _delta(site: Site, config: AdapterConfig, state: Mapping[str, Tensor]) -> Tensor:
    weight = torch.zeros(site.shape, dtype=torch.float64)
    method = METHODS[config.method].delta(weight, config.rank_of(site.layer), config.scale_of(site.layer))
    for name, factor in method.named_parameters():
        factor.copy_(state[site.key(name)])
    return method.scale * method.delta()


# -------------------------------------------------------------------------------------------------- compress


def compress(
    network: nn.Module,
    config: AdapterConfig,
    state: Mapping[str, Tensor],
    *,
    rank: int | None = None,
    error: float | None = None,
) -> Reshaped:
    """Turn a trained LoRA-C or convLoRA ΔW into CP form by PARAFAC; DoRA keeps its magnitudes.

    Parameters
    ----------
    network, config, state
        As for `deltas`.
    rank : int, optional
        CP rank of every layer.
    error : float, optional
        Relative error allowed; each layer takes the first rank of 1, 2, 3, 4, 6, 8, 12, … that keeps it.

    Raises
    ------
    UsageError
        ``not-compressible`` for another method, ``bad-compression`` unless exactly one of rank and error is
        given, in range and reachable.
    """
    if config.method not in CP_FORM:
        raise UsageError(
            "not-compressible",
            f"Adapters of method {config.method} have no CP form to turn into.",
            f"Compress one of {', '.join(CP_FORM)}.",
        )
    if (rank is None) == (error is None) or (error is not None and not 0 < error < 1):
        raise UsageError("bad-compression", "Give either a rank or an error between 0 and 1.")
    form = replace(config, method=CP_FORM[config.method], rank=1 if rank is None else rank, alpha=None)
    fitted = {
        layer: _fit(CPLoRA, delta, rank) if rank is not None else _fit_within(delta, error or 0.0)
        for layer, delta in deltas(network, config, state).items()
    }
    return _reshaped(network, replace(form, scaling="alpha/rank", ranks={}, alphas={}), fitted, state)


def _fit_within(delta: Tensor, error: float) -> tuple[State, Fit]:
    rank, step, enough = 1, 1, delta.numel() // max(delta.shape)  # any tensor has a CP form of this rank
    while rank <= min(MAX_RANK, 2 * enough):
        factors, fit = _fit(CPLoRA, delta, rank)
        if fit.error <= error:
            return factors, fit
        step = 2 * step if rank == 4 * step else step  # 1 2 3 4 6 8 12 16 24 …
        rank += step
    raise UsageError("bad-compression", f"PARAFAC found no rank with an error below {error}.", "Allow more.")


# --------------------------------------------------------------------------------------------------- average


def average(
    network: nn.Module,
    configs: Sequence[AdapterConfig],
    states: Sequence[Mapping[str, Tensor]],
    *,
    rank: int | None = None,
) -> Reshaped:
    """Make one adapter of several folds' whose ΔW is the mean of theirs.

    Exact by concatenating factors, at the sum of the ranks; a lower rank on request, by truncated SVD or, for
    CP, PARAFAC. Standard fine-tuning and BatchNorm statistics are averaged value by value.

    Raises
    ------
    UsageError
        ``not-averageable`` for DoRA, for adapters of unlike methods or scopes, or fewer than two.
    """
    first = configs[0] if configs else AdapterConfig()
    _require_averageable(network, configs)
    sites = plan(network, first)
    mean = {
        site.key(site.tensor): _mean([state[site.key(site.tensor)] for state in states])
        for site in sites
        if not is_low_rank(site, first)
    }
    if first.method == STANDARD:
        return Reshaped(first, mean, {})
    method = METHODS[first.method].delta
    fitted = {
        site.layer: _concatenated(method, site, configs, states) for site in sites if is_low_rank(site, first)
    }
    form = replace(first, alpha=None, scaling="alpha/rank", ranks={}, alphas={})
    exact = _reshaped(network, form, fitted, mean)
    if rank is None:
        return exact
    lower = {
        layer: _fit(method, delta, rank)
        for layer, delta in deltas(network, exact.config, exact.state).items()
    }
    return _reshaped(network, form, lower, mean)


def _require_averageable(network: nn.Module, configs: Sequence[AdapterConfig]) -> None:
    reason = ""
    if len(configs) < 2:
        reason = "an average takes two or more"
    elif len({config.method for config in configs}) > 1:
        reason = "their methods differ"
    elif configs[0].method != STANDARD and METHODS[configs[0].method].dora:
        reason = "DoRA normalizes each filter, and the mean of normalized filters is no longer of that form"
    elif len({tuple((site.layer, site.tensor) for site in plan(network, config)) for config in configs}) > 1:
        reason = "they adapt different layers"
    if reason:
        raise UsageError(
            "not-averageable",
            f"These adapters can't be averaged: {reason}.",
            "Average their probabilities instead.",
        )


def _concatenated(
    method: type[LowRank],
    site: Site,
    configs: Sequence[AdapterConfig],
    states: Sequence[Mapping[str, Tensor]],
) -> tuple[State, Fit]:
    """Join the factors along the rank, each adapter's s/n inside the factor that once was zero."""
    factors = {}
    for name in method.shapes(site.shape, 1):
        parts = [state[site.key(name)] for state in states]
        if name == method.zero_factor:
            shares = [config.scale_of(site.layer) / len(configs) for config in configs]
            parts = [share * part for share, part in zip(shares, parts, strict=True)]
        factors[name] = torch.cat(parts, method.rank_axis[name])
    return factors, Fit(sum(config.rank_of(site.layer) for config in configs), 0.0)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)


# ------------------------------------------------------------------------------------------------- factorize


def _fit(method: type[LowRank], delta: Tensor, rank: int) -> tuple[State, Fit]:
    """Find factors of a rank for a ΔW (s = 1), and their error."""
    factors = _parafac(delta, rank) if method is CPLoRA else _svd(method, delta, rank)
    composed = method(delta, rank)
    composed.load_state_dict(factors)
    with torch.no_grad():
        distance, size = torch.dist(composed.delta(), delta), torch.linalg.vector_norm(delta)
    return factors, Fit(rank, float(distance / size) if size > 0 else 0.0)


def _svd(method: type[LowRank], delta: Tensor, rank: int) -> State:
    shapes: dict[str, Shape] = method.shapes(tuple(delta.shape), rank)
    left, singular, right = torch.linalg.svd(method.unfold(delta), full_matrices=False)
    inner = min(shapes["A"][0], len(singular))
    b, a = delta.new_zeros(shapes["B"]), delta.new_zeros(shapes["A"][0], right.shape[1])
    root = singular[:inner].sqrt()
    b[:, :inner], a[:inner] = left[:, :inner] * root, root[:, None] * right[:inner]
    return {"A": a.view(shapes["A"]), "B": b}


def _parafac(delta: Tensor, rank: int) -> State:
    """Fit CP factors by alternating least squares.

    The fit runs on the core that ΔW's own axes span, which is as exact and much smaller (CANDELINC; Carroll,
    Pruzansky and Kruskal 1980, doi 10.1007/BF02293596).
    """
    names = CPLoRA.shapes(tuple(delta.shape), rank)
    size = torch.linalg.vector_norm(delta)
    if size == 0:
        return {name: delta.new_zeros(shape) for name, shape in names.items()}
    tensor = (delta / size).numpy()
    bases = [_span(unfold(tensor, axis)) for axis in range(tensor.ndim)]
    core = multi_mode_dot(tensor, [basis.T for basis in bases])
    with warnings.catch_warnings():  # a rank above an axis's size is no surprise: kernel axes have three
        warnings.filterwarnings("ignore", message="Trying to compute SVD", category=UserWarning)
        weights, factors = parafac(
            core, rank, n_iter_max=PARAFAC_STEPS, init="svd", tol=PARAFAC_TOLERANCE, random_state=0
        )
    expanded = [torch.from_numpy(basis @ factor) for basis, factor in zip(bases, factors, strict=True)]
    expanded[0] *= torch.from_numpy(weights) * size
    return dict(zip(names, expanded, strict=True))


def _span(matrix: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of a matrix's columns, leaving out what is only rounding."""
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, singular > 1e-9 * singular[0]]


def _reshaped(
    network: nn.Module,
    form: AdapterConfig,
    fitted: Mapping[str, tuple[State, Fit]],
    others: Mapping[str, Tensor],
) -> Reshaped:
    """Put fitted layers together under plain keys, in float32, with what else the adapter holds."""
    ranks = {layer: fit.rank for layer, (_, fit) in fitted.items()}
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    config = replace(form, rank=usual, ranks={layer: rank for layer, rank in ranks.items() if rank != usual})
    state: State = {}
    for site in plan(network, config):
        factors = fitted[site.layer][0] if is_low_rank(site, config) else {}
        rest = (site.tensor, "magnitude")
        kept = {name: others[site.key(name)] for name in rest if site.key(name) in others}
        state |= {site.key(name): tensor.float() for name, tensor in factors.items()}
        state |= {site.key(name): tensor for name, tensor in kept.items()}
    return Reshaped(config, state, dict(sorted((layer, fit) for layer, (_, fit) in fitted.items())))
