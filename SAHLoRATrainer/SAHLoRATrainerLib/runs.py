"""Runs of training on disk: settings, cases, progress and result of each in a folder of its own.

    DATA/runs/run-001/   run.json, cases.csv, training/ (of the command), adapter.safetensors, evaluation/
                         cases.csv alone has paths: it is for this computer, where the command finds the files
    DATA/cases/KEY/      ct.nrrd, label.nrrd: a case as it was exported, shared by all runs that use it

Whatever happens to Slicer, the scene or the child, a run is found again here and goes on.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.settings import dataFolder
from SAHLoRATrainerLib.settings import TrainSettings

FORMAT, VERSION = "sahlora-run", 1
SESSION = uuid.uuid4().hex  # tells this Slicer from an earlier one with the same process ID
ALIVE_S = 120.0  # a run whose folder was not touched for so long is trained by nobody
RUNNING, PAUSED, CANCELED, FAILED, DONE = "running", "paused", "canceled", "failed", "done"
INTERRUPTED, ELSEWHERE = "interrupted", "elsewhere"  # found to be RUNNING, but not by this Slicer


@dataclass(frozen=True)
class RunCase:
    """A case as a run knows it.

    Parameters
    ----------
    name : str
        case-001 and so on; never a patient's name.
    image, label : str
        Paths of the files.
    segment : str
        Which segment of the label is the blood; empty: the only one.
    slices : str
        Path of an expert's table of slices, or empty.
    patient : str
        patient-001 and so on.
    heldOut : bool
    """

    name: str
    image: str
    label: str
    segment: str = ""
    slices: str = ""
    patient: str = ""
    heldOut: bool = False


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Parameters
    ----------
    folder : Path
    settings : TrainSettings
    cases : tuple of RunCase
        Empty until they are exported.
    state : str
        One of the states above.
    message : str
        Why it failed, or what was gained.
    created : str
        Date and time; it stays in the run's folder.
    pid, session : int, str
        The Slicer that runs it.
    """

    folder: Path
    settings: TrainSettings
    cases: tuple[RunCase, ...] = ()
    state: str = RUNNING
    message: str = ""
    created: str = ""
    pid: int = 0
    session: str = ""

    @property
    def manifest(self) -> Path:
        """The list of cases that the commands read."""
        return self.folder / "cases.csv"

    @property
    def trainingFolder(self) -> Path:
        """What ``sahlora finetune --run`` keeps."""
        return self.folder / "training"

    @property
    def adapter(self) -> Path:
        """The adapter; there once the run is done."""
        return self.folder / "adapter.safetensors"

    @property
    def evaluationFolder(self) -> Path:
        """What ``sahlora evaluate`` writes."""
        return self.folder / "evaluation"

    @property
    def isResumable(self) -> bool:
        """Tell whether it can go on: it is not done, nobody runs it, and its cases were exported."""
        return self.state in (PAUSED, CANCELED, FAILED, INTERRUPTED) and bool(self.cases)

    def changed(self, **changes: Any) -> Run:
        """Return the run with other values, written to its folder; raise OSError if that fails."""
        run = replace(self, **changes)
        record = {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(run, name) for name in ("state", "created", "pid", "session")},
            "message": withoutPaths(run.message, run.cases),
            "settings": asdict(run.settings),
        }
        writeText(run.folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return run

    def running(self) -> Run:
        """Return the run as this Slicer's, written to its folder; raise OSError if that fails."""
        return self.changed(state=RUNNING, message="", pid=os.getpid(), session=SESSION)

    def touch(self) -> None:
        """Show that it is still being trained; to be called more often than every two minutes."""
        with suppress(OSError):
            os.utime(self.folder / "run.json")

    def writeManifest(self) -> None:
        """Write the list of cases; raise OSError if that fails."""
        writeManifest(self.manifest, self.cases)

    def finetuning(self) -> list[str]:
        """Return the command line that trains, or goes on, without its beginning."""
        paths = [str(self.manifest), "-o", str(self.adapter), "--run", str(self.trainingFolder)]
        return ["finetune", *paths, *self.settings.arguments()]

    def metrics(self) -> dict[str, list[dict[str, float]]]:
        """Return for each view one line an epoch: epoch, loss and, with held-out cases, held_out_dice."""
        return {
            view: _readLines(self.trainingFolder / view / "metrics.jsonl") for view in self.settings.views
        }


def newRun(settings: TrainSettings) -> Run:
    """Make the folder of a new run; raise OSError if that fails."""
    folder = dataFolder() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (folder / f"run-{number:03d}").mkdir()
            break
        except FileExistsError:
            number += 1
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Run(folder / f"run-{number:03d}", settings, created=now).running()


def allRuns() -> list[Run]:
    """Return the runs on this computer, newest first; a folder that can't be read is left out."""
    folders = sorted((dataFolder() / "runs").glob("run-*"), reverse=True)
    return [run for run in map(readRun, folders) if run is not None]


def readRun(folder: Path) -> Run | None:
    """Return the run in a folder, or None if there is none that can be read."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["version"] > VERSION:
            return None
        settings = record["settings"] | {"views": tuple(record["settings"]["views"])}
        run = Run(
            folder,
            TrainSettings(**settings),
            readManifest(folder / "cases.csv"),
            *(record[name] for name in ("state", "message", "created", "pid", "session")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if run.state == RUNNING and run.session != SESSION:
        return replace(run, state=ELSEWHERE if _isAlive(run) else INTERRUPTED)
    return run


def deleteRun(run: Run) -> None:
    """Delete a run, and exported cases that no other run uses.

    Raises
    ------
    ValueError
        If it is being trained.
    OSError
        If a file can't be deleted.
    """
    if run.state in (RUNNING, ELSEWHERE):
        raise ValueError(_("This run is being trained. Cancel it first."))
    shutil.rmtree(run.folder)
    removeUnusedCases()


def casesFolder() -> Path:
    """Return the folder of exported cases."""
    return dataFolder() / "cases"


def removeUnusedCases() -> None:
    """Delete exported cases that no run and no comparison uses: they are patients' scans."""
    runs = allRuns()
    if any(run.state in (RUNNING, ELSEWHERE) and not run.cases for run in runs):
        return  # its cases are just being written
    used = {Path(case.image).parent.name for run in runs for case in run.cases}
    for manifest in dataFolder().glob("comparisons/*/cases.csv"):
        with manifest.open(newline="", encoding="utf-8") as stream:
            used |= {Path(row["image"]).parent.name for row in csv.DictReader(stream)}
    for folder in casesFolder().glob("*"):
        if folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)


def writeManifest(path: Path, cases: Sequence[RunCase]) -> None:
    """Write a list of cases as the commands read it; raise OSError if that fails."""
    rows = [("case", "image", "label", "patient", "slices", "segment", "held_out")]
    for case in cases:
        heldOut = "yes" if case.heldOut else "no"
        rows.append((case.name, case.image, case.label, case.patient, case.slices, case.segment, heldOut))
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    unfinished.replace(path)


def readManifest(path: Path) -> tuple[RunCase, ...]:
    """Return the cases of a list that `writeManifest` wrote, none if it is not there yet.

    Raises
    ------
    OSError, KeyError
        If it can't be read.
    """
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as stream:
        return tuple(
            RunCase(
                *(row[name] for name in ("case", "image", "label", "segment", "slices", "patient")),
                row["held_out"] == "yes",
            )
            for row in csv.DictReader(stream)
        )


def withoutPaths(text: str, cases: Sequence[RunCase]) -> str:
    """Return a message about cases with an ellipsis for each of their paths, which may name a patient."""
    paths = {path for case in cases for path in (case.image, case.label, case.slices) if path}
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, "\N{HORIZONTAL ELLIPSIS}")
    return text


def writeText(path: Path, text: str) -> None:
    """Write a file in one piece or not at all; raise OSError if that is not possible."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _readLines(path: Path) -> list[dict[str, float]]:
    """Return the lines of a file that is being written: the last one may be there in part."""
    lines: list[dict[str, float]] = []
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(line))
    return lines


def _isAlive(run: Run) -> bool:
    """Tell whether another Slicer trains a run: its process is there, and touched the run lately."""
    touched = (run.folder / "run.json").stat().st_mtime
    return run.pid != os.getpid() and time.time() - touched < ALIVE_S and _processExists(run.pid)


def _processExists(pid: int) -> bool:
    if sys.platform == "win32":
        found = subprocess.run(
            ["tasklist", "/FI", f"PID eq {pid}", "/NH", "/FO", "CSV"],
            capture_output=True,
            creationflags=subprocess.CREATE_NO_WINDOW,
            check=False,
        )
        return f'"{pid}"'.encode() in found.stdout
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
