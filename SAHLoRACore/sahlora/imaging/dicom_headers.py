"""The header of one DICOM image: what is needed to judge it, whatever the file holds or lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from sahlora.imaging.dicom_files import Source, numbers, read_dataset, text, whole
from sahlora.imaging.geometry import SliceStack

IDENTIFIERS = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber")
TAGS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "SeriesNumber", "SeriesDescription", "Modality", "ImageType", "SamplesPerPixel", "ConvolutionKernel",
    "ContrastBolusAgent", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "FrameOfReferenceUID", "AcquisitionNumber", "TemporalPositionIdentifier",
    "AcquisitionTime", *IDENTIFIERS,
)  # fmt: skip
LARGEST_SIDE = 8192


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """What a DICOM file says of itself; texts are empty, numbers 0 and arrays None where it says nothing.

    Parameters
    ----------
    pixel : np.ndarray or None
        (2,) distance in mm between rows and between columns.
    position : np.ndarray or None
        (3,) LPS of the first pixel in mm.
    cosines : np.ndarray or None
        (2, 3) unit vectors along a row and along a column.
    """

    source: Source
    sop_class: str
    uid: str
    study: str
    series: str
    number: int
    description: str
    modality: str
    image_type: str
    samples: int
    kernel: str
    agent: str
    frames: int
    shape: tuple[int, int]
    pixel: np.ndarray | None
    position: np.ndarray | None
    cosines: np.ndarray | None
    frame_of_reference: str
    acquisition: str
    phase: str
    time: str
    identifiers: dict[str, str] = field(repr=False)

    @property
    def patient(self) -> str:
        """The patient's ID, or name where there is none."""
        return self.identifiers.get("PatientID") or self.identifiers.get("PatientName") or ""

    @property
    def is_localizer(self) -> bool:
        """Whether the image type says so."""
        return "LOCALIZER" in self.image_type.upper()

    @cached_property
    def has_plane(self) -> bool:
        """Whether the image has a size, a position, perpendicular unit axes and a pixel spacing."""
        if self.pixel is None or self.position is None or self.cosines is None:
            return False
        return bool(
            0 < min(self.shape) <= max(self.shape) <= LARGEST_SIDE
            and np.allclose(self.cosines @ self.cosines.T, np.eye(2), atol=1e-3)
            and self.pixel.min() > 0
            and np.abs(self.position).max() < 1e6
        )


def read_header(source: Source) -> ImageHeader | None:
    """Read what is needed to judge a DICOM file; None if it is no DICOM object of a series."""
    try:
        data = read_dataset(source, TAGS)
    except Exception:  # a library may raise anything on a file that is something else
        return None
    if not (text(data, "SOPClassUID") or text(data, "SeriesInstanceUID")):
        return None
    cosines = numbers(data, "ImageOrientationPatient", 6)
    return ImageHeader(
        source=source,
        sop_class=text(data, "SOPClassUID"),
        uid=text(data, "SOPInstanceUID"),
        study=text(data, "StudyInstanceUID"),
        series=text(data, "SeriesInstanceUID"),
        number=whole(data, "SeriesNumber"),
        description=text(data, "SeriesDescription"),
        modality=text(data, "Modality"),
        image_type=text(data, "ImageType"),
        samples=whole(data, "SamplesPerPixel", 1),
        kernel=text(data, "ConvolutionKernel"),
        agent=text(data, "ContrastBolusAgent"),
        frames=whole(data, "NumberOfFrames", 1),
        shape=(whole(data, "Rows"), whole(data, "Columns")),
        pixel=numbers(data, "PixelSpacing", 2),
        position=numbers(data, "ImagePositionPatient", 3),
        cosines=None if cosines is None else cosines.reshape(2, 3),
        frame_of_reference=text(data, "FrameOfReferenceUID"),
        acquisition=text(data, "AcquisitionNumber"),
        phase=text(data, "TemporalPositionIdentifier"),
        time=text(data, "AcquisitionTime"),
        identifiers={name: found for name in IDENTIFIERS if (found := text(data, name))},
    )


def stack_of(headers: list[ImageHeader]) -> SliceStack:
    """Place images in the patient, in the order given; each must have a plane."""
    first = headers[0]
    assert first.cosines is not None and first.pixel is not None
    return SliceStack(
        np.array([header.position for header in headers]),
        first.cosines[0],
        first.cosines[1],
        (float(first.pixel[0]), float(first.pixel[1])),
        first.shape,
    )
