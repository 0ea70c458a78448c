"""A simulated head with subarachnoid blood in Slicer's Sample Data, made without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildFailedError, ChildProcess, commandPrefix

NAME = "SAHLoRASimulatedSAH"
CASE = "sim-0001_ct.nii.gz"  # what the command calls the case of seed 1


def register() -> None:
    """Offer the head in the module Sample Data; call once all modules are there."""
    try:
        from SampleData import SampleDataLogic
    except ImportError:  # Slicer can be built without
        return
    SampleDataLogic.registerCustomSampleDataSource(
        category="SAHLoRA",
        sampleName=NAME,
        uris="sahlora:simulate",  # never opened: there is a downloader
        fileNames=CASE,
        nodeNames=_("SAHLoRA simulated SAH"),
        customDownloader=download,
    )


def download(_source: Any, command: Sequence[str] | None = None) -> list:
    """Simulate the head in a child, add it to the scene, and return its node in a list, as Sample Data wants.

    Nothing is returned if it failed or was cancelled; a message then said why.
    """
    child = ChildProcess([*(command or commandPrefix()), "simulate", "simulated", "--progress", "json"])
    dialog = slicer.util.createProgressDialog(
        labelText=_("Simulating a head with subarachnoid blood…"), maximum=0
    )
    try:
        dialog.connect("canceled()", child.cancel)
        child.start()
        child.wait()
        path = str(child.folder / "simulated" / CASE)
        return [slicer.modules.volumes.logic().AddArchetypeVolume(path, _("SAHLoRA simulated SAH"))]
    except ChildFailedError as failure:
        if failure.error.code != "cancelled":
            slicer.util.errorDisplay(str(failure), detailedText=failure.error.details)
        return []
    finally:
        dialog.close()
        child.close()
