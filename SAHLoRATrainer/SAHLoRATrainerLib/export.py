"""Cases of the scene as files, each written once: the child reads files and never the scene.

Nothing in them tells whose they are: voxels and geometry alone, under names made of their content.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from SAHLoRACoreLib.scene import segmentOn, volumeInWorld, writeImage
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.runs import RunCase, casesFolder

PIECE_BYTES = 2**25  # hashed within some hundredths of a second
CASE = (
    "SAHLoRA.case"  # begins the names of attributes that tell which files a node was written to or read from
)
SAME_PLACE_MM = 0.01

Exporting = Generator[float, None, tuple[RunCase, ...]]


class BadCaseError(ValueError):
    """A case can't be written; `index` tells which of those given."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


def exportCases(cases: Sequence[SceneCase | FileCase]) -> Exporting:
    """Write the cases of the scene that are not written yet, in steps short enough for the event loop.

    Yields the fraction that is done; returns the cases as a run knows them. Cases in files stay where they
    are.

    Raises
    ------
    BadCaseError
        If a case can't be used; the message says why.
    OSError, RuntimeError
        If it can't be written.
    """
    patients: dict[str, str] = {}
    exported = []
    for number, case in enumerate(cases, 1):
        name = f"case-{number:03d}"
        if isinstance(case, FileCase):
            image, label, segment = case.image, case.label, case.segment
            slices = str(case.slices or "")
        else:
            try:
                folder = yield from _exportCase(case, (number - 1) / len(cases))
            except ValueError as failure:
                raise BadCaseError(number - 1, str(failure)) from failure
            image, label, segment, slices = folder / "ct.nrrd", folder / "label.nrrd", "", ""
        patient = patients.setdefault(case.patient or name, f"patient-{len(patients) + 1:03d}")
        exported.append(RunCase(name, str(image), str(label), segment, slices, patient, case.heldOut))
        yield number / len(cases)
    return tuple(exported)


def _exportCase(case: SceneCase, done: float) -> Generator[float, None, Path]:
    """Return the folder of a case; what is there already is not written again."""
    for node in (case.volumeNode, case.segmentationNode):
        if not slicer.mrmlScene.IsNodePresent(node):
            raise ValueError(_("A case was removed from the scene while the cases were written."))
    image = volumeInWorld(case.volumeNode, casesFolder()).image
    label = segmentOn(case.segmentationNode, case.segmentID, image)
    yield done
    key = yield from contentKey(image, label, done=done)
    folder = casesFolder() / key
    case.volumeNode.SetAttribute(caseAttribute(folder / "ct.nrrd"), placeOf(image))
    yield done
    if folder.exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        writeImage(image, unfinished / "ct.nrrd")
        yield done
        writeImage(label, unfinished / "label.nrrd")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def caseAttribute(path: Path | str) -> str:
    """Return the name of the attribute of a node that was written to, or read from, a file.

    A CT may have several: it is written for each of its segments, and again when it changed.
    """
    return f"{CASE}.{hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()}"


def placeOf(volumeNode: Any) -> str:
    """Return where a volume lies in the world, as text: the matrix from its voxels."""
    grid = vtk.vtkMatrix4x4()
    volumeInWorld(volumeNode, Path()).image.GetIJKToRASMatrix(grid)
    return json.dumps(slicer.util.arrayFromVTKMatrix(grid).tolist())


def isAt(volumeNode: Any, place: str) -> bool:
    """Tell whether a volume lies at a place that `placeOf` told."""
    now, then = (np.array(json.loads(text)) for text in (placeOf(volumeNode), place))
    return bool(np.abs(now - then).max() < SAME_PLACE_MM)


def contentKey(*images: Any, done: float) -> Generator[float, None, str]:
    """Return a name made of the voxels and geometry of images; yields `done` after each piece of them."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        grid = vtk.vtkMatrix4x4()
        image.GetIJKToRASMatrix(grid)
        digest.update(repr(slicer.util.arrayFromVTKMatrix(grid).tolist()).encode())
        digest.update(repr(image.GetImageData().GetDimensions()).encode())
        voxels = memoryview(vtk_to_numpy(image.GetImageData().GetPointData().GetScalars())).cast("B")
        for start in range(0, len(voxels), PIECE_BYTES):
            digest.update(voxels[start : start + PIECE_BYTES])
            yield done
    return digest.hexdigest()
