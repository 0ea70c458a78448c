"""Progress out, cancel in: what a command tells whoever waits for it, and how it is asked to stop.

Events are dictionaries with ``event`` one of stage, progress, metric, warning, result, error; the format is
described in Docs/events.md and is the interface between Slicer and the core.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from sahlora.errors import Cancelled, SAHLoRAError, printable
from sahlora.runtime.files import to_plain
from sahlora.runtime.process import end_at_second, process_exists
from sahlora.runtime.streams import output_error

EVENT_VERSION = 1
Event = dict[str, Any]


class Progress:
    """Reports what happens to a sink and raises `Cancelled` once somebody asked to stop.

    Parameters
    ----------
    sink : callable, optional
        Receives every event; without one, events are dropped.
    cancelled : callable, optional
        Returns True once the work should stop; asked by `check`.
    """

    def __init__(
        self,
        sink: Callable[[Event], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self._sink = sink
        self._cancelled = cancelled
        self._stage = ""
        self._started = time.monotonic()
        self._done_before = 0.0

    def emit(self, event: str, **values: Any) -> None:
        """Send one event to the sink, its values made plain for JSON."""
        if self._sink is not None:
            self._sink({"event": event, "version": EVENT_VERSION, **to_plain(values)})

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked to stop."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled()

    def stage(self, name: str, *, done: float = 0.0) -> None:
        """Begin a stage, e.g. ``"reading"`` or ``"axial"``, of which a fraction may be done from before."""
        self.check()
        self._stage, self._started, self._done_before = name, time.monotonic(), done
        self.emit("stage", stage=name)

    def update(self, fraction: float) -> None:
        """Say which fraction (0 to 1) of the present stage is done; the time left follows from it."""
        self.check()
        elapsed = time.monotonic() - self._started
        done = fraction - self._done_before
        eta = elapsed * (1 - fraction) / done if done > 0 else None
        self.emit(
            "progress",
            stage=self._stage,
            fraction=round(fraction, 4),
            eta_s=None if eta is None else round(eta, 1),
        )

    def metric(self, **values: float | int | str | None) -> None:
        """Report named figures, e.g. ``epoch=3, loss=0.21``."""
        self.emit("metric", **values)

    def warning(self, code: str, message: str, hint: str = "") -> None:
        """Report something the user should know though the work goes on."""
        self.emit("warning", code=code, message=printable(message), hint=printable(hint))

    def result(self, **values: Any) -> None:
        """Report what the command produced."""
        self.emit("result", **values)

    def error(self, error: SAHLoRAError) -> None:
        """Report the error that ended the command."""
        self.emit("error", code=error.code, message=error.message, hint=error.hint)

    def without_stages(self) -> Progress:
        """Return a progress that passes on warnings and the wish to stop, for parts of a larger work."""

        def sink(event: Event) -> None:
            if event["event"] == "warning":
                self.warning(event["code"], event["message"], event["hint"])

        def cancelled() -> bool:
            self.check()
            return False

        return Progress(sink, cancelled)

    def agreeing(self, agree: Callable[[bool], bool]) -> Progress:
        """Return a progress that tells `agree` at each check whether somebody asked to stop, and obeys it."""
        return Progress(self._sink, lambda: agree(self._cancelled is not None and self._cancelled()))


SILENT = Progress()


# ------------------------------------------------------------------------------------------------ sinks


class JsonSink:
    """Writes each event as one JSON object a line.

    Raises
    ------
    ResourceError
        ``output-closed`` or ``disk-full``, once; later events are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def __call__(self, event: Event) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps(event, ensure_ascii=True) + "\n")
            self._stream.flush()
        except OSError as error:
            self._stream = None
            raise output_error(error) from None


class BarSink:
    """Draws a bar for each stage on standard error and prints warnings above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "stage":
                self.close()
                self._bar = tqdm(
                    total=1.0, desc=f"{event['stage']:<22}", file=self._stream, leave=True,
                    bar_format="{desc}{percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}{postfix}",
                )  # fmt: skip
            case "progress" if self._bar is not None:
                self._bar.update(event["fraction"] - self._bar.n)
            case "metric" if self._bar is not None:
                shown = {k: v for k, v in event.items() if k not in ("event", "version") and v is not None}
                self._bar.set_postfix(shown)
            case "warning" | "series":
                tqdm.write(_sentence(event), file=self._stream)
            case "result" | "error":
                self.close()

    def close(self) -> None:
        """Finish the present bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LogSink:
    """Prints warnings and which DICOM series was chosen, on standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        if event["event"] in ("warning", "series"):
            print(_sentence(event), file=self._stream)


def _sentence(event: Event) -> str:
    """Tell a warning or a choice of series in one line."""
    if event["event"] == "warning":
        return f"Warning: {event['message']} {event['hint']}".rstrip()
    count = len(event["others"]) + 1
    return f"Series {event['chosen']}" + (f", chosen of {count}: {event['reason']}" if count > 1 else "")


# ----------------------------------------------------------------------------------------------- cancel


def under_torchrun() -> bool:
    """Whether this is one of several processes that ``torchrun`` started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def cancellation(
    cancel_file: Path | None = None, parent_pid: int | None = None
) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether to stop: signal, file or parent process gone.

    Parameters
    ----------
    cancel_file : Path, optional
        Work stops once this file exists (Windows has no gentle signal).
    parent_pid : int, optional
        Work stops once this process is gone.

    Notes
    -----
    File and parent are looked at every 0.2 s in a daemon thread, so that asking costs nothing. A process
    whose parent is gone and that has not stopped by itself 10 s later ends with status 130. A second Ctrl-C
    ends the process at once, whatever it does; torchrun passes the first one on a second time, so not there.
    """
    stop, done = threading.Event(), threading.Event()
    previous = {}

    def handle(number: int, _: object) -> None:
        if number == signal.SIGINT and stop.is_set() and not under_torchrun():
            os._exit(Cancelled.exit_status)
        stop.set()

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                previous[number] = signal.signal(number, handle)
        if not under_torchrun():
            end_at_second(signal.SIGINT)

    is_child = parent_pid is not None and os.getppid() == parent_pid

    def is_orphan() -> bool:
        """Whether the parent has ended; its number may wait to be noticed, or be another's by now."""
        return is_child and sys.platform != "win32" and os.getppid() != parent_pid

    def watch() -> None:
        while not done.wait(0.2):
            if cancel_file is not None and cancel_file.exists():
                stop.set()
            if parent_pid is not None and (is_orphan() or not process_exists(parent_pid)):
                stop.set()
                if not done.wait(10):
                    os._exit(Cancelled.exit_status)

    if cancel_file is not None or parent_pid is not None:
        threading.Thread(target=watch, name="cancel-watch", daemon=True).start()
    try:
        yield stop.is_set
    finally:
        done.set()
        for number, handler in previous.items():
            signal.signal(number, handler)
