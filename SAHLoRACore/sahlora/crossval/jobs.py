"""Jobs: one configuration on one fold, described by a file and named by what decides its result."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from sahlora.about import __version__
from sahlora.adapters.scope import count_parameters
from sahlora.cases.manifest import FILE_COLUMNS, Case
from sahlora.cases.split import Cohort
from sahlora.crossval.grid import NONE, THRESHOLD, Configuration
from sahlora.crossval.shuffled import shuffle_labels
from sahlora.errors import InputError
from sahlora.evaluation.evaluate import CaseResult, Failure, System, ThresholdSystem, evaluate
from sahlora.evaluation.metrics import CaseScore
from sahlora.imaging.planes import View
from sahlora.inference.predictor import InferenceSettings
from sahlora.models.adapter_file import merged_model
from sahlora.models.base_model import Model, load_model
from sahlora.models.card import Description
from sahlora.runtime.files import digest_file, write_json
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.finetuning import FinetuningPlan, finetune
from sahlora.training.settings import TrainingSettings

FORMAT_VERSION = 1
JOB, RESULT, ERROR, ADAPTER, LOG, RUN = (
    "job.json", "result.json", "error.json", "adapter.safetensors", "log.txt", "run",
)  # fmt: skip


@dataclass(frozen=True)
class Fold:
    """A division of the cases.

    Parameters
    ----------
    number : int
        From 0; shown, but decides nothing.
    training, test : tuple of Case
        Trained on, and tested on; no patient is in both.
    stopping : tuple of Case
        Neither trained nor tested on: they choose the epoch. Empty if the last epoch counts.
    """

    number: int
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    stopping: tuple[Case, ...] = ()


@dataclass(frozen=True)
class Job:
    """One configuration on one fold.

    Parameters
    ----------
    identity : str
        Hash of all that decides the result, see `identify`.
    configuration : Configuration
    fold : Fold
    base : Path
        File of the base model.
    base_sha256 : str
    views : tuple of View
        Views that are trained, and that a case is looked at in.
    settings : TrainingSettings
    """

    identity: str
    configuration: Configuration
    fold: Fold
    base: Path
    base_sha256: str
    views: tuple[View, ...]
    settings: TrainingSettings


@dataclass(frozen=True)
class JobResult:
    """What a finished job found.

    Parameters
    ----------
    parameters : int
        Trained parameters, of all views together.
    seconds : float
    cases : tuple of CaseResult
    failures : tuple of Failure
        Cases that could not be evaluated.
    training : dict, optional
        Record of the training as on the adapter's card.
    """

    parameters: int
    seconds: float
    cases: tuple[CaseResult, ...]
    failures: tuple[Failure, ...]
    training: dict[str, Any] | None


# ------------------------------------------------------------------------------------------------ identity


def identify(
    configuration: Configuration,
    fold: Fold,
    base_sha256: str,
    views: tuple[View, ...],
    settings: TrainingSettings,
    digests: Mapping[str, str],
) -> str:
    """Return the hash of everything that decides a job's result, and of nothing else.

    Parameters
    ----------
    digests : mapping of str to str
        `digest_case` of each case by name.

    Notes
    -----
    A job that trains nothing does not depend on training cases and settings, nor a threshold on the base.
    Device, threads and version of the software are left out, though they may change the last digits.
    """
    decisive: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "method": configuration.method,
        "test": [digests[case.name] for case in fold.test],
    }
    if configuration.method != THRESHOLD:
        decisive |= {"base": base_sha256, "views": views}
    if configuration.adapter is not None:
        decisive |= {
            "adapter": asdict(configuration.adapter),
            "settings": settings.to_dict(),
            "training": [digests[case.name] for case in fold.training],
            "stopping": [digests[case.name] for case in fold.stopping],
        }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def digest_case(case: Case) -> str:
    """Return the SHA-256 of a case: content of its files wherever they lie, name, patient and segment."""
    digest = hashlib.sha256(json.dumps([case.name, case.patient, case.segment]).encode())
    for column in FILE_COLUMNS:
        root = getattr(case, column)
        files = [] if root is None else [root] if root.is_file() else sorted(root.rglob("*"))
        for path in files:
            if path.is_file():
                digest.update(f"{column} {path.name if path == root else path.relative_to(root)}".encode())
                digest_file(digest, path)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------- files


def write_job(folder: Path, job: Job) -> None:
    """Write all that a process somewhere needs to know to run the job."""
    write_json(folder / JOB, {"version": FORMAT_VERSION, **asdict(job), "settings": job.settings.to_dict()})


def read_job(folder: Path) -> Job:
    """Read what `write_job` wrote.

    Raises
    ------
    InputError
        ``bad-job``.
    """
    try:
        plain = json.loads((folder / JOB).read_text(encoding="utf-8"))
        if plain["version"] != FORMAT_VERSION:
            raise ValueError(f"version {plain['version']}")
        settings = {**plain["settings"], "crop": _pair(plain["settings"]["crop"])}
        fold = plain["fold"]
        sides = {name: tuple(map(_case, fold[name])) for name in ("training", "test", "stopping")}
        return Job(
            plain["identity"],
            Configuration(**plain["configuration"]),
            Fold(fold["number"], **sides),
            Path(plain["base"]),
            plain["base_sha256"],
            tuple(plain["views"]),
            TrainingSettings(**settings),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "bad-job",
            f"There is no job in {folder} that can be read.",
            "Give the command for all jobs again.",
        ) from error


def read_result(folder: Path) -> JobResult | None:
    """Read the result of a job; None if it has not finished."""
    try:
        plain = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if plain["version"] != FORMAT_VERSION:
            return None
        return JobResult(
            plain["parameters"],
            plain["seconds"],
            tuple(map(_case_result, plain["cases"])),
            tuple(Failure(**failure) for failure in plain["failures"]),
            plain["training"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pair(values: Sequence[int] | None) -> tuple[int, int] | None:
    return None if values is None else (values[0], values[1])


def _case(plain: Mapping[str, Any]) -> Case:
    files = {column: plain[column] and Path(plain[column]) for column in FILE_COLUMNS}
    return Case(**{**plain, **files})


def _case_result(plain: Mapping[str, Any]) -> CaseResult:
    score = {
        field.name: float("nan") if plain["score"][field.name] is None else plain["score"][field.name]
        for field in fields(CaseScore)
    }
    told = (tuple(plain[name]) for name in ("slice_scores", "slice_labels"))
    return CaseResult(plain["name"], plain["patient"], CaseScore(**score), *told)


# ---------------------------------------------------------------------------------------------------- work


def run_job(folder: Path, cache: Path, device: torch.device, progress: Progress = SILENT) -> JobResult:
    """Train if there is something to train, test, and write the result, which marks the job finished.

    Parameters
    ----------
    folder : Path
        Holds the job's file; gets its result, the adapter, and while it runs the state of the training, from
        which a job that was stopped continues.
    cache : Path
        Folder of prepared cases, shared with other jobs.
    device : torch.device

    Raises
    ------
    InputError
        ``bad-job``, ``other-base`` if the base's file is another now, or from reading the cases.
    ResourceError
        Of `sahlora.training.finetuning.finetune`.
    """
    started, job = time.monotonic(), read_job(folder)
    base = load_model(job.base)
    if base.sha256 != job.base_sha256:
        raise InputError(
            "other-base", "The base is not the one the job was planned for.", "Give the command again."
        )
    system, training = _prepare_system(job, base, folder, cache, device, progress)
    evaluation = evaluate(job.fold.test, [system], InferenceSettings(job.views), device, progress)
    configuration = job.configuration
    result = JobResult(
        trainable_parameters(configuration, base, job.views),
        round(time.monotonic() - started, 2),
        evaluation.results[system.name],
        evaluation.failures,
        training,
    )
    plain = {
        "version": FORMAT_VERSION,
        "identity": job.identity,
        "sahlora": __version__,
        **asdict(result),
    }
    write_json(folder / RESULT, plain)
    shutil.rmtree(folder / RUN, ignore_errors=True)
    return result


def trainable_parameters(configuration: Configuration, base: Model, views: Sequence[View]) -> int:
    """Return how many parameters are trained in all views together.

    Raises
    ------
    UsageError
        ``unknown-scope``.
    """
    adapter = configuration.adapter
    return 0 if adapter is None else len(views) * count_parameters(base.network, adapter)


def _prepare_system(
    job: Job, base: Model, folder: Path, cache: Path, device: torch.device, progress: Progress
) -> tuple[System, dict[str, Any] | None]:
    """Return what is tested, trained if need be, and the record of the training."""
    name, threshold = str(job.configuration), base.card.target.threshold
    if job.configuration.method == THRESHOLD:
        return ThresholdSystem(name), None
    if job.configuration.method == NONE:
        return System(name, dict.fromkeys(job.views, base.for_inference()), threshold, base.facts()), None
    assert job.configuration.adapter is not None
    training = job.fold.training
    if job.configuration.is_control:
        training = shuffle_labels(training, folder / RUN / "labels", job.settings.seed, progress)
        cache = folder / RUN / "cache"  # of no use to other jobs
    plan = FinetuningPlan(Description(name), job.configuration.adapter, job.views, job.settings)
    cohort = Cohort(training, job.fold.stopping)
    output, run = folder / ADAPTER, folder / RUN
    try:
        done = finetune(cohort, base, plan, output, run, device, progress, cache=cache)
    except InputError as error:
        if error.code not in ("other-run", "damaged-run"):
            raise
        for view in job.views:  # e.g. the cases were moved since: their content is the same, begin anew
            shutil.rmtree(run / view, ignore_errors=True)
        done = finetune(cohort, base, plan, output, run, device, progress, cache=cache)
    models = {view: merged_model(done.adapter, base, view).for_inference() for view in job.views}
    return System(name, models, threshold, {}), done.adapter.card.training
