"""What the commands that train have in common: options, the run that is begun or continued, the cases."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.cases.manifest import Case
    from sahlora.cases.split import Cohort
    from sahlora.models.card import Description
    from sahlora.training.settings import TrainingSettings

CHANGES = (
    "epochs",
    "batch_size",
    "slices_at_once",
    "learning_rate",
    "loss",
    "patience",
    "average",
    "unmarked_weight",
    "empty_weight",
    "simulated_share",
    "vertex_draws",
    "augmentation",
    "seed",
)


def configure_run(parser: argparse.ArgumentParser, output: str, held_out: str) -> None:
    """Declare manifest, output, the run's folder and which cases are held out.

    `output` is the metavar of the file to write, `held_out` says who is held out where the call does not.
    """
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="list of cases: CSV, JSON or folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar=output, help=f"{output.lower()} file to write"
    )
    parser.add_argument(
        "--run", type=Path, metavar="FOLDER", help="folder of the run (default: the output's name with .run)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="fail if there is no run to continue; without it, a run that is there is continued too",
    )
    parser.add_argument(
        "--held-out",
        metavar="N|MANIFEST",
        help="how many patients with blood to hold out, or other cases to check on "
        f"(default: the manifest's column held_out, else {held_out})",
    )
    parser.add_argument(
        "--simulated",
        type=Path,
        metavar="MANIFEST",
        help="cases with simulated blood; some of their slices are drawn beside those of MANIFEST",
    )


def configure_description(group: argparse._ArgumentGroup) -> None:
    """Declare the words on the card."""
    group.add_argument("--title", help="title on the card (default: the description's, else the file's name)")
    group.add_argument(
        "--description",
        type=Path,
        metavar="FILE.json",
        help="words for the card: title, summary, author, license, created, data, limits",
    )


def configure_training(group: argparse._ArgumentGroup, presets: str) -> None:
    """Declare preset, single settings, device and threads."""
    group.add_argument(
        "--preset",
        default="default",
        help=f"{presets} (default: default); the options below change single values",
    )
    group.add_argument("--epochs", type=int, help="passes over all slices with blood")
    group.add_argument("--batch-size", type=int, help="slices a step, even")
    group.add_argument("--slices-at-once", type=int, help="compute a step in parts of so many slices")
    group.add_argument("--learning-rate", type=float, help="peak learning rate")
    group.add_argument("--loss", choices=("soft-dice", "bce-dice"), help="loss of the pixels")
    group.add_argument("--patience", type=int, help="epochs without gain after which training stops")
    group.add_argument("--average", type=float, metavar="DECAY", help="keep a moving average of the weights")
    group.add_argument(
        "--unmarked-weight",
        type=float,
        metavar="W",
        help="above 0, also learn from slices with blood by an expert that nobody outlined (default: 0)",
    )
    group.add_argument(
        "--empty-weight",
        type=float,
        metavar="W",
        help="above 0, slices without blood count by their highest probabilities too, against specks of "
        "false blood (default: 0)",
    )
    group.add_argument(
        "--simulated-share",
        type=float,
        metavar="S",
        help="share of --simulated cases among the slices with blood (default: 0.3)",
    )
    group.add_argument(
        "--vertex-draws",
        type=int,
        metavar="N",
        help="draw blood-free slices near the vertex N times as often, against false blood (default: 1)",
    )
    group.add_argument(
        "--augmentation",
        choices=("none", "paper", "default", "robust"),
        help="changes of the slices; robust also changes density of blood, scan, kernel and zoom",
    )
    group.add_argument("--seed", type=int, help="seed of weights, split, order and augmentation (default: 0)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")


def read_description(args: argparse.Namespace) -> Description:
    """Return the words on the card.

    Raises
    ------
    InputError
        ``not-found``, or from reading the description.
    """
    from dataclasses import replace

    from sahlora.errors import InputError
    from sahlora.models.card import Description, decode
    from sahlora.models.registry import SUFFIX

    description = Description(args.output.name.removesuffix(SUFFIX))
    if args.description is not None:
        try:
            description = decode(Description, args.description.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise InputError(
                "not-found", f"Can't read the description {args.description}.", "Check its name."
            ) from error
    return description if args.title is None else replace(description, title=args.title)


def training_settings(args: argparse.Namespace, presets: dict[str, TrainingSettings]) -> TrainingSettings:
    """Return the preset that was asked for, with the values that were given."""
    from sahlora.training.settings import preset

    return preset(args.preset, presets, **{name: getattr(args, name) for name in CHANGES})


def run_folder(args: argparse.Namespace) -> Path:
    """Return the folder of the run."""
    return args.run or args.output.with_suffix(".run")


def require_own_outputs(args: argparse.Namespace, cohort: Cohort, kind: str, *models: Path) -> None:
    """Check that neither the model nor the run's split would replace a file that is needed, or another's.

    Raises
    ------
    UsageError
        As `sahlora.runtime.files.require_writable` and `sahlora.models.registry.require_replaceable`.
    """
    from sahlora.cases.manifest import manifest_files
    from sahlora.models.registry import require_replaceable
    from sahlora.runtime.files import require_writable
    from sahlora.training.run_folder import RECORD, SPLIT

    inputs = [*models, *manifest_files(args.manifest), *manifest_files(Path(args.held_out or ""))]
    inputs += [
        file for case in (*cohort.training, *cohort.held_out, *cohort.simulated) for file in case.files
    ]
    inputs += [args.description] if args.description is not None else []
    folder = run_folder(args)
    require_writable(args.output, folder / SPLIT, folder / RECORD, inputs=inputs)
    require_replaceable(args.output, kind)


def read_cohort(args: argparse.Namespace, seed: int, unless_said: int | None, progress: Progress) -> Cohort:
    """Read the cases and hold out those of ``--held-out``, else those of the manifest's column.

    Where neither says anything, so many patients as `unless_said`; None is a fifth. Simulated cases of
    patients who are held out are left out.
    """
    from dataclasses import replace

    from sahlora.cases.manifest import read_manifest

    cohort = _read_cohort(args, seed, unless_said, progress)
    if args.simulated is None:
        return cohort
    held_out = {case.patient for case in cohort.held_out}
    simulated = [case for case in read_manifest(args.simulated) if case.patient not in held_out]
    return replace(cohort, simulated=tuple(simulated))


def _read_cohort(args: argparse.Namespace, seed: int, unless_said: int | None, progress: Progress) -> Cohort:
    from sahlora.cases.leaks import require_unlike_files
    from sahlora.cases.manifest import read_manifest
    from sahlora.cases.split import Cohort, require_blood, split_cases

    cases = _in_order(read_manifest(args.manifest))
    if args.held_out is not None and not args.held_out.lstrip("-").isdigit():
        cohort = Cohort(tuple(cases), tuple(_in_order(read_manifest(Path(args.held_out)))))
        require_blood(cohort, progress)
    elif args.held_out is not None:
        cohort = split_cases(cases, int(args.held_out), seed, progress)
    else:
        count = None if any(case.held_out for case in cases) else unless_said
        cohort = split_cases(cases, count, seed, progress)
    require_unlike_files(cohort.training, cohort.held_out)
    return cohort


def _in_order(cases: Iterable[Case]) -> list[Case]:
    """Sort cases by name, so that nothing depends on how they are listed."""
    return sorted(cases, key=lambda case: case.name)
