#!/usr/bin/env python3
"""Time multi-view inference against a plain slice loop and against the convolutions alone.

    python Testing/benchmarks/bench_inference.py --output Docs/evidence/benchmarks/inference.json

For a simulated head of 512×512×30 and one of 512×512×300 voxels, in one run and in turn:

- loop: what a first script would do. Every slice is resampled to the model's pixel size and run on its own
  through the network as it is, in float32, and its probabilities are resampled back;
- sahlora: `sahlora.inference.predictor.predict` on axial slices;
- convolutions: the network's convolutions alone, on the very batches that `predict` runs, in its precision.
  No program that computes these convolutions with PyTorch can be faster.

Times are medians of alternating repetitions. Peak memory is that of a process of its own that does nothing
else, less what it has before the first slice.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import nn

from sahlora.imaging.volume import Volume
from sahlora.inference.predictor import PIXELS_PER_BATCH, InferenceSettings, fold_batch_norm, predict
from sahlora.inference.slicing import WorkingGrid, pad_to_multiple, window
from sahlora.models.base_model import Model, load_model
from sahlora.runtime.process import keep_freed_memory
from sahlora.simulation.head import HeadPhantom, simulate_head

SHAPES = {"512×512×30": (5.0, 0.45, 0.45), "512×512×300": (0.5, 0.45, 0.45)}
AXIAL = InferenceSettings(views=("axial",))


def head(slices: int, spacing: tuple[float, float, float]) -> Volume:
    """Simulate a head of 512×512×30 and repeat its slices until there are so many."""
    simulated = simulate_head(HeadPhantom(seed=1, spacing=(5.0, *spacing[1:]), size=(30, 512, 512)))
    return Volume.from_array(np.repeat(simulated.hu, slices // 30, axis=0), spacing)


@torch.inference_mode()
def plain_loop(volume: Volume, model: Model) -> np.ndarray:
    """Run whole slices one by one, as trained."""
    preprocessing = model.card.preprocessing
    size = [
        round(n * mm / preprocessing.spacing)
        for n, mm in zip(volume.hu.shape[1:], volume.spacing[1:], strict=True)
    ]
    probability = np.empty(volume.hu.shape, dtype=np.float32)
    for index, hu in enumerate(volume.hu):
        image = F.interpolate(
            torch.from_numpy(hu.astype(np.float32))[None, None], size, mode="bilinear", antialias=True
        )
        image = window(image, preprocessing.window, preprocessing.intensity_range)
        padded = pad_to_multiple(image, 2**model.card.network.level, preprocessing.intensity_range[0])
        result = torch.sigmoid(model.network(padded))[..., : size[0], : size[1]]
        probability[index] = F.interpolate(result, volume.hu.shape[1:], mode="bilinear")[0, 0].numpy()
    return probability


def convolutions(volume: Volume, model: Model, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that computes the network's convolutions on the batches of `predict`."""
    grid = WorkingGrid.of(volume.hu, volume.spacing, model.card.preprocessing.spacing)
    multiple = 2**model.card.network.level
    height, width = (-(-n // multiple) * multiple for n in grid.shape[1:])
    batch = max(1, PIXELS_PER_BATCH // (grid.shape[1] * grid.shape[2]))
    network = fold_batch_norm(model.network).to(dtype).to(memory_format=torch.channels_last)
    calls: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda m, x, _: calls.append((m, x[0].shape)))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        network(torch.zeros(1, 1, height, width, dtype=dtype))
    for hook in hooks:
        hook.remove()
    inputs = {
        shape: torch.rand(batch, *shape[1:]).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in {shape for _, shape in calls}
    }

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, grid.shape[0], batch):
            count = min(batch, grid.shape[0] - start)
            for module, shape in calls:
                module(inputs[shape][:count])

    return run


def median_seconds(functions: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Time functions in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mib(which: str, slices: int, spacing: tuple[float, float, float], model: str) -> float:
    """Return the memory that one way of inference takes at most, in MiB, measured in a process of its own."""
    call = [
        sys.executable,
        __file__,
        "--peak",
        which,
        "--slices",
        str(slices),
        "--spacing",
        *map(str, spacing),
    ]
    done = subprocess.run([*call, "--model", model], capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(which: str, volume: Volume, model: Model) -> None:
    """Print how far the process's memory rises while it segments, in MiB."""
    import threading

    process, stop = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = before

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    plain_loop(volume, model) if which == "loop" else predict(volume, {"axial": model.for_inference()}, AXIAL)
    stop.set()
    watcher.join()
    print((peak - before) / 2**20)


def measure(label: str, model_name: str, repetitions: int) -> dict[str, float | str]:
    """Measure one volume."""
    slices, spacing = int(label.rpartition("×")[2]), SHAPES[label]
    volume, model = head(slices, spacing), load_model(model_name)
    models = {"axial": model.for_inference()}
    prediction = predict(volume, models, AXIAL)
    dtype = torch.bfloat16 if prediction.precision == "bf16" else torch.float32
    seconds = median_seconds(
        {
            "loop": lambda: plain_loop(volume, model),
            "sahlora": lambda: predict(volume, models, AXIAL),
            "convolutions": convolutions(volume, model, dtype),
        },
        max(1, repetitions * 30 // slices),
    )
    return {
        "volume": label,
        "precision": prediction.precision,
        "loop_s": seconds["loop"],
        "sahlora_s": seconds["sahlora"],
        "ratio": seconds["sahlora"] / seconds["loop"],
        "convolutions_s": seconds["convolutions"],
        "share_of_limit": seconds["convolutions"] / seconds["sahlora"],
        "loop_peak_mib": peak_mib("loop", slices, spacing, model_name),
        "sahlora_peak_mib": peak_mib("sahlora", slices, spacing, model_name),
    }


def table(rows: list[dict[str, float | str]], machine: str) -> str:
    """Return the measurements as Markdown."""
    lines = [
        "# Inference: seconds, ratio and memory",
        "",
        f"Measured by `make bench` on {machine}. Loop: a plain loop over whole slices; limit: the",
        "network's convolutions alone on the same batches. Axial slices; medians of alternating runs.",
        "",
        "| volume | precision | loop | sahlora | ratio | share of limit | peak, loop | peak, sahlora |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['volume']} | {row['precision']} | {row['loop_s']:.1f} s | {row['sahlora_s']:.1f} s "
        f"| {row['ratio']:.2f} | {row['share_of_limit']:.0%} "
        f"| {row['loop_peak_mib']:.0f} MiB | {row['sahlora_peak_mib']:.0f} MiB |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it as Markdown")
    parser.add_argument("--model", default="hemorrhage-base")
    parser.add_argument(
        "--repetitions", type=int, default=5, help="of the small volume; a tenth of the large one"
    )
    parser.add_argument("--peak", choices=("loop", "sahlora"), help=argparse.SUPPRESS)
    parser.add_argument("--slices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--spacing", type=float, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()  # as the command does
    if args.peak:
        print_peak(args.peak, head(args.slices, tuple(args.spacing)), load_model(args.model))
        return
    rows = [measure(label, args.model, args.repetitions) for label in SHAPES]
    machine = (
        f"{torch.get_num_threads()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    )
    text = table(rows, machine)
    print(text)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(
            json.dumps({"machine": machine, "torch": torch.__version__, "rows": rows}, indent=2) + "\n"
        )
        args.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
