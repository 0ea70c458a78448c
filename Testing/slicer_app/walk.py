"""A walk through README and tutorial in the application, with every check that only it can make.

Slicer runs this file (see run.py); the harness runs the same steps on its stand-ins. Each step is noted with
its time and what was found, a failed one does not stop the others, and the whole is written as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

WIDEST_PANEL = 350  # pixels
MOST_MEMORY_MB = 20.0  # that the seventh run may use more than the second
PATIENCE_S = 3600.0
MODULES = ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
ADAPTER = "sah-phantom"
COUNTED = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLTableNode")


class Stage(Protocol):
    """Where the walk takes place."""

    def open(self, module: str) -> Any:
        """Go to a module and return its panel."""

    def head(self) -> Any:
        """Load the simulated head of Sample Data and return its volume node."""

    def cohort(self) -> list[Any]:
        """Load the simulated patients of Sample Data and return their nodes."""

    def picture(self, path: Path) -> None:
        """Save a picture of the window."""

    def complaints(self) -> list[str]:
        """Return what came to the error log since the last time."""

    def memory_mb(self) -> float:
        """Return what the process uses now."""

    def panel_width(self, module: str) -> int:
        """Return the narrowest that a panel can be, in pixels."""


@dataclass
class Step:
    """One step of the walk: its name, seconds, what was found, and why it failed."""

    name: str
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    complaints: list[str] = field(default_factory=list)


class Walk:
    """The steps, in the order of README and tutorial.

    Parameters
    ----------
    stage : Stage
    folder : Path
        Where report and pictures go.
    runs : int
        How often a segmentation is repeated to see whether memory grows.
    epochs : int
        Of the training; 0: as many as the preset has.
    """

    def __init__(self, stage: Stage, folder: Path, runs: int = 10, epochs: int = 2) -> None:
        import slicer

        self._stage, self._folder, self._runs, self._epochs = stage, folder, runs, epochs
        self._slicer = slicer
        self.steps: list[Step] = []

    def follow(self) -> bool:
        """Do all steps, write report.json, and return whether none failed and nothing complained."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, work in (
            ("self-tests", self.self_tests),
            ("panels are narrow", self.narrow_panels),
            ("segment the simulated head", self.segment),
            ("another threshold", self.threshold),
            ("a second run lies alone", self.second_run),
            ("saved scene", self.saved_scene),
            ("closed scene tells nothing", self.closed_scene),
            ("train on the simulated patients", self.train),
            ("judge", self.judge),
            (f"{self._runs} runs", self.ten_runs),
        ):
            self._take(name, work)
        self.write()
        return all(not (step.failure or step.complaints) for step in self.steps)

    def write(self) -> None:
        """Write what is known so far."""
        text = json.dumps([asdict(step) for step in self.steps], indent=2, ensure_ascii=False)
        (self._folder / "report.json").write_text(text + "\n", encoding="utf-8")

    # -------------------------------------------------------------------------------------------- steps

    def self_tests(self, found: dict[str, Any]) -> None:
        """Run the tests that come with the modules."""
        import importlib

        for name in MODULES:
            getattr(importlib.import_module(name), f"{name}Test")().runTest()
            found[name] = "passed"
        self._slicer.mrmlScene.Clear(0)

    def narrow_panels(self, found: dict[str, Any]) -> None:
        """A panel too wide widens the dock for every other module."""
        for name in MODULES[1:]:
            self._stage.open(name)
            found[name] = self._stage.panel_width(name)
        assert max(found.values()) <= WIDEST_PANEL, f"wider than {WIDEST_PANEL} pixels"

    def segment(self, found: dict[str, Any]) -> None:
        """README: segment a head CT."""
        panel = self._stage.open("SAHLoRASegmenter")
        volume = self._stage.head()
        display = volume.GetDisplayNode()
        found["window"], found["level"] = display.GetWindow(), display.GetLevel()
        ui = panel.ui
        assert ui.inputSelector.currentNode() is volume, "the loaded CT was not chosen"
        ui.adapterSelector.setCurrentIndex(ui.adapterSelector.findText(ADAPTER))
        ui.keepProbabilityCheckBox.checked = True
        found["longest pause, s"] = self._segment(panel)
        found["result"] = ui.resultLabel.text
        self._stage.picture(self._folder / "segmenter-3d.png")
        assert ui.measurementsTable.rowCount > 0, ui.statusLabel.text

    def threshold(self, found: dict[str, Any]) -> None:
        """README: move the threshold; table and chart follow."""
        ui = self._stage.open("SAHLoRASegmenter").ui
        ui.showChartButton.click()
        before = ui.measurementsTable.item(0, 1).text()
        ui.resultThresholdSlider.value = 0.3
        self._settle()
        found["mL at 0.5"], found["mL at 0.3"] = before, ui.measurementsTable.item(0, 1).text()
        self._stage.picture(self._folder / "segmenter-chart.png")
        assert float(found["mL at 0.3"]) >= float(before), "a lower threshold outlines less"

    def second_run(self, found: dict[str, Any]) -> None:
        """An earlier outline must not lie over a later one."""
        panel = self._stage.open("SAHLoRASegmenter")
        self._segment(panel)
        nodes = self._slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        found["visible"] = [node.GetName() for node in nodes if node.GetDisplayNode().GetVisibility()]
        assert found["visible"] == [panel.ui.resultSelector.currentNode().GetName()]

    def saved_scene(self, found: dict[str, Any]) -> None:
        """A scene file brings the panel back."""
        ui = self._stage.open("SAHLoRASegmenter").ui
        measured = ui.measurementsTable.item(0, 1).text()
        path = self._folder / "scene.mrb"
        scene = self._slicer.mrmlScene
        assert scene.WriteToMRB(str(path), None), "the scene can't be written"
        found["MB"] = round(path.stat().st_size / 1e6, 1)
        scene.Clear(0)
        assert scene.ReadFromMRB(str(path), False), "the scene can't be read"
        self._settle()
        path.unlink()
        assert ui.measurementsTable.item(0, 1).text() == measured

    def closed_scene(self, found: dict[str, Any]) -> None:
        """Nothing is told of the last patient."""
        ui = self._stage.open("SAHLoRASegmenter").ui
        self._slicer.mrmlScene.Clear(0)
        self._settle()
        found["status"], found["result"] = ui.statusLabel.text, ui.resultLabel.text
        found["bar"], found["log"] = ui.progressBar.value, ui.logText.plainText
        assert not any(found.values())

    def train(self, found: dict[str, Any]) -> None:
        """Tutorial: list the cases, check them, train."""
        panel = self._stage.open("SAHLoRATrainer")
        nodes = self._stage.cohort()
        for volume, segmentation in zip(nodes[0:6:2], nodes[1:6:2], strict=True):
            panel.addCase(volume, segmentation, segmentation.GetSegmentation().GetNthSegmentID(0))
        ui = panel.ui
        ui.holdOutButton.click()
        ui.checkCasesButton.click()
        self._wait(lambda: not panel.occupation)
        found["cases"] = [ui.casesTable.item(row, 4).text() for row in range(ui.casesTable.rowCount)]
        panel.parameters.preset, panel.parameters.epochs = "quick", self._epochs
        ui.trainButton.click()
        self._wait(lambda: not panel.occupation)
        found["said"] = ui.statusLabel.text
        chart = self._slicer.mrmlScene.GetFirstNodeByName("Training")
        found["curves"] = chart.GetNumberOfPlotSeriesNodes() if chart is not None else 0
        self._stage.picture(self._folder / "trainer-training.png")
        assert found["curves"] == 2, "the chart of the training is empty"

    def judge(self, found: dict[str, Any]) -> None:
        """Tutorial: is the adapter better?"""
        panel = self._stage.open("SAHLoRATrainer")
        panel.ui.judgeButton.click()
        self._wait(lambda: not panel.occupation)
        found["verdict"] = panel.ui.verdictLabel.text
        self._stage.picture(self._folder / "trainer-judged.png")
        assert panel.ui.judgementTable.rowCount > 0, found["verdict"]

    def ten_runs(self, found: dict[str, Any]) -> None:
        """A closed scene leaves no patient behind, however often."""
        panel = self._stage.open("SAHLoRASegmenter")
        self._slicer.mrmlScene.Clear(0)
        alive, observe = count_living_nodes(self._slicer.mrmlScene)
        sizes = []
        for _run in range(self._runs):
            self._stage.head()
            self._segment(panel)
            self._slicer.mrmlScene.Clear(0)
            self._settle()
            gc.collect()
            sizes.append(round(self._stage.memory_mb(), 1))
        self._slicer.mrmlScene.RemoveObserver(observe)
        found["memory, MB"], found["nodes left"] = sizes, len(alive)
        assert not alive, f"{len(alive)} nodes of closed scenes still exist"
        if self._runs > 6:
            assert sizes[6] - sizes[1] < MOST_MEMORY_MB, "memory grows from run to run"

    # -------------------------------------------------------------------------------------------- parts

    def _take(self, name: str, work: Callable[[dict[str, Any]], None]) -> None:
        step, started = Step(name), time.monotonic()
        print(f"{name} …", flush=True)
        try:
            work(step.found)
        except Exception:  # a failed step does not stop the others
            step.failure = traceback.format_exc(limit=-2)
        step.seconds = round(time.monotonic() - started, 1)
        step.complaints = self._stage.complaints()
        self.steps.append(step)
        self.write()

    def _segment(self, panel: Any) -> float:
        """Click Segment and wait; return the longest time without a turn of the event loop, in seconds."""
        panel.ui.applyButton.click()
        longest, last = 0.0, time.monotonic()

        def done() -> bool:
            nonlocal longest, last
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            return bool(panel.ui.applyButton.enabled)

        self._wait(done)
        return round(longest, 2)

    def _wait(self, until: Callable[[], bool]) -> None:
        started = time.monotonic()
        while not until():
            assert time.monotonic() - started < PATIENCE_S, "waited in vain"
            self._slicer.app.processEvents()
            time.sleep(0.01)

    def _settle(self) -> None:
        """Let the views draw."""
        for _turn in range(20):
            self._slicer.app.processEvents()
            time.sleep(0.01)


def count_living_nodes(scene: Any) -> tuple[set[str], int]:
    """Return the nodes with data of patients added from now on that still exist, and the observer."""
    import vtk

    alive: set[str] = set()
    number = iter(range(10**9))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(_scene: Any, _event: str, node: Any) -> None:
        if any(node.IsA(kind) for kind in COUNTED):
            name = f"{node.GetID()} {next(number)}"
            alive.add(name)
            node.AddObserver(vtk.vtkCommand.DeleteEvent, lambda *_: alive.discard(name))

    return alive, scene.AddObserver(scene.NodeAddedEvent, added)


class Application:
    """The stage in Slicer itself."""

    def __init__(self) -> None:
        import slicer

        self._slicer = slicer
        self._log = Path(slicer.app.errorLogModel().filePath)
        self._read = 0
        slicer.util.confirmOkCancelDisplay = lambda *_, **__: True  # the packages may be installed
        slicer.util.errorDisplay = lambda text, *_, **__: print(f"error message: {text}", flush=True)
        slicer.util.infoDisplay = lambda text, *_, **__: print(f"message: {text}", flush=True)

    def open(self, module: str) -> Any:
        """Go to a module and return its panel."""
        self._slicer.util.selectModule(module)
        return self._slicer.util.getModuleWidget(module)

    def head(self) -> Any:
        """Load the simulated head and return its volume node."""
        from SAHLoRACoreLib.sampledata import downloadHead

        (node,) = downloadHead()
        return node

    def cohort(self) -> list[Any]:
        """Load the simulated patients and return their nodes."""
        from SAHLoRACoreLib.sampledata import downloadCohort

        return downloadCohort()

    def picture(self, path: Path) -> None:
        """Save a picture of the main window."""
        self._slicer.util.forceRenderAllViews()
        self._slicer.app.processEvents()
        self._slicer.util.mainWindow().grab().save(str(path))

    def complaints(self) -> list[str]:
        """Return the errors, and VTK's warnings, of the log file since the last time."""
        with self._log.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(self._read)
            text = stream.read()
            self._read = stream.tell()
        marks = ("[ERROR]", "[CRITICAL]", "[FATAL]", "[WARNING][VTK]")
        return [line for line in text.splitlines() if line.startswith(marks)]

    def memory_mb(self) -> float:
        """Return what the process uses now; its peak where the system tells no more."""
        import resource

        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e6 if sys.platform == "darwin" else 1e3)

    def panel_width(self, module: str) -> int:
        """Return the narrowest that a panel can be."""
        widget = getattr(self._slicer.modules, module.lower()).widgetRepresentation()
        return widget.minimumSizeHint.width()


def main() -> None:
    """Walk in Slicer, then end it while a segmentation runs: no process may be left then."""
    import os

    import slicer

    from SAHLoRACoreLib.settings import Settings

    folder = Path(os.environ["SAHLORA_WALK"])
    replace(Settings.load(), dataFolder=os.environ["TMPDIR"]).save()  # not among the user's own runs
    walk = Walk(Application(), folder, int(os.environ.get("SAHLORA_WALK_RUNS", "10")))
    passed = walk.follow()
    stage = Application()
    panel = stage.open("SAHLoRASegmenter")
    stage.head()
    panel.ui.applyButton.click()
    (folder / "quit").write_text(str(time.time()))
    slicer.util.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
