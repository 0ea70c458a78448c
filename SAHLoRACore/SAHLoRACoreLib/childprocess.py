"""One command of ``sahlora`` in a process of its own, watched by a timer of the application's main thread."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.events import Event, EventReader
from SAHLoRACoreLib.settings import settingsEnvironment, temporaryFolder
from SAHLoRACoreLib.signals import Signal
from SAHLoRACoreLib.timers import Timer

POLL_MS = 100
SLICE_S = 0.05  # most time the application's main thread gives to a child at once
READ_BYTES = 1 << 16
GRACE_S = 2.0  # from the wish to cancel to the kill
LAST_LINES = 15
OUT_OF_RESOURCES = 4  # exit status of the command
BY_SIGNAL = 128  # what a launcher adds to the number of the signal that ended its program
CRASHES = {getattr(signal, name, -1) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")} - {-1}
FOLDER_PREFIX = "SAHLoRA-"
OWNER = re.compile(rf"{FOLDER_PREFIX}(?:reports-)?(\d+)(?:-.*)?")  # number of the process in a folder's name

# Keeps freed large blocks in the process: without, up to a third of a run on CPU goes to page faults.
LINUX_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


_open: set[ChildProcess] = set()  # children whose folders are still there


@dataclass(frozen=True)
class ChildError:
    """Why a child did not deliver: a code for programs, a sentence for people, a way out, its last words."""

    code: str
    message: str
    hint: str = ""
    details: str = ""

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ChildFailedError(RuntimeError):
    """Raised by whoever waits for a child that failed."""

    def __init__(self, error: ChildError) -> None:
        super().__init__(str(error))
        self.error = error


def pythonExecutable() -> str:
    """Return Slicer's Python launcher; where it is not found, the running program if that is a Python.

    Slicer itself is none: started with a command line of ours it would open another window.
    """
    isPython = Path(sys.executable or "").name.lower().startswith("python")
    return shutil.which("PythonSlicer") or (sys.executable if isPython else "PythonSlicer")


def commandPrefix() -> list[str]:
    """Return the beginning of every command line: the interpreter and the package, run by its path."""
    return [pythonExecutable(), str(Path(__file__).resolve().parents[1] / "sahlora")]


def childEnvironment() -> dict[str, str]:
    """Return the environment of a child."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **settingsEnvironment()}
    return {**environment, **LINUX_ALLOCATOR} if sys.platform == "linux" else environment


class ChildProcess:
    """Runs a command, tells what happens through three signals, and can be cancelled within three seconds.

    The child writes to files in its own folder and a timer reads on, so no thread and no pipe is involved,
    a child that floods its output can't block, and its process group can be ended as a whole, which a
    QProcess of Qt 5 has no way to set up.

    Parameters
    ----------
    command : sequence of str
        Program and arguments; ``--cancel-file`` and ``--parent-pid`` are added.

    Attributes
    ----------
    folder : Path
        The child's folder for files in and out, made when it is first needed; it is removed with `close`.
    progress : Signal
        Emits every event but the last word: stage, progress, metric, warning, log.
    finished : Signal
        Emits the result event (without one, an empty dictionary) of a child that ended well.
    error : Signal
        Emits a `ChildError`, whose code is ``cancelled`` if that was asked for.
    atExit : callable, optional
        Called instead of `close` when the application ends.
    """

    def __init__(self, command: Sequence[str], folder: Path | None = None) -> None:
        self.progress, self.finished, self.error = Signal(), Signal(), Signal()
        self._command, self._folder = list(command), folder
        self._process: subprocess.Popen[bytes] | None = None
        self.atExit: Callable[[], None] | None = None
        _open.add(self)
        self._reader = EventReader()
        self._untold: deque[Event] = deque()
        self._read = 0
        self._result: Event = {}
        self._failure: Event | None = None
        self._killAt: float | None = None
        self._timer = Timer(POLL_MS)

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = makeFolder()
        return self._folder

    def start(self) -> None:
        """Start the command; the signals come from the event loop. Raises OSError if that is not possible."""
        options = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        with self._outputPath.open("wb") as output, self._logPath.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, "--cancel-file", str(self._cancelFile), "--parent-pid", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=childEnvironment(),
                cwd=self.folder,
                **options,
            )
        self._timer.start(self.poll)

    def isRunning(self) -> bool:
        """Tell whether the last word of the child is still to come."""
        return self._process is not None

    @property
    def result(self) -> Event:
        """What the child reported, also if it failed after that; an empty dictionary before."""
        return self._result

    def cancel(self, graceS: float = GRACE_S) -> None:
        """Ask the child to stop; it is killed with all its processes if it hasn't after a time of grace."""
        if self._process is not None and self._killAt is None:
            self._killAt = time.monotonic() + graceS
            try:
                self._cancelFile.touch()
            except OSError:  # the disk is full: it can't be asked, only killed
                self._killAt = time.monotonic()

    def wait(self) -> Event:
        """Process the application's events until the child ended, and return its result.

        Raises
        ------
        ChildFailedError
            If the child failed or was cancelled.
        """
        waitFor(self)
        return self._result

    def processOnce(self) -> None:
        """Process the application's pending events, and see how the child is doing; for loops that wait."""
        import slicer

        slicer.app.processEvents()
        self.poll()
        time.sleep(0.02)

    def close(self) -> None:
        """End the child at once if it runs, remove its folder, and let go of whoever listened."""
        self._timer.stop()
        for each in (self.progress, self.finished, self.error):
            each.disconnectAll()
        self.atExit = None
        if self._process is not None:
            endProcessTree(self._process)
            self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        _open.discard(self)

    def poll(self) -> None:
        """Read what the child said since last time, and notice its end; the timer calls this.

        At most `SLICE_S` is spent at once, however much a child says: the rest waits for the next time.
        """
        process = self._process
        if process is None:
            return
        status = process.poll()  # before reading: what was written before the end is then read, too
        deadline = time.monotonic() + SLICE_S
        told = self._tellUntil(deadline, ended=status is not None)
        if self._process is not process:  # what was told made somebody close this child
            return
        if status is None:
            if self._killAt is not None and time.monotonic() > self._killAt:
                endProcessTree(process)
        elif told:
            endProcessTree(process)
            self._process = None
            self._timer.stop()
            self._conclude(status)

    @property
    def _cancelFile(self) -> Path:
        return self.folder / "cancel"

    @property
    def _outputPath(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def _logPath(self) -> Path:
        return self.folder / "log.txt"

    def _tellUntil(self, deadline: float, *, ended: bool) -> bool:
        """Pass on what the child says, and return whether that was all it said so far."""
        while self._process is not None and time.monotonic() < deadline:
            if not self._untold:
                data = self._newOutput()
                self._untold.extend(self._reader.feed(data))
                if not data and ended:
                    self._untold.extend(self._reader.finish())
                if not data and not self._untold:
                    return True
            if self._untold:
                self._take(self._untold.popleft())
        return False

    def _newOutput(self) -> bytes:
        with self._outputPath.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read(READ_BYTES)
        self._read += len(data)
        return data

    def _take(self, event: Event) -> None:
        if event["event"] == "result":
            self._result = event
        elif event["event"] == "error":
            self._failure = event
        else:
            self.progress.emit(event)

    def _conclude(self, status: int) -> None:
        if self._killAt is not None:
            self.error.emit(ChildError("cancelled", _("Canceled."), _("Nothing was changed.")))
        elif status == 0:
            self.finished.emit(self._result)
        else:
            self.error.emit(self._explain(status))

    def _explain(self, status: int) -> ChildError:
        lines = self._logPath.read_text(encoding="utf-8", errors="replace").splitlines()
        details = "\n".join(lines[-LAST_LINES:])
        if self._failure is not None:
            told = {name: str(self._failure.get(name, "")) for name in ("code", "message", "hint")}
            return ChildError(
                told["code"] or "internal",
                told["message"] or _("The computation failed."),
                told["hint"],
                details,
            )
        if status in (-9, 137):
            return ChildError(
                "killed",
                _("The computation was ended from outside, most often because memory ran out."),
                _("Close other programs and try again."),
                details,
            )
        if status < 0 or status > 255 or status - BY_SIGNAL in CRASHES:
            return ChildError(
                "crashed",
                _("The computation crashed ({reason}).").format(
                    reason=_reason(-(status - BY_SIGNAL) if status - BY_SIGNAL in CRASHES else status)
                ),
                _('Try the device "cpu"; if it crashes again, repair the installation.'),
                details,
            )
        if status == OUT_OF_RESOURCES:  # a full disk doesn't even take the event that says so
            return ChildError(
                "out-of-resources",
                _("The computation ran out of disk space or memory."),
                _("Free some space, or choose another temporary folder in the Application Settings."),
                details,
            )
        return ChildError(
            "failed",
            _("The computation ended with status {status}.").format(status=status),
            _("The log says more."),
            details,
        )


def waitFor(work: Any) -> None:
    """Process the application's events until a `ChildProcess`, or what is made of one, ended.

    Raises
    ------
    ChildFailedError
        If it told an error.
    """
    errors: list[ChildError] = []
    work.error.connect(errors.append)
    while work.isRunning():
        work.processOnce()
    if errors:
        raise ChildFailedError(errors[0])


def makeFolder() -> Path:
    """Make a folder for one child in the temporary folder of the settings; its name says whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=temporaryFolder()))


def closeAll() -> None:
    """End every child in its own way and remove its folder: the application ends."""
    for child in tuple(_open):
        (child.atExit or child.close)()
        child.close()


def abandonedFolders() -> list[Path]:
    """Return the folders of children whose Slicer is gone; it was killed, or they would have been removed."""
    from sahlora.runtime.process import process_exists

    found = []
    for folder in sorted(temporaryFolder().glob(f"{FOLDER_PREFIX}*")):
        match = OWNER.fullmatch(folder.name)
        if match and not process_exists(int(match[1])):
            found.append(folder)
    return found


def removeAbandonedFolders() -> None:
    """Delete what a killed Slicer left behind: it may show a patient's CT."""
    for folder in abandonedFolders():
        shutil.rmtree(folder, ignore_errors=True)


def endProcessTree(process: subprocess.Popen[bytes]) -> None:
    """Kill a child started in a session of its own, and every process it left behind."""
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(process.pid)],
                capture_output=True,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _reason(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return hex(status & 0xFFFFFFFF)
