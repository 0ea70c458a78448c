"""Ctrl-C: the first asks to stop, the second ends the process, and neither shows a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a terminal's signals, as Linux has them")

DEAF = """
import ctypes
from sahlora.runtime.progress import cancellation
with cancellation():
    print("ready", flush=True)
    while True:
        ctypes.PyDLL(None).sleep(60)  # as a library that does not come back
"""


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def test_the_second_ends_a_process_that_does_not_listen() -> None:
    process = started("-c", DEAF)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT  # 130 for a shell
    assert errors == ""


LOADING = """
import sys
from sahlora.__main__ import start

class Announce:
    def find_spec(self, name, *_):
        if name == "sahlora.cli":
            print("loading", flush=True)

sys.meta_path.insert(0, Announce())
sys.argv = ["sahlora", "models", "list"]
start()
"""


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_one_while_the_command_still_loads_ends_it_without_traceback(delay: float) -> None:
    process = started("-c", LOADING)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in (0, 130)
    assert "Traceback" not in errors
