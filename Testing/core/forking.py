"""Runs the command again and again in children forked from a process that has imported everything.

A child of its own imports for seconds; a forked one starts at once, so that hundreds can be stopped, each at
another moment.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_OPERATIONS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Exit status (negative: the signal), number of file operations, what it printed, seconds from the moment it
    was stopped, peak of resident memory.
    """

    status: int
    operations: int
    events: list[dict[str, Any]]
    seconds: float
    peak_mib: float


class ForkingCommand:
    """The process that forks; use it as a context."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __enter__(self) -> ForkingCommand:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate(timeout=60)

    def run(
        self,
        *arguments: str | Path,
        folder: Path,
        kill_at: int | None = None,
        kill_after: float | None = None,
        cancel_by: str | None = None,
        when: str = "",
    ) -> Ended:
        """Run ``sahlora arguments`` and stop it, or let it end.

        Killed at the file operation `kill_at` in `folder`, from 1, or after seconds; or asked to cancel by
        “signal”, “file” or “parent” as soon as it has printed the text `when`.
        """
        job = {
            "arguments": [*map(str, arguments)], "folder": str(folder), "at": kill_at, "after": kill_after,
            "by": cancel_by, "when": when,
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


# ------------------------------------------------------------------------------------- the process that forks


def serve() -> None:
    """Import everything and answer jobs, one a line."""
    import torch

    from sahlora.training.loop import train

    for name in ("training.finetuning", "training.pretraining", "evaluation"):
        importlib.import_module(f"sahlora.{name}")  # so that no child has to
    torch.set_num_threads(1)
    assert train.__kwdefaults__ is not None
    train.__kwdefaults__["save_every_s"] = 0.0  # a state after each step: more moments to be killed in
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


def answer(
    arguments: list[str], folder: str, at: int | None, after: float | None, by: str | None, when: str
) -> dict[str, Any]:
    output, counted, wish = (Path(f"{folder}.{name}") for name in ("stdout", "operations", "cancel"))
    counted.write_text("0")
    output.write_text("")
    parent = subprocess.Popen(["sleep", "600"]) if by == "parent" else None
    if by == "file":
        arguments += ["--cancel-file", str(wish)]
    if parent is not None:
        arguments += ["--parent-pid", str(parent.pid)]
    pid = os.fork()
    if pid == 0:
        work(arguments, folder, at, output, counted)
    if after is not None:
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if by is not None:
        wait_for(lambda: when in output.read_text())
        if parent is not None:
            parent.kill()
            parent.wait()
        elif by == "file":
            wish.touch()
        else:
            os.kill(pid, signal.SIGINT)
    stopped = time.monotonic()
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - stopped
    wish.unlink(missing_ok=True)
    lines = [json.loads(line) for line in output.read_text().split("\n")[:-1]]
    return {
        "status": os.waitstatus_to_exitcode(status), "operations": int(counted.read_text()),
        "events": lines, "seconds": seconds, "peak_mib": usage.ru_maxrss / 1024,
    }  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def work(arguments: list[str], folder: str, at: int | None, output: Path, counted: Path) -> None:
    """Run the command and end, at the latest with the file operation that was named."""
    from sahlora.cli import main

    operations = 0

    def count(event: str, values: tuple[Any, ...]) -> None:
        nonlocal operations
        if event in FILE_OPERATIONS and str(values[0]).startswith(folder + os.sep):
            operations += 1
            if operations == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    with output.open("w") as stream:
        sys.stdout = stream
        status = main([*arguments, "--progress", "json"])
    counted.write_text(str(operations))
    os._exit(status)


if __name__ == "__main__":
    serve()
