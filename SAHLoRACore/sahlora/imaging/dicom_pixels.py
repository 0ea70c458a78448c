"""The pixels of one DICOM slice in Hounsfield units."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.encaps import generate_frames

from sahlora.errors import InputError
from sahlora.imaging.dicom_files import Source, lenient, name_of, numbers, read_dataset, text, whole
from sahlora.imaging.dicom_headers import LARGEST_SIDE
from sahlora.imaging.geometry import OUTSIDE_HU

LOWEST_TISSUE, HIGHEST_TISSUE = -1000, 3071
"""A padding value between these HU is a wrong tag, since real voxels have it too."""

J2K_SIZE = b"\xff\x4f\xff\x51"
JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}


def read_plane(source: Source) -> np.ndarray:
    """Read one slice as int16 HU; padding becomes -1024.

    Raises
    ------
    InputError
        ``unreadable``, ``undecodable``, ``not-3d``, or ``bad-dicom-value`` for a slope, intercept or padding
        that is no number.
    """
    try:
        image = read_dataset(source)
        stored = pixels_of(image)
    except NotImplementedError as error:
        raise _undecodable(source, image) from error
    except Exception as error:  # decoders may raise anything on damaged data
        if "missing dependencies" in str(error):
            raise _undecodable(source, image) from error
        raise InputError(
            "unreadable", f"{name_of(source)} can't be read: {error}.", "It may be damaged: export it again."
        ) from error
    if stored.ndim != 2:
        raise InputError(
            "not-3d", f"{name_of(source)} is not a plain gray image.", "Use the original series."
        )
    slope, intercept = (
        _number(source, image, "RescaleSlope", 1),
        _number(source, image, "RescaleIntercept", 0),
    )
    if slope == 0:
        raise _not_understood(source, "RescaleSlope", "0")
    hu = stored * np.float32(slope) + np.float32(intercept)
    if text(image, "PixelPaddingValue"):
        padding = int(_number(source, image, "PixelPaddingValue", 0))
        value = float(np.asarray(padding & 0xFFFF).astype(np.uint16).astype(stored.dtype)) * slope + intercept
        if not LOWEST_TISSUE <= value <= HIGHEST_TISSUE:
            hu[hu == value] = OUTSIDE_HU
    return np.clip(np.rint(hu), -32768, 32767).astype(np.int16)


def pixels_of(image: pydicom.FileDataset) -> np.ndarray:
    """Decode the pixels of an image, (rows, columns) or with the number of frames before.

    Raises
    ------
    Exception
        Whatever a decoder raises on damaged data; ValueError if the image has no pixels, or the size in its
        packed data is not the header's.
    """
    rows, columns = whole(image, "Rows"), whole(image, "Columns")
    if not 0 < min(rows, columns) <= max(rows, columns) <= LARGEST_SIDE:
        raise ValueError(f"its size is {rows} x {columns}")
    with lenient():
        if not image.get("PixelData"):
            raise ValueError("it has no pixels")
        syntax = image.file_meta.get("TransferSyntaxUID") if image.get("file_meta") is not None else None
        if syntax is None:  # an object without meta header is written in implicit or explicit little endian
            image.file_meta = pydicom.dataset.FileMetaDataset()
            implicit, _ = image.original_encoding
            syntax = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
            image.file_meta.TransferSyntaxUID = syntax
        if syntax.is_encapsulated:
            packed = next(
                generate_frames(image.PixelData, number_of_frames=max(1, whole(image, "NumberOfFrames", 1)))
            )
            if packed_size(packed) not in (None, (rows, columns)):
                raise ValueError(f"its packed size is not {rows} x {columns}")
        return np.asarray(image.pixel_array)


def packed_size(packed: bytes) -> tuple[int, int] | None:
    """Return rows and columns that JPEG, JPEG-LS or JPEG 2000 data announce; None for others."""

    def number(start: int, length: int) -> int:
        return int.from_bytes(packed[start : start + length], "big")

    if packed[:4] == J2K_SIZE:
        return number(12, 4) - number(20, 4), number(8, 4) - number(16, 4)
    place = 2
    while packed[:2] == b"\xff\xd8" and place + 9 < len(packed):
        if packed[place] != 0xFF:
            return 0, 0
        if packed[place + 1] in JPEG_FRAMES:
            return number(place + 5, 2), number(place + 7, 2)
        place += 1 if packed[place + 1] == 0xFF else 2 + number(place + 2, 2)
    return None


def _number(source: Source, image: pydicom.Dataset, name: str, default: float) -> float:
    """Return a number; one that is empty counts as absent, one that is something else is an error."""
    written = text(image, name)
    if not written and name in image and image.get_item(name).value in (None, b"", "", 0):
        return default
    found = numbers(image, name, 1)
    if found is None:
        if name not in image:
            return default
        raise _not_understood(source, name, written)
    return float(found[0])


def _not_understood(source: Source, name: str, written: str) -> InputError:
    return InputError(
        "bad-dicom-value",
        f"{name_of(source)}: {name} is “{written}”, from which no HU can be computed.",
        "Export the series again from the scanner or PACS.",
    )


def _undecodable(source: Source, image: pydicom.FileDataset) -> InputError:
    return InputError(
        "undecodable",
        f"{name_of(source)} is compressed as {image.file_meta.TransferSyntaxUID.name} and can't be decoded.",
        "Install python-gdcm, or export the series uncompressed.",
    )
