"""Checks of annotated cases before anything is trained or measured on them: findings with a way out.

An error makes a case useless or a result wrong; a warning is to be looked at; a note is good to know.
The rules and their limits are stated in Docs/cases.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from sahlora.cases.manifest import Case
from sahlora.errors import InputError
from sahlora.imaging.geometry import Grid, milliliters
from sahlora.imaging.head import BONE_HU, TISSUE_HU, head_box
from sahlora.imaging.labels import UNKNOWN, LabelMap, known_label, read_label_map
from sahlora.imaging.pieces import connected_pieces
from sahlora.imaging.volume import Volume, read_volume
from sahlora.runtime.progress import SILENT, Event, Progress

Severity = Literal["error", "warning", "note"]

NOTABLE_PART, WRONG_PART = 0.1, 0.5
"""Parts of a label in bone, air or beyond the image that call for a warning and for an error."""
CUT_PART = 0.02
BLOOD_HU = (45.0, 95.0)
LABEL_HU = (25.0, 100.0)
"""Range of the median HU of a label; chronic or diluted blood and partial volume lie in it too."""
FRAGMENT_ML = 0.02
EVERYWHERE_PART = 0.2
"""No bleed fills so much of an image; masks of a head and inverted labels do."""
MIRROR_GAIN = 0.3
"""A mirrored label must hold this much larger a part of bright voxels, and twice as much."""
AXES_MIRRORED = ("top and bottom", "front and back", "left and right")
SAME_GRID_VOXELS = 0.1


@dataclass(frozen=True)
class Finding:
    """Something to know of a case: how grave, a code for programs, a sentence, and a way out."""

    severity: Severity
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class CheckedCase:
    """What the checks found in one case.

    Parameters
    ----------
    case : Case
    annotated_ml : float, optional
        Volume of the label on the image's voxels; None if the case can't be read.
    median_hu : float, optional
        Median HU under the label; None if nothing is labelled.
    findings : tuple of Finding
        The gravest first.
    image_digest, patient_digest : str
        SHA-256 of the image's voxels and of DICOM's patient ID; empty if unknown. For comparing cases only.
    """

    case: Case
    annotated_ml: float | None = None
    median_hu: float | None = None
    findings: tuple[Finding, ...] = ()
    image_digest: str = ""
    patient_digest: str = ""

    @property
    def severity(self) -> Severity | None:
        """The gravest finding's, or None."""
        return self.findings[0].severity if self.findings else None

    def with_findings(self, findings: Iterable[Finding]) -> CheckedCase:
        """Return this with more findings, the gravest first."""
        order = ("error", "warning", "note")
        ranked = sorted((*self.findings, *findings), key=lambda finding: order.index(finding.severity))
        return replace(self, findings=tuple(ranked))


def check_cases(cases: Sequence[Case], progress: Progress = SILENT) -> list[CheckedCase]:
    """Check every case, and all of them against each other; a case that can't be read is a finding."""
    progress.stage("checking cases")
    checked = []
    for done, case in enumerate(cases, 1):
        checked.append(_check_case(case))
        progress.update(done / len(cases))
    return [one.with_findings(_shared(one, checked)) for one in checked]


def require_sound(checked: Sequence[CheckedCase]) -> None:
    """Refuse cases with errors.

    Raises
    ------
    InputError
        ``bad-cases``, saying which.
    """
    names = [one.case.name for one in checked if one.severity == "error"]
    if names:
        raise InputError(
            "bad-cases",
            f"{len(names)} of {len(checked)} cases have errors: {', '.join(names)}.",
            "Mend them or leave them out; “sahlora cases check” says what is wrong.",
        )


def _check_case(case: Case) -> CheckedCase:
    try:
        case.require_files()
        told: list[Event] = []
        volume = read_volume(case.image, progress=Progress(told.append))
        label_map = read_label_map(case.label, case.segment)
        label = label_map.on(volume)
        expert = case.read_slice_labels(len(volume.hu))
        findings = [
            *_reading(told),
            *_geometry(label_map, label, volume),
            *_values(label_map, label, volume),
            *_places(label == 1, volume),
            *_slices(label, expert),
        ]
    except InputError as error:
        return CheckedCase(case, findings=(Finding("error", error.code, error.message, error.hint),))
    blood = known_label(label, expert) == 1
    patient = volume.identifiers.get("PatientID", "")
    return CheckedCase(
        case,
        milliliters(blood, volume.voxel_ml),
        float(np.median(volume.hu[blood])) if blood.any() else None,
        image_digest=hashlib.sha256(volume.hu.tobytes()).hexdigest(),
        patient_digest=hashlib.sha256(patient.encode()).hexdigest() if patient else "",
    ).with_findings(findings)


def _reading(told: Iterable[Event]) -> Iterator[Finding]:
    """Pass on what reading the image warned of, and which of several series was taken."""
    for event in told:
        if event["event"] == "warning":
            yield Finding("warning", event["code"], event["message"], event["hint"])
        elif event["event"] == "series" and event["others"]:
            yield Finding(
                "note",
                "series-chosen",
                f"Of {len(event['others']) + 1} series, {event['chosen']} was chosen: {event['reason']}.",
                "Keep one series in the folder if another is meant.",
            )


# ------------------------------------------------------------------------------------------------ geometry


def _geometry(label_map: LabelMap, label: np.ndarray, volume: Volume) -> Iterator[Finding]:
    """Compare the label's grid with the image's, and the volume before with that after resampling."""
    if (label_map.values == 1).any() and not (label == 1).any():
        yield Finding(
            "error",
            "label-elsewhere",
            "Nothing of what the label outlines lies on the image.",
            "Choose the label of this image, or correct its origin and direction.",
        )
    if label_map.grid is None:  # planes of a DICOM object, laid on the image's slices
        return
    shift = _shift(label_map.grid, volume.grid)
    if shift is None:
        yield Finding(
            "note",
            "other-grid",
            f"The label has {_shape(label_map.grid)}, the image {_shape(volume.grid)}: it is resampled.",
            "Outlines become as coarse as the coarser grid.",
        )
    elif shift > 0:
        yield Finding(
            "warning",
            "shifted-label",
            f"The label has the image's voxels but lies {shift:.1f} mm away.",
            "Save it again with the image's origin, unless the shift is meant.",
        )
    drawn = np.count_nonzero(label_map.values == 1) * float(np.prod(label_map.grid.spacing)) / 1000
    lost = 1 - milliliters(label == 1, volume.voxel_ml) / drawn if drawn else 0.0
    if (label == 1).any() and shift != 0 and lost > NOTABLE_PART:
        yield Finding(
            "warning",
            "label-cut",
            f"{lost:.0%} of the label's {drawn:.2f} mL are lost on the image's grid.",
            "Check that the label belongs to this image.",
        )


def _shift(label: Grid, image: Grid) -> float | None:
    """Distance in mm of two grids with the same voxels, 0 if they are one, None if they are unlike."""
    ours, theirs = _corners(label), _corners(image)
    counts = [tuple(grid.size[2 - axis] for axis in grid.axes.order) for grid in (label, image)]
    offsets = ours - theirs
    tolerance = SAME_GRID_VOXELS * min(image.spacing)
    if counts[0] != counts[1] or np.abs(offsets - offsets[0]).max() > tolerance:
        return None
    shift = float(np.linalg.norm(offsets[0]))
    return shift if shift > tolerance else 0.0


def _corners(grid: Grid) -> np.ndarray:
    """(4, 3) LPS position of the first voxel in canonical order and of the last along each axis."""
    corners = np.zeros((4, 3))
    for axis, stored in enumerate(grid.axes.order):
        ends = [0, grid.size[2 - stored] - 1]
        first, last = ends[::-1] if axis in grid.axes.flipped else ends
        corners[:, 2 - stored] = first
        corners[axis + 1, 2 - stored] = last
    direction = np.reshape(grid.direction, (3, 3))
    return np.asarray(grid.origin) + (corners * grid.spacing) @ direction.T


def _shape(grid: Grid) -> str:
    size = " x ".join(map(str, grid.size))
    return f"{size} voxels of {' x '.join(f'{mm:.3g}' for mm in grid.spacing)} mm"


# -------------------------------------------------------------------------------------------------- values


def _values(label_map: LabelMap, label: np.ndarray, volume: Volume) -> Iterator[Finding]:
    """Look at what the label holds."""
    if label_map.joined:
        yield Finding(
            "note",
            "several-values",
            f"The {label_map.joined} all count as hemorrhage.",
            "Name one in the manifest's column “segment” if only that one is.",
        )
    if (label == UNKNOWN).any():
        yield Finding(
            "note",
            "unknown-voxels",
            f"{milliliters(label == UNKNOWN, volume.voxel_ml):.2f} mL are marked unknown (255).",
            "They are neither trained on nor measured.",
        )
    blood = label == 1
    if (part := float(blood.mean())) > EVERYWHERE_PART:
        yield Finding(
            "warning",
            "label-everywhere",
            f"{part:.0%} of the image is labelled as blood, {milliliters(blood, volume.voxel_ml):.0f} mL.",
            "Check which value means blood; a mask of the head or brain is no label.",
        )
    if not (label_map.values == 1).any():
        yield Finding(
            "warning",
            "empty-label",
            "The label outlines nothing.",
            "Right for a scan without blood; else draw it or leave the case out.",
        )
    pieces, count = connected_pieces(blood)
    sizes = ndimage.sum_labels(blood * volume.voxel_ml[:, None, None], pieces, range(1, count + 1))
    tiny = sizes[sizes < FRAGMENT_ML]
    if 0 < tiny.size < sizes.size or tiny.size > 1:
        yield Finding(
            "note",
            "tiny-fragments",
            f"{tiny.size} of {sizes.size} pieces are below {FRAGMENT_ML} mL, {tiny.sum():.3f} mL in all.",
            "Remove them if they are slips of the brush.",
        )


def _slices(label: np.ndarray, expert: np.ndarray | None) -> Iterator[Finding]:
    """Compare the label with an expert's view of whole slices."""
    if expert is None:
        return
    labelled = (label == 1).any(axis=(1, 2))
    if wrong := int((labelled & ~expert).sum()):
        yield Finding(
            "warning",
            "slices-disagree",
            f"{wrong} slices are labelled that the table of slices calls free of blood.",
            "The table is believed; correct whichever is wrong.",
        )
    if missing := int((expert & ~labelled).sum()):
        yield Finding(
            "note",
            "unlabelled-slices",
            f"{missing} slices with blood have no label.",
            "They count as unknown; draw them to use them.",
        )


# -------------------------------------------------------------------------------------------------- places


def _places(blood: np.ndarray, volume: Volume) -> Iterator[Finding]:
    """Look at the voxels under the label: inside the head, of blood's density, on the right side."""
    if not blood.any():
        return
    box = head_box(volume.hu, volume.spacing)
    outside = 1 - np.count_nonzero(blood[box]) / np.count_nonzero(blood)
    if outside > CUT_PART:
        yield Finding(
            "error" if outside > WRONG_PART else "warning",
            "label-outside",
            f"{outside:.0%} of the label lies outside the head.",
            "Check that the label belongs to this image and is not mirrored or shifted.",
        )
    hu = volume.hu[blood]
    for code, tissue, part in (
        ("label-on-bone", "bone", float((hu > BONE_HU).mean())),
        ("label-on-air", "air", float((hu < TISSUE_HU).mean())),
    ):
        if part > NOTABLE_PART:
            yield Finding(
                "error" if part > WRONG_PART else "warning",
                code,
                f"{part:.0%} of the label is {tissue}; its median is {np.median(hu):.0f} HU.",
                "Check the label's position, or correct its outline.",
            )
    if not LABEL_HU[0] <= np.median(hu) <= LABEL_HU[1]:
        yield Finding(
            "warning",
            "unlikely-density",
            f"The label's median is {np.median(hu):.0f} HU, unlike fresh blood (about 50 to 90 HU).",
            "Check the label's position and what it outlines.",
        )
    yield from _mirrored(blood, volume.hu)


def _mirrored(blood: np.ndarray, hu: np.ndarray) -> Iterator[Finding]:
    """Suspect a label that, flipped along one axis of the array, covers far more voxels as dense as blood."""
    bright = (hu >= BLOOD_HU[0]) & (hu <= BLOOD_HU[1])
    here = float(bright[blood].mean())
    parts = [float(bright[np.flip(blood, axis)].mean()) for axis in range(3)]
    best = int(np.argmax(parts))
    if parts[best] > max(here + MIRROR_GAIN, 2 * here):
        yield Finding(
            "error",
            "mirrored-label",
            f"With {AXES_MIRRORED[best]} exchanged, {parts[best]:.0%} of the label is as dense as blood, "
            f"as it is {here:.0%}.",
            "The label seems mirrored: save it again with the image's direction.",
        )


# ------------------------------------------------------------------------------------------- between cases


def _shared(one: CheckedCase, checked: Sequence[CheckedCase]) -> Iterator[Finding]:
    """Compare a case with the others: one scan twice, one patient under two names or on both sides."""
    others = [other for other in checked if other is not one]
    if twice := [o for o in others if one.image_digest and o.image_digest == one.image_digest]:
        yield Finding(
            "error",
            "same-image",
            f"{_names(twice)} has the same image.",
            "Keep one of them, or a scan counts twice and may be trained and tested on.",
        )
    same_patient = [o for o in others if o.case.person == one.case.person]
    if split := [o for o in same_patient if o.case.held_out != one.case.held_out]:
        yield Finding(
            "error",
            "split-patient",
            f"{_names(split)} is of the same patient, but only one of them is held out.",
            "Hold out all scans of a patient or none.",
        )
    elif same_patient:
        yield Finding(
            "note",
            "same-patient",
            f"{_names(same_patient)} is of the same patient.",
            "They stay together in folds.",
        )
    hidden = [
        o
        for o in others
        if one.patient_digest and o.patient_digest == one.patient_digest and o not in same_patient
    ]
    if hidden:
        yield Finding(
            "warning",
            "same-dicom-patient",
            f"{_names(hidden)} has the same patient ID in DICOM but another patient in the manifest.",
            "Give scans of one patient the same name in the column “patient”; ignore this if the IDs were "
            "all replaced by one.",
        )


def _names(cases: Sequence[CheckedCase]) -> str:
    return ", ".join(f"“{one.case.name}”" for one in cases)
