"""Simulate a patient with SAH as a DICOM series, segment it, and say how well that went.

Writes into the folder OUT: the series (dicom/), the true blood (truth.nii.gz), the label map for Slicer
(label.seg.nrrd), the measurements (report.json), the picture (overlay.png) and the page (report.html). The
model is the shipped base with an adapter trained on other simulated heads; what the base finds alone, and
what an HU threshold inside the brain finds, are printed beside it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from sahlora.runtime.progress import Progress

SUMMARY = "simulate a patient, segment it, and show the result"
EXAMPLE = "sahlora demo demo"
ADAPTER = "sah-phantom"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("demo"), metavar="OUT", help="(default: demo)"
    )
    parser.add_argument(
        "--sah-ml", type=float, default=30.0, metavar="ML", help="volume of blood (default: 30)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides the head (default: 1)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Simulate, segment, compare."""
    from sahlora.evaluation.baseline import brain_threshold
    from sahlora.evaluation.metrics import dice
    from sahlora.imaging.writers import write_image
    from sahlora.inference.predictor import predict
    from sahlora.models.adapter_file import find_base, read_adapter_card
    from sahlora.models.registry import find
    from sahlora.runtime.files import require_own
    from sahlora.segmentation import ResultFiles, segment
    from sahlora.simulation.head import HeadPhantom, simulate_head
    from sahlora.simulation.writers import is_simulated_series, write_dicom_series

    out: Path = args.output
    require_own([out / "dicom"], lambda: is_simulated_series(out / "dicom"))
    head = simulate_head(HeadPhantom(seed=args.seed, sah_volume_ml=args.sah_ml), progress)
    shutil.rmtree(out / "dicom", ignore_errors=True)
    write_dicom_series(head, out / "dicom")
    write_image(head.mask, out / "truth.nii.gz")

    files = ResultFiles(
        out / "label.seg.nrrd",
        report=out / "report.json",
        overlay=out / "overlay.png",
        page=out / "report.html",
    )
    found = segment(out / "dicom", adapter=ADAPTER, outputs=files, progress=progress)

    progress.stage("comparing")
    volume, truth = found.volume, head.blood.astype(bool)
    base = find_base(read_adapter_card(find(ADAPTER, "adapter")))
    alone = predict(volume, {"axial": base.for_inference()}).probability >= base.card.target.threshold
    figures = {
        "true_ml": round(head.volume_ml, 1),
        "found_ml": round(found.measurements.volume_ml, 1),
        "dice": round(dice(found.label, truth), 3),
        "base_dice": round(dice(alone, truth), 3),
        "threshold_dice": round(dice(brain_threshold(volume.hu, volume.spacing), truth), 3),
        "seconds": round(found.prediction.seconds, 1),
    }
    progress.result(folder=str(out), **figures)
    if args.progress != "json":
        print(
            f"\nA simulated patient with {figures['true_ml']} mL of subarachnoid blood, slices of 5 mm.\n"
            f"Found: {figures['found_ml']} mL, Dice {figures['dice']}, in {figures['seconds']} s "
            f"on {found.prediction.device},\n"
            f"by the model {base.card.description.title} with the adapter {ADAPTER}.\n"
            f"Without the adapter: Dice {figures['base_dice']}. "
            f"A plain HU threshold inside the brain: Dice {figures['threshold_dice']}.\n"
            f"Open {out / 'report.html'} in a browser, {out / 'label.seg.nrrd'} in 3D Slicer.\n"
            "For research use only, not for diagnosis."
        )
