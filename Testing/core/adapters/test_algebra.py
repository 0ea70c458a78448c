"""Averages and the CP form of trained adapters, checked on the weights they compose."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sahlora.adapters.algebra import Reshaped, average, compress, deltas
from sahlora.adapters.attach import adapt, collect, load
from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.errors import UsageError

LORA = [name for name, method in METHODS.items() if not method.dora]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, (2, 3), groups=2))


def trained(seed: int, **settings: object) -> tuple[AdapterConfig, dict[str, Tensor]]:
    base = network()
    config = AdapterConfig(**{"scope": "*", "rank": 2, **settings})  # type: ignore[arg-type]
    adapt(base, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return config, collect(base)


def weights(config: AdapterConfig, state: dict[str, Tensor]) -> list[Tensor]:
    base = network()
    adapt(base, config)
    load(base, state)
    return [base[0].weight.detach(), base[2].weight.detach()]


@pytest.mark.parametrize("method", [*LORA, STANDARD])
def test_average_composes_the_mean_of_the_weights(method: str) -> None:
    members = [
        trained(1, method=method, alpha=3.0),
        trained(2, method=method, rank=4, scaling="rslora"),
        trained(3, method=method, ranks={"2": 5}),
    ]
    mean = average(network(), [config for config, _ in members], [state for _, state in members])
    composed = [weights(*member) for member in members]
    for got, *parts in zip(weights(mean.config, mean.state), *composed, strict=True):
        torch.testing.assert_close(got, sum(parts) / 3, rtol=0, atol=1e-6)
    if method != STANDARD:
        assert {layer: fit.rank for layer, fit in mean.fits.items()} == {"0": 8, "2": 11}


@pytest.mark.parametrize("method", LORA)
def test_average_at_a_lower_rank_reports_the_error_it_makes(method: str) -> None:
    members = [trained(seed, method=method) for seed in (1, 2)]
    arguments = ([config for config, _ in members], [state for _, state in members])
    exact = average(network(), *arguments)
    lower = average(network(), *arguments, rank=1)
    assert_errors_are_true(deltas(network(), exact.config, exact.state), lower)
    assert lower.config.rank == 1 and any(fit.error > 0.05 for fit in lower.fits.values())


def test_average_of_one_adapter_with_itself_at_its_rank_is_that_adapter() -> None:
    config, state = trained(1, method="lora-c")
    same = average(network(), [config, config], [state, state], rank=2)
    for got, expected in zip(weights(same.config, same.state), weights(config, state), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert all(fit.error < 1e-6 for fit in same.fits.values())


@pytest.mark.parametrize("method", ["dora-c", "conv-dora", "cp-dora"])
def test_average_of_dora_is_refused_with_the_reason(method: str) -> None:
    members = [trained(seed, method=method) for seed in (1, 2)]
    with pytest.raises(UsageError, match="normalizes each filter"):
        average(network(), [config for config, _ in members], [state for _, state in members])


@pytest.mark.parametrize("other", [{"method": "cp-lora"}, {"scope": "0"}], ids=["method", "scope"])
def test_average_of_unlike_adapters_is_refused(other: dict) -> None:
    members = [trained(1, method="lora-c"), trained(2, **{"method": "lora-c", **other})]
    with pytest.raises(UsageError) as raised:
        average(network(), [config for config, _ in members], [state for _, state in members])
    assert raised.value.code == "not-averageable"


@pytest.mark.parametrize("method", ["lora-c", "conv-lora", "dora-c", "conv-dora"])
def test_compress_reports_the_error_it_makes(method: str) -> None:
    config, state = trained(1, method=method, rank=1, alpha=2.0)
    small = compress(network(), config, state, rank=2)
    assert small.config.method == ("cp-dora" if METHODS[method].dora else "cp-lora")
    assert_errors_are_true(deltas(network(), config, state), small)
    magnitudes = {key: tensor for key, tensor in state.items() if key.endswith("magnitude")}
    assert all(torch.equal(small.state[key], tensor) for key, tensor in magnitudes.items())
    weights(small.config, small.state)  # loads


def test_compress_finds_a_delta_that_has_cp_form() -> None:
    """A LoRA-C product of outer products has CP rank 1 exactly."""
    config, state = trained(1, method="lora-c", rank=1)
    for key, kernel in (("0", 3), ("2", 2)):
        channels = state[f"{key}.B"].numel() // kernel
        state[f"{key}.B"] = torch.outer(torch.randn(channels), torch.randn(kernel)).view(-1, 1)
        columns = state[f"{key}.A"].numel() // 3
        state[f"{key}.A"] = torch.outer(torch.randn(columns), torch.randn(3)).view(1, -1)
    small = compress(network(), config, state, rank=1)
    assert all(fit.error <= 1e-6 for fit in small.fits.values())


def test_compress_to_an_error_keeps_it_in_every_layer() -> None:
    config, state = trained(1, method="lora-c", rank=1)
    small = compress(network(), config, state, error=0.3)
    assert all(fit.error <= 0.3 for fit in small.fits.values())
    assert_errors_are_true(deltas(network(), config, state), small)


def test_compress_keeps_an_untrained_adapter_at_zero() -> None:
    config, state = trained(1, method="lora-c")
    state = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    small = compress(network(), config, state, rank=2)
    assert all(fit.error == 0 for fit in small.fits.values())
    assert not any(delta.any() for delta in deltas(network(), small.config, small.state).values())


@pytest.mark.parametrize(
    ("method", "arguments", "code"),
    [
        ("cp-lora", {"rank": 2}, "not-compressible"),
        (STANDARD, {"rank": 2}, "not-compressible"),
        ("lora-c", {}, "bad-compression"),
        ("lora-c", {"rank": 2, "error": 0.1}, "bad-compression"),
        ("lora-c", {"error": 1.5}, "bad-compression"),
        ("lora-c", {"rank": 0}, "bad-adapter-config"),
    ],
)
def test_impossible_compressions_are_refused(method: str, arguments: dict, code: str) -> None:
    config, state = trained(1, method=method)
    with pytest.raises(UsageError) as raised:
        compress(network(), config, state, **arguments)
    assert raised.value.code == code


def assert_errors_are_true(before: dict[str, Tensor], after: Reshaped) -> None:
    now = deltas(network(), after.config, after.state)
    for layer, fit in after.fits.items():
        error = float(torch.dist(now[layer], before[layer]) / before[layer].norm())
        assert math.isclose(error, fit.error, abs_tol=1e-6), layer
