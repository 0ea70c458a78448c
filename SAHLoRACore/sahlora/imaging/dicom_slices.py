"""The slices of a DICOM series in Hounsfield units, in order and at their true positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.dicom_files import Source, is_zip, name_of
from sahlora.imaging.dicom_headers import ImageHeader, read_header, stack_of
from sahlora.imaging.dicom_pixels import read_plane
from sahlora.imaging.dicom_series import (
    MINIMUM_SLICES,
    SAME_POSITION_MM,
    SeriesInfo,
    list_series,
    series_of,
)
from sahlora.imaging.geometry import EVEN_TOLERANCE_MM, SliceStack
from sahlora.imaging.series_choice import choose_series, tell_doubts
from sahlora.runtime.progress import SILENT, Progress

INDEX_NAME = "DICOMDIR"
"""The table of contents of a CD stands for the folder it lies in."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """The slices of a chosen series in order, and where they lie."""

    stack: SliceStack
    files: tuple[Source, ...]
    planes: tuple[np.ndarray, ...]
    notes: tuple[str, ...]
    identifiers: dict[str, str]
    contrast: bool


def read_series(path: Path, series: str | None = None, progress: Progress = SILENT) -> Acquisition:
    """Read the slices of one series of a folder or zip archive, or of the series that a file belongs to.

    Raises
    ------
    InputError
        Those of `list_series` and `choose_series`; ``unreadable``, ``undecodable``, ``not-3d``,
        ``bad-dicom-value``, ``conflicting-slices``, ``too-few-slices``.
    """
    best, *others = choose_series(*_listed(path, series, progress))
    notes = _told(best, others, progress)
    planes = []
    for done, header in enumerate(best.headers, 1):
        planes.append((header, read_plane(header.source)))
        progress.update(0.5 + done / len(best.headers) / 2)
    kept, dropped = _without_copies(planes)
    if len(kept) < MINIMUM_SLICES:
        raise InputError("too-few-slices", f"The series has only {len(kept)} slices.", "A head CT is needed.")
    stack = stack_of([h for h, _ in kept])
    return Acquisition(
        stack,
        tuple(h.source for h, _ in kept),
        tuple(plane for _, plane in kept),
        (*notes, *dropped, *_geometry_notes(stack)),
        kept[0][0].identifiers,
        best.contrast,
    )


def stands_for_dicom(path: Path) -> bool:
    """Whether a file is a DICOM object, a DICOMDIR or a zip archive."""
    return path.name.upper() == INDEX_NAME or is_zip(path) or read_header(path) is not None


def _listed(path: Path, series: str | None, progress: Progress) -> tuple[list[SeriesInfo], str | None]:
    """List the series that a path stands for, and which of them is asked for."""
    if path.is_dir() or is_zip(path):
        return list_series(path, progress), series
    if path.name.upper() == INDEX_NAME:
        return list_series(path.parent, progress), series
    header = read_header(path)
    if header is None:
        raise InputError(
            "unreadable", f"{path} can't be read as DICOM.", "It may be damaged or of another format."
        )
    listed = series_of(sorted(p for p in path.parent.iterdir() if p.is_file()), progress)
    mine = [s for s in listed if any(h.source == path for h in s.headers)]
    return listed, series or (str(mine[0].number) if mine else header.series)


def _told(best: SeriesInfo, others: list[SeriesInfo], progress: Progress) -> list[str]:
    """Say which series was chosen and what is doubtful about it; return notes without words people typed."""
    notes = []
    progress.emit("series", chosen=best.title, others=[s.title for s in others], reason=best.reason)
    if others:
        notes.append(
            f"Chosen of {len(others) + 1} series: number {best.number} ({best.kind}), {best.reason}."
        )
        notes += [f"Not chosen: number {s.number} ({s.kind}): {s.reason}." for s in others]

    def warning(code: str, message: str, hint: str) -> None:
        progress.warning(code, message, hint)
        notes.append(message)

    tell_doubts(best, others, warning)
    if best.left_out:
        images = "1 image" if best.left_out == 1 else f"{best.left_out} images"
        notes.append(f"{images} of another size or orientation, or without position, left out.")
    return notes


Plane = tuple[ImageHeader, np.ndarray]


def _without_copies(planes: list[Plane]) -> tuple[list[Plane], list[str]]:
    """Drop slices that repeat the one before at the same position; differing ones are an error."""
    positions = stack_of([header for header, _ in planes]).positions
    kept: list[Plane] = []
    notes = []
    last = -np.inf
    for plane, position in zip(planes, positions, strict=True):
        if position - last > SAME_POSITION_MM:
            kept.append(plane)
            last = float(position)
            continue
        if not _is_copy(plane, kept[-1]):
            name, previous = (name_of(header.source) for header, _ in (plane, kept[-1]))
            raise InputError(
                "conflicting-slices",
                f"{previous} and {name} are different images of the same position.",
                "Keep one acquisition in the folder.",
            )
        notes.append(f"Slice {len(kept)} is there twice; the copy was left out.")
    return kept, notes


def _is_copy(one: Plane, other: Plane) -> bool:
    assert one[0].position is not None and other[0].position is not None
    apart = one[0].position - other[0].position
    return bool(np.linalg.norm(apart) < SAME_POSITION_MM and np.array_equal(one[1], other[1]))


def _geometry_notes(stack: SliceStack) -> list[str]:
    if stack.is_even:
        return []
    notes, steps = [], stack.steps
    usual = float(np.median(steps))
    if stack.tilt_degrees > 0.1:
        notes.append(f"The gantry was tilted by {stack.tilt_degrees:.1f} degrees.")
    if np.ptp(steps) > EVEN_TOLERANCE_MM:
        notes.append(
            f"The slice steps are uneven: {steps.min():.2f} to {steps.max():.2f} mm, usually {usual:.2f} mm."
        )
    for k, step in enumerate(steps):
        times = round(step / usual)
        beside = steps[max(0, k - 1) : k + 2]
        if times >= 2 and abs(step - times * usual) < 0.1 * usual and (beside > 1.1 * usual).sum() == 1:
            notes.append(
                f"From slice {k + 1} to {k + 2} the step is {step:.1f} mm, {times} times the usual: "
                f"{times - 1} slice{'s' * (times > 2)} may be missing."
            )
    return notes
