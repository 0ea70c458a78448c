"""What is made of children: however a work ends, it is told once and leaves no folder."""

from __future__ import annotations

import json
import sys

import pytest


@pytest.fixture
def work(slicer, tmp_path, monkeypatch):
    """Make a work whose child tells a result event with these values; its folder is below `tmp_path`."""
    from SAHLoRACoreLib import childprocess
    from SAHLoRACoreLib.childwork import ChildWork

    class Counted(ChildWork):
        def _receive(self, result):
            self.count = int(result["count"])

    def make(program=sys.executable, **values):
        tell = f"print({json.dumps({'event': 'result', **values})!r})"
        made = Counted([str(program), "-c", tell])
        made.told = []
        made.finished.connect(made.told.append)
        made.error.connect(lambda error: made.told.append(error.code))
        return made

    monkeypatch.setattr(childprocess, "temporaryFolder", lambda: tmp_path)
    return make


def test_work_gives_its_result_and_leaves_no_folder(work, tmp_path):
    counted = work(count=3)
    assert list(tmp_path.iterdir()) == []  # nothing is made before the start
    counted.start()
    assert counted.isRunning()
    counted.wait()

    assert counted.told == [counted]
    assert (counted.count, counted.result["count"]) == (3, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [{}, {"count": "many"}, {"count": []}])
def test_result_that_can_not_be_used_is_told_and_leaves_no_folder(work, tmp_path, values):
    from SAHLoRACoreLib.childprocess import ChildFailedError

    counted = work(**values)
    counted.start()
    with pytest.raises(ChildFailedError, match="can't be read"):
        counted.wait()

    assert counted.told == ["unreadable-result"]
    assert counted.result == {}
    assert list(tmp_path.iterdir()) == []


def test_child_that_can_not_be_started_is_told_and_leaves_no_folder(work, tmp_path):
    counted = work(program=tmp_path / "missing")
    with pytest.raises(OSError, match="missing"):
        counted.start()

    assert counted.told == []
    assert not counted.isRunning()
    assert list(tmp_path.iterdir()) == []
