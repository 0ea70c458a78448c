"""Stands in for the package ``sahlora`` in tests that run without torch: same command line, same events.

    python fakechild.py segment CT -o LABEL --progress json ...

What it "finds" is every voxel between 50 and 90 HU. The environment variable SAHLORA_FAKE makes it
misbehave: ``error``, ``crash``, ``exit``, ``garbage``, ``flood``, ``unfinished`` (says it is done but left no
result), ``polite`` (waits until it is cancelled), ``stubborn`` (ignores that, with a process of its own
beside it).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BLOOD_HU = (50, 90)
SEGMENT = {
    "ID": "hemorrhage",
    "Name": "Hemorrhage",
    "Color": "0.737255 0.254902 0.109804",
    "LabelValue": "1",
    "Layer": "0",
    "Tags": "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^50960005^Hemorrhage~^^"
    "~Anatomic codes - DICOM master list~SCT^35951006^Subarachnoid space~^^|",
}


def main() -> int:
    """Do what the environment asks for, by default segment."""
    parser = argparse.ArgumentParser(description="Stand in for sahlora.")
    parser.add_argument("command", choices=("segment", "simulate", "devices"))
    parser.add_argument("ct", type=Path, nargs="?", help="of simulate: the folder to write to")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--probability", type=Path)
    parser.add_argument("--disagreement", type=Path)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--cancel-file", type=Path)
    parser.add_argument("--count", type=int, default=1)
    args, _others = parser.parse_known_args()
    behavior = os.environ.get("SAHLORA_FAKE", "segment")
    emit("stage", stage="reading")
    return {
        "segment": {"simulate": simulate, "devices": list_devices}.get(args.command, segment),
        "error": fail,
        "crash": crash,
        "exit": lambda args: 1,
        "garbage": garbage,
        "flood": flood,
        "unfinished": claim_success,
        "polite": wait_for_cancel,
        "stubborn": ignore_cancel,
    }[behavior](args)


def emit(event: str, **values: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, "version": 1, **values}), flush=True)


def segment(args: argparse.Namespace) -> int:
    """Write label map, probability and report as asked for, and report them."""
    import SimpleITK as sitk

    ct = sitk.ReadImage(str(args.ct))
    emit("progress", stage="reading", fraction=0.5, eta_s=0.1)
    label = sitk.BinaryThreshold(ct, *map(float, BLOOD_HU))
    write_segmentation(label, args.output)
    if args.probability:
        probability = sitk.IntensityWindowing(sitk.Cast(ct, sitk.sitkFloat32), 30.0, 90.0, 0.0, 1.0)
        sitk.WriteImage(probability, str(args.probability))
    if args.disagreement:
        disagreement = sitk.IntensityWindowing(sitk.Cast(ct, sitk.sitkFloat32), 30.0, 90.0, 0.5, 0.0)
        sitk.WriteImage(disagreement, str(args.disagreement))
    measured = measure(label)
    if args.report:
        settings, model = {"threshold": str(args.threshold)}, {"name": "Made-up model"}
        report = {"measurements": measured, "settings": settings, "model": model}
        args.report.write_text(json.dumps(report), encoding="utf-8")
    if args.page:
        args.page.write_text("<p>A made-up report</p>", encoding="utf-8")
    emit("warning", code="made-up", message="This result is made up.", hint="")
    emit("result", volume_ml=measured["volume_ml"], segment=SEGMENT["Name"], seconds=0.1, device="made up")
    return 0


def measure(label: Any) -> dict[str, Any]:
    """Measure a label map (SimpleITK, axial slices) in the shape of a report's measurements."""
    import numpy as np
    import SimpleITK as sitk

    x, y, z = label.GetSpacing()
    areas = np.count_nonzero(sitk.GetArrayViewFromImage(label), axis=(1, 2)) * x * y
    volume_ml = float(areas.sum() * z / 1000)
    slices = [{"position_mm": index * z, "area_mm2": float(area)} for index, area in enumerate(areas)]
    largest = int(areas.argmax()) if volume_ml else None
    parts = {"components_ml": [volume_ml], "mean_hu": 70.0, "extent": None, "largest_slice": largest}
    return {"volume_ml": volume_ml, **parts, "slices": slices}


def simulate(args: argparse.Namespace) -> int:
    """Write heads of one value with a voxel of blood, named as ``sahlora simulate`` names them."""
    import SimpleITK as sitk

    args.ct.mkdir(parents=True, exist_ok=True)
    for number in range(1, args.count + 1):
        ct = sitk.Image(8, 8, 4, sitk.sitkInt16) + 30
        mask = sitk.Image(8, 8, 4, sitk.sitkUInt8)
        mask[0, 0, number - 1] = 1
        for part, image in (("ct", ct), ("mask", mask)):
            sitk.WriteImage(image, str(args.ct / f"sim-{number:04d}_{part}.nii.gz"))
    emit("result", folder=str(args.ct), cases=args.count, volume_ml=20.0)
    return 0


def list_devices(_args: argparse.Namespace) -> int:
    """Find a made-up graphics card and a processor."""
    card = {"name": "cuda:0", "description": "Made-up card, 8 GiB", "seconds_per_slice": 0.01}
    processor = {"name": "cpu", "description": "CPU, 2 threads", "seconds_per_slice": 0.1}
    emit("result", devices=[card, processor])
    return 0


def write_segmentation(label: Any, path: Path) -> None:
    """Write a label map (SimpleITK, 0 and 1) as ``.seg.nrrd`` with one segment."""
    import SimpleITK as sitk

    label = sitk.Cast(label, sitk.sitkUInt8)
    x, y, z = (size - 1 for size in label.GetSize())
    label.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    label.SetMetaData("Segment0_Extent", f"0 {x} 0 {y} 0 {z}")
    for name, value in SEGMENT.items():
        label.SetMetaData(f"Segment0_{name}", value)
    sitk.WriteImage(label, str(path))


def fail(args: argparse.Namespace) -> int:
    """End with an error a user can act on."""
    emit("warning", code="made-up", message=f"{args.ct} looks odd.", hint="")
    emit("error", code="not-ct", message="This is no CT.", hint="Choose a CT.")
    print(f"Traceback of a made-up error about {args.ct}", file=sys.stderr)
    return 3


def crash(_args: argparse.Namespace) -> int:
    """End as a segmentation fault does."""
    if sys.platform != "win32":
        os.kill(os.getpid(), signal.SIGSEGV)
    os.abort()


def garbage(args: argparse.Namespace) -> int:
    """Say what no parser should choke on, then segment."""
    output = sys.stdout.buffer
    output.write(b'\xff\xfe not UTF-8\n{"event": \n[1, 2]\n{"event": 7}\nnull\n\n' + b"[" * 100_000 + b"\n")
    output.flush()
    return segment(args)


def flood(args: argparse.Namespace) -> int:
    """Say far more than anybody can read, then segment."""
    for number in range(20_000):
        emit("progress", stage="reading", fraction=number / 20_000, eta_s=1.0)
    return segment(args)


def claim_success(_args: argparse.Namespace) -> int:
    """Say that all is done, without a result."""
    emit("result", volume_ml=1.0)
    return 0


def wait_for_cancel(args: argparse.Namespace) -> int:
    """Work until asked to stop."""
    while not args.cancel_file.exists():
        time.sleep(0.05)
    emit("metric", heard=True)
    emit("error", code="cancelled", message="Canceled.", hint="")
    return 130


def ignore_cancel(_args: argparse.Namespace) -> int:
    """Ignore every wish to stop, with a process beside it that does, too."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    beside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    emit("metric", pid=beside.pid)
    time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
