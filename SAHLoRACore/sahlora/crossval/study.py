"""A cross-validation in a folder: run the jobs that have not finished, and gather what all of them found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sahlora.crossval.executors import Executor, Task
from sahlora.crossval.grid import Configuration
from sahlora.crossval.jobs import ERROR, LOG, Job, JobResult, read_result, write_job
from sahlora.errors import SAHLoRAError
from sahlora.evaluation.evaluate import CaseResult
from sahlora.evaluation.statistics import summarize
from sahlora.models.base_model import Model
from sahlora.runtime.files import write_json
from sahlora.runtime.progress import SILENT, Event, Progress
from sahlora.training.prepared import prepare_cases

JOBS, CACHE = "jobs", "cache"
TRAINING_PART = 0.8
"""Of a job that trains, for its progress."""
VERDICTS = ("unchecked", "not-better")
"""Warnings of fine-tuning about held-out cases, of which a job has none or none that test."""


@dataclass(frozen=True)
class FailedJob:
    """A job that failed, and why."""

    job: Job
    code: str
    message: str
    hint: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a configuration found in all folds.

    Parameters
    ----------
    configuration : Configuration
    learning_rate : float
        Peak rate of its training.
    finished : tuple of (Job, JobResult)
        One of each fold that finished.
    results : tuple of CaseResult
        Of all their cases, in the order of the jobs.
    failed : tuple of FailedJob
    """

    configuration: Configuration
    learning_rate: float
    finished: tuple[tuple[Job, JobResult], ...]
    results: tuple[CaseResult, ...]
    failed: tuple[FailedJob, ...]

    @property
    def parameters(self) -> int | None:
        """Trained parameters; None if no job finished."""
        return self.finished[0][1].parameters if self.finished else None


def run_jobs(
    folder: Path,
    jobs: Sequence[Job],
    base: Model,
    executor: Executor,
    device: str,
    progress: Progress = SILENT,
) -> None:
    """Run the jobs without a result; one that fails is recorded and does not stop the others.

    Parameters
    ----------
    folder : Path
        Gets a folder for each job, named by its identity, and the prepared cases.
    jobs : sequence of Job
    base : Model
    executor : Executor
        Where they run.
    device : str
        As `sahlora.runtime.devices.choose_device` takes it.

    Raises
    ------
    Cancelled
        What has finished stays, and what was begun continues with the next call.
    InputError
        From preparing the cases.
    """
    unique = list({job.identity: job for job in jobs}.values())
    pending = [job for job in unique if read_result(job_folder(folder, job)) is None]
    _prepare(folder / CACHE, pending, base, progress)
    tasks = {}
    for job in pending:
        place = job_folder(folder, job)
        write_job(place, job)
        (place / ERROR).unlink(missing_ok=True)
        arguments = ("crossval", "--job", str(place), "--cache", str(folder / CACHE), "--device", device)
        tasks[job.identity] = Task(job.identity, arguments, place / LOG)
    watch = _Watch({job.identity: job for job in pending}, len(unique), progress)
    progress.stage("cross-validation", done=watch.fraction)
    with closing(executor.run(list(tasks.values()), watch.hear, progress)) as run:
        for ended in run:
            place = folder / JOBS / ended.task.name
            if ended.error is not None:
                _record(place, ended.error)
            watch.end(ended.task, ended.error, read_result(place))


def job_folder(folder: Path, job: Job) -> Path:
    """Return the folder of a job."""
    return folder / JOBS / job.identity


def _prepare(cache: Path, jobs: Sequence[Job], base: Model, progress: Progress) -> None:
    """Bring all cases to the working grid once, so that jobs beside each other find them there."""
    trained = [job for job in jobs if job.configuration.trained is not None]
    sides = [side for job in trained for side in (job.fold.training, job.fold.stopping)]
    cases = {case.name: case for side in sides for case in side}
    for view in trained[0].views if trained else ():
        prepare_cases(list(cases.values()), base.card.preprocessing, view, cache, progress)


def _record(place: Path, error: SAHLoRAError) -> None:
    write_json(place / ERROR, {"code": error.code, "message": error.message, "hint": error.hint})


class _Watch:
    """Turns what single jobs say into what the whole says."""

    def __init__(self, jobs: Mapping[str, Job], total: int, progress: Progress) -> None:
        self._jobs, self._total, self._progress = jobs, total, progress
        self._ended = total - len(jobs)
        self._running: dict[str, float] = {}
        self._stages: dict[str, list[str]] = {}

    @property
    def fraction(self) -> float:
        """Which part of all jobs is done."""
        return min(1.0, (self._ended + sum(self._running.values())) / max(1, self._total))

    def hear(self, task: Task, event: Event) -> None:
        match event["event"]:
            case "stage":
                self._stages.setdefault(task.name, []).append(event["stage"])
            case "progress":
                self._running[task.name] = self._fraction_of(task, event["fraction"])
                self._progress.update(self.fraction)
            case "metric":
                figures = {k: v for k, v in event.items() if k not in ("event", "version", "model")}
                self._progress.metric(**self._described(task), **figures)
            case "warning" if event["code"] not in VERDICTS:
                name = self._name(task)
                self._progress.warning(event["code"], f"{name}: {event['message']}", event["hint"])

    def end(self, task: Task, error: SAHLoRAError | None, result: JobResult | None) -> None:
        self._running.pop(task.name, None)
        self._ended += 1
        if error is not None:
            self._progress.warning(error.code, f"{self._name(task)} failed: {error.message}", error.hint)
        dice = summarize([case.score.dice for case in result.cases] if result else [])
        self._progress.metric(
            **self._described(task),
            state="failed" if error is not None else "done",
            dice=round(dice.mean, 4) if dice.n else None,
            jobs_done=self._ended,
            jobs=self._total,
        )
        self._progress.update(self.fraction)

    def _fraction_of(self, task: Task, fraction: float) -> float:
        """Return how far one job is: training of its views, then the test."""
        job, stages = self._jobs[task.name], self._stages.get(task.name, [""])
        if job.configuration.trained is None:
            return fraction if stages[-1] == "evaluating" else 0.0
        trained = sum(stage.startswith("training") for stage in stages)
        if stages[-1] == "evaluating":
            return TRAINING_PART + (1 - TRAINING_PART) * fraction
        if not stages[-1].startswith("training"):
            return TRAINING_PART * trained / len(job.views)
        return TRAINING_PART * (trained - 1 + fraction) / len(job.views)

    def _described(self, task: Task) -> dict[str, str | int | None]:
        job = self._jobs[task.name]
        what = job.configuration
        return {
            "job": task.name, "method": what.method, "rank": what.rank, "scope": what.scope,
            "fold": job.fold.number,
        }  # fmt: skip

    def _name(self, task: Task) -> str:
        job = self._jobs[task.name]
        return f"{job.configuration}, fold {job.fold.number + 1}"


# ------------------------------------------------------------------------------------------------- results


def gather(folder: Path, jobs: Sequence[Job]) -> list[Outcome]:
    """Return what each configuration found, in the order of the jobs."""
    groups: dict[Configuration, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.configuration, []).append(job)
    return [_outcome(folder, configuration, group) for configuration, group in groups.items()]


def _outcome(folder: Path, configuration: Configuration, jobs: Sequence[Job]) -> Outcome:
    found = [(job, read_result(job_folder(folder, job))) for job in jobs]
    finished = tuple((job, result) for job, result in found if result is not None)
    return Outcome(
        configuration,
        jobs[0].settings.learning_rate,
        finished,
        tuple(case for _, result in finished for case in result.cases),
        tuple(_failed(folder, job) for job, result in found if result is None),
    )


def _failed(folder: Path, job: Job) -> FailedJob:
    try:
        words = json.loads((job_folder(folder, job) / ERROR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        words = {"code": "not-run", "message": "It has not run.", "hint": "Give the command again."}
    return FailedJob(job, words["code"], words["message"], words["hint"])
