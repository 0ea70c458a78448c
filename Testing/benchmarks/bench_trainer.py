"""Measure what the Trainer's panel does in Slicer's own process: writing cases, and drawing an epoch.

    python Testing/benchmarks/bench_trainer.py --output Docs/evidence/benchmarks/trainer.json

Runs in the harness (Testing/harness.md): MRML and segmentations are Slicer's own. Cases are written in steps
of the event loop; the longest is how long the panel can't answer. Promised are 0.1 s for 512 x 512 x 30.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from typing import Any

from in_slicer import run, timed

SLICES = {30: 5.0, 300: 0.5}  # number: mm
EPOCHS = 500


def main() -> int:
    """Measure and print a table."""
    return run(__doc__ or "", measure)


def measure(slicer: Any) -> list[dict[str, Any]]:
    """Measure both, in a data folder that goes afterwards."""
    from SAHLoRACoreLib.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        replace(Settings.load(), dataFolder=folder).save()
        rows = [measure_export(slicer, count, mm) for count, mm in SLICES.items()]
        return [*rows, measure_epochs()]


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
    times = []
    going = True
    while going:
        seconds, going = timed(lambda: next(steps, None) is not None)
        times.append(seconds)
    clock = [seconds.elapsed for seconds in times]
    return {
        "what": "write a case",
        "slices": count,
        "steps": len(clock),
        "all_s": round(sum(clock), 3),
        "longest_step_s": round(max(clock), 3),
        "longest_step_own_s": round(max(seconds.processor for seconds in times), 3),
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
        own.append(timed(lambda line=line: curves.append([line]))[0].processor)
    return {
        "what": "draw an epoch",
        "epochs": EPOCHS,
        "first_fifty_own_ms": round(20 * sum(own[:50]), 3),
        "last_fifty_own_ms": round(20 * sum(own[-50:]), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
