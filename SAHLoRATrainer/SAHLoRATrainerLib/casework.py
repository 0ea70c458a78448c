"""A work on cases: they are written to files in the event loop first, then the child runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.export import exportCases
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

    def start(self) -> None:
        """Begin or go on; the signals come from the event loop. Raises OSError if it can't be started."""
        if self._cases:
            steps = self._takeSteps(exportCases(self._cases), self._onExported, self._onNotExported)
            steps.progress.connect(self._onExporting)
        else:
            super().start()

    # ------------------------------------------------------------------------------------ for subclasses

    def _keepCases(self, cases: tuple[RunCase, ...]) -> None:
        """Write the list of cases for the command; raise OSError if that fails."""
        raise NotImplementedError

    def _onNotExported(self, failure: Exception) -> None:
        self._fail(ChildError("bad-case", str(failure)))

    # --------------------------------------------------------------------------------------------- parts

    def _onExporting(self, done: float) -> None:
        self.progress.emit({"event": "progress", "stage": "exporting", "fraction": done, "eta_s": None})

    def _onExported(self, cases: tuple[RunCase, ...]) -> None:
        self._cases = ()  # the files are there: the nodes need not be kept
        try:
            self._keepCases(cases)
            super().start()
        except OSError as failure:
            self._fail(ChildError("unwritable", str(failure)))
