"""Adapters against independent implementations, and the promises made about the base."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import loralib
import peft
import pytest
import tensorly
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, DynUNet
from torch import Tensor, nn

from sahlora.adapters.attach import activate, adapt, adapters, collect, disabled, load, merge, remove, unmerge
from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.adapters.methods import CPLoRA
from sahlora.adapters.scope import count_parameters
from sahlora.errors import InputError, UsageError
from sahlora.models.network import MultiViewUNet

GOLDEN = Path(__file__).parent / "golden" / "adapter_keys.json"
LORA = [name for name, method in METHODS.items() if not method.dora]
DORA = [name for name, method in METHODS.items() if method.dora]
TOLERANCE = 1e-12  # float64


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomized(network: nn.Module, size: float = 0.1) -> nn.Module:
    """Move every trainable tensor, as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))
    return network


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def conv(method: str, rank: int = 3, layer: nn.Module | None = None, **settings: object) -> nn.Module:
    """Adapt a single float64 convolution, 6 to 8 channels, 3×3."""
    layer = (layer or nn.Conv2d(6, 8, 3, padding=1)).double()
    adapt(layer, AdapterConfig(method=method, rank=rank, scope="*", **settings))  # type: ignore[arg-type]
    return randomized(layer)


def unet(method: str, **settings: object) -> MultiViewUNet:
    network = MultiViewUNet(width=8)
    for module in network.modules():  # statistics and affine parameters as after training
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    adapt(network, AdapterConfig(method=method, **settings))  # type: ignore[arg-type]
    return network


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


# ------------------------------------------------------------------------------ independent implementations


def test_conv_lora_is_loralibs_convlora() -> None:
    reference = loralib.Conv2d(6, 8, 3, r=3, lora_alpha=6, padding=1, merge_weights=False).double()
    plain = nn.Conv2d(6, 8, 3, padding=1).double()
    plain.load_state_dict({"weight": reference.conv.weight, "bias": reference.conv.bias})
    ours = conv("conv-lora", layer=plain, alpha=6.0)
    adapter = dict(ours.named_parameters())
    a, b = (next(p for n, p in adapter.items() if n.endswith(f"default.{x}")) for x in "AB")
    with torch.no_grad():
        reference.lora_A.copy_(a)
        reference.lora_B.copy_(b)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1), reference(x2)
    assert distance(y1, y2) <= TOLERANCE
    y1.square().sum().backward()
    y2.square().sum().backward()
    for mine, theirs in ((x1, x2), (a, reference.lora_A), (b, reference.lora_B)):
        assert distance(mine.grad, theirs.grad) <= TOLERANCE * float(theirs.grad.abs().max())


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_locon_is_pefts_convolution(dora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sahlora.adapters.config import Method

    monkeypatch.setitem(METHODS, "locon-dora", Method("LoCon", dora=True))
    plain = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1)).double()
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0"], use_dora=dora)
    reference = peft.get_peft_model(copy.deepcopy(plain), settings)
    ours = conv("locon-dora" if dora else "locon", layer=plain, alpha=6.0)
    mine = {name.rpartition(".")[2]: p for name, p in ours.named_parameters() if p.requires_grad}
    theirs = {name: p for name, p in reference.named_parameters() if p.requires_grad}
    pairs = [(mine["A"], next(p for n, p in theirs.items() if "lora_A" in n))]
    pairs += [(mine["B"], next(p for n, p in theirs.items() if "lora_B" in n))]
    if dora:
        pairs += [(mine["magnitude"], next(p for n, p in theirs.items() if "magnitude" in n))]
    with torch.no_grad():
        for m, t in pairs:
            t.data = m.detach().clone().view(t.shape)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    reference.train()
    y1, y2 = ours(x), reference(x)
    assert y1.dtype == y2.dtype == torch.float64
    assert distance(y1, y2) <= TOLERANCE
    y1.square().sum().backward()
    y2.square().sum().backward()
    for m, t in pairs:
        assert distance(m.grad, t.grad.view(m.shape)) <= TOLERANCE * float(t.grad.abs().max())


@pytest.mark.parametrize("shape", [(8, 6, 5), (8, 6, 3, 5), (8, 6, 3, 2, 5)])
def test_cp_lora_is_tensorlys_cp_tensor(shape: tuple[int, ...]) -> None:
    adapter = randomized(CPLoRA(torch.zeros(shape, dtype=torch.float64), rank=4))
    factors = [parameter.detach().numpy() for parameter in adapter.parameters()]
    expected = torch.from_numpy(tensorly.cp_to_tensor((None, factors)))
    assert distance(adapter.delta(), expected) <= TOLERANCE


def test_lora_c_places_each_element_as_its_formula_says() -> None:
    adapter = randomized(METHODS["lora-c"].delta(torch.zeros(4, 3, 2, 5, dtype=torch.float64), rank=2))
    product, delta = adapter.B @ adapter.A, adapter.delta()
    for o, i, h, w in torch.cartesian_prod(*map(torch.arange, (4, 3, 2, 5))).tolist():
        assert delta[o, i, h, w] == product[o * 2 + h, i * 5 + w]


@pytest.mark.parametrize("method", DORA)
def test_dora_is_weight_norm_of_the_adapted_direction(method: str) -> None:
    layer = conv(method)
    adapted = layer.parametrizations.weight[0].adapters["default"]
    reference = nn.Conv2d(6, 8, 3, padding=1).double()
    with torch.no_grad():
        reference.weight.copy_(adapted.direction(layer.parametrizations.weight.original))
        reference.bias.copy_(layer.bias)
    torch.nn.utils.parametrizations.weight_norm(reference, dim=0)
    with torch.no_grad():
        reference.parametrizations.weight.original0.copy_(adapted.magnitude.view(-1, 1, 1, 1))
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    assert distance(layer(x), reference(x)) <= TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_uses_the_weight_composed_group_by_group(method: str, groups: int) -> None:
    layer = conv(method, layer=nn.ConvTranspose2d(6, 8, (3, 2), stride=2, groups=groups))
    base = layer.parametrizations.weight.original
    adapter = layer.parametrizations.weight[0].adapters["default"].adapter
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    # out-first weight of group g: its Cin/groups × Cout/groups block, transposed
    blocks = [block.transpose(0, 1) for block in base.chunk(groups)]
    adapted = adapter(torch.cat(blocks))
    weight = torch.cat([block.transpose(0, 1) for block in adapted.chunk(groups)])
    expected = F.conv_transpose2d(x, weight, layer.bias, stride=2, groups=groups)
    assert distance(layer(x), expected) <= TOLERANCE
    if METHODS[method].dora:
        norms = torch.linalg.vector_norm(adapted.flatten(1), dim=1)
        assert distance(norms, adapter.magnitude.abs()) <= TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["conv", "transposed"])
def test_gradients_are_those_of_finite_differences(method: str, kind: str) -> None:
    layer = nn.Conv2d(2, 3, 2) if kind == "conv" else nn.ConvTranspose2d(2, 3, 2)
    layer = conv(method, rank=2, layer=layer, detach_norm=False)
    names = [name for name, p in layer.named_parameters() if p.requires_grad]
    values = [dict(layer.named_parameters())[name].detach().clone().requires_grad_() for name in names]
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)

    def output(*tensors: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, values)


def test_detached_norm_changes_gradients_but_not_the_output() -> None:
    layer = conv("dora-c")
    other = copy.deepcopy(layer)
    other.parametrizations.weight[0].adapters["default"].detach_norm = False
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    grads = []
    for module in (layer, other):
        module(x).square().sum().backward()
        grads.append(module.parametrizations.weight[0].adapters["default"].direction.B.grad)
    assert torch.equal(layer(x), other(x))
    assert distance(*grads) > 1e-3 * float(grads[0].abs().max())


def test_a_zero_filter_stays_zero_under_dora() -> None:
    plain = nn.Conv2d(6, 8, 3)
    with torch.no_grad():
        plain.weight[2] = 0
    adapt(plain, AdapterConfig(method="cp-dora", scope="*"))
    plain(torch.randn(1, 6, 5, 5)).sum().backward()
    assert not plain.weight[2].any() and torch.isfinite(plain.weight).all()
    gradients = [p.grad for p in plain.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


# -------------------------------------------------------------------------------------- the base is untouched


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_fresh_adapter_is_bit_equal_to_the_base(method: str) -> None:
    network = unet(method, scope="all").eval()
    x = torch.randn(1, 1, 16, 24)
    adapted = network(x)
    with disabled(network):
        assert torch.equal(network(x), adapted)
    remove(network, "default")
    assert torch.equal(network(x), adapted)


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_training_moves_adapter_tensors_only(method: str) -> None:
    network = unet(method)
    base = {key: tensor for key, tensor in snapshot(network).items() if ".adapters." not in key}
    fresh = collect(network)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.05)
    moved = []
    for _ in range(2):
        network.train()
        network(torch.randn(2, 1, 16, 16)).square().mean().backward()
        assert all(p.grad is None or p.requires_grad for p in network.parameters())
        optimizer.step()
        optimizer.zero_grad()
        now = collect(network)
        moved.append({key.rpartition(".")[2] for key in now if not torch.equal(now[key], fresh[key])})
    after = snapshot(network)
    assert all(torch.equal(after[key], tensor) for key, tensor in base.items())
    names = {key.rpartition(".")[2] for key in fresh}
    if method == STANDARD:
        first = names
    else:
        row = METHODS[method]
        first = {row.delta.zero_factor, "magnitude"} if row.dora else {row.delta.zero_factor}
    assert moved == [first, names]


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_disabled_and_removed_adapters_leave_the_base_bit_equal(method: str) -> None:
    plain = MultiViewUNet(width=8).eval()
    network = copy.deepcopy(plain)
    adapt(network, AdapterConfig(method=method))
    randomized(network)
    x = torch.randn(1, 1, 16, 16)
    assert not torch.equal(network(x), plain(x))
    with disabled(network):
        assert torch.equal(network(x), plain(x))
    remove(network, "default")
    restored = network.state_dict()
    assert restored.keys() == plain.state_dict().keys()
    assert all(torch.equal(restored[key], tensor) for key, tensor in plain.state_dict().items())
    assert [type(m) for m in network.modules()] == [type(m) for m in plain.modules()]


def test_frozen_batchnorm_ignores_train() -> None:
    network = unet("lora-c").train()
    before = network(torch.randn(2, 1, 16, 16))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert before.requires_grad and not any(norm.training for norm in norms)
    assert all(norm.num_batches_tracked == 0 for norm in norms)


def test_adapted_statistics_belong_to_the_adapter_and_not_to_the_base() -> None:
    network = unet("cp-lora", adapt_batchnorm_statistics=True)
    base = {key: tensor for key, tensor in snapshot(network).items() if ".adapters." not in key}
    network.train()
    network(torch.randn(2, 1, 16, 16) + 1)
    with disabled(network):
        network(torch.randn(2, 1, 16, 16) - 1)
    network(torch.randn(2, 1, 16, 16) + 1)
    state = collect(network)
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in base.items())
    assert state["stem.1.num_batches_tracked"] == 2
    assert not torch.equal(
        state["stem.1.running_mean"], network.stem[1].parametrizations.running_mean.original
    )


def test_statistics_drift_as_in_plain_training() -> None:
    plain = MultiViewUNet(width=8)
    network = copy.deepcopy(plain)
    adapt(network, AdapterConfig(method="cp-lora", adapt_batchnorm_statistics=True))
    x = torch.randn(2, 1, 16, 16)
    plain.train()(x)
    network.train()(x)
    expected = {key: t for key, t in plain.state_dict().items() if "running" in key or "tracked" in key}
    state = collect(network)
    assert len(expected) == 3 * 21, "three statistics of each of 21 norms"
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_standard_fine_tuning_steps_as_without_adapters() -> None:
    plain = MultiViewUNet(width=8)
    network = copy.deepcopy(plain)
    adapt(network, AdapterConfig(method=STANDARD, scope="all", adapt_batchnorm_statistics=True))
    x = torch.randn(2, 1, 16, 16)
    for model in (plain, network):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    state = collect(network)
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in plain.state_dict().items())


# -------------------------------------------------------------------------------------------- merge, unmerge


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_merged_weights_give_the_same_output(method: str, dtype: torch.dtype, tolerance: float) -> None:
    network = randomized(unet(method).to(dtype).eval(), 0.05)
    x = torch.randn(1, 1, 16, 16, dtype=dtype)
    unmerged = network(x)
    merge(network)
    assert network.state_dict().keys() == MultiViewUNet(width=8).state_dict().keys()
    assert distance(network(x), unmerged) <= tolerance


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_unmerging_restores_base_and_adapter_bit_for_bit(method: str) -> None:
    network = randomized(unet(method).eval())
    before = snapshot(network)
    merge(network)
    unmerge(network)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    x = torch.randn(1, 1, 16, 16)
    plain = copy.deepcopy(network)
    remove(plain, "default")
    with disabled(network):
        assert torch.equal(network(x), plain(x))


def test_merging_leaves_dropout_out_and_the_mode_alone() -> None:
    network = randomized(unet("lora-c", dropout=0.5))
    x = torch.randn(1, 1, 16, 16)
    expected = network.eval()(x)
    network.train()
    merge(network)
    assert torch.equal(network(x), expected)
    unmerge(network)
    assert not torch.equal(network(x), network(x))


def test_merging_twice_and_unmerging_twice_are_clear_errors() -> None:
    network = unet("cp-lora")
    merge(network)
    for call in (merge, lambda n: activate(n, "default"), lambda n: remove(n, "default")):
        with pytest.raises(UsageError) as raised:
            call(network)
        assert raised.value.code == "merged"
    assert collect(network)
    unmerge(network)
    with pytest.raises(UsageError) as raised:
        unmerge(network)
    assert raised.value.code == "not-merged"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_merging_a_diverged_adapter_refuses_and_changes_nothing(value: float) -> None:
    network = unet("lora-c")
    with torch.no_grad():
        [p for p in network.parameters() if p.requires_grad][-1][0, 0] = value
    before = snapshot(network)
    with pytest.raises(InputError) as raised:
        merge(network)
    assert raised.value.code == "not-finite"
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[key], tensor) or not tensor.isfinite().all() for key, tensor in before.items()
    )


@pytest.mark.parametrize("merged", [False, True])
def test_a_deep_copy_lives_on_its_own(merged: bool) -> None:
    network = randomized(unet("conv-dora").eval())
    x = torch.randn(1, 1, 16, 16)
    expected = network(x)
    if merged:
        merge(network)
    twin = copy.deepcopy(network)
    if merged:
        unmerge(twin)
    randomized(twin)
    assert distance(network(x), expected) <= 1e-5
    assert distance(twin(x), expected) > 1e-3
    assert not any(p is q for p, q in zip(network.parameters(), twin.parameters(), strict=False))
    twin.train()(torch.randn(2, 1, 16, 16))
    assert all(m.num_batches_tracked == 0 for m in twin.modules() if isinstance(m, nn.BatchNorm2d))


def test_adapting_and_cleaning_a_copy_leaves_the_original_adapted() -> None:
    network = randomized(unet("lora-c").eval())
    x = torch.randn(1, 1, 16, 16)
    expected = network(x)
    twin = copy.deepcopy(network)
    adapt(twin, AdapterConfig(method=STANDARD), "second")
    assert torch.equal(network(x), expected)
    remove(twin, "default")
    remove(twin, "second")
    assert torch.equal(network(x), expected)
    for model, counted in (
        (twin, 1),
        (network, 0),
    ):  # the copy's norms are free again, the original's are not
        model.train()(x)
        assert model.stem[1].num_batches_tracked == counted


# ---------------------------------------------------------------------------------- several adapters


def test_named_adapters_switch_blend_and_leave() -> None:
    layer = nn.Conv2d(6, 8, 3).double()
    base = layer.weight.detach().clone()
    composed = {}
    for name, method in (("a", "lora-c"), ("b", "cp-dora"), ("c", STANDARD)):
        adapt(layer, AdapterConfig(method=method, scope="*"), name)
        randomized(layer)
        composed[name] = layer.weight.detach().clone()
    assert list(adapters(layer)) == ["a", "b", "c"]
    activate(layer, "a")
    assert torch.equal(layer.weight, composed["a"])
    activate(layer, {"a": 0.5, "b": -2.0, "c": 1.0})
    expected = base + sum(w * (composed[n] - base) for n, w in (("a", 0.5), ("b", -2.0), ("c", 1.0)))
    assert distance(layer.weight, expected) <= TOLERANCE
    remove(layer, "b")
    activate(layer, {"a": 1.0, "c": 0.0})
    assert torch.equal(layer.weight, composed["a"])
    remove(layer, "a")
    remove(layer, "c")
    assert torch.equal(layer.weight, base) and type(layer) is nn.Conv2d


def test_only_the_active_adapter_is_trainable() -> None:
    network = unet("cp-lora")
    adapt(network, AdapterConfig(method="lora-c"), "second")
    trainable = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trainable and all(".second." in name for name in trainable)
    activate(network, "default")
    trainable = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trainable and all(".default." in name for name in trainable)


# ------------------------------------------------------------------------------------------- counts and state


@pytest.mark.parametrize(
    ("method", "counts"),
    [
        ("lora-c", (6_528, 26_112, 104_448)),
        ("conv-lora", (19_584, 78_336, 313_344)),
        ("cp-lora", (2_320, 9_280, 37_120)),
        ("dora-c", (6_720, 26_304, 104_640)),
        ("conv-dora", (19_776, 78_528, 313_536)),
        ("cp-dora", (2_512, 9_472, 37_312)),
    ],
)
def test_parameter_counts_are_those_of_the_methods_page(method: str, counts: tuple[int, ...]) -> None:
    for rank, count in zip((4, 16, 64), counts, strict=True):
        network = MultiViewUNet()
        config = AdapterConfig(method=method, rank=rank)
        assert count_parameters(network, config) == count
        adapt(network, config)
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


@pytest.mark.parametrize(
    ("scope", "count"),
    [("shallow", 46_785), ("deep", 46_464), ("encoding", 46_944), ("decoding", 101_985), ("all", 232_737)],
)
def test_standard_fine_tuning_counts_are_those_of_the_methods_page(scope: str, count: int) -> None:
    network = MultiViewUNet()
    adapt(network, AdapterConfig(method=STANDARD, scope=scope))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_keys_and_shapes_are_the_golden_ones(method: str) -> None:
    network = MultiViewUNet()
    adapt(network, AdapterConfig(method=method, rank=4, adapt_batchnorm_statistics=method == STANDARD))
    shapes = {key: list(tensor.shape) for key, tensor in collect(network).items()}
    assert shapes == json.loads(GOLDEN.read_text())[method]


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_state_comes_back_equal_on_another_network(method: str) -> None:
    base = MultiViewUNet(width=8)
    first, second = copy.deepcopy(base), copy.deepcopy(base)
    config = AdapterConfig(
        method=method, adapt_batchnorm_statistics=True, ranks={"head.*": 2}, scaling="rslora"
    )
    adapt(first, config)
    randomized(first)
    adapt(second, config, "other")
    load(second, collect(first), "other")
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(first.eval()(x), second.eval()(x))
    assert not any("parametrizations" in key for key in collect(first))


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "kind"])
def test_unfit_state_is_refused_and_changes_nothing(fault: str) -> None:
    network = unet("lora-c")
    before = snapshot(network)
    state = {key: tensor + 1 for key, tensor in collect(network).items()}
    key = list(state)[-1]
    match fault:
        case "missing":
            del state[key]
        case "extra":
            state["head.9.A"] = torch.zeros(1)
        case "shape":
            state[key] = state[key].T
        case "nan":
            state[key][0, 0] = math.nan
        case "kind":
            state[key] = state[key].long()
    with pytest.raises(InputError):
        load(network, state)
    assert all(torch.equal(network.state_dict()[k], tensor) for k, tensor in before.items())


# ---------------------------------------------------------------------------------- config


def test_scale_follows_rank_and_patterns() -> None:
    config = AdapterConfig(rank=4, alpha=8.0, ranks={"ups.*": 16}, alphas={"ups.1.*": 4.0})
    assert config.scale_of("head.0") == 2 and config.scale_of("ups.0.conv.0") == 0.5
    assert config.scale_of("ups.1.conv.0") == 0.25
    assert AdapterConfig(rank=16, scaling="rslora").scale_of("head.0") == 4
    assert AdapterConfig(rank=16, ranks={"head.*": 2}).scale_of("head.0") == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lokr"}, {"rank": 0}, {"rank": 2.0}, {"rank": True}, {"rank": 10**9},
        {"ranks": {"*": -1}}, {"alpha": 0.0}, {"alpha": math.nan}, {"alpha": math.inf},
        {"alphas": {"*": -1.0}}, {"scaling": "none"},
        {"dropout": 1.0}, {"dropout": -0.1},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UsageError) as raised:
        AdapterConfig(**settings)
    assert raised.value.code == "bad-adapter-config"


@pytest.mark.parametrize("scope", ["decoder", "", "stem.1"])
def test_a_scope_without_convolutions_is_refused_and_changes_nothing(scope: str) -> None:
    network = MultiViewUNet(width=8)
    with pytest.raises(UsageError) as raised:
        adapt(network, AdapterConfig(scope=scope))
    assert raised.value.code == "unknown-scope" and "decoding" in raised.value.hint
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "keys", "x" * 65])
def test_names_that_would_break_keys_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        adapt(MultiViewUNet(width=8), AdapterConfig(), name)


def test_patterns_reach_the_output_layer_that_scopes_leave_frozen() -> None:
    network = MultiViewUNet(width=8)
    adapt(network, AdapterConfig(scope="head.0, head.6"))
    assert {key.rpartition(".")[0] for key in collect(network)} == {"head.0", "head.6"}


# ---------------------------------------------------------------------------------- other networks, dtypes


def other_networks() -> list[tuple[str, nn.Module, Tensor, str]]:
    basic = BasicUNet(2, 1, 2, features=(8, 8, 16, 16, 16, 8), dropout=0.0)
    dyn = DynUNet(3, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(8, 8, 8))
    return [
        ("BasicUNet", basic, torch.randn(1, 1, 32, 32), "upcat_*"),
        ("DynUNet", dyn, torch.randn(1, 1, 16, 16, 8), "upsamples.*"),
    ]


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_monai_networks_adapt_train_and_merge(method: str) -> None:
    for name, network, x, scope in other_networks():
        network.eval()
        base = network(x)
        adapt(network, AdapterConfig(method=method, scope=scope))
        kinds = {type(m).__mro__[1] for m in network.modules() if "Parametrized" in type(m).__name__}
        assert {nn.ConvTranspose2d, nn.ConvTranspose3d} & kinds, name
        assert torch.equal(network(x), base)
        randomized(network, 0.05)
        unmerged = network(x)
        assert distance(unmerged, base) > 1e-3
        merge(network)
        assert distance(network(x), unmerged) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_stays_finite_and_close(method: str, dtype: torch.dtype) -> None:
    network = randomized(unet(method, rank=16).eval(), 0.05)
    x = torch.randn(1, 1, 16, 16)
    expected = network(x)
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.05}[dtype] * float(expected.detach().abs().max())
    assert distance(network.to(dtype)(x.to(dtype)).float(), expected) <= tolerance


@pytest.mark.parametrize("method", METHODS)
def test_autocast_composes_in_full_precision(method: str) -> None:
    network = randomized(unet(method, rank=16).eval(), 0.05)
    x = torch.randn(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        adapted = network(x)
        merge(network)
        assert torch.equal(network(x), adapted)


def test_dropout_acts_on_the_delta_in_training_only() -> None:
    layer = conv("lora-c", dropout=0.5)
    layer.train()
    assert not torch.equal(layer.weight, layer.weight)
    layer.eval()
    assert torch.equal(layer.weight, layer.weight)
    adapt(layer, AdapterConfig(method="cp-lora", scope="*", dropout=0.5), "late")
    randomized(layer)
    assert torch.equal(layer.weight, layer.weight)
