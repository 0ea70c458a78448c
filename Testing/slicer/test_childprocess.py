"""Real child processes: they end well, fail clearly, and end when asked to, with everything they started."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def start(slicer, monkeypatch, tmp_path):
    """Start the fake child with a behavior; returns the child and the events it sent so far."""
    from SAHLoRACoreLib.childprocess import ChildProcess
    from SAHLoRACoreLib.testdoubles import fakechild

    children = []

    def start(behavior, *arguments, folder=None):
        monkeypatch.setenv("SAHLORA_FAKE", behavior)
        command = [
            sys.executable,
            fakechild.__file__,
            "segment",
            "ct.nrrd",
            "-o",
            "label.seg.nrrd",
            *arguments,
        ]
        child = ChildProcess(command, folder)
        children.append(child)
        events = []
        child.progress.connect(events.append)
        child.start()
        return child, events

    yield start
    for child in children:
        child.close()


def wait_for(slicer, condition, patience_s=60.0):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < patience_s, "waited in vain"
        slicer.app.processEvents()
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed process whose parent has not noticed yet (the test's container may have no init) is dead, too.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def error_of(child):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    with pytest.raises(ChildFailedError) as raised:
        child.wait()
    return raised.value.error


def test_error_of_the_command_arrives_with_its_code_and_hint(start):
    error = error_of(start("error")[0])

    assert (error.code, error.message, error.hint) == ("not-ct", "This is no CT.", "Choose a CT.")
    assert "made-up error" in error.details


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_crash_becomes_a_message_that_names_the_signal(start):
    error = error_of(start("crash")[0])

    assert error.code == "crashed"
    assert "SIGSEGV" in error.message
    assert error.hint


def test_exit_without_a_word_becomes_a_message_with_the_status(start):
    error = error_of(start("exit")[0])

    assert (error.code, "status 1" in error.message) == ("failed", True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_child_killed_from_outside_is_told_from_a_crash(slicer, start):
    child, events = start("stubborn")
    wait_for(slicer, lambda: any("pid" in event for event in events))
    os.kill(child._process.pid, 9)

    assert error_of(child).code == "killed"


def test_cancelled_child_that_listens_ends_by_itself(slicer, start):
    child, events = start("polite")
    wait_for(slicer, lambda: events)
    child.cancel()

    assert error_of(child).code == "cancelled"
    assert any(event.get("heard") for event in events)


@pytest.mark.skipif(sys.platform == "win32", reason="looks processes up the POSIX way")
def test_cancelled_child_that_does_not_listen_is_ended_with_all_it_started(slicer, start):
    from SAHLoRACoreLib.childprocess import GRACE_S, POLL_MS

    child, events = start("stubborn")
    wait_for(slicer, lambda: any("pid" in event for event in events))
    pids = [child._process.pid, next(event["pid"] for event in events if "pid" in event)]
    child.cancel()

    assert error_of(child).code == "cancelled"
    wait_for(slicer, lambda: not any(alive(pid) for pid in pids))
    assert GRACE_S + 2 * POLL_MS / 1000 < 3.0  # what the user is promised


@pytest.mark.skipif(sys.platform == "win32", reason="looks processes up the POSIX way")
def test_closing_ends_a_running_child_and_removes_its_folder(slicer, start):
    child, events = start("stubborn")
    wait_for(slicer, lambda: any("pid" in event for event in events))
    pids = [child._process.pid, next(event["pid"] for event in events if "pid" in event)]
    child.close()

    wait_for(slicer, lambda: not any(alive(pid) for pid in pids))
    assert not child.folder.exists()


LEAVES_A_PROCESS = """
import json, subprocess, sys
beside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"event": "result", "pid": beside.pid}), flush=True)
"""


def test_child_that_is_done_is_not_waited_for_because_of_what_it_left_running(slicer):
    from SAHLoRACoreLib.childprocess import ChildProcess

    child = ChildProcess([sys.executable, "-c", LEAVES_A_PROCESS])
    started = time.monotonic()
    child.start()
    result = child.wait()

    assert time.monotonic() - started < 60  # not the 600 s of the process it left
    wait_for(slicer, lambda: not alive(result["pid"]))
    child.close()


@pytest.mark.parametrize("name", ["with space", "脳出血 Ünï", "x" * 100 + "/" + "y" * 120])
def test_child_works_in_any_folder(slicer, start, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    ct = folder / "ct.nrrd"
    write_ct(ct)
    child, _events = start("segment", folder=folder)

    assert child.wait()["volume_ml"] > 0
    assert (folder / "label.seg.nrrd").is_file()


def test_noise_in_the_output_neither_stops_nor_hides_the_events(start, tmp_path):
    write_ct(tmp_path / "ct.nrrd")
    child, events = start("garbage", folder=tmp_path)

    assert child.wait()["volume_ml"] > 0
    assert {"stage", "progress", "warning", "log"} <= {event["event"] for event in events}


def test_signals_come_from_the_event_loop_without_waiting(slicer, start, tmp_path):
    write_ct(tmp_path / "ct.nrrd")
    child, events = start("segment", folder=tmp_path)
    results = []
    child.finished.connect(results.append)
    wait_for(slicer, lambda: results)

    assert results[0]["event"] == "result"
    assert events[0] == {"event": "stage", "version": 1, "stage": "reading"}
    assert not child.isRunning()


def test_child_gets_utf8_unbuffered_output_and_the_models_folder(slicer, tmp_path):
    from SAHLoRACoreLib.childprocess import childEnvironment
    from SAHLoRACoreLib.settings import modelsFolder

    environment = childEnvironment()

    assert (environment["PYTHONUTF8"], environment["PYTHONUNBUFFERED"]) == ("1", "1")
    assert environment["SAHLORA_MODELS"] == str(modelsFolder())
    assert ("MALLOC_TRIM_THRESHOLD_" in environment) == (sys.platform == "linux")


def write_ct(path) -> None:
    import numpy as np
    import SimpleITK as sitk

    hu = np.full((4, 6, 8), 30, dtype=np.int16)
    hu[1:3, 2:4, 2:5] = 70
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(path))


def test_slicer_itself_is_never_started_as_the_interpreter(slicer, monkeypatch, tmp_path):
    from SAHLoRACoreLib.childprocess import ChildProcess, pythonExecutable

    monkeypatch.setenv("PATH", str(tmp_path))
    assert pythonExecutable() == sys.executable
    monkeypatch.setattr(sys, "executable", "/opt/Slicer/bin/SlicerApp-real")
    child = ChildProcess([pythonExecutable(), "nothing"])
    with pytest.raises(OSError, match="PythonSlicer"):
        child.start()
    child.close()
