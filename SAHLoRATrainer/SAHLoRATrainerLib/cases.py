"""Annotated cases, from the scene or from files, and their table, which is saved with the scene."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

VOLUME_ROLE, SEGMENTATION_ROLE = "case{key}.volume", "case{key}.segmentation"
UNCHECKED, FINE, DOUBTFUL, WRONG = "", "fine", "warning", "error"


@dataclass(frozen=True)
class SceneCase:
    """A CT in the scene and the segment that outlines its blood.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
    segmentationNode : vtkMRMLSegmentationNode
        On any grid, under any transform.
    segmentID : str
        Which segment is the blood.
    heldOut : bool
        Not trained on; tells whether the adapter helps.
    patient : str
        Scans of one patient have the same text, whatever it is; empty: a patient of its own.
    """

    volumeNode: Any
    segmentationNode: Any
    segmentID: str
    heldOut: bool = False
    patient: str = ""


@dataclass(frozen=True)
class FileCase:
    """A CT in a file (or folder with DICOM) and its label map, as a list of cases names them.

    Parameters
    ----------
    image, label : Path
    segment : str
        Which segment is the blood; empty: the only one.
    slices : Path, optional
        Table of what an expert says of whole slices.
    heldOut, patient
        As of `SceneCase`.
    """

    image: Path
    label: Path
    segment: str = ""
    slices: Path | None = None
    heldOut: bool = False
    patient: str = ""


@dataclass(frozen=True)
class CaseRow:
    """A row of the table.

    Parameters
    ----------
    key : str
        Names the row's node references in the scene.
    name : str
        The CT's name in the scene, or the list's name of a case in files. It is shown here only: the table
        doesn't keep the former, and neither is written into an exported case, a run or an adapter.
    segment : str
        ID of the segment in the scene, or its name or value in a file.
    image, label, slices : str
        Paths of a case in files; empty for a case in the scene.
    patient : str
        See `SceneCase`; a hash, from which nobody reads who that is.
    enabled, heldOut : bool
    ml : float, optional
        Annotated volume.
    status, message : str
        One of the four states above, and what the check said.
    """

    key: str
    name: str
    segment: str
    image: str = ""
    label: str = ""
    slices: str = ""
    patient: str = ""
    enabled: bool = True
    heldOut: bool = False
    ml: float | None = None
    status: str = UNCHECKED
    message: str = ""

    @property
    def isInFiles(self) -> bool:
        """Tell whether the case is in files, not in the scene."""
        return bool(self.image)


class CaseTable:
    """The table of cases: plain values as JSON in the parameter node, nodes as its node references.

    A saved scene gets no name or identifier of a patient from it, but for what a case in files is found by.

    Parameters
    ----------
    parameters : SAHLoRATrainerParameterNode
    """

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters

    def rows(self) -> list[CaseRow]:
        """Return all rows in their order."""
        try:
            rows = [CaseRow(**row) for row in json.loads(self._parameters.cases)]
        except (ValueError, TypeError):  # written by another version
            return []
        return [row if row.isInFiles else replace(row, name=self._nameInScene(row)) for row in rows]

    def keys(self) -> list[str]:
        """Return the keys of all rows in their order."""
        return [row.key for row in self.rows()]

    def row(self, key: str) -> CaseRow | None:
        """Return the row of a key, or None."""
        return next((row for row in self.rows() if row.key == key), None)

    def addNodes(self, volumeNode: Any, segmentationNode: Any, segmentID: str) -> CaseRow:
        """Add a case of the scene; the same CT and segment twice is one row.

        Raises
        ------
        ValueError
            If a node is missing or the segmentation has no such segment.
        """
        if volumeNode is None:
            raise ValueError(_("Choose a head CT."))
        segment = segmentationNode and segmentationNode.GetSegmentation().GetSegment(segmentID)
        if segment is None:
            raise ValueError(_("Choose the segment that outlines the blood."))
        for row in self.rows():
            if self._nodes(row) == (volumeNode, segmentationNode) and row.segment == segmentID:
                return row
        patient = _hash(patientOf(volumeNode))
        row = CaseRow(self._newKey(), volumeNode.GetName(), segmentID, patient=patient)
        node = self._parameters.parameterNode
        node.SetNodeReferenceID(VOLUME_ROLE.format(key=row.key), volumeNode.GetID())
        node.SetNodeReferenceID(SEGMENTATION_ROLE.format(key=row.key), segmentationNode.GetID())
        self._store([*self.rows(), row])
        return row

    def addFiles(self, path: Path) -> list[CaseRow]:
        """Add the cases of a list (CSV, JSON) or folder; nothing is read yet but the list.

        Raises
        ------
        sahlora.errors.InputError
            If the list can't be read.
        """
        from sahlora.cases.manifest import list_cases  # needs NumPy alone

        rows = self.rows()
        known = {(row.image, row.label) for row in rows}
        added = []
        for case in list_cases(path):
            if (str(case.image), str(case.label)) in known:
                continue
            row = CaseRow(
                self._newKey(len(added)),
                case.name,
                case.segment or "",
                str(case.image),
                str(case.label),
                str(case.slices or ""),
                _hash(case.patient if case.patient != case.name else ""),
                heldOut=case.held_out,
            )
            added.append(row)
        self._store([*rows, *added])
        return added

    def change(self, key: str, **changes: Any) -> None:
        """Change values of a row."""
        self.changeAll({key: changes})

    def changeAll(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change values of several rows at once."""
        self._store([replace(row, **changes.get(row.key, {})) for row in self.rows()])

    def remove(self, key: str) -> None:
        """Take a row off; nodes and files stay."""
        for role in (VOLUME_ROLE, SEGMENTATION_ROLE):
            self._parameters.parameterNode.SetNodeReferenceID(role.format(key=key), None)
        self._store([row for row in self.rows() if row.key != key])

    def nodes(self, key: str) -> tuple[Any, Any]:
        """Return CT and segmentation of a row; None where one is not in the scene (any more)."""
        row = self.row(key)
        return self._nodes(row) if row is not None else (None, None)

    def case(self, row: CaseRow) -> SceneCase | FileCase:
        """Return what a row stands for; raise ValueError if it is no longer there."""
        if row.isInFiles:
            slices = Path(row.slices) if row.slices else None
            paths = Path(row.image), Path(row.label)
            return FileCase(*paths, row.segment, slices, row.heldOut, row.patient)
        volumeNode, segmentationNode = self._nodes(row)
        if volumeNode is None:
            raise ValueError(_("{case}: the CT was removed from the scene.").format(case=row.name))
        if segmentationNode is None or segmentationNode.GetSegmentation().GetSegment(row.segment) is None:
            raise ValueError(_("{case}: the segment was removed from the scene.").format(case=row.name))
        return SceneCase(volumeNode, segmentationNode, row.segment, row.heldOut, row.patient)

    def enabledRows(self) -> list[CaseRow]:
        """Return the rows that are used."""
        return [row for row in self.rows() if row.enabled]

    def holdOutFifth(self) -> None:
        """Mark a fifth of the patients with blood as held out, at least one, and unmark the others."""
        patients = list(dict.fromkeys(_patientKey(row) for row in self.enabledRows() if row.ml != 0))
        chosen = set(patients[::5]) if len(patients) > 1 else set()
        self._store([replace(row, heldOut=_patientKey(row) in chosen) for row in self.rows()])

    # ------------------------------------------------------------------------------------------- parts

    def _nodes(self, row: CaseRow) -> tuple[Any, Any]:
        node = self._parameters.parameterNode
        volume, segmentation = (
            node.GetNodeReference(role.format(key=row.key)) for role in (VOLUME_ROLE, SEGMENTATION_ROLE)
        )
        return volume, segmentation

    def _nameInScene(self, row: CaseRow) -> str:
        volume, _segmentation = self._nodes(row)
        return volume.GetName() if volume is not None else _("case {number}").format(number=row.key)

    def _newKey(self, beyond: int = 0) -> str:
        return str(max((int(row.key) for row in self.rows()), default=0) + 1 + beyond)

    def _store(self, rows: Sequence[CaseRow]) -> None:
        kept = [row if row.isInFiles else replace(row, name="") for row in rows]
        text = json.dumps([asdict(row) for row in kept], ensure_ascii=False)
        if text != self._parameters.cases:
            self._parameters.cases = text


def obstacle(rows: Sequence[CaseRow], present: Callable[[CaseRow], bool]) -> str:
    """Return why these cases can't be trained on, or an empty string.

    Parameters
    ----------
    rows : sequence of CaseRow
        Those that are used.
    present : callable
        Tells whether the CT and segment of a row are still in the scene.
    """
    gone = [row.name for row in rows if not present(row)]
    wrong = [row.name for row in rows if row.status == WRONG]
    sides = [{_patientKey(row) for row in rows if row.heldOut is side} for side in (False, True)]
    if not rows:
        return _("Add cases to train on.")
    if len(rows) == 1:
        return _("One case can't both be trained on and tell whether the adapter helps. Add another.")
    if gone:
        return _("No longer in the scene: {names}. Remove or untick them.").format(names=", ".join(gone))
    if wrong:
        return _("Mend or untick the cases with an error: {names}.").format(names=", ".join(wrong))
    if not sides[1]:
        return _("No case is held out to tell whether the adapter helps. Mark at least one.")
    if not sides[0]:
        return _("All cases are held out. Leave at least one to train on.")
    if sides[0] & sides[1]:
        return _("Scans of one patient are both trained on and held out. Hold out all or none of them.")
    return ""


def patientOf(volumeNode: Any) -> str:
    """Return what stands for the patient of a CT: the patient's item in the subject hierarchy, if any."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volumeNode)
    patient = hierarchy.GetItemAncestorAtLevel(item, "Patient") if item else 0
    return hierarchy.GetItemUID(patient, "DICOM") or hierarchy.GetItemName(patient) if patient else ""


def _hash(patient: str) -> str:
    """Return what is the same for scans of one patient, and tells nothing of whom; empty stays empty."""
    return hashlib.blake2b(patient.encode(), digest_size=8).hexdigest() if patient else ""


def _patientKey(row: CaseRow) -> str:
    return row.patient or f"case {row.key}"
