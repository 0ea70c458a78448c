#!/usr/bin/env python3
"""Segment every real CT of the folder named by SAHLORA_DATA and say how that went.

    python Utilities/evaluate_real_ct.py COHORT RESULTS [--model MODEL [--adapter ADAPTER]]
        [--fold K=MODEL …] [--unseen]

COHORT is what ct_ich.py made. Written into RESULTS: an overlay of each scan, results.json, two plots, and
the tables as Markdown (which expects the plots in a folder images): seconds and mL of each scan; with an
adapter, mL outlined in each slice that experts see subarachnoid blood in; detection
of slices with blood (area under the ROC curve by experts' labels) and agreement with the machine labels,
for the patients that the model in question never saw. Each fold given with --fold is left to a model
trained without it (cross-fitting); all else to --model. With --unseen, these folds are all that is
segmented.

A slice's score is the blood expected in it (the sum of its probabilities, in mL) and, with half the weight
each, in its two neighbors.
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

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ct_ich import TYPES, read_folds, read_slice_labels
from sahlora.evaluation.metrics import dice
from sahlora.evaluation.statistics import auroc_by_patient, summarize
from sahlora.imaging.volume import Volume, read_volume
from sahlora.inference.predictor import predict
from sahlora.models.base_model import Model, load_model, save_model
from sahlora.models.registry import find
from sahlora.models.selection import select_models
from sahlora.report.measurements import measure
from sahlora.report.report import ReportContext, write_overlay

FEWEST_PATIENTS = 5
"""With fewer, a type of blood is listed case by case."""

NEIGHBORS = (0.25, 0.5, 0.25)
"""Weights of a slice and its neighbors in its score; at the ends the last slice is its own neighbor."""


@dataclass(frozen=True)
class Result:
    """What was found in one scan.

    Of each slice, lowest first: mL expected and outlined, and whether a machine outlines any.
    """

    case: str
    seconds: float
    volume_ml: float
    slices: tuple[float, ...]
    outlined: tuple[float, ...]
    marked: tuple[bool, ...] = ()
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
    expected, outlined = (
        tuple(np.round(values.sum(axis=(1, 2)) * volume.voxel_ml, 4).tolist())
        for values in (probability, found)
    )
    compared = compare(found, label, volume) if label.exists() else ()
    return Result(case, seconds, measurements.volume_ml, expected, outlined, *compared)


def compare(found: np.ndarray, label: Path, volume: Volume) -> tuple[tuple[bool, ...], float, float | None]:
    """Return where the machine outlines blood, its volume in mL, and the Dice with it where it is known."""
    machine = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    known = machine != 255
    machine_ml = float((machine == 1).sum(axis=(1, 2)) @ volume.voxel_ml)
    marked = tuple((machine == 1).any(axis=(1, 2)).tolist())
    return marked, machine_ml, dice(found & known, machine == 1) if machine_ml else None


@dataclass(frozen=True, eq=False)
class Slices:
    """All slices of some patients.

    Every array has one entry a slice: patient, scores alone and with neighbors, mL outlined, what is seen.
    """

    patient: np.ndarray
    alone: np.ndarray
    score: np.ndarray
    outlined: np.ndarray
    marked: np.ndarray
    shows: dict[str, np.ndarray]

    @classmethod
    def of(cls, results: list[Result], data: Path, patients: list[str]) -> Slices:
        """Gather the slices of `patients`."""
        experts = read_slice_labels(data / "ct_ich")
        by_case = {result.case: result for result in results}
        found = [by_case[patient] for patient in patients]
        return cls(
            np.array([p for p in patients for _ in experts[p]]),
            np.concatenate([one.slices for one in found]),
            np.concatenate([ndimage.correlate1d(one.slices, NEIGHBORS, mode="nearest") for one in found]),
            np.concatenate([one.outlined for one in found]),
            np.concatenate([one.marked for one in found]),
            {kind: np.array([bool(s[kind]) for p in patients for s in experts[p]]) for kind in TYPES},
        )

    @property
    def bleeds(self) -> np.ndarray:
        """Whether an expert sees any blood."""
        return np.logical_or.reduce(list(self.shows.values()))

    def patients_with(self, kind: str) -> list[str]:
        """Return who has a slice with one type of blood."""
        return sorted(set(self.patient[self.shows[kind]].tolist()))


def detection(results: list[Result], slices: Slices) -> dict[str, Any]:
    """Return how well slices with blood are told from those without, by experts' labels of some patients."""
    any_blood, names = slices.bleeds, slices.patient
    out: dict[str, Any] = {"patients": len(set(names)), "slices": len(names)}
    out["any"] = asdict(auroc_by_patient(slices.score, any_blood, names))
    out["any_alone"] = asdict(auroc_by_patient(slices.alone, any_blood, names))
    for name, part in (("outlined", slices.marked), ("unmarked", ~slices.marked)):
        counted = ~any_blood | part
        out[name] = {"patients": len(set(names[any_blood & part])), "slices": int((any_blood & part).sum())}
        out[name]["auroc"] = asdict(
            auroc_by_patient(slices.score[counted], any_blood[counted], names[counted])
        )
    out["types"] = {}
    for kind, positive in slices.shows.items():
        counted = positive | ~any_blood
        patients = slices.patients_with(kind)
        out["types"][kind] = {"patients": len(patients), "slices": int(positive.sum())} | (
            {"auroc": asdict(auroc_by_patient(slices.score[counted], positive[counted], names[counted]))}
            if len(patients) >= FEWEST_PATIENTS
            else {"cases": slices_above(slices.score, positive, any_blood, names)}
        )
    by_case = {result.case: result for result in results}
    bleeding = set(names[any_blood].tolist())
    clean = {p: by_case[p].volume_ml for p in set(names.tolist()) - bleeding}
    worst = max(clean, key=clean.__getitem__)
    out["blood_free_ml"] = {
        "n": len(clean),
        "median": float(np.median(list(clean.values()))),
        "worst": clean[worst],
        "worst_case": worst,
    }
    agreement = {p: by_case[p].machine_dice for p in sorted(bleeding) if by_case[p].machine_ml}
    groups = {"any": list(agreement)} | {kind: slices.patients_with(kind) for kind in TYPES}
    out["dice_with_machine_labels"] = {
        kind: spread([agreement[p] for p in group if p in agreement]) for kind, group in groups.items()
    }
    return out


def spread(values: list[float]) -> dict[str, Any]:
    """Return n, mean and standard deviation (n - 1) as plain JSON: what is undefined is None."""
    summary = summarize(values)
    return {"n": summary.n} | {
        name: None if np.isnan(value) else value
        for name, value in (("mean", summary.mean), ("sd", summary.sd))
    }


def draw_roc(slices: Slices, path: Path) -> None:
    """Draw the ROC curve of slices with any blood, with and without their neighbors."""
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    for scores, name in ((slices.score, "with its neighbors"), (slices.alone, "slice alone")):
        order = np.argsort(-scores, kind="stable")
        bleeds = slices.bleeds[order]
        last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are one step
        axes.plot(
            *(np.append(0, np.cumsum(part)[last] / part.sum()) for part in (~bleeds, bleeds)), label=name
        )
    axes.plot((0, 1), (0, 1), color="0.7", linewidth=1)
    axes.set(xlabel="slices without blood called positive", ylabel="slices with blood found", aspect=1)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_profiles(slices: Slices, kind: str, path: Path) -> None:
    """Draw the score of every slice of the patients with one type of blood, with what experts see in them."""
    patients = slices.patients_with(kind)
    free = np.quantile(slices.score[~slices.bleeds], 0.95)
    figure, rows = plt.subplots(
        len(patients), figsize=(7, 1.7 * len(patients)), layout="constrained", squeeze=False
    )
    for patient, axes in zip(patients, rows[:, 0], strict=True):
        mine = slices.patient == patient
        score, bleeds, shows = slices.score[mine], slices.bleeds[mine], slices.shows[kind][mine]
        colors = np.where(shows, "tab:red", np.where(bleeds, "tab:orange", "0.7"))
        axes.bar(np.arange(len(score)) + 1, np.maximum(score, 2e-4), color=colors.tolist())
        axes.axhline(free, color="0.3", linewidth=1, linestyle="--")
        axes.set(yscale="log", ylim=(1e-4, 30), ylabel="mL", title=f"patient {patient}")
        axes.set_xticks(np.flatnonzero(bleeds) + 1)
        axes.tick_params(axis="x", labelsize=7)
    rows[-1, 0].set_xlabel(
        f"slice, lowest first; red: experts see {kind.lower()} blood, orange: other blood, gray: none;\n"
        "dashed: 95 % of slices without blood score lower"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


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


def outlined_one_by_one(slices: Slices, kind: str, unseen: list[str]) -> list[str]:
    """Write what is outlined in each slice with one type of blood, beside the same patient's free slices."""
    rows = []
    for patient in slices.patients_with(kind):
        mine = slices.patient == patient
        shown = ", ".join(f"{ml:.2f}" for ml in slices.outlined[mine & slices.shows[kind]])
        free = slices.outlined[mine & ~slices.bleeds]
        rows.append(
            f"| {patient} | {'no' if patient in unseen else 'yes'} | {shown} | {free.max(initial=0):.2f} |"
        )
    return [
        f"| patient | seen in training | outlined in slices with {kind.lower()} blood, mL "
        "| most in a slice without blood, mL |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def main() -> None:
    """Evaluate everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path, metavar="COHORT")
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--model", default="hemorrhage-base")
    parser.add_argument("--adapter", help="adapter of the model; not together with --record or --fold")
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
    parser.add_argument("--unseen", action="store_true", help="only scans that a model never saw")
    args = parser.parse_args()
    if args.adapter and (args.record or args.fold):
        parser.error("--adapter can't be given with --record or --fold")
    if "SAHLORA_DATA" not in os.environ:
        sys.exit("Set SAHLORA_DATA to the folder that holds ct_ich.")
    data = Path(os.environ["SAHLORA_DATA"])
    args.results.mkdir(parents=True, exist_ok=True)
    model, folds = select_models(args.model, args.adapter)["axial"], read_folds()
    files = {int(fold): find(name) for fold, name in args.fold}
    without = {fold: model if file == find(args.model) else load_model(file) for fold, file in files.items()}
    without = without or {0: model}
    own = [case for case, fold in folds.items() if fold in without and without[fold] is model]
    if args.record and not own:
        parser.error("--record needs a fold that MODEL never saw: --fold K=MODEL")
    results = []
    unseen = [case for case, fold in folds.items() if fold in without]
    for case, path in scans(args.cohort, data).items():
        if args.unseen and case not in unseen:
            continue
        label = args.cohort / "labels" / f"{case}.nii.gz"
        results.append(evaluate(case, path, label, without.get(folds.get(case, -1), model), args.results))
        print(f"{case}: {results[-1].volume_ml:.2f} mL, {results[-1].seconds:.1f} s", flush=True)
    slices = Slices.of(results, data, unseen)
    figures = {"unseen": detection(results, slices)}
    if own and own != unseen:
        figures["own"] = detection(results, Slices.of(results, data, own))
    draw_roc(slices, args.results / "real-ct-roc.png")
    everyone = Slices.of(results, data, [result.case for result in results if result.case in folds])
    if everyone.patients_with("Subarachnoid"):
        draw_profiles(everyone, "Subarachnoid", args.results / "real-ct-sah.png")
    one_by_one = outlined_one_by_one(everyone, "Subarachnoid", unseen) if args.adapter else []
    print(json.dumps(figures, indent=2))
    if args.record:
        card = replace(model.card, training={**model.card.training, "evaluation": list(figures.values())[-1]})
        save_model(Path(args.model), model.network, card)
    content = {"figures": figures, "results": [asdict(result) for result in results]}
    (args.results / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    unseen_names = set(unseen) | {"GE head (DICOM)", "head phantom"}
    text = page(model, results, unseen_names, figures, one_by_one)
    (args.results / "real-ct.md").write_text(text, encoding="utf-8")


def type_line(kind: str, found: dict[str, Any]) -> str:
    """Say how slices with one type of blood are told from slices without any."""
    where = f"- {kind} (n = {found['slices']} slices, {found['patients']} patients)"
    if "auroc" in found:
        return f"{where}: AUROC {interval(found['auroc'])}."
    cases = "; ".join(f"{name}: {', '.join(map(str, ranks))}" for name, ranks in found["cases"].items())
    return f"{where}: percentage of blood-free slices that score lower: {cases or 'none'}."


def interval(auroc: dict[str, Any]) -> str:
    """Write an area with its interval."""
    return f"{auroc['value']:.2f} ({auroc['lower']:.2f} to {auroc['upper']:.2f})"


def mean_and_spread(found: dict[str, Any]) -> str:
    """Write mean and standard deviation as far as they are defined."""
    return " ± ".join(f"{found[name]:.2f}" for name in ("mean", "sd") if found[name] is not None) or "–"


def section(figures: dict[str, Any]) -> list[str]:
    """Write the figures of some patients."""
    auroc, alone, clean = (figures[key] for key in ("any", "any_alone", "blood_free_ml"))
    return [
        "- Slices with any hemorrhage by two radiologists' labels, scored by the blood expected in them and",
        "  their neighbors (half the weight each):",
        f"  area under the ROC curve **{interval(auroc)}** (95 % interval by patient;",
        f"  {auroc['n_positive']} of {auroc['n']} positive). By the slice alone: {interval(alone)}.",
        *(
            f"- Of these, slices in which the machine label {verb} blood: {interval(figures[kind]['auroc'])}"
            f" (n = {figures[kind]['slices']} slices, {figures[kind]['patients']} patients)."
            for kind, verb in (("outlined", "outlines"), ("unmarked", "outlines no"))
        ),
        *(type_line(kind, found) for kind, found in figures["types"].items()),
        f"- Volume found in the {clean['n']} patients without blood: median {clean['median']:.2f} mL,",
        f"  at worst {clean['worst']:.2f} mL (patient {clean['worst_case']}).",
        "- Dice with the machine labels, which are not truth; by type: patients in whom experts see it.",
        "",
        "| patients with | n | Dice |",
        "|---|---|---|",
        *(
            f"| {'any' if kind == 'any' else kind.lower()} blood | {found['n']} | {mean_and_spread(found)} |"
            for kind, found in figures["dice_with_machine_labels"].items()
        ),
        "",
    ]


def page(
    model: Model,
    results: list[Result],
    unseen: set[str],
    figures: dict[str, dict[str, Any]],
    one_by_one: list[str],
) -> str:
    """Return figures and the tables of slices and of all scans as Markdown."""
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
        f"On {figures['unseen']['patients']} patients ({figures['unseen']['slices']} slices), each segmented",
        "by a model that never saw it in training:",
        "",
        *section(figures["unseen"]),
        "![ROC curve of slices with any blood](images/real-ct-roc.png)",
        "",
        "![Scores of all slices of the patients with SAH](images/real-ct-sah.png)",
        "",
        *one_by_one,
        *(
            [f"The model itself on the {own['patients']} patients that it never saw:", "", *section(own)]
            if (own := figures.get("own"))
            else []
        ),
        "All scans ran without failure; seconds include reading and measuring. Volumes of CT-ICH are",
        "estimates, as its pixel sizes are. The GE head and the head phantom are segmented by the model",
        "itself.",
        "",
        "| case | seen in training | seconds | found mL | machine label mL | Dice |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
