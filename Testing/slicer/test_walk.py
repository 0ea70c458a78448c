"""The walk through the application (Testing/slicer_app) works in the harness; its report says what failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_segmenter import Installed

APP = Path(__file__).resolve().parents[1] / "slicer_app"


@pytest.fixture
def scripts(monkeypatch):
    """The modules `walk` and `run`."""
    monkeypatch.syspath_prepend(APP)
    import run
    import walk

    yield run, walk
    for name in ("run", "walk"):
        sys.modules.pop(name)


class HarnessStage:
    """The stage in the harness, with the fake commands."""

    def __init__(self, slicer, complaints):
        self._slicer, self._complaints, self.panels = slicer, complaints, {}
        dialog = dict.fromkeys(("connect", "show", "close"), lambda *_: None)
        slicer.util.createProgressDialog = lambda **_: type("Dialog", (), dialog)()

    def open(self, module):
        from harness.application import show_module
        from SAHLoRASegmenter import SAHLoRASegmenterLogic
        from SAHLoRATrainer import SAHLoRATrainerLogic
        from SAHLoRATrainerLib.testdoubles import fakecommand

        from SAHLoRACoreLib.childprocess import pythonExecutable
        from SAHLoRACoreLib.testdoubles import fakechild

        logics = {
            "SAHLoRASegmenter": lambda: SAHLoRASegmenterLogic([pythonExecutable(), fakechild.__file__]),
            "SAHLoRATrainer": lambda: SAHLoRATrainerLogic([pythonExecutable(), fakecommand.__file__]),
        }
        if module not in self.panels:
            self.panels[module] = show_module(module, logic=logics[module](), installer=Installed())
        self.panels[module].enter()
        return self.panels[module]

    def head(self):
        import numpy as np

        hu = np.full((4, 20, 20), 30, np.int16)
        hu[1:3, 5:15, 5:15] = 70
        return self._slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="CT")

    def cohort(self):
        from SAHLoRACoreLib.childprocess import pythonExecutable
        from SAHLoRACoreLib.sampledata import downloadCohort
        from SAHLoRACoreLib.testdoubles import fakechild

        return downloadCohort(None, [pythonExecutable(), fakechild.__file__])

    def picture(self, path):
        path.touch()

    def complaints(self):
        return self._complaints.take()

    def memory_mb(self):
        return 100.0

    def panel_width(self, module):
        return self.panels[module].parent.minimumSizeHint.width()


@pytest.fixture
def stage(slicer, complaints, tmp_path):
    from dataclasses import replace

    from SAHLoRACoreLib.settings import Settings

    before = Settings.load()
    replace(before, dataFolder=str(tmp_path / "data")).save()
    stage = HarnessStage(slicer, complaints)
    yield stage
    for panel in stage.panels.values():
        panel.cleanup()
    before.save()


def test_walk_through_readme_and_tutorial_finds_nothing_wrong(scripts, stage, tmp_path):
    run, walk = scripts
    walk.Walk(stage, tmp_path / "report", runs=2).follow()
    steps = run.read_steps(tmp_path / "report")
    left = {"status": 0, "seconds to quit": 2.0, "processes": [], "files": []}

    assert [(step["name"], step["failure"], step["complaints"]) for step in steps if step["failure"]] == []
    assert [step["complaints"] for step in steps if step["complaints"]] == []
    assert len(steps) == 10
    assert "passed" in run.report(Path("Slicer"), steps, left).splitlines()[0]


def test_report_tells_what_failed_and_what_was_left(scripts, tmp_path):
    run, _walk = scripts
    step = {"name": "judge", "seconds": 1.0, "found": {"verdict": "a|b"}, "failure": "AssertionError: no"}
    steps = [step | {"complaints": ["[ERROR][VTK] bad"]}]
    left = {"status": 1, "seconds to quit": None, "processes": ["python"], "files": ["SAHLoRA-1"]}
    text = run.report(Path("Slicer"), steps, left)

    assert text.startswith("# SAHLoRA in 3D Slicer: FAILED")
    for words in ("AssertionError: no", "[ERROR][VTK] bad", "a\\|b", "SAHLoRA-1"):
        assert words in text
    assert not run.passed(json.loads(json.dumps(steps)), left)
