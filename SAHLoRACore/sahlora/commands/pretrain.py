"""Train a base model from annotated head CT.

MANIFEST lists the cases, see Docs/cases.md. Its column slices names a table in which an expert says which
slices show blood. Slices without blood are empty, whatever the label says; slices with blood but without a
label are unknown and not used, unless --unmarked-weight is above 0. Cases held out are scored after each
epoch; with --patience they stop the training.

A run that was stopped continues when the same command is given again; --resume demands that there is one.
Under “torchrun --nproc-per-node N -m sahlora pretrain …”, N processes share every batch.
"""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
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
    from sahlora.training.pretraining import PretrainingPlan

SUMMARY = "train a base model from annotated head CT"
EXAMPLE = "sahlora pretrain cases.csv -o base.safetensors --preset default --epochs 12"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    configure_run(parser, "MODEL", "nobody")
    _configure_network(parser.add_argument_group("network"))
    configure_training(parser.add_argument_group("training"), "default or paper")


def _configure_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--level", type=int, default=2, help="levels of the network (default: 2)")
    group.add_argument("--width", type=int, default=32, help="channels of the network (default: 32)")
    group.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=(0.0, 120.0),
        metavar=("LOW", "HIGH"),
        help="HU (default: 0 120)",
    )
    group.add_argument(
        "--spacing", type=float, default=1.0, metavar="MM", help="pixel size, 0 native (default: 1)"
    )
    group.add_argument(
        "--view", choices=("axial", "coronal", "sagittal"), default="axial", help="slices' direction"
    )
    group.add_argument(
        "--start", metavar="MODEL", help="base to go on from, by name or file (default: random weights)"
    )
    group.add_argument(
        "--neighbors",
        type=float,
        metavar="MM",
        help="also show the network the slices so far below and above (default: the slice alone)",
    )
    group.add_argument(
        "--target", choices=("hemorrhage", "sah"), default="hemorrhage", help="what the label outlines"
    )
    configure_description(group)


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Check everything, train and write the model."""
    from sahlora.models.registry import SUFFIX
    from sahlora.runtime.devices import choose_device, use_threads
    from sahlora.runtime.files import require_ending
    from sahlora.training.distributed import joined
    from sahlora.training.pretraining import pretrain
    from sahlora.training.run_folder import opened_run, require_run

    progress.stage("checking")
    require_ending(args.output, SUFFIX)
    use_threads(args.threads)
    folder, plan = run_folder(args), _plan(args)
    with joined(choose_device(args.device)) as processes, ExitStack() as opened:
        if args.resume:
            processes.by_first(lambda: require_run(folder))
        cohort = read_cohort(args, plan.settings.seed, 0, progress)
        processes.by_first(lambda: require_own_outputs(args, cohort, "base"))
        processes.by_first(lambda: opened.enter_context(opened_run(folder, cohort, progress)))
        card = pretrain(cohort, plan, args.output, folder, processes.device, progress, processes)
    progress.result(model=str(args.output), training=card.training)


def _plan(args: argparse.Namespace) -> PretrainingPlan:
    from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE, SAH
    from sahlora.models.base_model import load_model
    from sahlora.models.card import NetworkSpec, Preprocessing, Target
    from sahlora.models.registry import find
    from sahlora.training.pretraining import PretrainingPlan
    from sahlora.training.settings import PRESETS

    _check_network(args)
    return PretrainingPlan(
        read_description(args),
        Target(SAH if args.target == "sah" else INTRACRANIAL_HEMORRHAGE),
        NetworkSpec(level=args.level, width=args.width, in_channels=1 if args.neighbors is None else 3),
        Preprocessing(
            window=tuple(args.window),
            spacing=args.spacing or None,
            views=(args.view,),
            neighbors=args.neighbors,
        ),
        training_settings(args, PRESETS),
        None if args.start is None else load_model(find(args.start, "base")),
    )


def _check_network(args: argparse.Namespace) -> None:
    """Refuse values of which no card could be written."""
    from sahlora.errors import UsageError

    low, high = args.window
    for holds, what, allowed in (
        (1 <= args.level <= 8, f"{args.level} levels", "--level from 1 to 8"),
        (1 <= args.width <= 512, f"{args.width} channels", "--width from 1 to 512"),
        (
            args.spacing == 0 or 0.1 <= args.spacing <= 10,
            f"{args.spacing:g} mm a pixel",
            "--spacing 0, or 0.1 to 10",
        ),
        (
            args.neighbors is None or 0.1 <= args.neighbors <= 50,
            f"neighbors {args.neighbors} mm away",
            "--neighbors from 0.1 to 50",
        ),
        (-math.inf < low < high < math.inf, f"a window from {low:g} to {high:g} HU", "--window LOW HIGH"),
    ):
        if not holds:
            raise UsageError("bad-network", f"There is no network of {what}.", f"Give {allowed}.")
