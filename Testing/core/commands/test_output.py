"""Standard output that is closed, full or knows few letters: never a success that is none, no traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import environment
from sahlora.errors import ResourceError
from sahlora.runtime.progress import JsonSink, LogSink
from sahlora.runtime.streams import Quiet, use_plain_letters

LIST = [sys.executable, "-m", "sahlora", "models", "list"]


class Failing(io.StringIO):
    """A stream of which nobody reads, or on a full disk."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(("number", "code"), [(32, "output-closed"), (28, "disk-full"), (5, "output-closed")])
def test_events_that_can_not_be_written_end_the_work_once(number: int, code: str) -> None:
    sink = JsonSink(Failing(number))
    with pytest.raises(ResourceError) as raised:
        sink({"event": "stage"})
    assert raised.value.code == code and raised.value.hint
    sink({"event": "error"})


def test_a_log_that_can_not_be_written_stops_nothing() -> None:
    LogSink(Quiet(Failing(28)))({"event": "warning", "message": "careful", "hint": ""})
    LogSink(Quiet(None))({"event": "warning", "message": "careful", "hint": ""})


def test_signs_become_plain_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    use_plain_letters()
    print("“a” ± 1 … é \udcff", flush=True)
    assert written.getvalue() == b'"a" +/- 1 ... \\xe9 \\udcff\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(LIST, stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == ResourceError.exit_status
    assert "The disk is full" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="no such pipe")
def test_a_closed_pipe_is_no_success() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*LIST, "--progress", "json"], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment()
    )
    os.close(writing)
    assert done.returncode == ResourceError.exit_status
    assert "nobody reads it any more" in done.stderr and "Traceback" not in done.stderr
