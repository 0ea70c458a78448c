"""What a closed scene leaves behind of its patients, in memory and on disk: nothing, run after run.

PythonQt keeps what is connected to a Qt object where Python's collector can't see it, and so does PySide in
the harness: a work that never lets go of its timer stays with all its volumes.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from test_segmenter import ct, logic, model, open_panel, wait_for  # noqa: F401 - fixtures

RUNS = 10


class LivingNodes:
    """Counts the volumes, segmentations and tables that were added to the scene and still exist."""

    KINDS = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLTableNode")

    def __init__(self, scene):
        import vtk

        self._scene = scene
        self.alive = set()

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def added(_scene, _event, node):
            if any(node.IsA(kind) for kind in self.KINDS):
                name = f"{node.GetID()} {node.GetName()} {len(self.alive)}"
                self.alive.add(name)
                node.AddObserver(vtk.vtkCommand.DeleteEvent, lambda *_: self.alive.discard(name))

        self._tag = scene.AddObserver(scene.NodeAddedEvent, added)

    def close(self):
        self._scene.RemoveObserver(self._tag)


@pytest.fixture
def living(slicer):
    nodes = LivingNodes(slicer.mrmlScene)
    yield nodes
    nodes.close()


def still_alive(kind):
    """Count the objects of a class that Python holds, without collecting what could be collected."""
    return sum(isinstance(one, kind) for one in gc.get_objects())


def resident_mb():
    """Return the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def left_files(slicer):
    return list(Path(slicer.app.temporaryPath).glob("SAHLoRA-*"))


def test_stopped_timer_lets_go_of_what_it_called(slicer):
    from SAHLoRACoreLib.timers import Timer

    class Work:
        def __init__(self):
            self.timer = Timer(1000)
            self.timer.start(self.tick)

        def tick(self):
            pass

    work = Work()
    kept = weakref.ref(work)
    work.timer.stop()
    del work
    assert kept() is None  # by counting alone: the collector is not needed


def test_timer_calls_until_it_is_stopped(slicer):
    from SAHLoRACoreLib.timers import Timer

    calls, timer = [], Timer(1)
    timer.start(lambda: calls.append(1))
    wait_for(slicer, lambda: len(calls) > 2)
    timer.stop()
    before = len(calls)
    for _turn in range(20):
        slicer.app.processEvents()

    assert (len(calls), timer.isActive) == (before, False)


def test_segmentations_leave_nothing_when_the_scene_is_closed(slicer, open_panel, living):  # noqa: F811
    from SAHLoRASegmenterLib.run import SegmentationRun

    from SAHLoRACoreLib.childprocess import ChildProcess

    panel, sizes = open_panel(), []
    hu = np.full((24, 256, 256), 30, np.int16)
    hu[8:16, 100:150, 100:150] = 70
    for _run in range(RUNS):
        ct = slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="CT")  # noqa: F811
        ui = panel.ui
        ui.inputSelector.setCurrentNode(ct)
        ui.keepProbabilityCheckBox.checked = ui.keepDisagreementCheckBox.checked = True
        ui.flipCheckBox.checked = True
        ui.applyButton.click()
        wait_for(slicer, lambda ui=ui: ui.applyButton.enabled)
        ui.resultThresholdSlider.value = 0.9
        del ct
        slicer.mrmlScene.Clear(0)
        gc.collect()
        sizes.append(resident_mb())

    assert living.alive == set()
    assert (still_alive(SegmentationRun), still_alive(ChildProcess)) == (0, 0)
    assert left_files(slicer) == []
    assert sizes[6] - sizes[1] < 20, sizes
    assert sizes[-1] - sizes[1] < 20, sizes


def test_canceled_and_failed_segmentations_leave_nothing(slicer, open_panel, living, monkeypatch):  # noqa: F811
    from SAHLoRASegmenterLib.run import SegmentationRun

    panel = open_panel()
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda *_, **__: None)
    for behavior in ("polite", "error", "crash", "unfinished"):
        monkeypatch.setenv("SAHLORA_FAKE", behavior)
        hu = np.full((4, 20, 20), 30, np.int16)
        ct = slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="CT")  # noqa: F811
        panel.ui.inputSelector.setCurrentNode(ct)
        del ct
        panel.ui.applyButton.click()
        panel.ui.cancelButton.click()
        wait_for(slicer, lambda: panel._run is None)
        slicer.mrmlScene.Clear(0)
        gc.collect()

    assert living.alive == set()
    assert still_alive(SegmentationRun) == 0
    assert left_files(slicer) == []
