"""Segment hemorrhage on a head CT.

CT is a NIfTI, NRRD or MetaImage file, or a folder with a DICOM series. The label map comes back on the grid
of the CT; its ending decides the format: .nii, .nii.gz, .nrrd, .mha or .seg.nrrd (a Slicer segmentation).
Tilted or unevenly spaced DICOM slices lie on no grid that these formats hold: the label map then comes on an
even grid, and the CT on that grid is written beside it as LABEL-ct. DICOM SEG is exact in either case.

For research use only, not for diagnosis.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.imaging.planes import View

SUMMARY = "segment hemorrhage on a head CT"
EXAMPLE = "sahlora segment head.nii.gz -o label.seg.nrrd --report report.json --overlay overlay.png"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("ct", type=Path, metavar="CT", help="head CT: file or DICOM folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="LABEL", help="label map to write"
    )
    results = parser.add_argument_group("more results")
    results.add_argument("--probability", type=Path, metavar="FILE", help="probability volume")
    results.add_argument(
        "--disagreement",
        type=Path,
        metavar="FILE",
        help="standard deviation of the averaged views and mirrored passes, 0 to 0.5; needs two or more",
    )
    results.add_argument(
        "--dicom-seg", type=Path, metavar="FILE.dcm", help="DICOM SEG (DICOM input; names the patient)"
    )
    results.add_argument("--report", type=Path, metavar="FILE.json", help="measurements as JSON")
    results.add_argument("--csv", type=Path, metavar="FILE.csv", help="area and volume of each slice")
    results.add_argument("--overlay", type=Path, metavar="FILE.png", help="picture")
    results.add_argument(
        "--page", type=Path, metavar="FILE.html", help="picture and measurements on one page"
    )
    results.add_argument(
        "--identifiers",
        action="store_true",
        help="show the patient's name, ID and dates in report, picture and page",
    )
    what = parser.add_argument_group("model")
    what.add_argument("--model", help="name or file (default: hemorrhage-base, or the adapter's base)")
    what.add_argument("--adapter", help="name or file of an adapter of the model; its views are used")
    what.add_argument(
        "--view-model",
        action="append",
        default=[],
        metavar="VIEW=MODEL",
        help="another model for one view; repeat",
    )
    what.add_argument(
        "--views", metavar="VIEWS", help="e.g. axial,coronal,sagittal (default: what suits the slices)"
    )
    what.add_argument(
        "--weights", metavar="VIEW=W,…", help="weights in the mean, e.g. axial=2,coronal=1 (default: 1)"
    )
    what.add_argument(
        "--threshold", type=float, metavar="P", help="probability from which on (default: the model's)"
    )
    what.add_argument(
        "--flip", action="store_true", help="average with the left-right mirrored scan; twice the time"
    )
    what.add_argument(
        "--minimum-component", type=float, default=0.0, metavar="ML", help="drop smaller pieces (default: 0)"
    )
    how = parser.add_argument_group("input and device")
    how.add_argument(
        "--series", help="UID, number or description of the DICOM series (default: the axial head CT)"
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    how.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="slices at once (default: what suits memory)"
    )
    how.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Segment, and report the result."""
    from sahlora.imaging.planes import parse_views
    from sahlora.inference.predictor import InferenceSettings
    from sahlora.runtime.devices import use_threads
    from sahlora.segmentation import ResultFiles, segment

    use_threads(args.threads)
    found = segment(
        args.ct,
        model=args.model,
        adapter=args.adapter,
        view_models=dict(_pair(text) for text in args.view_model),
        settings=InferenceSettings(
            views=parse_views(args.views) if args.views else None,
            weights=_weights(args.weights),
            flip=args.flip,
            batch_size=args.batch_size,
            precision=args.precision,
            disagreement=args.disagreement is not None,
        ),
        threshold=args.threshold,
        minimum_component_ml=args.minimum_component,
        series=args.series,
        device=args.device,
        outputs=ResultFiles(
            args.output, args.probability, args.disagreement, args.dicom_seg, args.report, args.csv,
            args.overlay, args.page, args.identifiers,
        ),
        progress=progress,
    )  # fmt: skip
    name, prediction = found.model.card.target.segment.name, found.prediction
    progress.result(
        label=str(args.output),
        segment=name,
        volume_ml=round(found.volume_ml, 3),
        components=len(found.measurements.components_ml),
        seconds=round(prediction.seconds, 2),
        device=prediction.device,
        precision=prediction.precision,
        views=list(prediction.views),
        grid=None if found.grid is None else str(found.grid),
    )
    if args.progress != "json":
        print(f"{name}: {found.volume_ml:.1f} mL in {args.output}")
        if found.grid is not None:
            print(f"The slices lie on no even grid: the label map's is that of {found.grid}")


def _pair(text: str) -> tuple[str, str]:
    from sahlora.errors import UsageError

    view, _, model = text.partition("=")
    if not model:
        raise UsageError("bad-view-model", f"“{text}” is not VIEW=MODEL.", "Write e.g. coronal=my-model.")
    return view, model


def _weights(text: str | None) -> dict[View, float] | None:
    from sahlora.errors import UsageError
    from sahlora.imaging.planes import parse_views

    if text is None:
        return None
    weights: dict[View, float] = {}
    for part in text.split(","):
        view, _, weight = part.partition("=")
        try:
            weights[parse_views(view)[0]] = float(weight)
        except ValueError:
            raise UsageError(
                "bad-weights", f"“{part}” is not VIEW=WEIGHT.", "Write e.g. axial=2,coronal=1."
            ) from None
    return weights
