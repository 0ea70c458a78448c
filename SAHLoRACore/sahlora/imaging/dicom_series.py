"""DICOM series: what a folder holds, which series to take and why."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from sahlora.errors import InputError
from sahlora.imaging.geometry import SliceStack
from sahlora.runtime.progress import SILENT, Progress

HEADER = [
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "Modality", "ImageType", "SamplesPerPixel", "ConvolutionKernel", "ContrastBolusAgent", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber",
]  # fmt: skip

MINIMUM_SLICES = 3
HEAD_COVERAGE_MM = 80.0
ROUTINE_STEP_MM = 5.0
SAME_POSITION_MM = 0.01

PROJECTION = re.compile(
    r"\bm(in)?ip\b|screen ?s(ave|hot)|dose (report|info)|patient protocol|scout|topogram|localizer", re.I
)
CONTRAST = re.compile(
    r"\bct[apv]\b|angio|contrast|perfusion|arterial|venous|\+ ?c\b|\bc\+|\bkm\b|kontrast", re.I
)
NO_CONTRAST = re.compile(
    r"\b(non?|w/?o|without|ohne|sans|sin)[ -]*(iv[ -]*)?(contrast\w*|kontrast\w*|km|c)\b",
    re.I,
)
BONE = re.compile(r"bone|lung|edge|\bos\b|knochen|hueso", re.I)
BONE_KERNEL = re.compile(r"[A-Z][a-z]?[5-9]\d[a-z]*|FC[358]\d|Y[A-E]|[DEL]")
"""Siemens from 50 (B60s, Hr64h), Canon FC30, FC50 and FC80, Philips YA to YE, D, E and L."""
LINES = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder, and what speaks for or against it.

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
    obstacle : str
        Why it can't be read as a volume; empty if it can.
    reason : str
        Why it was or wasn't chosen.
    headers : tuple of pydicom.Dataset
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
    contrast: bool
    study: str
    patient: str = field(repr=False)
    obstacle: str
    reason: str = ""
    chosen: bool = False
    headers: tuple[pydicom.Dataset, ...] = field(default=(), repr=False, compare=False)
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
        return f"{self.modality or 'no modality'}, {self.orientation}, {self.slices} slices{step}{kernel}"


# ------------------------------------------------------------------------------------------------- list


def list_series(folder: Path, progress: Progress = SILENT) -> list[SeriesInfo]:
    """List the DICOM series in a folder and its subfolders; files of other kinds are passed over.

    Raises
    ------
    InputError
        ``empty-folder`` or ``no-dicom``.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise InputError(
            "empty-folder", f"The folder {folder} is empty.", "Choose a folder with a DICOM series."
        )
    listed = series_of(paths, progress)
    if not listed:
        raise InputError(
            "no-dicom", f"The folder {folder} holds no DICOM images.", "Choose a folder with a DICOM series."
        )
    return listed


def series_of(paths: list[Path], progress: Progress = SILENT) -> list[SeriesInfo]:
    """List the DICOM series that files belong to; reports the first half of the reading."""
    groups: dict[str, list[pydicom.Dataset]] = {}
    for done, path in enumerate(paths, 1):
        header = read_header(path)
        if header is not None:
            groups.setdefault(str(header.SeriesInstanceUID), []).append(header)
        progress.update(done / len(paths) / 2)
    ordered = sorted(
        groups.values(),
        key=lambda h: (str(h[0].get("StudyInstanceUID")), _number(h[0]), h[0].SeriesInstanceUID),
    )
    return [_describe(headers, number) for number, headers in enumerate(ordered, 1)]


def is_dicom(path: Path) -> bool:
    """Tell whether a file is a DICOM object of a series."""
    return read_header(path) is not None


def read_header(path: Path) -> pydicom.Dataset | None:
    """Read what is needed to judge a DICOM file; None if it is no DICOM object of a series."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER)
    except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError):
        return None
    return header if header.get("SeriesInstanceUID") else None


def _number(header: pydicom.Dataset) -> int:
    try:
        return int(header.get("SeriesNumber") or 0)
    except ValueError:
        return 0


def _describe(headers: list[pydicom.Dataset], number: int) -> SeriesInfo:
    first = headers[0]
    image_type = "\\".join(first.get("ImageType") or ())
    planes = _in_order(_main_planes(headers))
    positions = _distinct(stack_of(planes).positions) if planes else np.zeros(0)
    kernel = first.get("ConvolutionKernel") or ""
    return SeriesInfo(
        uid=str(first.SeriesInstanceUID),
        number=number,
        description=str(first.get("SeriesDescription") or ""),
        modality=str(first.get("Modality") or ""),
        orientation=_orientation(planes[0]) if planes else "none",
        slices=len(positions),
        step=float(np.median(np.diff(positions))) if len(positions) > 1 else 0.0,
        coverage=float(np.ptp(positions)) if len(positions) else 0.0,
        kernel=kernel if isinstance(kernel, str) else "\\".join(kernel),
        image_type=image_type,
        contrast=any(h.get("ContrastBolusAgent") for h in headers)
        or bool(CONTRAST.search(NO_CONTRAST.sub("", str(first.get("SeriesDescription") or "")))),
        study=str(first.get("StudyInstanceUID") or ""),
        patient=str(first.get("PatientID") or first.get("PatientName") or ""),
        obstacle=_obstacle(headers, planes, len(positions), image_type),
        headers=tuple(planes),
        left_out=len(headers) - len(planes),
    )


def _obstacle(
    headers: list[pydicom.Dataset], planes: list[pydicom.Dataset], slices: int, image_type: str
) -> str:
    first = headers[0]
    modality = first.get("Modality") or "of unknown modality"
    if modality != "CT":
        return f"it is {modality}, not CT"
    if int(first.get("NumberOfFrames") or 1) > 1:
        return "it is multi-frame (Enhanced CT), which is not supported"
    if "LOCALIZER" in image_type.upper():
        return "it is a localizer"
    if PROJECTION.search(f"{first.get('SeriesDescription') or ''} {image_type}".replace("\\", " ")):
        return "it is a projection, localizer or report"
    if int(first.get("SamplesPerPixel") or 1) > 1:
        return "it has color images"
    if not planes:
        return "its images have no position in the patient"
    if slices < MINIMUM_SLICES:
        return f"it has only {slices} slice{'s' * (slices != 1)}"
    if len({h.SOPInstanceUID for h in planes}) > 1.5 * slices:
        return "it has several images at the same positions (perfusion or phases)"
    return ""


def _main_planes(headers: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Keep the largest set of images with one orientation, size and pixel spacing; no localizer."""
    sets: list[list[pydicom.Dataset]] = []
    for header in headers:
        if not _has_plane(header) or "LOCALIZER" in (header.get("ImageType") or ()):
            continue
        home = next((s for s in sets if _same_plane(s[0], header)), None)
        if home is None:
            sets.append([header])
        else:
            home.append(header)
    return max(sets, key=len, default=[])


def _has_plane(header: pydicom.Dataset) -> bool:
    """Tell whether an image has a position, perpendicular unit axes and a pixel spacing."""
    try:
        axes = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        return (
            np.isfinite(np.array(header.ImagePositionPatient, float)).sum() == 3
            and np.allclose(axes @ axes.T, np.eye(2), atol=1e-3)
            and min(float(mm) for mm in header.PixelSpacing) > 0
        )
    except (AttributeError, TypeError, ValueError):
        return False


def _same_plane(a: pydicom.Dataset, b: pydicom.Dataset) -> bool:
    return (
        (a.Rows, a.Columns) == (b.Rows, b.Columns)
        and np.allclose(a.PixelSpacing, b.PixelSpacing, rtol=0, atol=1e-4)
        and np.allclose(a.ImageOrientationPatient, b.ImageOrientationPatient, rtol=0, atol=2e-3)
    )


def _in_order(headers: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Sort images by position along the slice normal of the first one."""
    if not headers:
        return []
    positions = stack_of(headers).positions
    return [headers[i] for i in np.argsort(positions, kind="stable")]


def stack_of(headers: list[pydicom.Dataset]) -> SliceStack:
    """Place images in the patient, in the order given."""
    first = headers[0]
    cosines = np.array(first.ImageOrientationPatient, float)
    return SliceStack(
        np.array([h.ImagePositionPatient for h in headers], float),
        cosines[:3],
        cosines[3:],
        (float(first.PixelSpacing[0]), float(first.PixelSpacing[1])),
        (int(first.Rows), int(first.Columns)),
    )


def _distinct(positions: np.ndarray) -> np.ndarray:
    return positions[np.concatenate([[True], np.diff(positions) > SAME_POSITION_MM])]


def _orientation(header: pydicom.Dataset) -> str:
    cosines = np.array(header.ImageOrientationPatient, float)
    axis = int(np.abs(np.cross(cosines[:3], cosines[3:])).argmax())
    return next(name for name, line in LINES.items() if line == axis)


# ----------------------------------------------------------------------------------------------- choose


def choose_series(listed: list[SeriesInfo], series: str | None = None) -> list[SeriesInfo]:
    """Choose one series and say of each why it was or wasn't chosen.

    Left out are: other modalities than CT, multi-frame objects, localizers, projections (MIP) and reports,
    color images, images without a position, fewer than 3 slices, several images at the same positions. Of the
    others the first by this order is chosen: axial; covers at least 80 mm; original rather than derived;
    without contrast agent; soft-tissue rather than bone or lung kernel; slice step nearest to 5 mm, the step
    of routine head CT (thinner slices are noisier); more slices; lower number in the list.

    Parameters
    ----------
    listed : list of SeriesInfo
        From `list_series`.
    series : str, optional
        The user's own choice: number as listed, UID, unique beginning of a UID, or description.

    Returns
    -------
    list of SeriesInfo
        The same series, the chosen one first, with ``chosen`` and ``reason`` set.

    Raises
    ------
    InputError
        ``no-ct-series``, ``several-studies``, ``unknown-series``, ``ambiguous-series``, ``unusable-series``.
    """
    if series is not None:
        best, why = _requested(listed, series), "asked for"
        if best.obstacle:
            raise InputError(
                "unusable-series", f"Series {best.title} can't be used: {best.obstacle}.", _others(listed)
            )
    else:
        usable = sorted((s for s in listed if not s.obstacle), key=_preference)
        if not usable:
            found = "; ".join(f"{s.title}: {s.obstacle}" for s in listed)
            raise InputError(
                "no-ct-series", "The folder holds no CT series that can be used.", f"Found {found}."
            )
        studies = {(s.patient, s.study) for s in usable}
        if len(studies) > 1:
            patients = len({patient for patient, _ in studies})
            what = f"{patients} patients" if patients > 1 else f"{len(studies)} studies of one patient"
            raise InputError("several-studies", f"The folder holds CT of {what}.", _others(listed))
        best, why = usable[0], _merits(usable[0])
    rest = [
        replace(s, reason=s.obstacle or f"series {best.number} is {_difference(best, s)}")
        for s in listed
        if s is not best
    ]
    return [replace(best, chosen=True, reason=why), *rest]


def _requested(listed: list[SeriesInfo], series: str) -> SeriesInfo:
    for exact in (
        [s for s in listed if s.uid == series],
        [s for s in listed if str(s.number) == series],
        [s for s in listed if s.description.strip().lower() == series.strip().lower()],
        [s for s in listed if s.uid.startswith(series)],
    ):
        if len(exact) == 1:
            return exact[0]
        if exact:
            raise InputError("ambiguous-series", f"{len(exact)} series fit {series!r}.", _others(exact))
    raise InputError("unknown-series", f"There is no series {series!r}.", _others(listed))


def _others(listed: list[SeriesInfo]) -> str:
    return "Choose a series by its number: " + "; ".join(s.title for s in listed) + "."


CRITERIA = (
    ("axial", lambda s: s.orientation == "axial"),
    ("longer than 80 mm", lambda s: s.coverage >= HEAD_COVERAGE_MM),
    ("original", lambda s: "DERIVED" not in s.image_type.upper()),
    ("without contrast agent", lambda s: not s.contrast),
    ("of a soft-tissue kernel", lambda s: not has_bone_kernel(s)),
)


def _preference(s: SeriesInfo) -> tuple[float, ...]:
    return (
        *(not met(s) for _, met in CRITERIA),
        round(abs(np.log(s.step / ROUTINE_STEP_MM)), 2),
        -s.slices,
        s.number,
    )


def _merits(s: SeriesInfo) -> str:
    return ", ".join(name for name, met in CRITERIA if met(s)) or "the only one"


def _difference(best: SeriesInfo, other: SeriesInfo) -> str:
    lacking = [name for name, met in CRITERIA if met(best) and not met(other)]
    return ", ".join(lacking[:1]) or "preferred for its slices"


def has_bone_kernel(s: SeriesInfo) -> bool:
    """Tell a bone or lung kernel by its name or by the series' description."""
    name = s.kernel.split("\\")[0]
    return bool(BONE_KERNEL.fullmatch(name) or BONE.search(f"{name} {s.description}"))
