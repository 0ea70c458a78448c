"""Adapt a model to your own scans: train an adapter from annotated head CT.

MANIFEST lists the cases, see Docs/cases.md. The adapter file holds no image and no name, belongs to one base
model and is used with “sahlora segment CT -o LABEL --adapter ADAPTER”.

Some patients with blood are held out: they stop the training in time, and at the end base and adapted model
segment them, so that the result says whether anything was gained. A run that was stopped continues when the
same command is given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.progress import Progress

if TYPE_CHECKING:
    from sahlora.card import Target
    from sahlora.model import Model
    from sahlora.training.finetuning import Finetuned, FinetuningPlan
    from sahlora.training.held_out import Cohort

SUMMARY = "adapt a model to your own scans"
EXAMPLE = "sahlora finetune cases.csv -o site.safetensors --method cp-lora --rank 4 --preset quick"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="list of cases: CSV, JSON or folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="ADAPTER", help="adapter file to write"
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="folder of the run (default: ADAPTER.run)")
    parser.add_argument(
        "--held-out",
        metavar="N|MANIFEST",
        help="how many patients to hold out, or other cases to check on "
        "(default: the manifest's column held_out, else a fifth of the patients)",
    )
    _configure_adapter(parser.add_argument_group("adapter"))
    _configure_training(parser.add_argument_group("training"))


def _configure_adapter(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", help="base: name or file (default: hemorrhage-base)")
    group.add_argument(
        "--method",
        default="cp-lora",
        help="lora-c, conv-lora, cp-lora, dora-c, conv-dora, cp-dora, locon, or standard: the scope's own "
        "weights (default: cp-lora)",
    )
    group.add_argument("--rank", type=int, default=4, help="rank (default: 4)")
    group.add_argument("--alpha", type=float, help="scale is alpha/rank (default: the rank)")
    group.add_argument(
        "--scope",
        default="decoding",
        help="shallow, deep, encoding, decoding, all, or patterns of layers' names (default: decoding)",
    )
    group.add_argument("--dropout", type=float, default=0.0, help="of ΔW in training (default: 0)")
    group.add_argument(
        "--views", default="axial", help="an adapter for each, e.g. axial,coronal,sagittal (default: axial)"
    )
    group.add_argument(
        "--target", choices=("hemorrhage", "sah"), help="what the label outlines (default: as the base)"
    )
    group.add_argument("--title", help="title on the card (default: the file's name)")


def _configure_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset", default="default", help="default, paper or quick; the options below change single values"
    )
    group.add_argument("--epochs", type=int, help="passes over all slices with blood")
    group.add_argument("--batch-size", type=int, help="slices a step, even")
    group.add_argument("--slices-at-once", type=int, help="compute a step in parts of so many slices")
    group.add_argument("--learning-rate", type=float, help="peak learning rate")
    group.add_argument("--patience", type=int, help="epochs without gain after which training stops")
    group.add_argument("--average", type=float, metavar="DECAY", help="keep a moving average of the weights")
    group.add_argument("--seed", type=int, help="seed of adapter, split, order and augmentation (default: 0)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Check everything, train, write the adapter and say what was gained."""
    from sahlora.adapter_plan import count_parameters
    from sahlora.devices import choose_device, use_threads
    from sahlora.files import require_writable
    from sahlora.model import find, load_model
    from sahlora.selection import DEFAULT_MODEL
    from sahlora.training.finetuning import finetune

    progress.stage("checking")
    use_threads(args.threads)
    device = choose_device(args.device)
    folder = args.run or args.output.with_suffix(".run")
    base = load_model(find(args.model or DEFAULT_MODEL, "base"))
    plan = _plan(args, base)
    count_parameters(base.network, plan.adapter)
    cohort = _cohort(args, plan.settings.seed, progress)
    require_writable(args.output, folder / "result.json")
    done = finetune(cohort, base, plan, args.output, folder, device, progress)
    _report(args, done, progress)


def _plan(args: argparse.Namespace, base: Model) -> FinetuningPlan:
    from sahlora.adapter_plan import AdapterConfig
    from sahlora.card import Description
    from sahlora.model import SUFFIX
    from sahlora.training.finetuning import FinetuningPlan
    from sahlora.training.settings import FINETUNING_PRESETS, preset
    from sahlora.views import parse_views

    names = ("epochs", "batch_size", "slices_at_once", "learning_rate", "patience", "average", "seed")
    return FinetuningPlan(
        Description(args.title or args.output.name.removesuffix(SUFFIX)),
        AdapterConfig(args.method, args.rank, args.alpha, scope=args.scope, dropout=args.dropout),
        parse_views(args.views),
        preset(args.preset, FINETUNING_PRESETS, **{name: getattr(args, name) for name in names}),
        _target(args.target, base),
    )


def _target(name: str | None, base: Model) -> Target | None:
    from dataclasses import replace

    from sahlora.card import INTRACRANIAL_HEMORRHAGE, SAH

    if name is None:
        return None
    return replace(base.card.target, segment=SAH if name == "sah" else INTRACRANIAL_HEMORRHAGE)


def _cohort(args: argparse.Namespace, seed: int, progress: Progress) -> Cohort:
    from sahlora.cases import read_manifest
    from sahlora.training.held_out import Cohort, require_blood, split_cases

    cases = read_manifest(args.manifest)
    if args.held_out is None or args.held_out.lstrip("-").isdigit():
        return split_cases(cases, None if args.held_out is None else int(args.held_out), seed, progress)
    cohort = Cohort(tuple(cases), tuple(read_manifest(Path(args.held_out))))
    require_blood(cohort, progress)
    return cohort


def _report(args: argparse.Namespace, done: Finetuned, progress: Progress) -> None:
    from sahlora.training.finetuning import UNCHECKED

    card, comparison = done.adapter.card, done.comparison
    message = UNCHECKED if comparison is None else str(comparison)
    progress.result(
        adapter=str(args.output),
        parameters=done.adapter.parameters,
        better=comparison.is_better if comparison else None,
        message=message,
        training=card.training,
    )
    if args.progress != "json":
        print(f"Wrote {args.output} ({done.adapter.parameters:,} parameters).\n{message}")
