"""Where independent tasks run: one narrow interface, and processes on this machine behind it.

A task is a command line of ``sahlora`` that reads and writes files alone, so that it can run anywhere the
same folders are seen. An engine for a cluster is another class with the method `Executor.run`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sahlora.errors import SAHLoRAError, UsageError
from sahlora.runtime.progress import Event, Progress

POLL_S = 0.1
GRACE_S = 2.0
"""From the wish to cancel to the kill."""

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Task:
    """Work that needs no other task.

    Parameters
    ----------
    name : str
        Unique among those run together.
    arguments : tuple of str
        Of the command ``sahlora``.
    log : Path
        File for what it says on standard error.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Ended:
    """A task that ended, and the error that ended it; None if all went well."""

    task: Task
    error: SAHLoRAError | None


class Executor(Protocol):
    """Runs tasks somewhere."""

    def run(
        self, tasks: Sequence[Task], hear: Callable[[Task, Event], None], progress: Progress
    ) -> Generator[Ended, None, None]:
        """Run tasks in any order and yield each as it ends; closed early, it stops those that run.

        Parameters
        ----------
        tasks : sequence of Task
        hear : callable
            Told every event of a task while it runs, as far as events can be had.
        progress : Progress
            Asked regularly whether to stop.

        Raises
        ------
        Cancelled
            Once nothing runs any more.
        """
        ...


class LocalProcesses:
    """Runs each task in a process of its own, several at a time.

    No process outlives the run: all are asked to stop, and killed 2 s later, however the run ends, and each
    ends by itself once this process is gone.

    Parameters
    ----------
    processes : int
        Tasks at a time.
    threads : int, optional
        Threads of the CPU for all of them together; every core by default.

    Raises
    ------
    UsageError
        ``bad-jobs``.
    """

    def __init__(self, processes: int = 1, threads: int | None = None) -> None:
        if processes < 1:
            raise UsageError("bad-jobs", f"{processes} jobs at a time do nothing.", "Give at least 1.")
        self.processes = processes
        self.threads = max(1, (threads or os.cpu_count() or 1) // processes)

    def run(
        self, tasks: Sequence[Task], hear: Callable[[Task, Event], None], progress: Progress
    ) -> Generator[Ended, None, None]:
        """Run tasks in the order given; see `Executor.run`."""
        waiting, running = list(tasks), list[_Child]()
        with tempfile.TemporaryDirectory(prefix="sahlora-") as folder:
            cancel_file = Path(folder) / "cancel"
            try:
                while waiting or running:
                    progress.check()
                    while waiting and len(running) < self.processes:
                        running.append(_Child(waiting.pop(0), self.threads, cancel_file))
                    for child in list(running):
                        has_ended = child.has_ended()  # before reading: then nothing it said is missed
                        for event in child.events():
                            hear(child.task, event)
                        if has_ended:
                            running.remove(child)
                            yield Ended(child.task, child.error())
                    time.sleep(POLL_S)
            finally:
                _stop(running, cancel_file)


def _stop(running: Sequence[_Child], cancel_file: Path) -> None:
    """Ask all to stop, wait for a while, and end those that are left."""
    if not running:
        return
    cancel_file.touch()
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and not all(child.has_finished_work() for child in running):
        time.sleep(POLL_S)
    for child in running:
        child.kill()


class _Child:
    """The process of one task."""

    def __init__(self, task: Task, threads: int, cancel_file: Path) -> None:
        self.task = task
        self._last_word: Event = {}
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        command = [
            sys.executable, str(PACKAGE), *task.arguments, "--threads", str(threads), "--progress", "json",
            "--cancel-file", str(cancel_file), "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(threads),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Move what the process says out of the pipe, so that it never waits."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)

    def has_ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self._reader.join(timeout=1)
        return True

    def has_finished_work(self) -> bool:
        """Whether nothing is lost with the process: it has ended, or said its last word and is tidying up."""
        for _ in self.events():
            pass
        return self.has_ended() or self._last_word.get("event") in ("error", "result")

    def events(self) -> Iterator[Event]:
        """Yield what was said since the last call."""
        while not self._lines.empty():
            with suppress(ValueError):
                event = json.loads(self._lines.get())
                if isinstance(event, dict) and "event" in event:
                    self._last_word = event
                    yield event

    def error(self) -> SAHLoRAError | None:
        """Return why the process failed."""
        status = self._process.returncode
        if status == 0:
            return None
        if self._last_word.get("event") == "error":
            return SAHLoRAError(*(str(self._last_word.get(key, "")) for key in ("code", "message", "hint")))
        return SAHLoRAError(
            "crashed",
            f"The process ended with status {status}.",
            "If memory ran out, run fewer jobs at a time; the log says more.",
        )

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that computes on so many threads."""
    limits = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    return {**os.environ, "PYTHONUTF8": "1", **dict.fromkeys(limits, str(threads))}
