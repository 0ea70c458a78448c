"""What every work in a child process shares: it is started, stopped, waited for, and tells how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import GRACE_S, ChildError, ChildFailedError, ChildProcess, waitFor
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.signals import Signal


class ChildWork:
    """A command in a child process; a subclass says what is done with the result, in `_receive`.

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
        """Tell whether the child still works."""
        return self._child.isRunning()

    def cancel(self) -> None:
        """Ask the child to stop; `error` follows."""
        self._child.cancel(self.graceS)

    def wait(self) -> None:
        """Process the application's events until it ended; raise ChildFailedError if it did not end well."""
        waitFor(self)

    def processOnce(self) -> None:
        """Process the application's pending events, and see how the child is doing; for loops that wait."""
        self._child.processOnce()

    def close(self) -> None:
        """End the child at once if it runs, without further signals, and remove its files."""
        self._child.close()

    # ------------------------------------------------------------------------------------ for subclasses

    def _receive(self, result: Event) -> None:
        """Take what the child left; errors of files and values become ``unreadable-result``.

        Raises
        ------
        ChildFailedError
            To tell another error.
        """

    def _onProgress(self, event: Event) -> None:
        self.progress.emit(event)

    def _onFinished(self, result: Event) -> None:
        try:
            self._receive(result)
        except ChildFailedError as failure:
            self._fail(failure.error)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as failure:
            self._fail(ChildError("unreadable-result", _("The result can't be read."), details=str(failure)))
        else:
            self._child.close()
            self.result = result
            self.finished.emit(self)

    def _onError(self, error: ChildError) -> None:
        """Hear from the child why it failed."""
        self._fail(error)

    def _fail(self, error: ChildError) -> None:
        """End without a result, for whatever reason."""
        self._child.close()
        self.error.emit(error)
