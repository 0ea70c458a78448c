"""What an object derived from DICOM images copies of them, made valid first.

Scanners, archives and anonymizers leave values that are not DICOM's: a sex spelled out, a date of zeros, a
thickness with its unit, characters of an unknown set. Each is written in its valid form, or left empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime

import pydicom
from pydicom.uid import CTImageStorage, generate_uid
from pydicom.valuerep import DS

from sahlora.errors import InputError
from sahlora.imaging.dicom_files import Source, name_of, numbers, read_dataset, text, whole

UNICODE = "ISO_IR 192"


def _plain_text(value: str) -> str:
    printable = "".join(letter for letter in value if letter.isprintable())
    return printable.encode("utf-8", "replace").decode()


def _date(value: str) -> str:
    digits = re.sub(r"[-./ ]", "", value)
    try:
        datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return ""
    return digits if len(digits) == 8 else ""


def _time(value: str) -> str:
    digits = value.replace(":", "")
    valid = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", digits)
    return digits if valid else ""


def _one_of(*allowed: str) -> Callable[[str], str]:
    return lambda value: value.upper() if value.upper() in allowed else ""


def _age(value: str) -> str:
    return value if re.fullmatch(r"\d{3}[DWMY]", value) else ""


REQUIRED: dict[str, Callable[[str], str]] = {
    "PatientName": _plain_text,
    "PatientID": _plain_text,
    "PatientBirthDate": _date,
    "PatientSex": _one_of("M", "F", "O"),
    "StudyDate": _date,
    "StudyTime": _time,
    "StudyID": _plain_text,
    "AccessionNumber": _plain_text,
    "ReferringPhysicianName": _plain_text,
}
"""Attributes that must be there and may be empty."""

OPTIONAL: dict[str, Callable[[str], str]] = {
    "PatientAge": _age,
    "StudyDescription": _plain_text,
    "PatientIdentityRemoved": _one_of("YES", "NO"),
    "DeidentificationMethod": _plain_text,
    "Manufacturer": _plain_text,
    "ManufacturerModelName": _plain_text,
}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
GEOMETRY = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
SHARED = (*REQUIRED, *OPTIONAL, "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", *GEOMETRY)
TAGS = (
    "SpecificCharacterSet", "SOPClassUID", "FrameOfReferenceUID", "Rows", "Columns", "SliceThickness",
    *REQUIRED, *OPTIONAL, *UIDS, *GEOMETRY,
)  # fmt: skip


def referable(sources: Sequence[Source], thickness: float) -> list[pydicom.Dataset]:
    """Return the headers of images of one series in a form that another object can refer to and copy from.

    Patient, study, frame of reference and orientation are the first image's. Without a frame of reference,
    one that follows from the series stands for it.

    Parameters
    ----------
    thickness : float
        Slab in mm of a slice that does not state its own.

    Raises
    ------
    InputError
        ``unreadable`` if an image is gone, ``incomplete-dicom`` if it lacks a UID or its place.
    """
    images = [_valid(source, thickness) for source in sources]
    first = images[0]
    if not first.FrameOfReferenceUID:
        first.FrameOfReferenceUID = generate_uid(
            entropy_srcs=["frame of reference", str(first.SeriesInstanceUID)]
        )
    for image in images[1:]:
        for name in SHARED:
            if name != "ImagePositionPatient" and name in first:
                image[name] = first[name]
    return images


def _valid(source: Source, thickness: float) -> pydicom.Dataset:
    try:
        found = read_dataset(source, TAGS)
    except Exception as error:  # the file was read before and is gone or replaced
        raise InputError(
            "unreadable", f"{name_of(source)} can't be read any more.", "Keep the DICOM files in place."
        ) from error
    image = pydicom.Dataset()
    image.SpecificCharacterSet = UNICODE
    image.Modality = "CT"
    image.SOPClassUID = text(found, "SOPClassUID") or CTImageStorage
    for name, form in REQUIRED.items():
        setattr(image, name, form(text(found, name)) or None)
    for name, form in OPTIONAL.items():
        if value := form(text(found, name)):
            setattr(image, name, value)
    for name in UIDS:
        if not re.fullmatch(r"[0-9.]{1,64}", text(found, name)):
            raise _incomplete(source, name)
        setattr(image, name, text(found, name))
    image.FrameOfReferenceUID = text(found, "FrameOfReferenceUID")
    for name, count in GEOMETRY.items():
        place = numbers(found, name, count)
        if place is None:
            raise _incomplete(source, name)
        setattr(image, name, [DS(float(number), auto_format=True) for number in place])
    image.Rows, image.Columns = whole(found, "Rows"), whole(found, "Columns")
    stated = numbers(found, "SliceThickness", 1)
    image.SliceThickness = f"{thickness if stated is None or stated[0] <= 0 else stated[0]:.6g}"
    return image


def _incomplete(source: Source, name: str) -> InputError:
    return InputError(
        "incomplete-dicom",
        f"{name_of(source)} has no valid {name}, which a DICOM SEG must state.",
        "Write .nii.gz or .seg.nrrd instead; they need none.",
    )
