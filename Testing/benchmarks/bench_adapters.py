"""Time and memory of a training step with each adapter, beside full fine-tuning, PEFT and loralib.

    python Testing/benchmarks/bench_adapters.py --output Docs/evidence/benchmarks/adapters.json

Competitors take turns, so that other work on the machine hits all alike; figures are medians, and ratios to
full fine-tuning of the same network on the same input are what to look at. A table in Markdown is written
beside the JSON file.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import loralib
import peft
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "SAHLoRACore"))

from sahlora.adapters.attach import adapt, merge
from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.models.network import MultiViewUNet
from sahlora.runtime.process import keep_freed_memory

FULL = "full fine-tuning"


@dataclass(frozen=True)
class Setting:
    """A network and an input."""

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Figure:
    """One competitor on one setting: medians, and ratios to full fine-tuning."""

    setting: str
    method: str
    rank: int | None
    seconds: float
    time_ratio: float
    peak_mib: float
    memory_ratio: float


def basic_unet() -> nn.Module:
    return BasicUNet(2, 1, 1, features=(16, 16, 32, 64, 128, 16))


SETTINGS = (
    Setting("MultiViewUNet 512²", MultiViewUNet, (1, 1, 512, 512)),
    Setting("MultiViewUNet 256²", MultiViewUNet, (1, 1, 256, 256)),
    Setting("BasicUNet 256²", basic_unet, (1, 1, 256, 256)),
)


# ------------------------------------------------------------------------------------- competitors


def common_layers(network: nn.Module) -> list[str]:
    """Name the convolutions that every competitor can adapt: k×k, undilated (PEFT drops the dilation)."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and module.dilation == (1, 1)
    ]


def adapted(network: nn.Module, method: str, rank: int) -> nn.Module:
    adapt(network, AdapterConfig(method=method, rank=rank, scope=",".join(common_layers(network))))
    return network


def with_peft(network: nn.Module, rank: int, dora: bool) -> nn.Module:
    """Adapt the same layers; PEFT leaves norms to the training loop, here frozen too."""
    layers = common_layers(network)
    network = peft.get_peft_model(network, peft.LoraConfig(r=rank, target_modules=layers, use_dora=dora))
    return frozen_norms(network)


def with_loralib(network: nn.Module, rank: int) -> nn.Module:
    """Replace the same layers by loralib's."""
    for name in common_layers(network):
        module = network.get_submodule(name)
        layer = loralib.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size[0], r=rank, lora_alpha=rank,
            padding=module.padding, merge_weights=False,
        )  # fmt: skip
        layer.conv.load_state_dict(module.state_dict())
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)
    loralib.mark_only_lora_as_trainable(network)
    return frozen_norms(network)


def frozen_norms(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return network


def competitors(setting: Setting, ranks: tuple[int, ...]) -> dict[tuple[str, int | None], nn.Module]:
    torch.manual_seed(0)
    plain = setting.network().train()
    built: dict[tuple[str, int | None], nn.Module] = {(FULL, None): copy.deepcopy(plain)}
    built[f"{STANDARD}, same call", None] = copy.deepcopy(plain)
    adapt(built[f"{STANDARD}, same call", None], AdapterConfig(method=STANDARD, scope="all"))
    for rank in ranks:
        built |= {(method, rank): adapted(copy.deepcopy(plain), method, rank) for method in METHODS}
        built["PEFT LoRA", rank] = with_peft(copy.deepcopy(plain), rank, dora=False)
        built["PEFT DoRA", rank] = with_peft(copy.deepcopy(plain), rank, dora=True)
        built["loralib ConvLoRA", rank] = with_loralib(copy.deepcopy(plain), rank)
    return built


# ------------------------------------------------------------------------------------- measuring


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    network(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def kept_for_backward(network: nn.Module, x: Tensor) -> int:
    """Return the bytes at the step's peak: parameters, and every tensor the forward pass keeps, each once."""
    kept: list[Tensor] = []  # alive until counted, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(x).square().mean()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                for tensor in (*kept, *network.parameters(), loss)}  # fmt: skip
    return sum(storages.values())


def measure(setting: Setting, ranks: tuple[int, ...], rounds: int) -> list[Figure]:
    x = torch.randn(setting.shape)
    times: dict[tuple[str, int | None], list[float]] = {}
    memory: dict[tuple[str, int | None], int] = {}
    built = competitors(setting, ranks)
    optimizers = {
        key: torch.optim.Adam((p for p in network.parameters() if p.requires_grad), 1e-4)
        for key, network in built.items()
    }
    for turn in range(rounds + 1):
        for key, network in built.items():
            start = time.perf_counter()
            step(network, optimizers[key], x)
            if turn:  # the first round warms up
                times.setdefault(key, []).append(time.perf_counter() - start)
            else:
                memory[key] = kept_for_backward(network, x)
    full = (FULL, None)
    return [
        Figure(
            setting.name, method, rank, statistics.median(taken),
            statistics.median(t / f for t, f in zip(taken, times[full], strict=True)),
            memory[method, rank] / 2**20, memory[method, rank] / memory[full],
        )
        for (method, rank), taken in times.items()
    ]  # fmt: skip


def merged_inference(setting: Setting, rounds: int) -> dict[str, float]:
    """Return the time of merged inference over the base's, for each method."""
    x = torch.randn(setting.shape)
    base = setting.network().eval()
    networks = {method: adapted(copy.deepcopy(base), method, 16) for method in METHODS}
    for network in networks.values():
        merge(network)
    ratios: dict[str, list[float]] = {method: [] for method in METHODS}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for method, network in networks.items():
                taken = []
                for candidate in (base, network) if turn % 2 else (network, base):
                    start = time.perf_counter()
                    candidate(x)
                    taken.append(time.perf_counter() - start)
                ours, theirs = (taken[1], taken[0]) if turn % 2 else (taken[0], taken[1])
                if turn:
                    ratios[method].append(ours / theirs)
    return {method: statistics.median(values) for method, values in ratios.items()}


# ------------------------------------------------------------------------------------- reporting


def table(figures: list[Figure], inference: dict[str, float], machine: str, rounds: int) -> str:
    ranks = sorted({figure.rank for figure in figures if figure.rank})
    lines = [
        "# Adapters: a training step beside full fine-tuning, PEFT and loralib",
        "",
        f"Ratios to full fine-tuning of the same network: time (median of {rounds} alternating steps) / "
        "memory (parameters and what the forward pass keeps for the backward pass). Every undilated k×k "
        "convolution is adapted (PEFT cannot adapt dilated ones); norms are frozen, in full fine-tuning they "
        f"train. {machine}. Measured by `Testing/benchmarks/bench_adapters.py`.",
    ]
    for name in dict.fromkeys(figure.setting for figure in figures):
        mine = [figure for figure in figures if figure.setting == name]
        lines += ["", f"## {name}", "", "| method | " + " | ".join(f"r = {r}" for r in ranks) + " |"]
        lines.append("|---|" + "---|" * len(ranks))
        for method in dict.fromkeys(figure.method for figure in mine):
            cells = {f.rank: f"{f.time_ratio:.2f} / {f.memory_ratio:.2f}" for f in mine if f.method == method}
            row = [cells.get(rank, cells.get(None, "")) for rank in ranks]
            lines.append(f"| {method} | " + " | ".join(row) + " |")
    lines += ["", "## Merged inference, time over the base's", "", "| " + " | ".join(inference) + " |"]
    lines += [
        "|" + "---|" * len(inference),
        "| " + " | ".join(f"{v:.2f}" for v in inference.values()) + " |",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("Docs/evidence/benchmarks/adapters.json"))
    parser.add_argument("--rounds", type=int, default=3, help="measured steps of each competitor")
    parser.add_argument("--ranks", type=int, nargs="+", default=(4, 16, 64))
    parser.add_argument("--settings", nargs="+", default=[s.name for s in SETTINGS], help="which, by name")
    args = parser.parse_args()
    keep_freed_memory()  # as the command does

    figures: list[Figure] = []
    for setting in SETTINGS:
        if setting.name in args.settings:
            print(f"{setting.name} …", file=sys.stderr, flush=True)
            figures += measure(setting, tuple(args.ranks), args.rounds)
    inference = merged_inference(SETTINGS[1], 2 * args.rounds)
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    text = table(figures, inference, machine, args.rounds)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rounds": args.rounds, "figures": [asdict(figure) for figure in figures],
              "merged_inference": inference}  # fmt: skip
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    args.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
