"""Segment hemorrhage on a head CT.

CT is a NIfTI, NRRD or MetaImage file, or a folder with a DICOM series. The label map comes back on the grid
of the CT; its ending decides the format: .nii, .nii.gz, .nrrd, .mha or .seg.nrrd (a Slicer segmentation).
Tilted or unevenly spaced DICOM slices lie on no grid that these formats hold: the label map then comes on an
even grid, and the CT on that grid is written beside it as LABEL-ct. DICOM SEG is exact in either case.

For research use only, not for diagnosis.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from sahlora.imaging.planes import View
    from sahlora.imaging.volume import Volume
    from sahlora.inference.predictor import Prediction
    from sahlora.models.base_model import Model
    from sahlora.report.measurements import Measurements

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


@dataclass(frozen=True)
class Segmented:
    """What a run of `segment` found: the label bool (Z, Y, X) in canonical order, and how.

    `grid` is the file with the CT on the label's grid, if the slices lie on none that the formats hold.
    """

    label: np.ndarray
    measurements: Measurements
    prediction: Prediction
    model: Model
    grid: Path | None = None


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Segment, and report the result."""
    found = segment(args, progress)
    progress.result(
        label=str(args.output),
        segment=found.model.card.target.segment.name,
        volume_ml=round(found.measurements.volume_ml, 3),
        components=len(found.measurements.components_ml),
        seconds=round(found.prediction.seconds, 2),
        device=found.prediction.device,
        precision=found.prediction.precision,
        views=list(found.prediction.views),
        grid=None if found.grid is None else str(found.grid),
    )
    if args.progress != "json":
        print(
            f"{found.model.card.target.segment.name}: {found.measurements.volume_ml:.1f} mL in {args.output}"
        )
        if found.grid is not None:
            print(f"The slices lie on no even grid: the label map's is that of {found.grid}")


def segment(args: argparse.Namespace, progress: Progress) -> Segmented:
    """Read, segment, measure and write what was asked for."""
    from sahlora.imaging.planes import parse_views
    from sahlora.imaging.volume import read_volume
    from sahlora.inference.predictor import InferenceSettings, predict
    from sahlora.models.selection import select_models
    from sahlora.report.measurements import measure, remove_small_components
    from sahlora.runtime.devices import choose_device, use_threads

    progress.stage("checking")
    _check_arguments(args)
    use_threads(args.threads)
    device = choose_device(args.device)
    views = parse_views(args.views) if args.views else None
    settings = InferenceSettings(
        views=views,
        weights=_weights(args.weights),
        flip=args.flip,
        batch_size=args.batch_size,
        precision=args.precision,
        disagreement=args.disagreement is not None,
    )
    models = select_models(args.model, args.adapter, args.view_model)
    main = next(iter(models.values()))

    volume = read_volume(args.ct, series=args.series, progress=progress)
    _require_dicom(args, volume)
    grid = _grid_file(args, volume)
    prediction = predict(
        volume, {view: model.for_inference() for view, model in models.items()}, settings, device, progress
    )
    threshold = args.threshold or main.card.target.threshold
    label = prediction.probability >= threshold
    if args.minimum_component > 0:
        label = remove_small_components(label, volume, args.minimum_component)
    found = Segmented(label, measure(label, volume), prediction, main, grid)

    progress.stage("writing")
    _write_volumes(args, volume, found)
    _write_reports(args, volume, found, threshold)
    return found


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuse what can't work before anything takes time."""
    from sahlora.errors import UsageError
    from sahlora.imaging.writers import require_image_path, require_label_path
    from sahlora.runtime.files import require_ending, require_writable

    if args.threshold is not None and not 0 < args.threshold < 1:
        raise UsageError(
            "bad-threshold", f"Threshold {args.threshold} is no probability.", "Give one in (0, 1)."
        )
    if not args.minimum_component >= 0:
        raise UsageError("minimum-component", f"Pieces of {args.minimum_component} mL.", "Give 0 mL or more.")
    require_label_path(args.output)
    for path in filter(None, (args.probability, args.disagreement)):
        require_image_path(path)
    for path, ending in (
        (args.report, ".json"),
        (args.csv, ".csv"),
        (args.overlay, ".png"),
        (args.page, ".html"),
    ):
        if path is not None:
            require_ending(path, ending)
    require_writable(
        args.output,
        args.probability,
        args.disagreement,
        args.dicom_seg,
        args.report,
        args.csv,
        args.overlay,
        args.page,
        inputs=[args.ct],
    )


def _grid_file(args: argparse.Namespace, volume: Volume) -> Path | None:
    """Return where the CT on the even grid goes, if one is needed; a foreign file there is not replaced."""
    from sahlora.errors import UsageError

    if volume.is_regular:
        return None
    beside = _beside(args.output, "-ct")
    if beside.exists() and not args.output.exists():
        raise UsageError(
            "same-file",
            f"{beside} would be overwritten: the CT on the label's grid is written there.",
            "Choose another name for the label map.",
        )
    return beside


def _require_dicom(args: argparse.Namespace, volume: Volume) -> None:
    from sahlora.errors import UsageError

    if args.dicom_seg and not volume.sources:
        raise UsageError("not-dicom", "DICOM SEG needs a DICOM series as input.", "Leave --dicom-seg out.")


def _write_volumes(args: argparse.Namespace, volume: Volume, found: Segmented) -> None:
    """Write label map, probabilities and DICOM SEG; for irregular slices also the CT on the label's grid."""
    from sahlora.imaging.dicom_seg import write_dicom_seg
    from sahlora.imaging.writers import write_image, write_label, write_probability

    segment = found.model.card.target.segment
    write_label(volume.to_grid(found.label, label=True), args.output, segment)
    if found.grid is not None:
        write_image(volume.to_grid(volume.hu, label=False), found.grid)
    prediction = found.prediction
    for values, path in (
        (prediction.probability, args.probability),
        (prediction.disagreement, args.disagreement),
    ):
        if path and values is not None:
            write_probability(volume.to_grid(values, label=False), path)
    if args.dicom_seg:
        write_dicom_seg(
            volume, found.label, args.dicom_seg, segment, algorithm=found.model.card.description.title
        )


def _write_reports(args: argparse.Namespace, volume: Volume, found: Segmented, threshold: float) -> None:
    """Write the reports that were asked for."""
    if not (args.report or args.csv or args.overlay or args.page):
        return
    from sahlora.report.measurements import write_csv, write_json
    from sahlora.report.report import ReportContext, write_overlay, write_page

    context = ReportContext(
        segment=found.model.card.target.segment,
        model=found.model.facts(),
        settings=_settings(args, found.prediction, threshold),
        identifiers=volume.identifiers if args.identifiers else {},
    )
    label, measurements = found.label, found.measurements
    if args.report:
        write_json(args.report, measurements, {**context.to_dict(), "notes": list(volume.notes)})
    if args.csv:
        write_csv(args.csv, measurements)
    if args.overlay:
        write_overlay(args.overlay, label, volume, measurements, context)
    if args.page:
        write_page(args.page, label, volume, measurements, context)


def _beside(path: Path, addition: str) -> Path:
    """Return ``head-ct.nii.gz`` for ``head.nii.gz`` and ``head-ct.nrrd`` for ``head.seg.nrrd``."""
    stem, dot, ending = path.name.replace(".seg.nrrd", ".nrrd").partition(".")
    return path.with_name(f"{stem}{addition}{dot}{ending}")


def _settings(args: argparse.Namespace, prediction: Prediction, threshold: float) -> Mapping[str, str]:
    return {
        "threshold": f"{threshold:g}",
        "views": ", ".join(prediction.views),
        "left-right flip": "yes" if args.flip else "no",
        "smallest piece kept": f"{args.minimum_component:g} mL",
        "precision": prediction.precision,
    }


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
