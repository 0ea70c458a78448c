"""Measure what the Trainer's panel does in Slicer's own process: writing cases, and drawing an epoch.

    python Testing/benchmarks/bench_trainer.py --output Docs/benchmarks/trainer.json

Runs in the harness (Docs/harness.md): MRML and segmentations are Slicer's own. Cases are written in steps of
the event loop; the longest is how long the panel can't answer. Promised are 0.1 s for 512 x 512 x 30. Told
are the time by the clock and the main thread's own processor time: other programs slow down the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing" / "slicer"), str(ROOT / "SAHLoRACore")]

SLICES = {30: 5.0, 300: 0.5}  # number: mm
EPOCHS = 500


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    import harness

    reason = harness.unavailable()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    from harness.application import MODULES, load_module, start

    slicer = start()
    for name in MODULES:
        load_module(name)
    from SAHLoRACoreLib.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        replace(Settings.load(), dataFolder=folder).save()
        rows = [measure_export(slicer, count, mm) for count, mm in SLICES.items()]
        rows.append(measure_epochs())
    results = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "rows": rows,
    }
    for row in rows:
        print(json.dumps(row))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


def measure_export(slicer: Any, count: int, mm: float) -> dict[str, Any]:
    """Write a case with 512 x 512 pixels in `count` slices, outlined on a turned grid; time every step."""
    import numpy as np
    from SAHLoRATrainerLib.cases import SceneCase
    from SAHLoRATrainerLib.export import exportCases
    from test_scene import add_transform, oblique_grid, turned

    slicer.mrmlScene.Clear(0)
    grid = slicer.util.vtkMatrixFromArray(oblique_grid(spacing=(0.45, 0.45, mm)))
    hu = np.full((count, 512, 512), 30, np.int16)
    volume = slicer.util.addVolumeFromArray(hu, ijkToRAS=grid, name="CT")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("blood", "Blood")
    mask = np.zeros(hu.shape, np.uint8)
    mask[count // 3 : count // 2, 180:330, 150:360] = 1  # 150 by 210 pixels, a large bleed
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, "blood", volume)
    segmentation.SetAndObserveTransformNodeID(add_transform(slicer, turned(0.1)).GetID())
    steps = exportCases([SceneCase(volume, segmentation, "blood")])
    clock, thread = [], []
    going = True
    while going:
        going, seconds, own = timed(lambda: next(steps, None) is not None)
        clock.append(seconds)
        thread.append(own)
    return {
        "what": "write a case",
        "slices": count,
        "steps": len(clock),
        "all_s": round(sum(clock), 3),
        "longest_step_s": round(max(clock), 3),
        "longest_step_own_s": round(max(thread), 3),
    }


def measure_epochs() -> dict[str, Any]:
    """Draw epochs one by one; time the first and the last fifty."""
    from SAHLoRATrainerLib.charts import Curves, showRuns
    from SAHLoRATrainerLib.runs import newRun
    from SAHLoRATrainerLib.settings import TrainSettings

    run = newRun(TrainSettings())
    showRuns([run])
    curves, own = Curves(run, "axial"), []
    for epoch in range(1, EPOCHS + 1):
        line = {"epoch": epoch, "loss": 1 / epoch, "held_out_dice": 0.5}
        own.append(timed(lambda line=line: curves.append([line]))[2])
    return {
        "what": "draw an epoch",
        "epochs": EPOCHS,
        "first_fifty_own_ms": round(20 * sum(own[:50]), 3),
        "last_fifty_own_ms": round(20 * sum(own[-50:]), 3),
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a work gives, its seconds by the clock, and the main thread's own."""
    clock, thread = time.perf_counter(), time.thread_time()
    found = work()
    return found, time.perf_counter() - clock, time.thread_time() - thread


if __name__ == "__main__":
    sys.exit(main())
