"""A timer of the main thread that lets go of what it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Timer:
    """Calls a function from the event loop, again and again until it is stopped.

    PythonQt keeps what is connected to a Qt object in a way that Python's collector can't see: a work that
    holds a timer that calls the work would live on with all its volumes. So the function is connected when
    the timer starts, and forgotten, with Qt's timer, when it stops.

    Parameters
    ----------
    intervalMs : int
        Between two calls, and before the first.
    """

    def __init__(self, intervalMs: int) -> None:
        self._intervalMs = intervalMs
        self._timer: Any = None
        self._slot: Callable[[], Any] | None = None

    @property
    def isActive(self) -> bool:
        """Tell whether it is started and not stopped."""
        return self._timer is not None

    def start(self, slot: Callable[[], Any]) -> None:
        """Call this function from now on; the time begins anew if it was started before."""
        import qt

        self.stop()
        self._slot, self._timer = slot, qt.QTimer()
        self._timer.setInterval(self._intervalMs)
        self._timer.connect("timeout()", slot)
        self._timer.start()

    def stop(self) -> None:
        """Call nothing any more."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.disconnect("timeout()", self._slot)
            self._timer = self._slot = None
