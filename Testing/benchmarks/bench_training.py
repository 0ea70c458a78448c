#!/usr/bin/env python3
"""Time a step of fine-tuning beside a plain PyTorch loop, and estimate a whole fine-tuning from a short one.

    python Testing/benchmarks/bench_training.py --output Docs/evidence/benchmarks/training.json

For each adapter, blocks of steps of two competitors take turns on simulated heads in the head box at the
base's pixel size:

- sahlora: what `sahlora finetune` does; slices read from disk, augmented, computed, the loss checked;
- plain loop: the same adapted network, precision, memory layout and optimizer on batches that lie in memory.

A first block of each warms up, and so does the first step of each block. Figures are medians; the ratio, of
neighboring blocks, is what to look at: other work on the machine hits both. Processor time, of all threads,
says what the work costs on a machine that has other things to do as well.

The whole fine-tuning (20 patients of 30 slices, 20 epochs, CP-LoRA) is not run: a short one is, and the times
of its parts (preparing a case, a step, scoring a held-out case, comparing one) are multiplied.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from sahlora.adapters.attach import adapt
from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.cases.manifest import Case
from sahlora.cases.split import Cohort
from sahlora.models.base_model import Model, load_model
from sahlora.models.card import Description
from sahlora.runtime.devices import choose_device, describe_device, runs_bf16, use_threads
from sahlora.runtime.process import keep_freed_memory
from sahlora.runtime.progress import SILENT, Progress
from sahlora.simulation.head import HeadPhantom, simulate_head
from sahlora.simulation.writers import write_images
from sahlora.training.batches import SliceBatches
from sahlora.training.finetuning import FinetuningPlan, finetune
from sahlora.training.learner import Learner
from sahlora.training.losses import LOSSES
from sahlora.training.prefetch import prefetched
from sahlora.training.prepared import prepare_cases
from sahlora.training.settings import FINETUNING_PRESETS

SETTINGS = FINETUNING_PRESETS["default"]
SLICES = 30
PATIENTS, HELD_OUT, EPOCHS = 20, 4, 20


@dataclass(frozen=True)
class Figure:
    """One adapter: seconds a step of both competitors, ours over the plain loop's, and processor seconds."""

    method: str
    sahlora_s: float
    plain_s: float
    ratio: float
    slices_per_s: float
    sahlora_cpu_s: float
    plain_cpu_s: float


@dataclass(frozen=True)
class Parts:
    """Seconds that the parts of a fine-tuning take, and how many slices with blood a case has."""

    prepare_case: float
    step: float
    score_case: float
    compare_case: float
    slices_with_blood: float

    def minutes(self) -> float:
        """Return the minutes of the whole fine-tuning."""
        training = PATIENTS - HELD_OUT
        steps = math.ceil(training * self.slices_with_blood / (SETTINGS.batch_size // 2))
        epoch = steps * self.step + HELD_OUT * self.score_case
        return (PATIENTS * self.prepare_case + EPOCHS * epoch + HELD_OUT * self.compare_case) / 60


def simulate_cases(folder: Path, count: int) -> list[Case]:
    """Write simulated heads of 512×512×30 voxels."""
    cases = []
    for seed in range(1, count + 1):
        head = simulate_head(HeadPhantom(seed=seed, size=(SLICES, 512, 512)))
        image, label = folder / f"{seed}.nii.gz", folder / f"{seed}-label.nii.gz"
        write_images(head, image, label)
        cases.append(Case(str(seed), image, label))
    return cases


# ------------------------------------------------------------------------------------------- competitors


def adapted(base: Model, method: str) -> nn.Module:
    network = copy.deepcopy(base.network)
    torch.manual_seed(0)
    adapt(network, AdapterConfig(method=method, rank=4, scope="decoding"))
    return network


def plain_step(network: nn.Module, device: torch.device) -> Callable[[Tensor, Tensor], None]:
    """Return a step as a first script would write it, in the precision and layout that is fastest."""
    network = network.train().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-6, weight_decay=0)
    loss_of = LOSSES[SETTINGS.loss]

    def step(image: Tensor, label: Tensor) -> None:
        image = image.to(device, memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=runs_bf16(device)):
            logits = network(image).float()
        loss = loss_of(logits, label.to(device))
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def clocks() -> np.ndarray:
    """Read the wall clock and the processor time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(batches: Iterator[tuple[Tensor, Tensor]], step: Callable[[Tensor, Tensor], Any]) -> np.ndarray:
    """Return the mean seconds of the steps after the first, by both clocks, waiting for batches included."""
    step(*next(batches))
    start, count = clocks(), 0
    for image, label in batches:
        step(image, label)
        count += 1
    return (clocks() - start) / count


def measure(
    method: str, base: Model, batches: SliceBatches, device: torch.device, blocks: int, steps: int
) -> Figure:
    settings = replace(SETTINGS, learning_rate=1e-6)
    learner = Learner(adapted(base, method), settings, device, SILENT)
    plain = plain_step(adapted(base, method), device)
    ready = [batch for _, batch in zip(range(steps + 1), batches.epoch(0), strict=False)]
    ours, theirs = [], []
    for block in range(blocks + 1):
        with closing(prefetched(batches.epoch(block))) as ahead:
            some = (batch for _, batch in zip(range(len(ready)), ahead, strict=False))
            mine = timed(some, lambda image, label: learner.step(image, label, 0, 1e-6))
        other = timed(iter(ready), plain)
        if block:  # the first warms up
            ours.append(mine)
            theirs.append(other)
    (ours_s, ours_cpu), (plain_s, plain_cpu) = np.median(ours, axis=0), np.median(theirs, axis=0)
    ratio = np.median([mine[0] / other[0] for mine, other in zip(ours, theirs, strict=True)])
    figures = (ours_s, plain_s, ratio, SETTINGS.batch_size / ours_s, ours_cpu, plain_cpu)
    return Figure(method, *map(float, figures))


# ------------------------------------------------------------------------------------------- whole run


def time_parts(
    cases: list[Case], base: Model, folder: Path, device: torch.device, epochs: int
) -> list[Parts]:
    """Fine-tune on all cases but one; read the times of the parts, by both clocks, off the events."""
    seen: list[tuple[np.ndarray, dict[str, Any]]] = []
    progress = Progress(lambda event: seen.append((clocks(), event)))
    plan = FinetuningPlan(
        Description("benchmark"), AdapterConfig(method="cp-lora", rank=4),
        settings=replace(SETTINGS, epochs=epochs, patience=epochs),
    )  # fmt: skip
    cohort = Cohort(tuple(cases[:-1]), tuple(cases[-1:]))
    done = finetune(cohort, base, plan, folder / "a.safetensors", folder / "run", device, progress)
    slices = done.adapter.card.training["views"]["axial"]["slices_with_blood"]

    def between(stage: str, first: str, second: str) -> list[np.ndarray]:
        return [
            after - before
            for (before, one), (after, two) in itertools.pairwise(seen)
            if one["event"] == first and two["event"] == second and one.get("stage") == stage
        ]

    parts = (
        between("preparing cases", "stage", "progress") + between("preparing cases", "progress", "progress"),
        between("training axial", "progress", "progress"),
        between("training axial", "progress", "metric"),
        between("comparing", "stage", "progress"),
    )
    by_clock = np.transpose([np.mean(part, axis=0) for part in parts])
    return [Parts(*map(float, seconds), slices / (len(cases) - 1)) for seconds in by_clock]


# ------------------------------------------------------------------------------------------- reporting


def table(record: dict[str, Any], parts: Parts, by_cpu: Parts) -> str:
    lines = [
        "# Training: a step of fine-tuning beside a plain loop",
        "",
        f"Slices of {record['size']} pixels (head box at 1 mm), {SETTINGS.batch_size} a step, rank 4, scope "
        f"decoding, base hemorrhage-base (level 4); {record['blocks']} alternating blocks of "
        f"{record['steps']} steps. The plain loop trains the same adapted network in the same precision on "
        "batches in memory, so the ratio holds reading, augmenting and checking. Processor time is "
        "that of all "
        f"threads; where the load exceeds the processors, it says more than the clock. {record['machine']}; "
        f"load {record['load']:.0f}. Measured by "
        "`Testing/benchmarks/bench_training.py`.",
        "",
        "| method | s a step | slices/s | plain loop, s | ratio | processor s | plain loop, processor s |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in record["figures"]:
        lines.append(
            f"| {f['method']} | {f['sahlora_s']:.2f} | {f['slices_per_s']:.1f} | {f['plain_s']:.2f} "
            f"| {f['ratio']:.2f} | {f['sahlora_cpu_s']:.2f} | {f['plain_cpu_s']:.2f} |"
        )
    lines += [
        "",
        "## A whole fine-tuning, extrapolated",
        "",
        f"{PATIENTS} patients of {SLICES} slices of 512² ({HELD_OUT} held out), {EPOCHS} epochs of "
        "CP-LoRA, all "
        f"of them though early stopping may end sooner: {by_cpu.minutes():.0f} minutes of processor time, "
        f"{parts.minutes():.0f} minutes by the clock under that load. Not run as a whole but "
        "multiplied, from "
        f"{record['epochs']} epoch(s) on {record['cases']} simulated heads with "
        f"{parts.slices_with_blood:.1f} slices with blood each; processor time: "
        f"{by_cpu.prepare_case:.1f} s to "
        f"prepare a case, {by_cpu.step:.2f} s a step, {by_cpu.score_case:.1f} s to score a held-out "
        "case after "
        f"an epoch, {by_cpu.compare_case:.1f} s to compare one at the end.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("Docs/evidence/benchmarks/training.json"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--blocks", type=int, default=3, help="measured blocks of each competitor")
    parser.add_argument("--steps", type=int, default=4, help="measured steps of a block")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of the short fine-tuning")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, STANDARD])
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: all cores)")
    args = parser.parse_args()
    use_threads(args.threads)
    keep_freed_memory()  # as the command does
    device, base = choose_device(args.device), load_model("hemorrhage-base")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = simulate_cases(folder, 3)
        prepared = prepare_cases(cases, base.card.preprocessing, "axial", folder / "cache")
        batches = SliceBatches.of(prepared, base.card.preprocessing, SETTINGS, 2**base.network.level)
        figures = []
        for method in args.methods:
            figures.append(measure(method, base, batches, device, args.blocks, args.steps))
            print(figures[-1], flush=True)
        parts, by_cpu = time_parts(cases, base, folder, device, args.epochs)
    precision = "bf16" if runs_bf16(device) else "float32"
    record = {
        "machine": f"torch {torch.__version__}, {describe_device(device)}, {precision}, {platform.machine()}",
        "size": "×".join(map(str, batches.size)), "blocks": args.blocks, "steps": args.steps,
        "epochs": args.epochs, "cases": len(cases), "load": psutil.getloadavg()[0],
        "figures": [asdict(figure) for figure in figures],
        "parts": asdict(parts), "minutes": parts.minutes(),
        "processor_parts": asdict(by_cpu), "processor_minutes": by_cpu.minutes(),
    }  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    text = table(record, parts, by_cpu)
    args.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
