"""Simulated heads with subarachnoid blood in Slicer's Sample Data, made without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildFailedError, ChildProcess, commandPrefix
from SAHLoRACoreLib.scene import importSegmentation, volumeInWorld
from SAHLoRACoreLib.showing import showOutlines, showVolume

HEAD, COHORT = "Simulated SAH", "Simulated patients"
CASE = "sim-{number:04d}_{part}.nii.gz"  # what the command calls its files, with the seed as number
BLOOD_RED = (188 / 255, 65 / 255, 28 / 255)
_oneAtATime = Lock()
ANNOTATED = 3  # patients of the cohort; one more has no segmentation
COHORT_OPTIONS = ("--count", str(ANNOTATED + 1), "--spacing", "5,1,1")


def register() -> None:
    """Offer the heads in the module Sample Data; call once all modules are there."""
    try:
        from SampleData import SampleDataLogic
    except ImportError:  # Slicer can be built without
        return
    for name, download in ((HEAD, downloadHead), (COHORT, downloadCohort)):
        SampleDataLogic.registerCustomSampleDataSource(
            category="SAHLoRA",
            sampleName=name,
            uris=f"nothing to download; call SAHLoRACoreLib.sampledata.{download.__name__}()",  # if opened
            fileNames=CASE.format(number=1, part="ct"),
            nodeNames=name,
            customDownloader=download,
        )


def downloadHead(_source: Any = None, command: Sequence[str] | None = None) -> list:
    """Simulate one head in a child and return its node in a list, as Sample Data wants.

    It is shown in the slice views. Nothing is returned if it failed or was canceled, as a message then said,
    or if another simulation is still going on.
    """
    text = _("Simulating a head with subarachnoid blood…")
    return _simulated((), text, command, lambda folder: [_volume(folder, 1, _("SAHLoRA simulated SAH"))])


def downloadCohort(_source: Any = None, command: Sequence[str] | None = None) -> list:
    """Simulate three annotated patients and a new one, to try the Trainer with, and return their nodes.

    The first one is shown in the slice views. Nothing is returned if it failed or was canceled, as a message
    then said, or if another simulation is still going on.
    """
    return _simulated(COHORT_OPTIONS, _("Simulating four patients…"), command, _cohort)


def _cohort(folder: Path) -> list:
    nodes = []
    for number in range(1, ANNOTATED + 1):
        volumeNode = _volume(folder, number, _("Simulated patient {number}").format(number=number))
        nodes += [volumeNode, _blood(folder, number, volumeNode)]
    return [*nodes, _volume(folder, ANNOTATED + 1, _("Simulated new patient"))]


def _simulated(
    options: Sequence[str], text: str, command: Sequence[str] | None, load: Callable[[Path], list]
) -> list:
    """Run ``sahlora simulate`` in a child while a dialog can cancel it; load and show what it wrote."""
    if not _oneAtATime.acquire(blocking=False):  # a second click on the button
        return []
    try:
        nodes = _simulatedNodes(options, text, command, load)
    finally:
        _oneAtATime.release()
    if nodes:
        outlines = [node for node in nodes[1:2] if node.IsA("vtkMRMLSegmentationNode")]
        showOutlines(outlines, nodes[0])
        showVolume(nodes[0])
    return nodes


def _simulatedNodes(
    options: Sequence[str], text: str, command: Sequence[str] | None, load: Callable[[Path], list]
) -> list:
    import qt

    arguments = ["simulate", "simulated", *options, "--progress", "json"]
    child = ChildProcess([*(command or commandPrefix()), *arguments])
    dialog = slicer.util.createProgressDialog(labelText=text, maximum=0, windowModality=qt.Qt.WindowModal)
    dialog.show()  # at once: until then the buttons can be clicked
    try:
        dialog.connect("canceled()", child.cancel)
        child.start()
        child.wait()
        return load(child.folder / "simulated")
    except ChildFailedError as failure:
        if failure.error.code != "cancelled":
            slicer.util.errorDisplay(str(failure), detailedText=failure.error.details)
        return []
    finally:
        dialog.close()
        child.close()


def _volume(folder: Path, number: int, name: str) -> Any:
    path = str(folder / CASE.format(number=number, part="ct"))
    node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name)
    slicer.mrmlScene.RemoveNode(node.GetStorageNode())  # the file goes: a saved scene must hold the voxels
    return node


def _blood(folder: Path, number: int, volumeNode: Any) -> Any:
    """Add the exact mask of a head's blood as a segmentation beside its CT, and return its node."""
    path = folder / CASE.format(number=number, part="mask")
    node = importSegmentation(path, volumeInWorld(volumeNode, path))
    segment = node.GetSegmentation().GetNthSegment(0)
    segment.SetName(_("Subarachnoid hemorrhage"))
    segment.SetColor(*BLOOD_RED)
    return node
