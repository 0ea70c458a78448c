"""Writing a label as DICOM SEG: exact on every acquired slice, tilted and uneven ones too."""

from __future__ import annotations

import hashlib
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import generate_uid

from sahlora.about import __version__
from sahlora.errors import InputError
from sahlora.imaging.dicom_files import lenient
from sahlora.imaging.dicom_identity import referable
from sahlora.imaging.terminology import Code, Segment
from sahlora.imaging.volume import Volume
from sahlora.runtime.files import replacing

SERIES_NUMBER = 900


def write_dicom_seg(
    volume: Volume, label: np.ndarray, path: Path, segment: Segment, *, algorithm: str
) -> None:
    """Write a mask of the acquired slices as a binary DICOM segmentation that refers to the source images.

    The file belongs to the source's study and so carries the patient's identity as the source does. Its UIDs
    and dates follow from source and content: the same mask gives the same bytes.

    Parameters
    ----------
    volume : Volume
        Read from DICOM; its source files must still be there.
    label : np.ndarray
        (Z, Y, X) mask in canonical order on the acquired slices.
    algorithm : str
        Name of the model that made it.

    Raises
    ------
    InputError
        ``not-dicom`` if the volume is not of DICOM; ``unreadable`` or ``incomplete-dicom`` if the source
        files are gone or lack what a segmentation must state.
    """
    if not volume.sources:
        raise InputError(
            "not-dicom",
            f"{volume.name} was not read from DICOM: a DICOM SEG can't refer to it.",
            "Write .nii.gz or .seg.nrrd, or start from the DICOM series.",
        )
    images = referable(volume.sources, float(np.median(volume.slice_thickness)))
    mask = np.ascontiguousarray(volume.axes.to_stored(np.asarray(label) != 0)).astype(np.uint8)
    try:
        with lenient():
            segmentation = _segmentation(images, mask, segment, algorithm)
    except Exception as error:  # the library raises anything on what it finds invalid
        raise InputError(
            "incomplete-dicom",
            f"{volume.name} lacks what a DICOM SEG must state: {error}.",
            "Write .nii.gz or .seg.nrrd instead.",
        ) from error
    with replacing(path) as temporary, lenient():
        segmentation.save_as(temporary)


def _segmentation(
    images: list[pydicom.Dataset], mask: np.ndarray, segment: Segment, algorithm: str
) -> hd.seg.Segmentation:
    content = [
        *(str(image.SOPInstanceUID) for image in images),
        hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
        repr(segment),
        algorithm,
        __version__,
    ]
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segment, algorithm)],
        series_instance_uid=generate_uid(entropy_srcs=["series", *content]),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(entropy_srcs=["instance", *content]),
        instance_number=1,
        manufacturer="SAHLoRA",
        manufacturer_model_name="sahlora",
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="SEGMENTATION",
        content_description=segment.name,
        series_description=segment.name,
        omit_empty_frames=bool(mask.any()),
    )
    _fix_dates_and_uids(segmentation, images[0], generate_uid(entropy_srcs=["dimensions", *content]))
    return segmentation


def _description(segment: Segment, algorithm: str) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=segment.name,
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm, family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
        anatomic_regions=None if segment.region is None else [_code(segment.region)],
        display_color=hd.color.CIELabColor.from_rgb(*segment.color),
    )


def _code(code: Code) -> DicomCode:
    return DicomCode(code.value, code.scheme, code.meaning)


def _fix_dates_and_uids(segmentation: pydicom.Dataset, source: pydicom.Dataset, dimensions: str) -> None:
    """Replace the moment of writing by the study's and random UIDs by ones that follow from the content."""
    date, time = source.get("StudyDate") or "19000101", source.get("StudyTime") or "000000"
    for prefix in ("Content", "InstanceCreation"):
        setattr(segmentation, f"{prefix}Date", date)
        setattr(segmentation, f"{prefix}Time", time)
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    for item in segmentation.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = f"{date}{time}"
