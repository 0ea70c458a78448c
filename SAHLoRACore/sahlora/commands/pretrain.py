"""Train a base model from annotated head CT.

The manifest is a CSV with the columns case, image, label and, optionally, slices: a table with the columns
slice (0 is the lowest) and hemorrhage (0 or 1) in which an expert says which slices show blood. Such slices
without a label are unknown and are not used; slices without blood are empty, whatever the label says.

A run that was stopped continues when the same command is given again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from sahlora.progress import Progress

SUMMARY = "train a base model from annotated head CT"
EXAMPLE = "sahlora pretrain cases.csv -o base.safetensors --preset default --epochs 12"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="CSV: case, image, label[, slices]")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MODEL", help="model file to write"
    )
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="folder of the run (default: MODEL.run)")
    parser.add_argument("--preset", default="default", help="default or paper (default: default)")
    parser.add_argument(
        "--epochs", type=int, help="passes over all slices with blood (default: the preset's)"
    )
    parser.add_argument("--batch-size", type=int, help="slices a step, even (default: the preset's)")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: the preset's)")
    parser.add_argument("--seed", type=int, help="seed of weights, order and augmentation (default: 0)")
    parser.add_argument("--level", type=int, default=2, help="levels of the network (default: 2)")
    parser.add_argument("--width", type=int, default=32, help="channels of the network (default: 32)")
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=(0.0, 120.0),
        metavar=("LOW", "HIGH"),
        help="HU (default: 0 120)",
    )
    parser.add_argument(
        "--spacing", type=float, default=1.0, metavar="MM", help="pixel size, 0 native (default: 1)"
    )
    parser.add_argument(
        "--view", choices=("axial", "coronal", "sagittal"), default="axial", help="slices' direction"
    )
    parser.add_argument(
        "--target", choices=("hemorrhage", "sah"), default="hemorrhage", help="what the label outlines"
    )
    parser.add_argument(
        "--description",
        type=Path,
        metavar="FILE.json",
        help="words for the card: title, summary, license, data, …",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Train and write the model."""
    from sahlora.card import (
        INTRACRANIAL_HEMORRHAGE,
        SAH,
        Description,
        NetworkSpec,
        Preprocessing,
        Target,
        decode,
    )
    from sahlora.cases import read_manifest
    from sahlora.devices import choose_device
    from sahlora.errors import UsageError
    from sahlora.files import require_writable
    from sahlora.model import SUFFIX
    from sahlora.training.pretraining import PretrainingPlan, pretrain
    from sahlora.training.settings import PRESETS

    if args.preset not in PRESETS:
        raise UsageError(
            "unknown-preset", f"There is no preset “{args.preset}”.", f"Use {' or '.join(PRESETS)}."
        )
    given = {key: getattr(args, key) for key in ("epochs", "batch_size", "learning_rate", "seed")}
    plan = PretrainingPlan(
        decode(Description, args.description.read_text(encoding="utf-8"))
        if args.description
        else Description(args.output.name.removesuffix(SUFFIX)),
        Target(SAH if args.target == "sah" else INTRACRANIAL_HEMORRHAGE),
        NetworkSpec(level=args.level, width=args.width),
        Preprocessing(window=tuple(args.window), spacing=args.spacing or None, views=(args.view,)),
        replace(PRESETS[args.preset], **{key: value for key, value in given.items() if value is not None}),
    )
    device = choose_device(args.device)
    cases = read_manifest(args.manifest)
    folder = args.run or args.output.with_suffix(".run")
    require_writable(args.output, folder / "settings.json")
    card = pretrain(cases, plan, args.output, folder, device, progress)
    progress.result(model=str(args.output), training=card.training)
