"""Work of the main thread in steps of the event loop, so that the application stays free."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from SAHLoRACoreLib.signals import Signal
from SAHLoRACoreLib.timers import Timer


class Steps:
    """Takes the steps of a generator from the event loop, one a turn, so that the panel stays free.

    Parameters
    ----------
    steps : generator
        Each step shorter than a tenth of a second, as far as that can be.

    Attributes
    ----------
    progress : Signal
        Emits what the generator yields.
    finished : Signal
        Emits what it returns.
    error : Signal
        Emits the exception that ended it.
    """

    def __init__(self, steps: Generator[float, None, Any]) -> None:
        self.progress, self.finished, self.error = Signal(), Signal(), Signal()
        self._steps = steps
        self._timer = Timer(0)

    def start(self) -> None:
        """Begin; the signals come from the event loop."""
        self._timer.start(self.step)

    def step(self) -> None:
        """Take one step; the timer calls this."""
        if not self._timer.isActive:
            return
        try:
            done = next(self._steps)
        except StopIteration as end:
            self.close()
            self.finished.emit(end.value)
        except Exception as failure:  # of whatever kind: nobody else would see it
            self.close()
            self.error.emit(failure)
        else:
            self.progress.emit(done)

    def close(self) -> None:
        """Take no further step, and leave nothing unfinished behind."""
        if self._timer.isActive:
            self._timer.stop()
            self._steps.close()
