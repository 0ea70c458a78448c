"""What every work in a child process shares: it is started, stopped, waited for, and tells how it ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import GRACE_S, ChildError, ChildFailedError, ChildProcess, waitFor
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.signals import Signal
from SAHLoRACoreLib.steps import Steps


class ChildWork:
    """A command in a child process; a subclass says what is done with the result, in `_receive`.

    What the main thread has to do before or after may take steps of the event loop, see `_takeSteps`.

    Parameters
    ----------
    command : sequence of str
        The whole command line but for ``--progress json``.
    folder : Path, optional
        The child's, with files for it; by default it gets one of its own. It is removed in the end.

    Attributes
    ----------
    progress : Signal
        Emits the child's events.
    finished : Signal
        Emits this work once its result was received.
    error : Signal
        Emits a `ChildError`; its code is ``cancelled`` if that was asked for, and ``unreadable-result`` if
        the child ended well but what it left can't be used.
    result : dict
        The command's result event; empty before the end.
    """

    graceS = GRACE_S  # from the wish to cancel to the kill

    def __init__(self, command: Sequence[str], folder: Path | None = None) -> None:
        self.progress, self.finished, self.error = Signal(), Signal(), Signal()
        self.result: Event = {}
        self._steps: Steps | None = None
        self._child = ChildProcess([*command, "--progress", "json"], folder)
        self._child.progress.connect(self._onProgress)
        self._child.finished.connect(self._onFinished)
        self._child.error.connect(self._onError)

    def start(self) -> None:
        """Start the child; the signals come from the event loop. Raises OSError if it can't be started."""
        try:
            self._child.start()
        except OSError:
            self._child.close()
            raise

    def isRunning(self) -> bool:
        """Tell whether it is being worked on."""
        return self._steps is not None or self._child.isRunning()

    def cancel(self) -> None:
        """Stop after the present step, or ask the child to; `error` follows."""
        if self._steps is None:
            self._child.cancel(self.graceS)
        else:
            self._endSteps()
            self._fail(ChildError("cancelled", _("Canceled."), _("Nothing was changed.")))

    def wait(self) -> None:
        """Process the application's events until it ended; raise ChildFailedError if it did not end well."""
        waitFor(self)

    def processOnce(self) -> None:
        """Take the next step of what is under way; for loops that wait."""
        if self._steps is None:
            self._child.processOnce()
        else:
            self._steps.step()

    def close(self) -> None:
        """End at once, without further signals, and remove the child's files."""
        self._endSteps()
        self._child.close()

    # ------------------------------------------------------------------------------------ for subclasses

    def _receive(self, result: Event) -> None:
        """Take what the child left; errors of files and values become ``unreadable-result``.

        Raises
        ------
        ChildFailedError
            To tell another error.
        """

    def _takeSteps(
        self,
        steps: Generator[float, None, Any],
        then: Callable[[Any], None],
        otherwise: Callable[[Exception], None],
    ) -> Steps:
        """Work in steps of the event loop, then go on with what they return, or with why they failed."""

        def finish(value: Any) -> None:
            self._steps = None
            then(value)

        def fail(failure: Exception) -> None:
            self._steps = None
            otherwise(failure)

        self._steps = Steps(steps)
        self._steps.finished.connect(finish)
        self._steps.error.connect(fail)
        self._steps.start()
        return self._steps

    def _endSteps(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _onProgress(self, event: Event) -> None:
        self.progress.emit(event)

    def _onFinished(self, result: Event) -> None:
        try:
            self._receive(result)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as failure:
            self._onUnreadable(failure)
        else:
            self._child.close()
            self.result = result
            self.finished.emit(self)

    def _onUnreadable(self, failure: Exception) -> None:
        """Tell that what the child left can't be used."""
        if isinstance(failure, ChildFailedError):
            self._fail(failure.error)
        else:
            self._fail(ChildError("unreadable-result", _("The result can't be read."), details=str(failure)))

    def _onError(self, error: ChildError) -> None:
        """Hear from the child why it failed."""
        self._fail(error)

    def _fail(self, error: ChildError) -> None:
        """End without a result, for whatever reason."""
        self._child.close()
        self.error.emit(error)
