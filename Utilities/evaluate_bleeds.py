#!/usr/bin/env python3
"""Say what models outline of known blood, and where there is none, in patients that they never saw.

    python Utilities/evaluate_bleeds.py COHORT RESULTS.json --fold K=MODEL [--fold …] [--adapter ADAPTER]
        [--lesions FOLDER …] [--threshold P …] [--flip] [--minimum-component ML]

COHORT is what ct_ich.py made, each FOLDER what `sahlora simulate FOLDER --into … --kind …` made. Each fold's
patients are segmented by the model that never saw them. Printed as Markdown and written as JSON:

- Real blood by the machine labels (probability of at least 0.10; no truth): Dice and area, pooled over all
  voxels whose label is known.
- mL outlined in heads without blood.
- Simulated hemorrhages by kind: share of their slices (of at least 0.1 mL) that are found, Dice, volume.
- The same with the scan shifted by some HU: mL outlined within known blood, relative to the scan as it is.
- Slices with any blood by two radiologists: area under the ROC curve of their scores; with the scan shifted,
  too.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ct_ich import read_folds, read_slice_labels
from sahlora.cases.manifest import MANIFEST_NAME
from sahlora.evaluation.metrics import dice
from sahlora.evaluation.statistics import auroc_by_patient
from sahlora.imaging.volume import Volume, read_volume
from sahlora.inference.predictor import InferenceSettings, predict
from sahlora.models.base_model import Model, find
from sahlora.models.selection import select_models
from sahlora.report.measurements import remove_small_components, slice_scores

SHIFTS_HU = (-5, 5, 8)
LEAST_SLICE_ML = 0.1
FOUND_SHARE = 0.2
"""Of a slice's blood that must be outlined for the slice to be found."""


@dataclass(frozen=True)
class Judge:
    """A model and how its probabilities become outlines."""

    model: Model
    thresholds: tuple[float, ...]
    flip: bool
    minimum_ml: float

    def segment(self, volume: Volume) -> tuple[dict[float, np.ndarray], np.ndarray]:
        """Return the outline by threshold, bool (Z, Y, X), and the score of each slice."""
        settings = InferenceSettings(("axial",), flip=self.flip)
        probability = predict(volume, {"axial": self.model.for_inference()}, settings).probability
        outlines = {
            threshold: remove_small_components(probability >= threshold, volume, self.minimum_ml)
            for threshold in self.thresholds
        }
        return outlines, slice_scores(probability, volume)


def milliliters(mask: np.ndarray, volume: Volume) -> float:
    """Return the volume of a mask (Z, Y, X)."""
    return float(mask.sum(axis=(1, 2)) @ volume.voxel_ml)


def read_label(path: Path) -> np.ndarray:
    """Read a label map (Z, Y, X) that lies on its CT's grid."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


# ------------------------------------------------------------------------------------------- real scans


@dataclass(frozen=True, eq=False)
class RealCase:
    """What was found in one patient: by threshold, where shifted by HU and threshold."""

    patient: str
    bleeds: np.ndarray
    label_ml: float
    score: dict[int, np.ndarray]
    shared_ml: dict[int, dict[float, float]]
    outlined_ml: dict[float, float]
    known_ml: dict[float, float]


def real_cases(cohort: Path, data: Path, judges: dict[str, Judge]) -> Iterator[RealCase]:
    """Segment each patient, those with blood also with the scan shifted."""
    experts = read_slice_labels(data / "ct_ich")
    for patient, judge in judges.items():
        volume = read_volume(cohort / "volumes" / f"{patient}.nii.gz")
        label = read_label(cohort / "labels" / f"{patient}.nii.gz")
        bleeds = np.array([any(row.values()) for row in experts[patient]])
        label[~bleeds] = 0
        score, shared = {}, {}
        for shift in (*SHIFTS_HU, 0):
            shifted = replace(volume, hu=volume.hu + np.int16(shift)) if shift else volume
            found, score[shift] = judge.segment(shifted)
            shared[shift] = {t: milliliters(mask & (label == 1), volume) for t, mask in found.items()}
        unmarked = bleeds & ~(label == 1).any(axis=(1, 2))
        known = (label != 255) & ~unmarked[:, None, None]
        outlined = {t: milliliters(mask, volume) for t, mask in found.items()}
        yield RealCase(
            patient, bleeds, milliliters(label == 1, volume), score, shared, outlined,
            {t: milliliters(mask & known, volume) for t, mask in found.items()},
        )  # fmt: skip
        print(f"{patient}: {', '.join(f'{ml:.2f} mL' for ml in outlined.values())}", flush=True)


def real_figures(cases: list[RealCase], threshold: float) -> dict[str, Any]:
    """Return the figures of real scans at a threshold."""
    free = [case.outlined_ml[threshold] for case in cases if not case.bleeds.any()]
    labelled = [case for case in cases if case.label_ml]
    shared, label, known = (
        sum(values)
        for values in zip(
            *((c.shared_ml[0][threshold], c.label_ml, c.known_ml[threshold]) for c in labelled), strict=True
        )
    )
    names = np.concatenate([[case.patient] * len(case.bleeds) for case in cases])
    bleeds = np.concatenate([case.bleeds for case in cases])
    curves = {
        shift: asdict(auroc_by_patient(np.concatenate([c.score[shift] for c in cases]), bleeds, names))
        for shift in (0, *SHIFTS_HU)
    }
    return {
        "blood_free_ml": {"n": len(free), "median": float(np.median(free)), "worst": max(free)},
        "machine_labels": {
            "patients": len(labelled), "label_ml": label, "pooled_dice": 2 * shared / (label + known),
            "area": known / label, "covered": shared / label,
        },
        "known_blood_when_shifted": {
            shift: sum(case.shared_ml[shift][threshold] for case in labelled) / max(shared, 1e-6)
            for shift in SHIFTS_HU
        },
        "auroc_any_blood": curves,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- simulated


@dataclass(frozen=True)
class SimulatedCase:
    """What was found of one simulated hemorrhage at a threshold."""

    threshold: float
    kind: str
    patient: str
    true_ml: float
    found_ml: float
    dice: float
    slices: int
    slices_found: int


def simulated_cases(lesions: Path, judges: dict[str, Judge]) -> Iterator[SimulatedCase]:
    """Segment the simulated hemorrhages of the patients; blood outlined before the bleed is not theirs."""
    with (lesions / MANIFEST_NAME).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["patient"] in judges]
    for row in rows:
        volume = read_volume(lesions / row["image"])
        label = read_label(lesions / row["label"])
        truth, slice_ml = label == 1, (label == 1).sum(axis=(1, 2)) * volume.voxel_ml
        counted = slice_ml >= LEAST_SLICE_ML
        for threshold, outline in judges[row["patient"]].segment(volume)[0].items():
            found = outline & (label != 255)
            shared_ml = (truth & found).sum(axis=(1, 2)) * volume.voxel_ml
            yield SimulatedCase(
                threshold, f"{lesions.name}: {row['kind']}", row["patient"],
                milliliters(truth, volume), milliliters(found, volume),
                dice(found, truth), int(counted.sum()),
                int((shared_ml[counted] >= FOUND_SHARE * slice_ml[counted]).sum()),
            )  # fmt: skip


def simulated_figures(cases: list[SimulatedCase]) -> dict[str, dict[str, Any]]:
    """Return figures by kind, and of all."""
    kinds = {kind: [case for case in cases if case.kind == kind] for kind in sorted({c.kind for c in cases})}
    return {kind: _of_kind(group) for kind, group in (kinds | {"all": cases}).items()}


def _of_kind(group: list[SimulatedCase]) -> dict[str, Any]:
    scores = [case.dice for case in group]
    true, found = (sum(values) for values in zip(*((c.true_ml, c.found_ml) for c in group), strict=True))
    return {
        "n": len(group),
        "patients": len({case.patient for case in group}),
        "dice": float(np.mean(scores)),
        "dice_sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "volume_bias_percent": 100 * (found / true - 1),
        "slices": sum(case.slices for case in group),
        "slices_found": sum(case.slices_found for case in group),
    }


# --------------------------------------------------------------------------------------------- writing


def table(figures: dict[str, Any]) -> str:
    """Write all figures as Markdown."""
    real, lines = figures["real"], []
    free, labels, auroc = real["blood_free_ml"], real["machine_labels"], real["auroc_any_blood"]
    of = f"n = {labels['patients']}, {labels['label_ml']:.0f} mL"
    lines += [
        "| figure | value |", "|---|---|",
        f"| machine labels, {of}: pooled Dice, area "
        f"| {labels['pooled_dice']:.3f}, {labels['area']:.2f} |",
        f"| blood-free heads, n = {free['n']}: median, worst mL "
        f"| {free['median']:.2f}, {free['worst']:.2f} |",
        *(
            f"| known blood found with the scan at {shift:+d} HU, of unshifted | {share:.2f} |"
            for shift, share in real["known_blood_when_shifted"].items()
        ),
        *(
            f"| AUROC of slices with any blood, scan at {shift:+d} HU "
            f"| {curve['value']:.3f} ({curve['lower']:.3f} to {curve['upper']:.3f}) |"
            for shift, curve in auroc.items()
        ),
        "",
    ]  # fmt: skip
    if figures["simulated"]:
        lines += ["| simulated | n (patients) | Dice | volume | slices found |", "|---|---|---|---|---|"]
    for kind, one in figures["simulated"].items():
        spread = "" if one["dice_sd"] is None else f" ± {one['dice_sd']:.2f}"
        share = 100 * one["slices_found"] / max(one["slices"], 1)
        slices = f"{one['slices_found']} of {one['slices']}, {share:.0f} %"
        lines.append(
            f"| {kind} | {one['n']} ({one['patients']}) | {one['dice']:.2f}{spread} "
            f"| {one['volume_bias_percent']:+.0f} % | {slices} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Segment, count and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path, metavar="COHORT")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument(
        "--fold",
        action="append",
        required=True,
        type=lambda text: text.partition("=")[::2],
        metavar="K=MODEL",
    )
    parser.add_argument("--adapter", help="adapter of every MODEL")
    parser.add_argument(
        "--lesions", type=Path, action="append", default=[], metavar="FOLDER", help="simulated hemorrhages"
    )
    parser.add_argument(
        "--threshold", type=float, action="append", help="can be repeated (default: the model's)"
    )
    parser.add_argument("--flip", action="store_true", help="also segment the mirrored scan")
    parser.add_argument("--minimum-component", type=float, default=0.0, metavar="ML")
    args = parser.parse_args()
    if "SAHLORA_DATA" not in os.environ:
        sys.exit("Set SAHLORA_DATA to the folder that holds ct_ich.")
    judges: dict[str, Judge] = {}
    for fold, name in args.fold:
        model = select_models(str(find(name)), args.adapter)["axial"]
        thresholds = tuple(args.threshold or [model.card.target.threshold])
        judge = Judge(model, thresholds, args.flip, args.minimum_component)
        judges |= {patient: judge for patient, own in read_folds().items() if own == int(fold)}
    real = list(real_cases(args.cohort, Path(os.environ["SAHLORA_DATA"]), judges))
    simulated = [case for folder in args.lesions for case in simulated_cases(folder, judges)]
    content: dict[str, Any] = {
        "patients": [{k: v for k, v in asdict(c).items() if k not in ("bleeds", "score")} for c in real],
        "cases": [asdict(case) for case in simulated],
    }
    for threshold in thresholds:
        mine = [case for case in simulated if case.threshold == threshold]
        content[f"{threshold:g}"] = figures = {
            "real": real_figures(real, threshold),
            "simulated": simulated_figures(mine) if mine else {},
        }
        print(f"\nThreshold {threshold:g}:\n\n{table(figures)}")
    args.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
