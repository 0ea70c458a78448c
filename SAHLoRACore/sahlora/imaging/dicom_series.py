"""DICOM series: what a folder or an archive holds, and what speaks for or against each as a head CT."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.dicom_files import Source, files_in
from sahlora.imaging.dicom_headers import ImageHeader, read_header, stack_of
from sahlora.imaging.series_words import (
    has_agent,
    is_projection,
    is_sharp,
    says_bone,
    says_contrast,
)
from sahlora.runtime.progress import SILENT, Progress

MINIMUM_SLICES = 3
SAME_POSITION_MM = 0.01
MOST_PARTS = 4
"""More images than this at each position are perfusion."""
LINES = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder, and what speaks for or against it.

    Several volumes under one UID (two kernels, two phases) are listed as series of their own.

    Parameters
    ----------
    number : int
        Its place in the list, from 1.
    orientation : str
        ``axial``, ``coronal`` or ``sagittal`` (nearest), or ``none`` if it has no image planes.
    slices : int
        Number of different slice positions.
    step, coverage : float
        Median distance between slices and distance from the first to the last, in mm.
    part : str
        What tells it from the other volumes under its UID, e.g. ``kernel H31s``; empty if there are none.
    agent, contrast : bool
        Whether the tag names a contrast agent; whether the tag or the description says so.
    sharp, bone : bool
        Whether the kernel is one for bone or lung; whether the description speaks of them.
    obstacle : str
        Why it can't be read as a volume; empty if it can.
    reason : str
        Why it was or wasn't chosen.
    headers : tuple of ImageHeader
        Its images in order along the slice normal.
    left_out : int
        Images of the series that lie in no plane of the others (another size or orientation, a localizer).
    """

    uid: str
    number: int
    description: str
    modality: str
    orientation: str
    slices: int
    step: float
    coverage: float
    kernel: str
    image_type: str
    part: str
    agent: bool
    contrast: bool
    sharp: bool
    bone: bool
    study: str
    patient: str = field(repr=False)
    obstacle: str
    reason: str = ""
    chosen: bool = False
    headers: tuple[ImageHeader, ...] = field(default=(), repr=False, compare=False)
    left_out: int = 0

    @property
    def title(self) -> str:
        """One line that identifies the series among the others."""
        return f"{self.number}: {self.description or 'no description'} ({self.kind})"

    @property
    def kind(self) -> str:
        """What the series is, without words that somebody typed and that may name the patient."""
        step = f" of {self.step:.3g} mm" if self.step else ""
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        part = f", {self.part}" if self.part and not self.part.startswith("kernel") else ""
        return (
            f"{self.modality or 'no modality'}, {self.orientation}, {self.slices} slices{step}{kernel}{part}"
        )


# ------------------------------------------------------------------------------------------------- list


def list_series(folder: Path, progress: Progress = SILENT) -> list[SeriesInfo]:
    """List the DICOM series in a folder and its subfolders, or in a zip archive; other files are passed over.

    Raises
    ------
    InputError
        ``empty-folder``, ``no-dicom`` or ``unreadable``.
    """
    files = files_in(folder)
    if not files:
        raise InputError("empty-folder", f"{folder} is empty.", "Choose a folder with a DICOM series.")
    listed = series_of(files, progress)
    if not listed:
        raise InputError(
            "no-dicom", f"{folder} holds no DICOM images.", "Choose a folder or archive with a DICOM series."
        )
    return listed


def series_of(files: Iterable[Source], progress: Progress = SILENT) -> list[SeriesInfo]:
    """List the DICOM series that files belong to; reports the first half of the reading."""
    files = list(files)
    groups: dict[str, list[ImageHeader]] = {}
    for done, file in enumerate(files, 1):
        header = read_header(file)
        if header is not None:
            groups.setdefault(header.series, []).append(header)
        progress.update(done / len(files) / 2)
    ordered = sorted(groups.values(), key=lambda h: (h[0].study, h[0].number, h[0].series))
    listed: list[SeriesInfo] = []
    for headers in ordered:
        for part, planes in _parts(_in_order(_main_planes(headers))):
            listed.append(_describe(headers, planes, part, len(listed) + 1))
    return listed


def is_dicom(path: Path) -> bool:
    """Tell whether a file is a DICOM object of a series."""
    return read_header(path) is not None


def _describe(headers: list[ImageHeader], planes: list[ImageHeader], part: str, number: int) -> SeriesInfo:
    first = planes[0] if planes else headers[0]
    positions = distinct(stack_of(planes).positions) if planes else np.zeros(0)
    agent = any(has_agent(h.agent) for h in planes or headers)
    return SeriesInfo(
        uid=first.series,
        number=number,
        description=first.description,
        modality=first.modality,
        orientation=_orientation(first) if planes else "none",
        slices=len(positions),
        step=float(np.median(np.diff(positions))) if len(positions) > 1 else 0.0,
        coverage=float(np.ptp(positions)) if len(positions) else 0.0,
        kernel=first.kernel,
        image_type=first.image_type,
        part=part,
        agent=agent,
        contrast=agent or (not first.agent and says_contrast(first.description)),
        sharp=is_sharp(first.kernel, first.description),
        bone=says_bone(first.description),
        study=first.study,
        patient=first.patient,
        obstacle=_obstacle(headers, planes, len(positions)),
        headers=tuple(planes),
        left_out=len(headers) - len(_main_planes(headers)),
    )


def _obstacle(headers: list[ImageHeader], planes: list[ImageHeader], slices: int) -> str:
    first = planes[0] if planes else headers[0]
    if first.modality != "CT":
        return f"it is {first.modality or 'of unknown modality'}, not CT"
    if first.frames > 1:
        return "it is multi-frame (Enhanced CT), which is not supported"
    if first.is_localizer:
        return "it is a localizer"
    if is_projection(first.description, first.image_type):
        return "it is a projection, localizer or report"
    if first.samples > 1:
        return "it has color images"
    if not planes:
        return "its images lack a size, a pixel spacing or a position in the patient"
    if slices < MINIMUM_SLICES:
        return f"it has only {slices} slice{'s' * (slices != 1)}"
    if len({h.identifiers.get("PatientID", "") for h in planes} - {""}) > 1:
        return "its images are of several patients"
    if len({h.uid or str(h.source) for h in planes}) > 1.5 * slices:
        return "it has several images at the same positions (perfusion or phases)"
    return ""


# ----------------------------------------------------------------------------------------------- planes


def _main_planes(headers: list[ImageHeader]) -> list[ImageHeader]:
    """Keep the largest set of images with one orientation, size and pixel spacing; no localizer."""
    sets: list[list[ImageHeader]] = []
    for header in headers:
        if not header.has_plane or header.is_localizer:
            continue
        home = next((s for s in sets if _same_plane(s[0], header)), None)
        if home is None:
            sets.append([header])
        else:
            home.append(header)
    return max(sets, key=len, default=[])


def _same_plane(a: ImageHeader, b: ImageHeader) -> bool:
    assert a.pixel is not None and a.cosines is not None and b.pixel is not None and b.cosines is not None
    return bool(
        a.shape == b.shape
        and np.allclose(a.pixel, b.pixel, rtol=0, atol=1e-4)
        and np.allclose(a.cosines, b.cosines, rtol=0, atol=2e-3)
    )


def _in_order(headers: list[ImageHeader]) -> list[ImageHeader]:
    """Sort images by position along the slice normal of the first one."""
    if not headers:
        return []
    positions = stack_of(headers).positions
    return [headers[i] for i in np.argsort(positions, kind="stable")]


KINDS: tuple[tuple[str, Callable[[ImageHeader], str]], ...] = (
    ("kernel", lambda h: h.kernel),
    ("contrast agent", lambda h: h.agent),
    ("image type", lambda h: h.image_type),
    ("acquisition", lambda h: h.acquisition),
    ("phase", lambda h: h.phase),
    ("time", lambda h: h.time),
)


def _parts(planes: list[ImageHeader]) -> list[tuple[str, list[ImageHeader]]]:
    """Split what lies mixed under one UID: two kernels or phases over the same part of the head.

    What differs block by block along the head (a kernel for the base of the skull, an acquisition a slice) is
    one volume. So are images at the same positions that nothing tells apart, and more than a few of them.
    """
    for name, kind in KINDS if len(planes) > 1 else ():
        groups: dict[str, list[ImageHeader]] = {}
        for header in planes:
            groups.setdefault(kind(header), []).append(header)
        changes = sum(kind(a) != kind(b) for a, b in pairwise(planes))
        by_itself = name in ("kernel", "contrast agent") or _repeats(planes)
        clean = not any(_repeats(group) for group in groups.values())
        if 1 < len(groups) <= MOST_PARTS and changes >= len(groups) and by_itself and clean:
            return [(f"{name} {value or 'not given'}", group) for value, group in groups.items()]
    return [("", planes)]


def _repeats(planes: list[ImageHeader]) -> bool:
    """Whether most images share their position with another one."""
    return len(planes) > 1.5 * len(distinct(stack_of(planes).positions))


def distinct(positions: np.ndarray) -> np.ndarray:
    """Return those of ascending positions in mm that differ from the one before."""
    return positions[np.concatenate([[True], np.diff(positions) > SAME_POSITION_MM])]


def _orientation(header: ImageHeader) -> str:
    assert header.cosines is not None
    axis = int(np.abs(np.cross(*header.cosines)).argmax())
    return next(name for name, line in LINES.items() if line == axis)
