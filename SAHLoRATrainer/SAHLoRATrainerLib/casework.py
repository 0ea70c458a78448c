"""A work on cases: they are written to files in the event loop first, then the child runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.export import Steps, exportCases
from SAHLoRATrainerLib.runs import RunCase


class CaseWork(ChildWork):
    """A command on cases; a subclass keeps those that were written, in `_keepCases`.

    Parameters
    ----------
    command, folder
        See `ChildWork`.
    cases : sequence of SceneCase or FileCase
        Empty: they were written before, and the child starts at once.

    Attributes
    ----------
    progress : Signal
        Emits the child's events, and ``{"event": "progress", "stage": "exporting", …}`` before.
    """

    graceS = 15.0  # a step of training on a slow processor, and saving the state

    def __init__(
        self, command: Sequence[str], cases: Sequence[SceneCase | FileCase], folder: Path | None = None
    ) -> None:
        super().__init__(command, folder)
        self._cases = cases
        self._export: Steps | None = None

    def start(self) -> None:
        """Begin or go on; the signals come from the event loop. Raises OSError if it can't be started."""
        if not self._cases:
            super().start()
            return
        self._export = Steps(exportCases(self._cases))
        self._export.progress.connect(self._onExporting)
        self._export.finished.connect(self._onExported)
        self._export.error.connect(self._onNotExported)
        self._export.start()

    def isRunning(self) -> bool:
        """Tell whether it is being worked on."""
        return self._export is not None or super().isRunning()

    def cancel(self) -> None:
        """Stop after the present step; `error` follows."""
        if self._export is None:
            super().cancel()
        else:
            self._endExport()
            self._fail(ChildError("cancelled", _("Canceled.")))

    def processOnce(self) -> None:
        """Take the next step of what is under way; for loops that wait."""
        if self._export is None:
            super().processOnce()
        else:
            self._export.step()

    def close(self) -> None:
        """End at once, without further signals; what has finished stays."""
        self._endExport()
        super().close()

    # ------------------------------------------------------------------------------------ for subclasses

    def _keepCases(self, cases: tuple[RunCase, ...]) -> None:
        """Write the list of cases for the command; raise OSError if that fails."""
        raise NotImplementedError

    def _onNotExported(self, failure: Exception) -> None:
        self._export = None
        self._fail(ChildError("bad-case", str(failure)))

    # --------------------------------------------------------------------------------------------- parts

    def _onExporting(self, done: float) -> None:
        self.progress.emit({"event": "progress", "stage": "exporting", "fraction": done, "eta_s": None})

    def _onExported(self, cases: tuple[RunCase, ...]) -> None:
        self._export, self._cases = None, ()  # the files are there: the nodes need not be kept
        try:
            self._keepCases(cases)
            super().start()
        except OSError as failure:
            self._fail(ChildError("unwritable", str(failure)))

    def _endExport(self) -> None:
        if self._export is not None:
            self._export.close()
            self._export = None
