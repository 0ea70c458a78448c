"""One process at a time works in a folder, and what a killed one left behind is removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import environment
from sahlora.errors import ResourceError
from sahlora.runtime.files import replacing, require_writable
from sahlora.runtime.locks import LOCK, locked
from sahlora.runtime.process import process_exists

HOLD = """if True:
    import os, sys, time
    from pathlib import Path
    from sahlora.runtime.files import replacing
    from sahlora.runtime.locks import locked
    folder = Path(sys.argv[1])
    with locked(folder), replacing(folder / "label.nii") as path:
        path.write_bytes(b"a patient's blood")
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that holds the folder's lock and writes a file for long."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_in_use_is_refused_until_its_process_is_gone(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    held = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps({**held, "since": time.time() - 400}))
    with pytest.raises(ResourceError) as raised, locked(tmp_path):
        pass
    assert raised.value.code == "in-use"
    assert f"process {holder.pid} on " in raised.value.message
    assert raised.value.message.endswith("for 7 minutes.")
    require_writable(tmp_path / "label.nii")
    assert list(tmp_path.glob(".sahlora-*/label.nii"))  # what is being written stays

    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    with locked(tmp_path):
        require_writable(tmp_path / "label.nii")
    assert list(tmp_path.iterdir()) == []


def test_an_older_leftover_without_an_owner_is_removed(tmp_path: Path) -> None:
    for name, age in ((".sahlora-x1y2", 3600), (".sahlora-new", 0), (f".sahlora-{os.getpid()}-a", 3600)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    require_writable(tmp_path / "label.nii")
    assert {path.name for path in tmp_path.iterdir()} == {".sahlora-new", f".sahlora-{os.getpid()}-a"}


def test_nothing_is_left_beside_a_file_that_was_written(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as path:
        path.write_text("a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_a_process_that_has_ended_but_was_not_noticed_is_gone() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert process_exists(process.pid)
        process.kill()
        deadline = time.monotonic() + 5
        while process_exists(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not process_exists(process.pid)
