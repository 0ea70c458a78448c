"""Cross-validation: what is planned, that nothing is computed twice or lost, and what the results say."""

from __future__ import annotations

import csv
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from helpers import events, overflowing_network, random_card, random_network, simple_head, start_sahlora
from sahlora.cases.manifest import Case, read_manifest
from sahlora.cli import main
from sahlora.crossval.claims import Claim, Evidence, examine, examine_controls, judge
from sahlora.crossval.executors import Ended, LocalProcesses, Task
from sahlora.crossval.grid import Configuration, LearningRates, make_grid
from sahlora.crossval.jobs import ADAPTER, ERROR, RESULT, RUN, Job, digest_case, run_job
from sahlora.crossval.planning import Design, divide, plan_jobs
from sahlora.crossval.report import FILES, write_report
from sahlora.crossval.shuffled import shuffle_labels
from sahlora.crossval.study import Outcome, gather, job_folder, run_jobs
from sahlora.errors import InputError, SAHLoRAError, UsageError
from sahlora.evaluation.evaluate import CaseResult, System, evaluate
from sahlora.evaluation.metrics import CaseScore
from sahlora.imaging.labels import read_label_map
from sahlora.models.adapter_file import load_adapter, merged_model
from sahlora.models.base_model import load_model, save_model
from sahlora.models.card import Preprocessing
from sahlora.runtime.progress import Event, Progress
from sahlora.training.prepared import PreparedCase, prepare_cases
from sahlora.training.settings import TrainingSettings

CPU = torch.device("cpu")
SPACING = (4.0, 2.0, 2.0)
QUICK = TrainingSettings(
    epochs=1, batch_size=4, learning_rate=1e-2, weight_decay=0.0, augmentation="none", crop=None
)
METHODS = ("none", "threshold", "standard", "cp-lora", "shuffled-cp-lora")


class InProcess:
    """The other executor: runs jobs one after another in this process, and remembers which."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(
        self, tasks: Sequence[Task], hear: Callable[[Task, Event], None], progress: Progress
    ) -> Generator[Ended, None, None]:
        for task in tasks:
            progress.check()
            self.ran.append(task.name)
            folder, cache = (
                Path(task.arguments[task.arguments.index(option) + 1]) for option in ("--job", "--cache")
            )
            error = None
            try:
                run_job(folder, cache, CPU, Progress(lambda event, task=task: hear(task, event)))
            except SAHLoRAError as raised:
                error = raised
            yield Ended(task, error)


def write_head(folder: Path, number: int, *, held_out: bool) -> dict[str, str]:
    """Write a simple head of its own noise and amount of blood; return its row of the manifest."""
    hu = simple_head((8, 40 + 4 * (number % 2), 36), SPACING)
    lesions = (hu > 50) & (hu < 90)
    hu[lesions] -= 25
    lesions[: number % 3] = False
    hu[hu > -1000] += np.random.default_rng(number).integers(-3, 4, np.count_nonzero(hu > -1000), np.int16)
    for kind, array in (("image", hu), ("label", lesions.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(folder / f"{number}-{kind}.nii.gz"))
    return {
        "case": f"case{number}", "image": f"{number}-image.nii.gz", "label": f"{number}-label.nii.gz",
        "patient": f"patient{number // 2 if number < 2 else number}", "held_out": "yes" if held_out else "no",
    }  # fmt: skip


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five heads of four patients, manifests without and with one held out, and a small random base."""
    folder = tmp_path_factory.mktemp("site")
    rows = [write_head(folder, number, held_out=number == 4) for number in range(5)]
    write_manifest(folder / "split.csv", rows)
    write_manifest(folder / "cases.csv", [{**row, "held_out": ""} for row in rows])
    save_model(folder / "base.safetensors", random_network(0, 1, 4), random_card(1, 4, spacing=2.0))
    return folder


def design(methods: Sequence[str] = METHODS, folds: int | None = 2, **changes: Any) -> Design:
    values = {"grid": tuple(make_grid(methods, [2], ["decoding"])), "folds": folds, "seed": 0}
    defaults = {"views": ("axial",), "settings": QUICK, "rates": LearningRates(None, {})}
    return Design(**{**values, **defaults, **changes})


def plan(folder: Path, chosen: Design, manifest: str = "cases.csv") -> list[Job]:
    path = folder / "base.safetensors"
    return plan_jobs(folder / manifest, load_model(path), path, chosen)


def run(folder: Path, output: Path, jobs: list[Job], executor: Any) -> list[Outcome]:
    run_jobs(output, jobs, load_model(folder / "base.safetensors"), executor, "cpu")
    return gather(output, jobs)


def found_by(outcomes: list[Outcome]) -> list[str]:
    """Return all figures to the last digit; undefined ones are alike, too."""
    return [repr(one.results) for one in outcomes]


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cross-validation of all kinds of methods in two folds."""
    output = tmp_path_factory.mktemp("study")
    chosen = design()
    outcomes = run(folder, output, plan(folder, chosen), InProcess())
    write_report(output, outcomes, chosen, load_model(folder / "base.safetensors"))
    return output


# ------------------------------------------------------------------------------------------------- plan


def test_folds_share_no_patient_and_test_every_case_once(folder: Path) -> None:
    jobs = plan(folder, design(("none",), 3))
    tested = [case.name for job in jobs for case in job.fold.test]
    assert sorted(tested) == [f"case{number}" for number in range(5)]
    for job in jobs:
        training, test = ({case.patient for case in side} for side in (job.fold.training, job.fold.test))
        assert training and test and not training & test


def test_early_stopping_looks_at_patients_that_are_neither_trained_nor_tested_on(folder: Path) -> None:
    for job in plan(folder, design(("cp-lora",), settings=replace(QUICK, patience=2))):
        sides = [
            {case.patient for case in side} for side in (job.fold.training, job.fold.stopping, job.fold.test)
        ]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides)) == 4


def test_held_out_cases_are_tested_on_or_not_used_at_all(folder: Path) -> None:
    (job,) = plan(folder, design(("none",), None), "split.csv")
    assert [case.name for case in job.fold.test] == ["case4"]
    assert [case.name for case in job.fold.training] == [f"case{number}" for number in range(4)]
    used = {case.name for job in plan(folder, design(("none",), 2), "split.csv") for case in job.fold.test}
    assert used == {f"case{number}" for number in range(4)}


def test_rank_and_scope_count_only_where_they_mean_something() -> None:
    grid = make_grid(["threshold", "standard", "cp-lora"], [2, 4], ["decoding", "all"])
    assert [str(one) for one in grid] == [
        "none", "threshold", "standard decoding", "standard all", "cp-lora r=2 decoding",
        "cp-lora r=4 decoding", "cp-lora r=2 all", "cp-lora r=4 all",
    ]  # fmt: skip


def test_the_identity_changes_with_all_that_decides_the_result_and_with_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    def identities(chosen: Design, where: Path = folder) -> list[str]:
        return [job.identity for job in plan(where, chosen)]

    first = design(("none", "threshold", "cp-lora"))
    none, threshold, trained = range(3)
    reference = identities(first)
    assert identities(first) == reference
    assert len(set(reference)) == 6
    for changed in (
        replace(first, settings=replace(QUICK, epochs=2)),
        replace(first, settings=replace(QUICK, seed=1)),
        replace(first, rates=LearningRates(None, {"cp-lora": 2e-3})),
        replace(first, grid=tuple(make_grid(["threshold", "cp-lora"], [3], ["decoding"]))),
        replace(first, grid=tuple(make_grid(["threshold", "cp-lora"], [2], ["all"]))),
        replace(first, grid=tuple(make_grid(["threshold", "shuffled-cp-lora"], [2], ["decoding"]))),
    ):
        found = identities(changed)
        assert [one == other for one, other in zip(found, reference, strict=True)][:3] == [True, True, False]
    assert not set(identities(replace(first, views=("coronal",)))) & {reference[none], reference[trained]}
    assert set(identities(replace(first, seed=5))) != set(reference)

    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert identities(first, moved) == reference
    label = sitk.ReadImage(str(moved / "2-label.nii.gz"))
    sitk.WriteImage(sitk.Cast(label * 2, sitk.sitkUInt8), str(moved / "2-label.nii.gz"))
    assert len(set(identities(first, moved)) & set(reference)) == 2  # the fold where case 2 is not tested
    save_model(moved / "base.safetensors", random_network(1, 1, 4), random_card(1, 4, spacing=2.0))
    other_base = identities(first, moved)
    assert reference[threshold] in other_base or reference[threshold + 3] in other_base
    assert not {reference[none], reference[trained]} & set(other_base)


def test_a_case_is_known_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"one")
    (tmp_path / "label.nii").write_bytes(b"label")
    case = Case("a", series, tmp_path / "label.nii")
    first = digest_case(case)
    (series / "1.dcm").touch()
    assert digest_case(case) == first
    (series / "1.dcm").write_bytes(b"two")
    assert digest_case(case) != first


def test_learning_rates_are_those_of_the_method_then_of_its_rank() -> None:
    rates = LearningRates.parse("5e-3,standard=1e-3,cp-lora:64=2e-3")
    for configuration, expected in (
        (Configuration("standard", None, "all"), 1e-3),
        (Configuration("cp-lora", 64, "all"), 2e-3),
        (Configuration("shuffled-cp-lora", 64, "all"), 2e-3),
        (Configuration("cp-lora", 4, "all"), 5e-3),
    ):
        assert rates.apply(configuration, QUICK).learning_rate == expected


# ------------------------------------------------------------------------------------- once, and no less


def test_finished_jobs_are_not_repeated_and_a_larger_grid_adds_what_is_new(folder: Path, study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob(RESULT)}
    executor = InProcess()
    run(folder, study, plan(folder, design()), executor)
    assert executor.ran == []
    larger = replace(design(), grid=tuple(make_grid(("none", "cp-lora"), [2, 3], ["decoding"])))
    run(folder, study, jobs := plan(folder, larger), executor)
    assert executor.ran == [job.identity for job in jobs if job.configuration.rank == 3]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in study.rglob(RESULT)}.items()


def test_results_are_those_of_evaluating_the_adapter_directly(folder: Path, study: Path) -> None:
    jobs = [job for job in plan(folder, design()) if job.configuration.method == "cp-lora"]
    base = load_model(folder / "base.safetensors")
    (outcome,) = gather(study, jobs)
    assert len(outcome.finished) == 2
    for job, result in outcome.finished:
        adapter = load_adapter(job_folder(study, job) / ADAPTER)
        models = {"axial": merged_model(adapter, base, "axial").for_inference()}
        system = System("adapter", models, base.card.target.threshold, {})
        assert result.cases == evaluate(job.fold.test, [system]).results["adapter"]
        assert result.parameters == adapter.parameters


def test_state_of_the_training_is_gone_once_a_job_has_finished(study: Path) -> None:
    assert not list(study.rglob(RUN))
    assert list((study / "cache").iterdir())


def test_a_job_that_fails_stops_no_other_and_runs_again(folder: Path, tmp_path: Path) -> None:
    """A base whose input overflows: everything that trains diverges."""
    path = tmp_path / "base.safetensors"
    save_model(path, overflowing_network(), random_card(1, 4, spacing=2.0))
    base, chosen = load_model(path), design(("threshold", "cp-lora"), None)
    jobs = plan_jobs(folder / "split.csv", base, path, chosen)
    for _ in range(2):
        executor, seen = InProcess(), []
        run_jobs(tmp_path, jobs, base, executor, "cpu", Progress(seen.append))
        none, threshold, trained = gather(tmp_path, jobs)
        assert [one.code for one in trained.failed] == ["diverged"]
        assert threshold.results and none.results
        assert jobs[2].identity in executor.ran
        ends = [event["state"] for event in seen if "state" in event]
        assert ends == ["done"] * (len(executor.ran) - 1) + ["failed"]
    assert json.loads((job_folder(tmp_path, jobs[2]) / ERROR).read_text())["code"] == "diverged"
    write_report(tmp_path, gather(tmp_path, jobs), chosen, base)
    assert "diverged" in (tmp_path / "crossval.html").read_text()


def test_progress_counts_all_jobs(folder: Path, tmp_path: Path) -> None:
    jobs = plan(folder, design(("none", "threshold", "cp-lora"), None), "split.csv")
    seen: list[dict] = []
    base = load_model(folder / "base.safetensors")
    run_jobs(tmp_path, jobs, base, InProcess(), "cpu", Progress(seen.append))
    stage = next(i for i, event in enumerate(seen) if event.get("stage") == "cross-validation")
    fractions = [event["fraction"] for event in seen[stage:] if event["event"] == "progress"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    metrics = [event for event in seen if event["event"] == "metric"]
    assert all(event["job"] in {job.identity for job in jobs} for event in metrics)
    assert {"loss", "epoch", "method", "rank", "scope", "fold"} <= next(
        event for event in metrics if "loss" in event
    ).keys()
    assert [event["jobs_done"] for event in metrics if "state" in event] == [1, 2, 3]
    assert not any(event.get("code") == "unchecked" for event in seen)


def test_jobs_may_prepare_the_same_cases_at_the_same_time(folder: Path, tmp_path: Path) -> None:
    cases = read_manifest(folder / "cases.csv")

    def prepare(cache: Path) -> list[PreparedCase]:
        return prepare_cases(cases, Preprocessing(spacing=2.0), "axial", cache)

    with ThreadPoolExecutor(4) as together:
        found = list(together.map(prepare, [tmp_path / "shared"] * 4))
    for one, other in zip(prepare(tmp_path / "alone"), found[0], strict=True):
        assert (one.with_blood, one.without_blood) == (other.with_blood, other.without_blood)
        assert np.array_equal(one.image(), other.image())
        assert np.array_equal(one.label(), other.label())
    assert all(one == found[0] for one in found)


# -------------------------------------------------------------------------------------------- processes


def test_processes_find_what_this_process_finds_and_report_what_failed(folder: Path, tmp_path: Path) -> None:
    jobs = plan(folder, design(("cp-lora",), None), "split.csv")[1:]
    outcomes = [
        run(folder, tmp_path / str(number), jobs, executor)
        for number, executor in enumerate((InProcess(), LocalProcesses(2, 2)))
    ]
    assert all(one.finished for one in outcomes[0])
    assert found_by(outcomes[0]) == found_by(outcomes[1])
    tasks = [Task(str(call), call, tmp_path / "log.txt") for call in (("crossval",), ("no-such-command",))]
    failed = {
        ended.task.arguments[0]: ended.error
        for ended in LocalProcesses().run(tasks, lambda *_: None, Progress())
    }
    assert [error and error.code for error in failed.values()] == ["no-manifest", "crashed"]


def children_of(pid: int) -> list[int]:
    """Return the processes that were started to end with this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--parent-pid" in words and words[words.index(b"--parent-pid") + 1] == str(pid).encode():
            found.append(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc, uses SIGKILL")
def test_killed_and_canceled_runs_leave_no_process_and_end_with_the_same_results(
    folder: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=16, preset="quick", augmentation="default")
    none, trained = jobs = plan(folder, design(("cp-lora",), None, settings=settings), "split.csv")
    run(folder, tmp_path / "stopped", [none], InProcess())  # leaves one job to start
    arguments = (
        "crossval", folder / "split.csv", "-o", tmp_path / "stopped", "--model", folder / "base.safetensors",
        "--held-out", "--methods", "cp-lora", "--ranks", "2", "--device", "cpu", "--jobs", "2",
        "--threads", "2", "--epochs", "16", "--batch-size", "4", "--learning-rate", "1e-2",
        "--preset", "quick", "--cancel-file", tmp_path / "cancel",
    )  # fmt: skip

    def start(epoch: int) -> tuple[Any, list[int]]:
        process = start_sahlora(*arguments)
        for line in process.stdout:
            if json.loads(line).get("epoch", 0) >= epoch:
                break
        return process, children_of(process.pid)

    process, children = start(2)
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    deadline = time.monotonic() + 60
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, children))

    process, children = start(3)
    (tmp_path / "cancel").touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert events(output)[-1]["code"] == "cancelled"
    assert not any(map(is_running, children))

    (tmp_path / "cancel").unlink()
    assert not (job_folder(tmp_path / "stopped", trained) / RESULT).exists()
    state = job_folder(tmp_path / "stopped", trained) / RUN / "axial" / "metrics.jsonl"
    assert len(state.read_text().splitlines()) >= 2
    continued = run(folder, tmp_path / "stopped", jobs, InProcess())
    whole = run(folder, tmp_path / "whole", jobs, InProcess())
    assert found_by(continued) == found_by(whole)
    adapters = [
        (job_folder(tmp_path / name, trained) / ADAPTER).read_bytes() for name in ("stopped", "whole")
    ]
    assert adapters[0] == adapters[1]


# ---------------------------------------------------------------------------------------------- controls


def test_shuffled_labels_belong_to_other_scans_and_stay_the_same(folder: Path, tmp_path: Path) -> None:
    cases = read_manifest(folder / "cases.csv")
    shuffled = shuffle_labels(cases, tmp_path, 0)
    for case, control in zip(cases, shuffled, strict=True):
        true, other = (read_label_map(one.label).values for one in (case, control))
        assert control.image == case.image
        assert other.shape == true.shape
        assert other.any()
        assert not np.array_equal(true, other)
    written = [case.label.stat().st_mtime_ns for case in shuffled]
    assert [case.label.stat().st_mtime_ns for case in shuffle_labels(cases, tmp_path, 0)] == written
    again = shuffle_labels(cases, tmp_path / "again", 0)
    assert all(a.label.read_bytes() == b.label.read_bytes() for a, b in zip(shuffled, again, strict=True))


def test_the_threshold_row_is_that_of_the_baseline(folder: Path, study: Path) -> None:
    (outcome,) = gather(study, [j for j in plan(folder, design()) if j.configuration.method == "threshold"])
    assert outcome.parameters == 0
    assert len(outcome.results) == 5


# ------------------------------------------------------------------------------------------------ claims


def outcome(configuration: Configuration, dice: Sequence[float]) -> Outcome:
    """An outcome with one case a patient whose annotated volume grows with its number."""
    results = tuple(
        CaseResult(f"c{i:02}", f"p{i:02}", CaseScore(value, value, 1.0, 1.0, 10.0, 5.0 * (i + 1), 0.0))
        for i, value in enumerate(dice)
    )
    return Outcome(configuration, 1e-3, (), results, ())


def verdicts(claims: list[Claim]) -> list[str]:
    return [claim.verdict for claim in claims]


RISING = np.linspace(0.3, 0.6, 12)
GAIN = np.linspace(0.08, 0.12, 12)  # no two alike: ties cost the test its exact and fast way


def test_claims_are_supported_only_where_every_test_says_so() -> None:
    grid = {
        Configuration("none"): RISING - 2 * GAIN,
        Configuration("threshold"): RISING - 2.5 * GAIN,
        Configuration("standard", None, "decoding"): RISING,
        Configuration("lora-c", 4, "decoding"): RISING + GAIN,
        Configuration("cp-lora", 4, "decoding"): RISING + GAIN + GAIN**3,
        Configuration("cp-lora", 16, "decoding"): RISING + 1.5 * GAIN,
        Configuration("shuffled-cp-lora", 4, "decoding"): RISING - 2.1 * GAIN,
    }
    good = [outcome(what, dice) for what, dice in grid.items()]
    claims = examine(good)
    assert verdicts(claims) == ["supported"] * 5
    assert verdicts(examine_controls(good)) == ["supported"] * 2
    assert all("n = 12 patients" in claim.found for claim in (*claims, *examine_controls(good)))
    few = [replace(one, results=one.results[:4]) for one in good]
    assert verdicts(examine(few)) == ["cannot be said"] * 5
    worse = [outcome(what, grid[what] if what.rank != 16 else RISING[::-1] - 0.3) for what in grid]
    assert verdicts(examine(worse)) == ["not supported"] * 3 + ["supported", "not supported"]
    learned = [outcome(what, RISING + GAIN if what.is_control else grid[what]) for what in grid]
    assert verdicts(examine_controls(learned)) == ["not supported", "supported"]
    assert verdicts(examine([good[0]])) == ["not examined"] * 5


def test_a_direction_without_significance_decides_nothing() -> None:
    assert judge([Evidence(0.01, 0.2, 30)]) == "cannot be said"
    assert judge([Evidence(0.1, 0.001, 30), Evidence(0.01, 0.2, 30)]) == "cannot be said"
    assert judge([Evidence(0.1, 0.001, 30), Evidence(-0.01, 0.2, 30)]) == "not supported"


# --------------------------------------------------------------------------------------------- results


def test_tables_hold_every_case_of_every_configuration(study: Path) -> None:
    assert {path.name for path in study.iterdir() if path.is_file()} == set(FILES)
    with (study / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5 * len(METHODS)
    results = json.loads((study / "results.json").read_text())
    with (study / "summary.csv").open(newline="") as stream:
        summary = {row["method"]: row for row in csv.DictReader(stream)}
    assert [one["method"] for one in results["configurations"]] == list(summary) == list(METHODS)
    for one in results["configurations"]:
        mine = [row for row in rows if row["method"] == one["method"]]
        dice = [float(row["dice"]) for row in mine]
        row = summary[one["method"]]
        assert float(row["dice_mean"]) == pytest.approx(np.mean(dice), rel=1e-5)
        assert float(row["dice_sd"]) == pytest.approx(np.std(dice, ddof=1), rel=1e-5, abs=1e-9)
        assert row["dice_n"] == "5"
        assert one["strata"]["all"]["measures"]["dice"]["n"] == 5
        assert (one["against_none"] is None) == (one["method"] == "none")
    assert summary["cp-lora"]["against_standard_n_patients"] == "4"


def test_the_page_says_n_everywhere_and_loads_nothing(study: Path) -> None:
    page = (study / "crossval.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", page)
    assert not re.search(r"<script|@import|url\(", page)
    for mean in re.findall(r"[\d.–]+ ± [\d.–]+[^<]*", page.partition("Dice of every configuration")[2]):
        assert "n = " in mean
    assert len(re.findall("cannot be said", page)) >= 4  # four patients show nothing


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        (("--methods", "qlora"), 2, "unknown-method"),
        (("--methods", "shuffled-none"), 2, "unknown-method"),
        (("--methods", ","), 2, "empty-grid"),
        (("--ranks", "0"), 2, "bad-adapter-config"),
        (("--ranks", "four"), 2, "bad-rank"),
        (("--scopes", "cerebellum"), 2, "unknown-scope"),
        (("--folds", "5"), 2, "bad-folds"),
        (("--folds", "1"), 2, "bad-folds"),
        (("--folds", "3", "--held-out"), 2, "bad-folds"),
        (("--held-out",), 3, "nothing-held-out"),
        (("--jobs", "0"), 2, "bad-jobs"),
        (("--epochs", "0"), 2, "bad-epochs"),
        (("--patience", "0"), 2, "bad-patience"),
        (("--learning-rate", "fast"), 2, "bad-learning-rate"),
        (("--learning-rate", "5"), 2, "bad-learning-rate"),
        (("--learning-rate", "cp-dora=1e-3", "--methods", "cp-lora"), 2, "bad-learning-rate"),
        (("--views", "oblique"), 2, "unknown-view"),
        (("--preset", "turbo"), 2, "unknown-preset"),
        (("--model", "no-such-base"), 3, "unknown-model"),
        (("--device", "abacus"), 2, "unknown-device"),
    ],
)
def test_a_call_that_cannot_work_is_refused_before_any_job(
    options: tuple[str, ...],
    status: int,
    code: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ["crossval", folder / "cases.csv", "-o", tmp_path / "study", "--progress", "json"]
    call += ["--model", folder / "base.safetensors", "--device", "cpu", *options]
    assert main(list(map(str, call))) == status
    seen = events(capsys.readouterr().out)
    assert seen[-1]["code"] == code
    assert seen[-1]["hint"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ("case,image\n", "bad-manifest"),
        ("case,image,label\na,no.nii,no.nii\n", "missing-file"),
        ("case,image,label\na,0-image.nii.gz,0-image.nii.gz\n", "label-is-image"),
        ("case,image,label\na,0-image.nii.gz,0-label.nii.gz\n", "one-case"),
        ("case,image,label\na,0-image.nii.gz,0-label.nii.gz\nb,0-image.nii.gz,0-label.nii.gz\n", "bad-cases"),
        ("case,image,label\na,0-image.nii.gz,empty.nii.gz\nb,1-image.nii.gz,empty.nii.gz\n", "no-blood"),
        ("case,image,label\na,0-image.nii.gz,empty.nii.gz\nb,1-image.nii.gz,1-label.nii.gz\n", "no-blood"),
    ],
)
def test_cases_that_cannot_be_used_are_named_before_any_job(
    rows: str, code: str, folder: Path, tmp_path: Path
) -> None:
    label = sitk.ReadImage(str(folder / "0-label.nii.gz"))
    sitk.WriteImage(label * 0, str(folder / "empty.nii.gz"))
    (folder / "bad.csv").write_text(rows)
    with pytest.raises(InputError) as error:
        plan(folder, design(("cp-lora",), 2), "bad.csv")
    assert error.value.code == code


def test_a_folder_that_cannot_be_written_is_refused_before_any_job(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    call = ["crossval", folder / "cases.csv", "-o", tmp_path / "file", "--model", folder / "base.safetensors"]
    assert main([*map(str, call), "--folds", "2", "--device", "cpu", "--progress", "json"]) == 4
    seen = events(capsys.readouterr().out)
    assert seen[-1]["code"] == "unwritable"
    assert not any(event.get("stage") == "cross-validation" for event in seen)


def test_manifest_and_folder_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crossval", "--progress", "json"]) == 2
    assert events(capsys.readouterr().out)[-1]["code"] == "no-manifest"


def test_the_command_says_what_it_found_and_where(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sahlora.crossval.executors.LocalProcesses", lambda *_: InProcess())
    call = ["crossval", folder / "split.csv", "-o", tmp_path, "--model", folder / "base.safetensors"]
    call += ["--held-out", "--methods", "cp-lora", "--ranks", "2", "--epochs", "1", "--device", "cpu"]
    assert main([*map(str, call), "--progress", "json"]) == 0
    result = events(capsys.readouterr().out)[-1]
    assert Path(result["page"]).is_file()
    assert json.loads(Path(result["results"]).read_text())["settings"]["folds"] is None
    assert result["failed"] == []
    assert {name: summary["n"] for name, summary in result["dice"].items()} == {
        "none": 1, "cp-lora r=2 decoding": 1,
    }  # fmt: skip
    assert main([*map(str, call), "--progress", "none"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("none: Dice ")
    assert printed[-1].startswith("Wrote ")


def test_more_folds_than_patients_are_refused(folder: Path) -> None:
    cases = read_manifest(folder / "cases.csv")
    with pytest.raises(UsageError) as error:
        divide(cases, {case.name: 1.0 for case in cases}, design(folds=9))
    assert error.value.code == "bad-folds"
