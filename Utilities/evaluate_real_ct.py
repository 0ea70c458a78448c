#!/usr/bin/env python3
"""Segment every real CT of the folder named by SAHLORA_DATA and say how that went.

    python Utilities/evaluate_real_ct.py COHORT RESULTS [--model hemorrhage-base] [--fold K=MODEL …]

COHORT is what ct_ich.py made. Written into RESULTS: an overlay of each scan, results.json, and the tables as
Markdown: seconds and mL of each scan; detection of slices with blood (area under the ROC curve by experts'
labels) and agreement with the machine labels, for the patients that the model in question never saw. Each
fold given with --fold is left to a model trained without it (cross-fitting); all else to --model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ct_ich import TYPES, read_folds, read_slice_labels
from sahlora.cohort_statistics import auroc_by_patient, summarize
from sahlora.inference import predict
from sahlora.measurements import measure
from sahlora.metrics import dice
from sahlora.model import Model, find, load_model, save_model
from sahlora.report import ReportContext, write_overlay
from sahlora.volume import Volume, read_volume

FEWEST_PATIENTS = 5
"""With fewer, a type of blood is listed case by case."""


@dataclass(frozen=True)
class Result:
    """What was found in one scan; `slices` is the expected blood (mL) of each, lowest first."""

    case: str
    seconds: float
    volume_ml: float
    slices: tuple[float, ...]
    machine_ml: float | None = None
    machine_dice: float | None = None


def scans(cohort: Path, data: Path) -> dict[str, Path]:
    """Return every scan by name."""
    found = {path.name.split(".")[0]: path for path in sorted((cohort / "volumes").glob("*.nii.gz"))}
    found["GE head (DICOM)"] = data / "ge_head_dicom"
    found["head phantom"] = next((data / "head_phantom_ct").glob("*.nii.gz"))
    return found


def evaluate(case: str, path: Path, label: Path, model: Model, results: Path) -> Result:
    """Segment one scan, draw it and compare it with the machine label if there is one."""
    start = time.perf_counter()
    volume = read_volume(path)
    probability = predict(volume, {"axial": model.for_inference()}).probability
    found = probability >= model.card.target.threshold
    measurements = measure(found, volume)
    seconds = time.perf_counter() - start
    context = ReportContext(model.card.target.segment, model.facts())
    write_overlay(results / f"{case}.png", found, volume, measurements, context)
    expected = tuple(np.round(probability.sum(axis=(1, 2)) * volume.voxel_ml, 4).tolist())
    if not label.exists():
        return Result(case, seconds, measurements.volume_ml, expected)
    return Result(case, seconds, measurements.volume_ml, expected, *compare(found, label, volume))


def compare(found: np.ndarray, label: Path, volume: Volume) -> tuple[float, float | None]:
    """Return the machine label's volume in mL and the Dice with it where it is known."""
    machine = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    known = machine != 255
    machine_ml = float((machine == 1).sum(axis=(1, 2)) @ volume.voxel_ml)
    return machine_ml, dice(found & known, machine == 1) if machine_ml else None


def detection(results: list[Result], data: Path, patients: list[str]) -> dict[str, Any]:
    """Return how well slices with blood are told from those without, by experts' labels of some patients."""
    experts = read_slice_labels(data / "ct_ich")
    by_case = {result.case: result for result in results}
    names = np.array([p for p in patients for _ in experts[p]])
    scores = np.concatenate([by_case[p].slices for p in patients])
    shows = {kind: np.array([bool(s[kind]) for p in patients for s in experts[p]]) for kind in TYPES}
    any_blood = np.logical_or.reduce(list(shows.values()))
    out: dict[str, Any] = {"patients": len(patients), "slices": len(scores)}
    out["any"] = asdict(auroc_by_patient(scores, any_blood, names))
    out["types"] = {}
    for kind, positive in shows.items():
        counted = positive | ~any_blood
        out["types"][kind] = {"patients": len(set(names[positive])), "slices": int(positive.sum())} | (
            {"auroc": asdict(auroc_by_patient(scores[counted], positive[counted], names[counted]))}
            if len(set(names[positive])) >= FEWEST_PATIENTS
            else {"cases": slices_above(scores, positive, any_blood, names)}
        )
    clean = [by_case[p].volume_ml for p in patients if not any(any(s.values()) for s in experts[p])]
    out["blood_free_ml"] = {"n": len(clean), "median": float(np.median(clean)), "worst": float(max(clean))}
    agreement = [by_case[p].machine_dice for p in patients if by_case[p].machine_ml]
    out["dice_with_machine_labels"] = asdict(summarize(agreement))
    return out


def slices_above(
    scores: np.ndarray, positive: np.ndarray, any_blood: np.ndarray, names: np.ndarray
) -> dict[str, list[float]]:
    """Return, for each positive slice of a patient, the percentage of blood-free slices that score lower.

    This stands for a type of blood that too few patients have for a curve with an interval.
    """
    free = scores[~any_blood]
    found: dict[str, list[float]] = {str(name): [] for name in names[positive]}
    for name, score in zip(names[positive], scores[positive], strict=True):
        found[str(name)].append(round(100 * float((free < score).mean()), 1))
    return found


def main() -> None:
    """Evaluate everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path, metavar="COHORT")
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--model", default="hemorrhage-base")
    parser.add_argument(
        "--record", action="store_true", help="write the figures on the model's card (MODEL a file)"
    )
    parser.add_argument(
        "--fold",
        action="append",
        default=[],
        type=lambda text: text.partition("=")[::2],
        metavar="K=MODEL",
        help="model that never saw fold K, for its patients (default: 0=MODEL of --model)",
    )
    args = parser.parse_args()
    if "SAHLORA_DATA" not in os.environ:
        sys.exit("Set SAHLORA_DATA to the folder that holds ct_ich.")
    data = Path(os.environ["SAHLORA_DATA"])
    args.results.mkdir(parents=True, exist_ok=True)
    model, folds = load_model(find(args.model)), read_folds()
    without = {int(fold): load_model(find(name)) for fold, name in args.fold} or {0: model}
    results = []
    for case, path in scans(args.cohort, data).items():
        label = args.cohort / "labels" / f"{case}.nii.gz"
        results.append(evaluate(case, path, label, without.get(folds.get(case, -1), model), args.results))
        print(f"{case}: {results[-1].volume_ml:.2f} mL, {results[-1].seconds:.1f} s", flush=True)
    unseen = [case for case, fold in folds.items() if fold in without]
    figures = detection(results, data, unseen)
    print(json.dumps(figures, indent=2))
    if args.record:
        card = replace(model.card, training={**model.card.training, "evaluation": figures})
        save_model(Path(args.model), model.network, card)
    content = {"figures": figures, "results": [asdict(result) for result in results]}
    (args.results / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    unseen_names = set(unseen) | {"GE head (DICOM)", "head phantom"}
    (args.results / "real-ct.md").write_text(page(model, results, unseen_names, figures), encoding="utf-8")


def type_line(kind: str, found: dict[str, Any]) -> str:
    """Say how slices with one type of blood are told from slices without any."""
    where = f"- {kind} (n = {found['slices']} slices, {found['patients']} patients)"
    if "auroc" in found:
        auroc = found["auroc"]
        return f"{where}: AUROC {auroc['value']:.2f} ({auroc['lower']:.2f} to {auroc['upper']:.2f})."
    cases = "; ".join(f"{name}: {', '.join(map(str, ranks))}" for name, ranks in found["cases"].items())
    return f"{where}: percentage of blood-free slices that score lower: {cases or 'none'}."


def page(model: Model, results: list[Result], unseen: set[str], figures: dict[str, Any]) -> str:
    """Return figures and the table of all scans as Markdown."""
    auroc, clean, agreement = (figures[key] for key in ("any", "blood_free_ml", "dice_with_machine_labels"))
    rows = [
        f"| {r.case} | {'no' if r.case in unseen else 'yes'} | {r.seconds:.1f} | {r.volume_ml:.2f} "
        f"| {'–' if not r.machine_ml else f'{r.machine_ml:.2f}'} "
        f"| {'–' if r.machine_dice is None else f'{r.machine_dice:.2f}'} |"
        for r in results
    ]
    lines = [
        f"# {model.card.description.title} on real CT",
        "",
        "Written by `Utilities/evaluate_real_ct.py`. For research use only, not for diagnosis.",
        "",
        f"On the {figures['patients']} patients that training never saw ({figures['slices']} slices):",
        "",
        "- Slices with any hemorrhage by two radiologists' labels, scored by the blood expected in them:",
        f"  area under the ROC curve **{auroc['value']:.2f}** (95 % interval by patient",
        f"  {auroc['lower']:.2f} to {auroc['upper']:.2f}; {auroc['n_positive']} of {auroc['n']} positive).",
        *(type_line(kind, found) for kind, found in figures["types"].items()),
        f"- Volume found in the {clean['n']} patients without blood: median {clean['median']:.2f} mL,",
        f"  at worst {clean['worst']:.2f} mL.",
        f"- Dice with the machine labels: {agreement['mean']:.2f} ± {agreement['sd']:.2f}",
        f"  (n = {agreement['n']}). Machine labels are not truth.",
        "",
        "All scans ran without failure; seconds include reading and measuring. Volumes of CT-ICH are",
        "estimates, as its pixel sizes are.",
        "",
        "| case | seen in training | seconds | found mL | machine label mL | Dice |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
