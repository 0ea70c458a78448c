"""Every method on every convolution: fresh, trained, merged, unmerged."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sahlora.adapters import methods as adapter_methods
from sahlora.adapters.attach import adapt, disabled, merge, unmerge
from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig, Method

ORDINARY = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
FUNCTIONS = {
    nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d, nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}  # fmt: skip
KERNELS = {1: [(3,), (4,)], 2: [(3, 3), (1, 1), (2, 5)], 3: [(3, 3, 3), (1, 3, 2)]}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.1}  # relative to the largest output

Case = tuple[str, nn.Module, torch.dtype]


def layers(dimensions: int, dtype: torch.dtype) -> Iterator[nn.Module]:
    modes = ("zeros", "reflect", "replicate", "circular")
    for kernel, stride, dilation, groups in itertools.product(KERNELS[dimensions], (1, 2), (1, 2), (1, 2)):
        for mode in modes:
            yield ORDINARY[dimensions](
                4, 6, kernel, stride, 1, dilation, groups, bias=groups == 1, padding_mode=mode, dtype=dtype
            )
        yield TRANSPOSED[dimensions](4, 6, kernel, stride, 0, 0, groups, True, dilation, dtype=dtype)


def full_grid() -> Iterator[Case]:
    for method, dimensions, dtype in itertools.product([*METHODS, STANDARD], (1, 2, 3), TOLERANCE):
        for layer in layers(dimensions, dtype):
            yield method, layer, dtype


def check(method: str, layer: nn.Module, dtype: torch.dtype) -> None:
    """Hold an adapted layer to all promises at once; the assertion names the one that broke."""
    x = torch.randn(2, 4, *(11 - 2 * axis for axis in range(layer.weight.dim() - 2)), dtype=dtype)
    base, output = layer.weight.detach().clone(), layer(x)
    adapt(layer, AdapterConfig(method=method, rank=2, alpha=3.0, scope="*"))
    assert torch.equal(layer(x), output), "fresh"
    trainable = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    for _ in range(2):
        layer(x).square().mean().backward()
        with torch.no_grad():
            for parameter in trainable:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), "gradient"
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted = layer(x)
    largest = float(adapted.detach().abs().max())
    assert not torch.equal(adapted, output), "trained"
    plain = type(layer).__mro__[1]
    if layer.padding_mode == "zeros":
        extra = {} if "Transpose" not in plain.__name__ else {"output_padding": 0}
        expected = FUNCTIONS[plain](
            x, layer.weight, layer.bias, layer.stride, layer.padding,
            groups=layer.groups, dilation=layer.dilation, **extra,
        )  # fmt: skip
        assert torch.equal(adapted, expected), "one convolution with the composed weight"
    merge(layer)
    assert type(layer) is plain, "plain"
    assert float((layer(x) - adapted).detach().abs().max()) <= TOLERANCE[dtype] * largest, "merged"
    unmerge(layer)
    with disabled(layer):
        assert torch.equal(layer(x), output) and torch.equal(layer.weight, base), "restored"


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_sample_of_the_grid_holds_every_promise(method: str, dimensions: int) -> None:
    torch.manual_seed(0)
    for layer in itertools.islice(layers(dimensions, torch.float64), 0, None, 7):
        check(method, layer, torch.float64)


@pytest.mark.proof
def test_the_whole_grid_holds_every_promise() -> None:
    torch.manual_seed(0)
    count = 0
    for method, layer, dtype in full_grid():
        check(method, layer, dtype)
        count += 1
    assert count == 8 * 3 * 5 * 8 * (2 + 3 + 2)


def test_the_method_of_the_documentation_holds_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "Docs" / "architecture.md").read_text(encoding="utf-8")
    section = page[page.index("## Adding an adapter") : page.index("## Adding a network")]
    rows = dict(METHODS)
    for name, value in {"METHODS": rows, "Method": Method, "PointLoRA": None}.items():
        monkeypatch.setattr(adapter_methods, name, value, raising=False)
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(code, vars(adapter_methods))  # as if written there
    for name in ("point-lora", "point-dora"):
        monkeypatch.setitem(METHODS, name, rows[name])
        torch.manual_seed(0)
        check(name, nn.Conv2d(4, 6, 3, groups=2, dtype=torch.float64), torch.float64)
        check(name, nn.ConvTranspose3d(4, 6, 2, groups=2, dtype=torch.float64), torch.float64)
