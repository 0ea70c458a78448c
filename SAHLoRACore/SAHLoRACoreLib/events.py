"""Reading the events of a child: one JSON object a line, among whatever libraries print."""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]


class EventReader:
    """Cuts a stream of bytes into events.

    A line that is no event (a library's chatter, broken JSON, bytes that are no UTF-8) becomes an event
    ``log`` with its text, so that nothing a child says is lost and nothing it says can stop the reader.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events whose lines are complete with this data."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [event for event in map(_event, lines) if event is not None]

    def finish(self) -> list[Event]:
        """Return the event of a last line without an end, if there is one."""
        return self.feed(b"\n")


def _event(line: bytes) -> Event | None:
    text = line.decode("utf-8", errors="replace").strip("\r\n\0 ")
    if not text:
        return None
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    return {"event": "log", "text": text}
