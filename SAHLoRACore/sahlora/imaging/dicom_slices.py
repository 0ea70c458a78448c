"""The slices of a DICOM series in Hounsfield units, in order and at their true positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from sahlora.errors import InputError
from sahlora.imaging.dicom_series import (
    MINIMUM_SLICES,
    SAME_POSITION_MM,
    choose_series,
    list_series,
    read_header,
    series_of,
    stack_of,
)
from sahlora.imaging.geometry import EVEN_TOLERANCE_MM, OUTSIDE_HU, SliceStack
from sahlora.runtime.progress import SILENT, Progress

IDENTIFIERS = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber")
LOWEST_TISSUE, HIGHEST_TISSUE = -1000, 3071
"""A padding value between these HU is a wrong tag, since real voxels have it too."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """The slices of a chosen series in order, and where they lie."""

    stack: SliceStack
    files: tuple[Path, ...]
    planes: tuple[np.ndarray, ...]
    notes: tuple[str, ...]
    identifiers: dict[str, str]
    contrast: bool


def read_series(path: Path, series: str | None = None, progress: Progress = SILENT) -> Acquisition:
    """Read the slices of one series of a folder, or of the series that a file belongs to.

    Raises
    ------
    InputError
        Those of `list_series` and `choose_series`; ``unreadable``, ``undecodable``, ``not-3d``,
        ``conflicting-slices``, ``too-few-slices``.
    """
    if path.is_dir():
        listed = list_series(path, progress)
    else:
        header = read_header(path)
        if header is None:
            raise InputError(
                "unreadable", f"{path} can't be read as DICOM.", "It may be damaged or of another format."
            )
        listed = series_of(sorted(p for p in path.parent.iterdir() if p.is_file()), progress)
        series = series or str(header.SeriesInstanceUID)
    best, *others = choose_series(listed, series)
    notes = []
    if others:
        notes.append(
            f"Chosen of {len(others) + 1} series: number {best.number} ({best.kind}), {best.reason}."
        )
        notes += [f"Not chosen: number {s.number} ({s.kind}): {s.reason}." for s in others]
        progress.emit("series", chosen=best.title, others=[s.title for s in others])
    if best.left_out:
        notes.append(f"{best.left_out} images of another size or orientation were left out.")
    planes = []
    for done, header in enumerate(best.headers, 1):
        planes.append((header, _read_plane(Path(str(header.filename)))))
        progress.update(0.5 + done / len(best.headers) / 2)
    kept, dropped = _without_copies(planes)
    notes += dropped
    if len(kept) < MINIMUM_SLICES:
        raise InputError("too-few-slices", f"The series has only {len(kept)} slices.", "A head CT is needed.")
    stack = stack_of([h for h, _ in kept])
    first = kept[0][0]
    return Acquisition(
        stack,
        tuple(Path(str(h.filename)) for h, _ in kept),
        tuple(plane for _, plane in kept),
        (*notes, *_geometry_notes(stack)),
        {name: str(first.get(name)) for name in IDENTIFIERS if first.get(name)},
        best.contrast,
    )


def _read_plane(path: Path) -> np.ndarray:
    """Read one slice as int16 HU; padding becomes -1024."""
    try:
        image = pydicom.dcmread(path)
        stored = image.pixel_array
    except NotImplementedError as error:
        raise _undecodable(path) from error
    except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, RuntimeError) as error:
        if "missing dependencies" in str(error):
            raise _undecodable(path) from error
        raise InputError(
            "unreadable", f"{path} can't be read: {error}.", "It may be damaged: export it again."
        ) from error
    if stored.ndim != 2:
        raise InputError("not-3d", f"{path} is not a plain gray image.", "Use the original CT series.")
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    hu = stored * np.float32(slope) + np.float32(intercept)
    padding = image.get("PixelPaddingValue")
    if padding is not None:
        value = float(np.asarray(int(padding)).astype(stored.dtype)) * slope + intercept
        if not LOWEST_TISSUE <= value <= HIGHEST_TISSUE:
            hu[hu == value] = OUTSIDE_HU
    return np.clip(np.rint(hu), -32768, 32767).astype(np.int16)


def _undecodable(path: Path) -> InputError:
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
    return InputError(
        "undecodable",
        f"{path} is compressed as {syntax} and can't be decoded.",
        "Install python-gdcm, or export the series uncompressed.",
    )


Plane = tuple[pydicom.Dataset, np.ndarray]


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
            name, previous = (Path(str(header.filename)).name for header, _ in (plane, kept[-1]))
            raise InputError(
                "conflicting-slices",
                f"{previous} and {name} are different images of the same position.",
                "Keep one acquisition in the folder.",
            )
        notes.append(f"Slice {len(kept)} is there twice; the copy was left out.")
    return kept, notes


def _is_copy(one: Plane, other: Plane) -> bool:
    apart = np.subtract(one[0].ImagePositionPatient, other[0].ImagePositionPatient)
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
