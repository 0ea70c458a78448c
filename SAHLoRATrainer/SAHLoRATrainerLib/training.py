"""One training: cases are written to files, a child trains, and the run's folder remembers everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, ChildFailedError, ChildProcess
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.signals import Signal
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.export import Steps, exportCases
from SAHLoRATrainerLib.runs import CANCELED, DONE, FAILED, PAUSED, Run, RunCase

BEAT_MS = 20_000  # between two signs of life of a run
GRACE_S = 15.0  # from the wish to pause to the kill: a step on a slow processor, and saving the state


class Training:
    """A training that runs, or has run.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    run : Run
        New, or one to go on with.
    cases : sequence of SceneCase or FileCase, optional
        Of a new run; they are written to files first.

    Attributes
    ----------
    run : Run
        As its folder has it now.
    progress : Signal
        Emits the child's events, and ``{"event": "progress", "stage": "exporting", …}`` before.
    finished : Signal
        Emits this training; the adapter is at ``run.adapter``.
    error : Signal
        Emits a `ChildError`; its code is ``paused`` or ``canceled`` if that was asked for.
    result : dict
        The command's result event: better, message, parameters, training.
    """

    def __init__(self, command: Sequence[str], run: Run, cases: Sequence[SceneCase | FileCase] = ()) -> None:
        self.run = run
        self.result: Event = {}
        self.progress, self.finished, self.error = Signal(), Signal(), Signal()
        self._command, self._cases = list(command), cases
        self._export: Steps | None = None
        self._child: ChildProcess | None = None
        self._beat: Any = None
        self._stopped = ""  # the state that the user asked for

    def start(self) -> None:
        """Begin or go on; the signals come from the event loop. Raises OSError if it can't be started."""
        import qt

        self.run = self.run.running()
        self._beat = qt.QTimer()
        self._beat.setInterval(BEAT_MS)
        self._beat.connect("timeout()", lambda: self.run.touch())
        self._beat.start()
        if not self._cases:
            try:
                self._startChild()
            except OSError as failure:
                self._beat.stop()
                self._remember(FAILED, str(failure))
                raise
            return
        self._export = Steps(exportCases(self._cases))
        self._export.progress.connect(self._onExporting)
        self._export.finished.connect(self._onExported)
        self._export.error.connect(lambda failure: self._fail(ChildError("bad-case", str(failure))))
        self._export.start()

    def isRunning(self) -> bool:
        """Tell whether it is being worked on."""
        return self._export is not None or (self._child is not None and self._child.isRunning())

    def pause(self) -> None:
        """Stop after the present step; `error` follows with the code ``paused``."""
        self._stop(PAUSED)

    def cancel(self) -> None:
        """Stop and put the run aside; `error` follows with the code ``canceled``."""
        self._stop(CANCELED)

    def wait(self) -> None:
        """Process the application's events until it ended; raise ChildFailedError if it did not end well."""
        errors: list[ChildError] = []
        self.error.connect(errors.append)
        while self.isRunning():
            self._turn()
        if errors:
            raise ChildFailedError(errors[0])

    def close(self) -> None:
        """Pause and wait for that, without signals: Slicer is about to end."""
        if self.isRunning():
            self.progress, self.finished, self.error = Signal(), Signal(), Signal()
            self.pause()
            while self.isRunning():
                self._turn()

    # ------------------------------------------------------------------------------------------- parts

    def _turn(self) -> None:
        if self._export is not None:
            self._export.step()
        elif self._child is not None:
            self._child.processOnce()

    def _stop(self, state: str) -> None:
        self._stopped = state if self.run.cases else CANCELED
        if self._export is not None:
            self._export.close()
            self._fail(ChildError(CANCELED, ""))
        elif self._child is not None:
            self._child.cancel(GRACE_S)

    def _onExporting(self, done: float) -> None:
        self.progress.emit({"event": "progress", "stage": "exporting", "fraction": done, "eta_s": None})

    def _onExported(self, cases: tuple[RunCase, ...]) -> None:
        self._export = None
        try:
            self.run = self.run.changed(cases=cases)
            self.run.writeManifest()
            self._startChild()
        except OSError as failure:
            self._fail(ChildError("unwritable", str(failure)))

    def _startChild(self) -> None:
        run = self.run
        arguments = ["finetune", str(run.manifest), "-o", str(run.adapter), "--run", str(run.trainingFolder)]
        options = [*run.settings.arguments(), "--progress", "json"]
        self._child = ChildProcess([*self._command, *arguments, *options])
        self._child.progress.connect(lambda event: self.progress.emit(event))
        self._child.finished.connect(self._onFinished)
        self._child.error.connect(self._fail)
        self._child.start()

    def _onFinished(self, result: Event) -> None:
        self._end()
        self.result = result
        self._remember(DONE, str(result.get("message", "")))
        self.finished.emit(self)

    def _fail(self, error: ChildError) -> None:
        self._end()
        if self._stopped:
            error = ChildError(self._stopped, _("Stopped. Resume it from the list of runs."))
        self._remember(self._stopped or FAILED, "" if self._stopped else str(error))
        self.error.emit(error)

    def _remember(self, state: str, message: str) -> None:
        try:
            self.run = self.run.changed(state=state, message=message)
        except OSError as failure:  # the disk is full: the run is found interrupted later, and goes on
            self.progress.emit({"event": "warning", "code": "unwritable", "message": str(failure)})

    def _end(self) -> None:
        self._export = None
        self._beat.stop()
        if self._child is not None:
            self._child.close()
