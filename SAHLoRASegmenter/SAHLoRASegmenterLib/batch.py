"""Many scans, one after another: a failure doesn't stop the others, and cancelling keeps what is done."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRACoreLib.signals import Signal
from SAHLoRASegmenterLib.settings import SegmentSettings

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


@dataclass
class BatchRow:
    """What became of one scan; `message` says why it failed."""

    case: str
    state: str = WAITING
    volume_ml: float | None = None
    seconds: float | None = None
    message: str = ""


class FileRun(ChildWork):
    """One scan on disk, segmented into files; nothing is loaded into the scene.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    scan : Path
        File, or folder with a DICOM series.
    output : Path
        Results get this path with the endings .seg.nrrd, .json and .html.
    settings : SegmentSettings
        How to segment.
    """

    def __init__(self, command: Sequence[str], scan: Path, output: Path, settings: SegmentSettings) -> None:
        arguments = ["segment", str(scan), "-o", f"{output}.seg.nrrd", "--report", f"{output}.json"]
        if settings.makePage:
            arguments += ["--page", f"{output}.html"]
        if settings.keepProbability:
            arguments += ["--probability", f"{output}-probability.nrrd"]
        if settings.keepDisagreement:
            arguments += ["--disagreement", f"{output}-disagreement.nrrd"]
        super().__init__([*command, *arguments, *settings.arguments()])


class BatchRun:
    """Runs one job after another.

    Parameters
    ----------
    jobs : list of (str, callable)
        Name of each case, and what starts its run: something with `result`, `finished`, `error`, `cancel`
        and `close`, as `FileRun` and `SegmentationRun` have.
    csvPath : Path, optional
        The table is written here after every case.

    Attributes
    ----------
    rows : list of BatchRow
        One a case.
    lastResultID : str
        ID of the segmentation that came to the scene last; empty if none did.
    changed, finished : Signal
        Emit this batch whenever a row changed, and in the end.
    """

    def __init__(self, jobs: Sequence[tuple[str, Callable[[], Any]]], csvPath: Path | None = None) -> None:
        self.rows = [BatchRow(name) for name, _start in jobs]
        self.changed, self.finished = Signal(), Signal()
        self.lastResultID = ""
        self._starts = [start for _name, start in jobs]
        self._csvPath = csvPath
        self._index = -1
        self._job: Any = None
        self._startedAt = 0.0
        self._cancelled = False

    def start(self) -> None:
        """Start the first case; the rest follows from the event loop."""
        self._next()

    def isRunning(self) -> bool:
        """Tell whether a case is being segmented."""
        return self._job is not None

    def cancel(self) -> None:
        """Stop the running case and leave out the rest."""
        self._cancelled = True
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """End at once, without further signals."""
        if self._job is not None:
            self._job.close()
            self._job = None

    def _next(self) -> None:
        while self._index + 1 < len(self.rows):
            self._index += 1
            if self._cancelled:
                self.rows[self._index].state = CANCELLED
                continue
            self._row.state, self._startedAt = RUNNING, time.monotonic()
            try:
                self._job = self._starts[self._index]()
            except Exception as error:  # a case that can't even be started doesn't stop the others
                self._note(FAILED, message=str(error))
                continue
            self._job.finished.connect(self._onFinished)
            self._job.error.connect(self._onError)
            self.changed.emit(self)
            return
        self._write()
        self.changed.emit(self)
        self.finished.emit(self)

    @property
    def _row(self) -> BatchRow:
        return self.rows[self._index]

    def _onFinished(self, job: Any) -> None:
        self._job = None
        self._row.volume_ml = job.result.get("volume_ml")
        if getattr(job, "segmentationNode", None) is not None:
            self.lastResultID = job.segmentationNode.GetID()
        self._note(DONE)
        self._next()

    def _onError(self, error: ChildError) -> None:
        self._job = None
        self._note(CANCELLED if error.code == "cancelled" else FAILED, message=str(error))
        self._next()

    def _note(self, state: str, message: str = "") -> None:
        self._row.state, self._row.message = state, message
        self._row.seconds = time.monotonic() - self._startedAt
        self._write()

    def _write(self) -> None:
        if self._csvPath is not None:
            writeCsv(self._csvPath, self.rows)


def writeCsv(path: Path, rows: Sequence[BatchRow]) -> None:
    """Write the table of a batch, in one piece or not at all; raise OSError if that is not possible."""
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("case", "state", "volume_ml", "seconds", "message"))
        for row in rows:
            figures = ["" if value is None else f"{value:.2f}" for value in (row.volume_ml, row.seconds)]
            writer.writerow((row.case, row.state, *figures, row.message))
    unfinished.replace(path)


def volumeJobs(logic: Any, volumeNodes: Sequence[Any], settings: SegmentSettings) -> list:
    """Return the jobs that segment loaded volumes; their results come to the scene."""

    def starter(nodeID: str) -> Callable[[], Any]:
        def start() -> Any:
            node = slicer.mrmlScene.GetNodeByID(nodeID)
            if node is None:
                raise ValueError(_("The volume was removed."))
            return logic.segment(node, settings)

        return start

    return [(node.GetName(), starter(node.GetID())) for node in volumeNodes]


def folderJobs(command: Sequence[str], folder: Path, output: Path, settings: SegmentSettings) -> list:
    """Return the jobs that segment every scan of a folder into files of another."""

    from sahlora.cases.scans import scans_in

    def starter(scan: Path, name: str) -> Callable[[], Any]:
        def start() -> FileRun:
            run = FileRun(command, scan, output / name, settings)
            run.start()
            return run

        return start

    return [(name, starter(scan, name)) for name, scan in scans_in(folder).items()]
