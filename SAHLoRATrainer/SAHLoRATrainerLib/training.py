"""One training: cases are written to files, a child trains, and the run's folder remembers everything."""

from __future__ import annotations

from collections.abc import Sequence

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.signals import Signal
from SAHLoRACoreLib.timers import Timer
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.casework import CaseWork
from SAHLoRATrainerLib.runs import CANCELED, DONE, FAILED, PAUSED, Run, RunCase

BEAT_MS = 20_000  # between two signs of life of a run


class Training(CaseWork):
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
    finished : Signal
        Emits this training; the adapter is at ``run.adapter``.
    error : Signal
        Emits a `ChildError`; its code is ``paused`` or ``canceled`` if that was asked for.
    result : dict
        The command's result event: better, message, parameters, training.
    """

    def __init__(self, command: Sequence[str], run: Run, cases: Sequence[SceneCase | FileCase] = ()) -> None:
        super().__init__([*command, *run.finetuning()], cases)
        self._child.atExit = self.close
        self.run = run
        self._beat = Timer(BEAT_MS)
        self._stopped = ""  # the state that the user asked for

    def start(self) -> None:
        """Begin or go on; the signals come from the event loop. Raises OSError if it can't be started."""
        self.run = self.run.running()
        self._beat.start(self._touch)
        try:
            super().start()
        except OSError as failure:
            self._beat.stop()
            self._remember(FAILED, str(failure))
            raise

    def pause(self) -> None:
        """Stop after the present step; `error` follows with the code ``paused``."""
        self._stop(PAUSED)

    def cancel(self) -> None:
        """Stop and put the run aside; `error` follows with the code ``canceled``."""
        self._stop(CANCELED)

    def close(self) -> None:
        """Pause and wait for that, without signals: Slicer is about to end."""
        if self.isRunning():
            self.progress, self.finished, self.error = Signal(), Signal(), Signal()
            self.pause()
            while self.isRunning():
                self.processOnce()

    # ------------------------------------------------------------------------------------------- parts

    def _touch(self) -> None:
        self.run.touch()

    def _stop(self, state: str) -> None:
        self._stopped = state if self.run.cases else CANCELED
        super().cancel()

    def _keepCases(self, cases: tuple[RunCase, ...]) -> None:
        self.run = self.run.changed(cases=cases)
        self.run.writeManifest()

    def _receive(self, result: Event) -> None:
        self._beat.stop()
        self._remember(DONE, str(result.get("message", "")))

    def _fail(self, error: ChildError) -> None:
        self._beat.stop()
        if self._stopped:
            error = ChildError(self._stopped, _("Stopped. Resume it from the list of runs."))
        self._remember(self._stopped or FAILED, "" if self._stopped else str(error))
        super()._fail(error)

    def _remember(self, state: str, message: str) -> None:
        try:
            self.run = self.run.changed(state=state, message=message)
        except OSError as failure:  # the disk is full: the run is found interrupted later, and goes on
            self.progress.emit({"event": "warning", "code": "unwritable", "message": str(failure)})
