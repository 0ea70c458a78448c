"""Adapt a model to your own scans: train an adapter from annotated head CT.

MANIFEST lists the cases, see Docs/cases.md. The adapter file holds no image and no name, belongs to one base
model and is used with “sahlora segment CT -o LABEL --adapter ADAPTER”.

Some patients with blood are held out: they stop the training in time, and at the end base and adapted model
segment them, so that the result says whether anything was gained. A run that was stopped continues when the
same command is given again; --resume demands that there is one.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sahlora.commands.training_options import (
    configure_description,
    configure_run,
    configure_training,
    read_cohort,
    read_description,
    require_own_outputs,
    run_folder,
    training_settings,
)
from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.models.base_model import Model
    from sahlora.models.card import Target
    from sahlora.training.finetuning import Finetuned, FinetuningPlan

SUMMARY = "adapt a model to your own scans"
NAMED = 10  # held-out cases that are told by name
EXAMPLE = "sahlora finetune cases.csv -o site.safetensors --method cp-lora --rank 4 --preset quick"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    configure_run(parser, "ADAPTER", "a fifth of them")
    _configure_adapter(parser.add_argument_group("adapter"))
    configure_training(parser.add_argument_group("training"), "default, paper or quick")


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
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="how far the adapter goes from the base, 0, to what was trained, 1; less finds less, also where "
        "there is no blood (default: 1)",
    )
    group.add_argument(
        "--views", default="axial", help="an adapter for each, e.g. axial,coronal,sagittal (default: axial)"
    )
    group.add_argument(
        "--target", choices=("hemorrhage", "sah"), help="what the label outlines (default: as the base)"
    )
    configure_description(group)


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Check everything, train, write the adapter and say what was gained."""
    from sahlora.adapters.scope import count_parameters
    from sahlora.models.base_model import load_model
    from sahlora.models.registry import SUFFIX, find
    from sahlora.models.selection import DEFAULT_MODEL
    from sahlora.runtime.devices import choose_device, use_threads
    from sahlora.runtime.files import require_ending
    from sahlora.training.distributed import refuse_several
    from sahlora.training.finetuning import finetune
    from sahlora.training.run_folder import opened_run, require_run

    progress.stage("checking")
    refuse_several()
    use_threads(args.threads)
    require_ending(args.output, SUFFIX)
    device, folder = choose_device(args.device), run_folder(args)
    if args.resume:
        require_run(folder)
    path = find(args.model or DEFAULT_MODEL, "base")
    base = load_model(path)
    plan = _plan(args, base)
    count_parameters(base.network, plan.adapter)
    cohort = read_cohort(args, plan.settings.seed, None, progress)
    require_own_outputs(args, cohort, "adapter", path)
    with opened_run(folder, cohort, progress):
        done = finetune(cohort, base, plan, args.output, folder, device, progress)
    _report(args, [case.name for case in cohort.held_out], done, progress)


def _plan(args: argparse.Namespace, base: Model) -> FinetuningPlan:
    from sahlora.adapters.config import AdapterConfig
    from sahlora.imaging.planes import parse_views
    from sahlora.training.finetuning import FinetuningPlan
    from sahlora.training.settings import FINETUNING_PRESETS

    return FinetuningPlan(
        read_description(args),
        AdapterConfig(args.method, args.rank, args.alpha, scope=args.scope, dropout=args.dropout),
        parse_views(args.views),
        training_settings(args, FINETUNING_PRESETS),
        _target(args.target, base),
        args.strength,
    )


def _target(name: str | None, base: Model) -> Target | None:
    from dataclasses import replace

    from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE, SAH

    if name is None:
        return None
    return replace(base.card.target, segment=SAH if name == "sah" else INTRACRANIAL_HEMORRHAGE)


def _report(args: argparse.Namespace, held_out: list[str], done: Finetuned, progress: Progress) -> None:
    from sahlora.training.finetuning import UNCHECKED
    from sahlora.training.run_folder import SPLIT

    card, comparison = done.adapter.card, done.comparison
    message = UNCHECKED if comparison is None else str(comparison)
    progress.result(
        adapter=str(args.output),
        parameters=done.adapter.parameters,
        better=comparison.is_better if comparison else None,
        message=message,
        held_out=held_out,
        training=card.training,
    )
    if args.progress != "json":
        print(f"Wrote {args.output} ({done.adapter.parameters:,} parameters).\n{message}")
        if held_out:
            names = ", ".join(held_out[:NAMED]) + ", …" * (len(held_out) > NAMED)
            print(f"Held out: {names}. {run_folder(args) / SPLIT} lists who was and who was not.")
