"""The folder of a training run: who is held out, which code began it, and that one process works in it.

The split belongs to the run: it is written when the run begins and never changed once something was trained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sahlora.about import __version__
from sahlora.cases.manifest import Case, list_cases, manifest_table
from sahlora.cases.split import Cohort
from sahlora.errors import InputError
from sahlora.runtime.files import require_own, require_writable, says_format, write_json, write_text
from sahlora.runtime.locks import TEMPORARY, locked
from sahlora.runtime.progress import SILENT, Progress

SPLIT, RECORD, CACHE, STATE = "cases.csv", "run.json", "cache", "state.safetensors"
RESULTS = ("result.json", "settings.json", "metrics.jsonl")
FORMAT, FORMAT_VERSION = "sahlora-training", 1
PACKAGE = Path(__file__).resolve().parents[1]


def cache_of(run: Path) -> Path:
    """Return where a run keeps its prepared cases."""
    return run / CACHE


def require_run(run: Path) -> None:
    """Check that `run` is the folder of a run that was begun.

    Raises
    ------
    InputError
        ``nothing-to-resume``.
    """
    if not _is_run(run):
        raise InputError(
            "nothing-to-resume",
            f"There is no run to continue in {run}.",
            "Check --run and the output's name, or begin one: leave --resume away.",
        )


@contextmanager
def opened_run(run: Path, cohort: Cohort, progress: Progress = SILENT) -> Iterator[None]:
    """Begin or continue a run, and keep others out of its folder.

    What a killed process left half-written in the folder is removed.

    Raises
    ------
    UsageError
        ``foreign-file`` if files of the folder are not of a run.
    InputError
        ``other-run`` if others were trained on or held out in it; the folder is then unchanged.
    ResourceError
        ``in-use`` if another process works in it; ``unwritable`` or ``disk-full``.
    """
    require_own((run / name for name in (SPLIT, RECORD, CACHE, STATE, *RESULTS)), lambda: _is_run(run))
    require_writable(run / CACHE / "any", run / SPLIT)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        _keep_split(run, cohort)
        (run / CACHE).mkdir(mode=0o700, exist_ok=True)
        for left in run.rglob(f"{TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        _tell_other_code(run, progress)
        yield


def _is_run(run: Path) -> bool:
    """Whether a run was begun there, by this version or one that kept no record."""
    return says_format(run / RECORD, FORMAT) or any(
        next(run.glob(pattern), None) for pattern in (f"{CACHE}/*/slices.json", STATE, f"*/{STATE}")
    )


def _has_trained(run: Path) -> bool:
    return any(next(run.glob(pattern), None) for pattern in (STATE, f"*/{STATE}"))


# ------------------------------------------------------------------------------------------------- split


def _keep_split(run: Path, cohort: Cohort) -> None:
    """Write who is held out, unless that is written already; refuse to change it."""
    cases = {replace(case, held_out=False) for case in cohort.training}
    cases |= {replace(case, held_out=True) for case in cohort.held_out}
    path, text = run / SPLIT, manifest_table(sorted(cases, key=lambda case: case.name))
    if path.exists():
        if _cases_of(path) == cases:
            return
        if _has_trained(run) or _record(run).get("cases_sha256") != _sha256(path.read_bytes()):
            raise InputError(
                "other-run",
                f"The run in {run} was begun with other cases, or with others held out: {path} lists them.",
                "Name another folder with --run, or another output; or delete that folder.",
            )
    record = {"format": FORMAT, "version": FORMAT_VERSION, "sahlora": __version__, "code": code_sha256()}
    write_json(run / RECORD, {**record, "cases_sha256": _sha256(text.encode())})
    write_text(path, text)


def _cases_of(path: Path) -> set[Case] | None:
    try:
        return set(list_cases(path))
    except InputError:
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -------------------------------------------------------------------------------------------------- code


def _record(run: Path) -> dict[str, Any]:
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _tell_other_code(run: Path, progress: Progress) -> None:
    """Warn if other code began the run."""
    record = _record(run)
    ours, theirs = (__version__, code_sha256()), (record.get("sahlora"), record.get("code"))
    if record and theirs != ours:
        began, goes_on = (f"SAHLoRA {version} (code {str(code)[:8]})" for version, code in (theirs, ours))
        progress.warning(
            "other-version",
            f"The run was begun by {began} and goes on with {goes_on}: one version might end otherwise.",
            "To be sure, train anew in another folder.",
        )


def code_sha256() -> str:
    """Return the SHA-256 of the package's source files, which changes where the version's number doesn't."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: path.relative_to(PACKAGE).as_posix()):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
