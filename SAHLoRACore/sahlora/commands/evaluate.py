"""Measure how well a model segments annotated cases.

MANIFEST lists the cases, see Docs/cases.md. FOLDER gets a page with plots, tables of every case and of the
strata of annotated volume, and all of it as JSON, see Docs/evaluation.md. With --compare a second model or
adapter runs on the same cases and both are compared patient by patient. A case that can't be read is listed
and passed over. Results name cases as the manifest does.

For research use only, not for diagnosis.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from sahlora.cases.manifest import Case
    from sahlora.evaluation.evaluate import Evaluation, Keep, System
    from sahlora.imaging.planes import View
    from sahlora.imaging.volume import Volume
    from sahlora.models.base_model import Model

SUMMARY = "measure how well a model segments annotated cases"
EXAMPLE = "sahlora evaluate cases.csv -o evaluation --adapter site.safetensors --compare hemorrhage-base"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="CSV, JSON or folder of cases")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder for the results"
    )
    parser.add_argument("--held-out", action="store_true", help="only the cases that the manifest holds out")
    parser.add_argument(
        "--outlines",
        action="store_true",
        help="also write FOLDER/outlines/CASE-1.seg.nrrd, and -2 of --compare",
    )
    what = parser.add_argument_group("model")
    what.add_argument("--model", help="name or file (default: hemorrhage-base, or the adapter's base)")
    what.add_argument("--adapter", help="name or file of an adapter of the model; its views are used")
    what.add_argument(
        "--compare", metavar="MODEL", help="name or file of another base model or adapter to compare with"
    )
    what.add_argument(
        "--views", metavar="VIEWS", help="e.g. axial,coronal,sagittal (default: what suits the slices)"
    )
    what.add_argument(
        "--threshold", type=float, metavar="P", help="probability from which on (default: each model's)"
    )
    what.add_argument("--flip", action="store_true", help="average with the mirrored scan; twice the time")
    how = parser.add_argument_group("device")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    how.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto")
    how.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Evaluate, write the results and report the main ones."""
    from sahlora.evaluation.evaluate import evaluate
    from sahlora.evaluation.report import write_evaluation
    from sahlora.imaging.planes import parse_views
    from sahlora.inference.predictor import InferenceSettings
    from sahlora.runtime.devices import choose_device, use_threads

    progress.stage("checking")
    _check_threshold(args.threshold)
    use_threads(args.threads)
    device = choose_device(args.device)
    views = parse_views(args.views) if args.views else None
    settings = InferenceSettings(views, flip=args.flip, precision=args.precision)
    cases = _cases(args)
    _require_own_folder(args, cases)
    chosen = _chosen(args)
    systems = _systems(args, chosen)
    keep = _outline_writer(args, systems, chosen) if args.outlines else None
    evaluation = evaluate(cases, systems, settings, device, progress, keep)

    progress.stage("writing")
    write_evaluation(args.output, evaluation, _settings(args))
    _report(args, evaluation, progress)


def _check_threshold(threshold: float | None) -> None:
    from sahlora.errors import UsageError

    if threshold is not None and not 0 < threshold < 1:
        raise UsageError("bad-threshold", f"Threshold {threshold} is no probability.", "Give one in (0, 1).")


def _require_own_folder(args: argparse.Namespace, cases: list[Case]) -> None:
    """Refuse a folder in which results would replace an input or another's file."""
    from sahlora.cases.manifest import manifest_files
    from sahlora.evaluation.report import FILES, FORMAT
    from sahlora.models.registry import find
    from sahlora.runtime.files import require_own, require_writable, says_format

    files = [args.output / name for name in FILES]
    inputs = [file for case in cases for file in case.files] + manifest_files(args.manifest)
    named = ((args.model, "base"), (args.adapter, "adapter"), (args.compare, None))
    inputs += [find(name, kind) for name, kind in named if name]
    count = (2 if args.compare else 1) if args.outlines else 0
    outlines = [_outline_file(args.output, case, number) for case in cases for number in range(count)]
    require_writable(*files, *outlines, inputs=inputs)
    require_own(files, lambda: says_format(args.output / "evaluation.json", FORMAT))


def _cases(args: argparse.Namespace) -> list[Case]:
    from sahlora.cases.manifest import list_cases
    from sahlora.errors import InputError

    cases = [case for case in list_cases(args.manifest) if case.held_out or not args.held_out]
    if not cases:
        raise InputError(
            "nothing-held-out", "The manifest holds no case out.", "Leave --held-out away, or mark cases."
        )
    return cases


def _chosen(args: argparse.Namespace) -> list[dict[View, Model]]:
    """Load the model and, if asked for, the one it is compared with."""
    from sahlora.models.header import card_kind, read_card_json
    from sahlora.models.registry import find
    from sahlora.models.selection import select_models

    chosen = [select_models(args.model, args.adapter)]
    if args.compare:
        path = str(find(args.compare))
        is_adapter = card_kind(read_card_json(find(args.compare))) == "adapter"
        chosen.append(select_models(args.model, path) if is_adapter else select_models(path))
    return chosen


def _systems(args: argparse.Namespace, chosen: list[dict[View, Model]]) -> list[System]:
    titles = [next(iter(models.values())).card.description.title for models in chosen]
    if len(set(titles)) < len(titles):
        titles = [f"{title} ({number})" for number, title in enumerate(titles, 1)]
    return [_system(title, models, args.threshold) for title, models in zip(titles, chosen, strict=True)]


def _system(name: str, models: dict[View, Model], threshold: float | None) -> System:
    from sahlora.evaluation.evaluate import System

    main = next(iter(models.values()))
    return System(
        name,
        {view: model.for_inference() for view, model in models.items()},
        threshold or main.card.target.threshold,
        main.facts(),
    )


def _outline_writer(args: argparse.Namespace, systems: list[System], chosen: list[dict[View, Model]]) -> Keep:
    """Return a function that writes what a model outlines in a case, named so that it can be found again."""
    from sahlora.imaging.writers import write_label

    segments = [next(iter(models.values())).card.target.segment for models in chosen]

    def write(case: Case, system: System, volume: Volume, probability: np.ndarray) -> None:
        number = systems.index(system)
        path = _outline_file(args.output, case, number)
        label = volume.to_grid(probability >= system.threshold, label=True)
        write_label(label, path, segments[number])

    return write


def _outline_file(folder: Path, case: Case, number: int) -> Path:
    from urllib.parse import quote

    return folder / "outlines" / f"{quote(case.name, safe=' ')}-{number + 1}.seg.nrrd"


def _settings(args: argparse.Namespace) -> dict[str, str]:
    return {
        "cases": "those held out" if args.held_out else "all of the manifest",
        "views": args.views or "what suits the slices",
        "threshold": "each model's" if args.threshold is None else f"{args.threshold:g}",
        "left-right flip": "yes" if args.flip else "no",
        "precision": args.precision,
    }


def _report(args: argparse.Namespace, evaluation: Evaluation, progress: Progress) -> None:
    from sahlora.evaluation.evaluate import ALL, by_stratum

    dice = {
        system.name: by_stratum(evaluation.results[system.name])[ALL].measures["dice"]
        for system in evaluation.systems
    }
    progress.result(
        folder=str(args.output),
        page=str(args.output / "evaluation.html"),
        dice=dice,
        failures=list(evaluation.failures),
    )
    if args.progress != "json":
        for name, summary in dice.items():
            print(f"{name}: Dice {summary}")
        print(f"Wrote {args.output / 'evaluation.html'}.")
