"""Short works on the cases in a child: checking them, and finding out how long a training would take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, makeFolder
from SAHLoRACoreLib.events import Event
from SAHLoRATrainerLib.cases import DOUBTFUL, FINE, WRONG, FileCase, SceneCase
from SAHLoRATrainerLib.casework import CaseWork
from SAHLoRATrainerLib.export import BadCaseError
from SAHLoRATrainerLib.runs import Run, RunCase
from SAHLoRATrainerLib.settings import TrainSettings

PROBE_S = 10.0  # of training, after the cases were prepared


class CaseJob(CaseWork):
    """Writes cases to files and runs a command on them, in a temporary folder that goes with it.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    cases : sequence of SceneCase or FileCase
        At least one.
    settings : TrainSettings
    arguments : callable
        Makes the rest of the command line of a `Run` in the temporary folder.
    """

    def __init__(
        self,
        command: Sequence[str],
        cases: Sequence[SceneCase | FileCase],
        settings: TrainSettings,
        arguments: Callable[[Run], list[str]],
    ) -> None:
        self._run = Run(makeFolder(), settings)
        super().__init__([*command, *arguments(self._run)], cases, self._run.folder)

    def _keepCases(self, cases: tuple[RunCase, ...]) -> None:
        self._run = replace(self._run, cases=cases)
        self._run.writeManifest()


class Checking(CaseJob):
    """Checks cases as ``sahlora cases check`` does.

    Attributes
    ----------
    findings : list of (status, message, mL)
        One a case, once it is finished.
    """

    def __init__(self, command: Sequence[str], cases: Sequence[SceneCase | FileCase]) -> None:
        super().__init__(command, cases, TrainSettings(), lambda run: ["cases", "check", str(run.manifest)])
        self.findings: list[tuple[str, str, float | None]] = [(FINE, "", None)] * len(cases)
        self._left = list(range(len(cases)))  # those that could be written

    def _onNotExported(self, failure: Exception) -> None:
        """Leave a case that can't be written out, and go on with the others."""
        if not isinstance(failure, BadCaseError):
            super()._onNotExported(failure)
            return
        self.findings[self._left.pop(failure.index)] = (WRONG, str(failure), None)
        self._cases = [case for index, case in enumerate(self._cases) if index != failure.index]
        if self._cases:
            self.start()
        else:
            self._onFinished({"cases": []})

    def _receive(self, result: Event) -> None:
        for index, case in zip(self._left, result.get("cases", ()), strict=False):
            self.findings[index] = _finding(case)

    def _onError(self, error: ChildError) -> None:
        result = self._child.result
        if "cases" in result:  # the command fails if a case has an error, after it told of all
            self._onFinished(result)
        else:
            super()._onError(error)


class TimeEstimate(CaseJob):
    """Trains for ten seconds and tells how long all of it would take, then forgets what it trained.

    Attributes
    ----------
    seconds : float
        Of the whole training, if it does not stop early; known once it is finished.
    """

    def __init__(
        self, command: Sequence[str], cases: Sequence[SceneCase | FileCase], settings: TrainSettings
    ) -> None:
        super().__init__(command, cases, settings, Run.finetuning)
        self.seconds = float("nan")
        self._startedAt = self._trainingAt = 0.0

    def start(self) -> None:
        """Begin; the signals come from the event loop."""
        self._startedAt = time.monotonic()
        super().start()

    def _onProgress(self, event: Event) -> None:
        super()._onProgress(event)
        now, stage = time.monotonic(), str(event.get("stage", ""))
        if event["event"] == "stage" and stage.startswith("training "):
            self._trainingAt = now
        if event["event"] != "progress" or not stage.startswith("training ") or event.get("eta_s") is None:
            return
        if now - self._trainingAt >= PROBE_S:
            training = now - self._trainingAt + event["eta_s"]
            preparing = self._trainingAt - self._startedAt
            self.seconds = preparing + training * len(self._run.settings.views)
            self._onFinished({})

    def _receive(self, result: Event) -> None:
        if result:  # it was done before ten seconds were over
            self.seconds = time.monotonic() - self._startedAt


def _finding(case: dict[str, Any]) -> tuple[str, str, float | None]:
    """Return status, message and volume of what the command says of a case."""
    found = case.get("findings", [])
    severities = {finding["severity"] for finding in found}
    status = WRONG if "error" in severities else DOUBTFUL if "warning" in severities else FINE
    order = ("error", "warning", "note")
    lines = [
        f"{finding['message']} {finding.get('hint', '')}".strip()
        for finding in sorted(found, key=lambda finding: order.index(finding["severity"]))
    ]
    return status, "\n".join(lines) or _("Nothing is wrong."), case.get("annotated_ml")
