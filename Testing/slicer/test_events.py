"""The reader of a child's events loses nothing and chokes on nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def reader(slicer):
    from SAHLoRACoreLib.events import EventReader

    return EventReader()


def test_event_that_arrives_in_pieces_is_read_once_it_is_complete(reader):
    line = json.dumps({"event": "stage", "stage": "axial"}).encode() + b"\r\n"

    assert [event for byte in line for event in reader.feed(bytes([byte]))] == [
        {"event": "stage", "stage": "axial"}
    ]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"event":', b"[1]", b'{"event": 7}', b"null", b"[" * 100_000, b"NaN"]
)
def test_line_that_is_no_event_becomes_a_log_line(reader, line):
    (event,) = reader.feed(line + b"\n")

    assert event == {"event": "log", "text": line.decode("utf-8", errors="replace")}


def test_last_line_without_an_end_is_read_in_the_end(reader):
    assert reader.feed(b'{"event": "result"}') == []
    assert reader.finish() == [{"event": "result"}]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_events_among_any_bytes_are_all_found(application, noise):
    from SAHLoRACoreLib.events import EventReader

    reader = EventReader()
    stream = b"".join(piece.replace(b"\n", b"") + b'\n{"event": "metric"}\n' for piece in noise)
    events = [event for start in range(0, len(stream), 7) for event in reader.feed(stream[start : start + 7])]

    assert events.count({"event": "metric"}) == len(noise)
