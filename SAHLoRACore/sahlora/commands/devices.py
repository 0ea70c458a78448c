"""List the devices that models can run on here, and how fast each is.

The speed is measured: the shipped model segments a few slices of a made-up head. A routine head CT has about
30 slices; coronal and sagittal views and the mirrored pass add as many passes again.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    import torch

    from sahlora.imaging.volume import Volume

SUMMARY = "list the devices models can run on, with their speed"
EXAMPLE = "sahlora devices --json"

SLICES = 6
HEAD_MM = (224, 192)  # rows and columns of 1 mm that a head takes


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Measure every device and list it."""
    from sahlora.runtime.devices import available_devices, describe_device, use_threads

    use_threads(args.threads)
    progress.stage("measuring")
    rows: list[dict[str, Any]] = []
    for device in available_devices():
        rows.append(
            {
                "name": str(device),
                "description": describe_device(device),
                "seconds_per_slice": round(seconds_per_slice(device), 5),
            }
        )
        progress.update(len(rows) / len(available_devices()))
    progress.result(devices=rows)
    if args.progress == "json":
        return
    for row in rows if not args.json else ():
        print(f"{row['name']}: {row['description']}, {row['seconds_per_slice']:.3f} s a slice")
    if args.json:
        print(json.dumps(rows, indent=2))


def seconds_per_slice(device: torch.device) -> float:
    """Return the time that the shipped model takes for one axial slice of a head, once it has warmed up."""
    from sahlora.imaging.planes import View
    from sahlora.inference.predictor import InferenceSettings, predict
    from sahlora.models.base_model import ViewModel, load_model

    models: dict[View, ViewModel] = {"axial": load_model("hemorrhage-base").for_inference()}
    settings = InferenceSettings(views=("axial",), batch_size=SLICES)
    head = _head()
    return min(predict(head, models, settings, device).seconds for _time in range(2)) / SLICES


def _head() -> Volume:
    """Return brain within bone, of the size that heads have."""
    import numpy as np

    from sahlora.imaging.volume import Volume

    hu = np.full((SLICES, *HEAD_MM), 1000, np.int16)
    hu[:, 8:-8, 8:-8] = 30
    return Volume.from_array(hu, (5.0, 1.0, 1.0))
