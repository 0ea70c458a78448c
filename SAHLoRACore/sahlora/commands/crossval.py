"""Compare methods of adapting a model by cross-validation.

MANIFEST lists the cases, see Docs/cases.md. Every method is trained at every rank and in every scope on all
folds but one, and tested on that one; the test cases never choose anything. FOLDER gets the results of every
job, tables, plots and a page, see Docs/cross-validation.md. What has finished is never computed again: the
same command continues after a stop and runs failed jobs once more, a larger one adds what is new.

methods: none (the base as it is; always there), threshold (no network), standard (the scope's own weights),
lora-c, conv-lora, cp-lora, dora-c, conv-dora, cp-dora, locon; with "shuffled-" before one that trains, it
learns from labels of other slices: a control that must not gain anything.

For research use only, not for diagnosis.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.crossval.jobs import Job
    from sahlora.crossval.planning import Design
    from sahlora.crossval.study import Outcome

SUMMARY = "compare methods of adapting a model by cross-validation"
EXAMPLE = (
    "sahlora crossval cases.csv -o study --methods threshold,standard,cp-lora --ranks 4,16 "
    "--learning-rate 5e-3,standard=1e-3 --preset quick --jobs 2"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "manifest", nargs="?", type=Path, metavar="MANIFEST", help="CSV, JSON or folder of cases"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="folder of the comparison")
    _configure_grid(parser.add_argument_group("what is compared"))
    _configure_split(parser.add_argument_group("cases"))
    _configure_training(parser.add_argument_group("training"))
    _configure_work(parser.add_argument_group("work"))


def _configure_grid(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--methods", metavar="LIST", help="separated by commas (default: all but locon, and no control)"
    )
    group.add_argument("--ranks", default="4,16", metavar="LIST", help="of adapters (default: 4,16)")
    group.add_argument(
        "--scopes", default="decoding", metavar="LIST",
        help="shallow, deep, encoding, decoding, all, or a pattern of layers' names (default: decoding)",
    )  # fmt: skip
    group.add_argument("--model", help="base: name or file (default: hemorrhage-base)")
    group.add_argument("--views", default="axial", help="e.g. axial,coronal,sagittal (default: axial)")


def _configure_split(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--folds", type=int, metavar="N",
        help="number of folds, by patient (default: 3); cases that the manifest holds out are not used",
    )  # fmt: skip
    group.add_argument(
        "--held-out", action="store_true",
        help="no folds: test on the cases that the manifest holds out, train on the others",
    )  # fmt: skip


def _configure_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset",
        default="default",
        help="default, paper or quick (default: default); the options below change single values",
    )
    group.add_argument("--epochs", type=int, help="passes over all slices with blood; the last one counts")
    group.add_argument(
        "--patience", type=int,
        help="stop after so many epochs without gain on a fifth of the training patients, which are then not "
        "trained on, and keep the best epoch (default: train all epochs and keep the last)",
    )  # fmt: skip
    group.add_argument("--batch-size", type=int, help="slices a step, even")
    group.add_argument(
        "--learning-rate", metavar="RATES",
        help="peak rate, and others for a method, also at a rank, e.g. 5e-3,standard=1e-3,cp-lora:64=2e-3",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="seed of folds, adapters and order (default: 0)")


def _configure_work(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the CPU for all jobs together (default: all cores)",
    )
    group.add_argument(
        "--job",
        type=Path,
        metavar="FOLDER",
        help="run this one job, as the command does for each of its jobs",
    )
    group.add_argument("--cache", type=Path, metavar="FOLDER", help="with --job: folder of prepared cases")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Run one job, or plan all, run those that have not finished, and write the results."""
    from sahlora.errors import UsageError

    if args.job is None and (args.manifest is None or args.output is None):
        raise UsageError("no-manifest", "MANIFEST and -o FOLDER are needed.", "See sahlora crossval --help.")

    from sahlora.runtime.devices import choose_device, use_threads

    use_threads(args.threads)
    device = choose_device(args.device)
    if args.job is not None:
        from sahlora.crossval.jobs import run_job

        run_job(args.job, args.cache or args.job / "run" / "cache", device, progress)
        progress.result(job=args.job.name)
        return
    _compare(args, progress)


def _compare(args: argparse.Namespace, progress: Progress) -> None:
    from sahlora.cases.manifest import manifest_files
    from sahlora.crossval.executors import LocalProcesses
    from sahlora.crossval.planning import plan_jobs
    from sahlora.crossval.report import write_report
    from sahlora.crossval.study import gather, run_jobs
    from sahlora.models.base_model import load_model
    from sahlora.models.registry import find
    from sahlora.models.selection import DEFAULT_MODEL
    from sahlora.runtime.locks import locked

    progress.stage("checking")
    executor = LocalProcesses(args.jobs, args.threads)
    path = find(args.model or DEFAULT_MODEL, "base")
    base, design = load_model(path), _design(args)
    jobs = plan_jobs(args.manifest, base, path, design, progress)
    folder = args.output.resolve()
    _require_own_folder(folder, jobs, [path, *manifest_files(args.manifest)])
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        run_jobs(folder, jobs, base, executor, args.device, progress)
        progress.stage("writing")
        outcomes = gather(folder, jobs)
        write_report(folder, outcomes, design, base)
    _report(folder, outcomes, progress, shown=args.progress != "json")


def _require_own_folder(folder: Path, jobs: list[Job], inputs: list[Path]) -> None:
    """Refuse a folder in which results would replace an input or another's file."""
    from sahlora.crossval.report import FILES, FORMAT
    from sahlora.runtime.files import require_own, require_writable, says_format

    folds = {job.fold.number: job.fold for job in jobs}.values()
    cases = {case for fold in folds for case in (*fold.training, *fold.stopping, *fold.test)}
    files = [folder / name for name in FILES]
    require_writable(*files, inputs=[*inputs, *(file for case in cases for file in case.files)])
    require_own(files, lambda: says_format(folder / "results.json", FORMAT))


def _design(args: argparse.Namespace) -> Design:
    from dataclasses import replace

    from sahlora.crossval.grid import DEFAULT_METHODS, LearningRates, make_grid
    from sahlora.crossval.planning import Design
    from sahlora.errors import UsageError
    from sahlora.imaging.planes import parse_views
    from sahlora.training.settings import FINETUNING_PRESETS, preset

    if args.held_out and args.folds is not None:
        raise UsageError("bad-folds", "--folds and --held-out exclude each other.", "Give one of them.")
    try:
        ranks = [int(rank) for rank in _listed(args.ranks)]
    except ValueError:
        raise UsageError("bad-rank", f"“{args.ranks}” are no ranks.", "Write e.g. 4,16.") from None
    methods = DEFAULT_METHODS if args.methods is None else _listed(args.methods)
    names = ("epochs", "batch_size", "seed")
    settings = preset(args.preset, FINETUNING_PRESETS, **{name: getattr(args, name) for name in names})
    return Design(
        tuple(make_grid(methods, ranks, _listed(args.scopes))),
        None if args.held_out else 3 if args.folds is None else args.folds,
        args.seed,
        parse_views(args.views),
        replace(settings, patience=args.patience),
        LearningRates.parse(args.learning_rate),
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _report(folder: Path, outcomes: list[Outcome], progress: Progress, *, shown: bool) -> None:
    """Say what came out; raise if nothing did."""
    from sahlora.errors import ResourceError
    from sahlora.evaluation.statistics import summarize

    failed = [failure for outcome in outcomes for failure in outcome.failed]
    dice = {
        str(outcome.configuration): summarize([result.score.dice for result in outcome.results])
        for outcome in outcomes
    }
    if not any(outcome.finished for outcome in outcomes):
        first = failed[0]
        raise ResourceError(first.code, f"Every job failed. {first.message}", first.hint)
    if failed:
        progress.warning(
            "jobs-failed", f"{len(failed)} jobs failed; the results lack them.", "Give the command again."
        )
    progress.result(
        folder=str(folder),
        page=str(folder / "crossval.html"),
        results=str(folder / "results.json"),
        dice=dice,
        failed=[
            {"job": one.job.identity, "configuration": str(one.job.configuration), "code": one.code}
            for one in failed
        ],
    )
    if shown:
        for name, summary in dice.items():
            print(f"{name}: Dice {summary}")
        print(f"Wrote {folder / 'crossval.html'}.")
