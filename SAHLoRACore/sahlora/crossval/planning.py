"""The list of jobs: folds of the cases times configurations, all checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sahlora.cases.checks import check_cases, require_sound
from sahlora.cases.folds import assign_folds
from sahlora.cases.manifest import Case, read_manifest
from sahlora.cases.split import Cohort, split_cases
from sahlora.crossval.grid import Configuration, LearningRates
from sahlora.crossval.jobs import Fold, Job, digest_case, identify, trainable_parameters
from sahlora.errors import InputError
from sahlora.imaging.planes import View
from sahlora.models.base_model import Model
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.settings import TrainingSettings


@dataclass(frozen=True)
class Design:
    """How a comparison is made.

    Parameters
    ----------
    grid : tuple of Configuration
    folds : int, optional
        Number of folds of the cases that are not held out; None trains on these and tests on those held out.
    seed : int
        Of the folds; that of the training stands in `settings`.
    views : tuple of View
    settings : TrainingSettings
        With `patience`, a fifth of each fold's training patients chooses the epoch; else the last one counts.
    rates : LearningRates
    """

    grid: tuple[Configuration, ...]
    folds: int | None
    seed: int
    views: tuple[View, ...]
    settings: TrainingSettings
    rates: LearningRates


def plan_jobs(
    manifest: Path, base: Model, base_path: Path, design: Design, progress: Progress = SILENT
) -> list[Job]:
    """Check everything and list the jobs, fold by fold, the cheapest configurations first.

    Raises
    ------
    UsageError
        ``unknown-scope``, ``bad-learning-rate``, ``bad-folds``.
    InputError
        From reading the manifest; ``bad-cases``, ``no-blood``, ``one-case``, ``nothing-held-out``,
        ``held-out-in-training``.
    """
    for configuration in design.grid:
        trainable_parameters(configuration, base, design.views)
        design.rates.apply(configuration, design.settings)
    design.rates.require_known(design.grid)
    checked = check_cases(sorted(read_manifest(manifest), key=lambda case: case.name), progress)
    require_sound(checked)
    volumes = {one.case.name: one.annotated_ml or 0.0 for one in checked}
    folds = divide([one.case for one in checked], volumes, design, progress)
    digests = _digests(folds, progress)
    return [
        _job(configuration, fold, base, base_path, design, digests)
        for fold in folds
        for configuration in sorted(design.grid, key=lambda one: one.trained is not None)
    ]


def _job(
    configuration: Configuration,
    fold: Fold,
    base: Model,
    base_path: Path,
    design: Design,
    digests: Mapping[str, str],
) -> Job:
    settings = design.rates.apply(configuration, design.settings)
    identity = identify(configuration, fold, base.sha256, design.views, settings, digests)
    path = base_path.resolve()
    return Job(identity, configuration, fold, path, base.sha256, design.views, settings)


def divide(
    cases: Sequence[Case], annotated_ml: Mapping[str, float], design: Design, progress: Progress = SILENT
) -> list[Fold]:
    """Divide cases into folds, or into those held out and the others.

    Raises
    ------
    UsageError
        ``bad-folds``.
    InputError
        ``no-blood``, ``one-case``, ``nothing-held-out``, ``held-out-in-training``.
    """
    used = [case for case in cases if design.folds is None or not case.held_out]
    if not any(annotated_ml[case.name] for case in used):
        raise _no_blood("No case has a label that shows blood.")
    if len({case.person for case in used}) < 2:
        raise InputError(
            "one-case", "There is one patient only: none is left to test on.", "Add cases of other patients."
        )
    if design.folds is None:
        if all(case.held_out for case in used) or not any(case.held_out for case in used):
            raise InputError(
                "nothing-held-out",
                "The manifest must hold out some cases, and not all.",
                "Mark them in its column held_out, or use folds.",
            )
        tested = {case.name: 0 if case.held_out else None for case in used}
    else:
        assigned = assign_folds(used, annotated_ml, design.folds, design.seed)
        tested = {one.case: one.fold for one in assigned}
    return [
        _fold(number, used, tested, annotated_ml, design, progress) for number in range(design.folds or 1)
    ]


def _fold(
    number: int,
    cases: Sequence[Case],
    tested: Mapping[str, int | None],
    annotated_ml: Mapping[str, float],
    design: Design,
    progress: Progress,
) -> Fold:
    training = tuple(case for case in cases if tested[case.name] != number)
    test = tuple(case for case in cases if tested[case.name] == number)
    for side, what in ((training, "training"), (test, "test")):
        if not any(annotated_ml[case.name] for case in side):
            raise _no_blood(f"No {what} case of fold {number + 1} shows blood.")
    Cohort(training, test)  # refuses a scan on both sides
    if design.settings.patience is None:
        return Fold(number, training, test)
    inner = split_cases(training, None, design.seed, progress)
    return Fold(number, inner.training, test, inner.held_out)


def _no_blood(message: str) -> InputError:
    return InputError("no-blood", message, "Check the label maps, or use fewer folds.")


def _digests(folds: Sequence[Fold], progress: Progress) -> dict[str, str]:
    cases = {case.name: case for fold in folds for case in (*fold.training, *fold.stopping, *fold.test)}
    digests = {}
    for case in cases.values():
        progress.check()
        digests[case.name] = digest_case(case)
    return digests
