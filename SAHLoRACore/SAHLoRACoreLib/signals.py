"""A signal in plain Python, for classes that must work without Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls every connected function, in the order of their connection."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Call `slot` on every emission from now on."""
        self._slots.append(slot)

    def disconnectAll(self) -> None:
        """Call nothing any more, and keep nothing alive that was connected."""
        self._slots.clear()

    def emit(self, *values: Any) -> None:
        """Call the connected functions with these values."""
        for slot in tuple(self._slots):
            slot(*values)
