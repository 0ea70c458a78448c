"""Headers of NIfTI-1 and NIfTI-2, read by the standard's own rules and judged before any voxel is read.

https://nifti.nimh.nih.gov: slope 0 means that nothing is scaled; the sform, where its code is above 0, says
where voxels are; else the qform; with neither, nobody knows how the head lies.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.geometry import Axes, Grid, orthogonal
from sahlora.imaging.stored import (
    Remark,
    StoredImage,
    Stream,
    Voxels,
    damaged,
    opened,
    read_exactly,
    require_size,
)

NIFTI_1, NIFTI_2 = 348, 540
GZIP_MAGIC = b"\x1f\x8b"

TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
COLORS = {32: "complex numbers", 128: "colors", 1792: "complex numbers", 2304: "colors"}
MILLIMETERS = {1: 1000.0, 3: 0.001}
"""Millimeters in a unit of length, by its code; any other code is taken for millimeters."""

SAME_STEP = 0.01
"""Steps of two sources agree if they differ by no more than this part: files store them rounded."""

ROUNDING = 1e-5
"""By what part a step taken from rounded cosines may be off."""

FIELDS_1 = {
    "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
    "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"),
    "srow": (280, "12f"), "magic": (344, "4s"),
}  # fmt: skip
FIELDS_2 = {
    "magic": (4, "4s"), "datatype": (12, "h"), "bitpix": (14, "h"), "dim": (16, "8q"), "pixdim": (104, "8d"),
    "vox_offset": (168, "q"), "scl_slope": (176, "d"), "scl_inter": (184, "d"), "qform_code": (344, "i"),
    "sform_code": (348, "i"), "quatern": (352, "3d"), "qoffset": (376, "3d"), "srow": (400, "12d"),
    "xyzt_units": (500, "i"),
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The fields of a header that matter here, named as in the standard."""

    length: int
    byte_order: str
    magic: bytes
    dim: tuple[int, ...]
    datatype: int
    bitpix: int
    pixdim: tuple[float, ...]
    vox_offset: float
    scl_slope: float
    scl_inter: float
    xyzt_units: int
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    srow: tuple[float, ...]


def open_nifti(path: Path) -> StoredImage:
    """Read and judge the header of a NIfTI file, packed with gzip or not, whatever its ending says.

    Raises
    ------
    InputError
        ``unreadable``, ``unsupported-format``, ``not-3d``, ``too-large`` or ``bad-geometry``.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        with opened(Voxels(path, np.dtype("u1"), "gzip" if packed else "raw")) as stream:
            header = _read_header(path, stream)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise damaged(path, getattr(error, "strerror", None) or str(error)) from error
    size = _size(path, header)
    offset = _offset(path, header)
    dtype = np.dtype(header.byte_order + _type(path, header))
    voxels = Voxels(path, dtype, "gzip", 0, offset) if packed else Voxels(path, dtype, "raw", offset)
    require_size(path, size, 1, voxels)
    grid, remarks = _grid(path, header, size)
    slope, intercept = _scaling(path, header)
    return StoredImage(path, grid, voxels, slope=slope, intercept=intercept, remarks=remarks)


def _read_header(path: Path, stream: Stream) -> Header:
    start = bytes(read_exactly(stream, NIFTI_1))
    for byte_order in "<>":
        length = struct.unpack_from(byte_order + "i", start)[0]
        if length in (NIFTI_1, NIFTI_2):
            content = start + bytes(read_exactly(stream, length - NIFTI_1))
            header = _unpacked(content, length, byte_order)
            if header.magic[:3] in (b"n+1", b"n+2"):
                return header
            if header.magic[:3] in (b"ni1", b"ni2", b"\0\0\0"):
                raise InputError(
                    "unsupported-format",
                    f"{path} is the header of a pair of files (.hdr and .img).",
                    "Convert them to a single .nii or .nii.gz.",
                )
    raise damaged(path, "it does not begin like NIfTI")


def _unpacked(content: bytes, length: int, byte_order: str) -> Header:
    values: dict[str, Any] = {}
    for name, (at, form) in (FIELDS_1 if length == NIFTI_1 else FIELDS_2).items():
        found = struct.unpack_from(byte_order + form, content, at)
        values[name] = found if len(found) > 1 else found[0]
    return Header(length, byte_order, **values)


# ------------------------------------------------------------------------------------------------- voxels


def _size(path: Path, header: Header) -> tuple[int, int, int]:
    count, *sizes = header.dim
    if not 1 <= count <= 7:
        raise damaged(path, f"its header gives {count} dimensions")
    sizes = sizes[:count]
    if count < 3 or any(size != 1 for size in sizes[3:]):
        shape = " x ".join(map(str, sizes))
        raise InputError("not-3d", f"{path} is not one 3D volume but {shape}.", "Save one 3D volume.")
    return sizes[0], sizes[1], sizes[2]


def _type(path: Path, header: Header) -> str:
    if header.datatype in COLORS:
        raise InputError("not-3d", f"{path} holds {COLORS[header.datatype]}.", "Use a plain CT.")
    name = TYPES.get(header.datatype)
    if name is None:
        raise damaged(path, f"its header names the unknown data type {header.datatype}")
    if header.bitpix not in (0, 8 * np.dtype(name).itemsize):
        raise damaged(path, f"its header gives {header.bitpix} bits for data type {header.datatype}")
    return name


def _offset(path: Path, header: Header) -> int:
    least = header.length + 4
    if header.vox_offset == 0:
        return least
    if not least <= header.vox_offset < 2**40:
        raise damaged(path, f"its header puts the voxels at byte {header.vox_offset:g}")
    return int(header.vox_offset)


def _scaling(path: Path, header: Header) -> tuple[float, float]:
    if header.scl_slope == 0 or not np.isfinite(header.scl_slope):
        return 1.0, 0.0
    if not np.isfinite(header.scl_inter):
        raise damaged(path, f"its header's scl_inter is {header.scl_inter}")
    return header.scl_slope, header.scl_inter


# ----------------------------------------------------------------------------------------------- geometry


def _grid(path: Path, header: Header, size: tuple[int, int, int]) -> tuple[Grid, tuple[Remark, ...]]:
    """Decide where the voxels lie: from sform, qform or, with neither, the steps alone."""
    unit = MILLIMETERS.get(header.xyzt_units & 7, 1.0)
    steps = np.abs(header.pixdim[1:4]) * unit
    remarks: list[Remark] = []
    if header.sform_code > 0:
        affine = np.reshape(header.srow, (3, 4)).astype(float) * unit
    elif header.qform_code > 0:
        affine = _qform(path, header, steps, unit)
    else:
        affine = np.column_stack([np.diag(steps), np.zeros(3)])
        remarks.append(
            Remark(
                "orientation-unknown",
                "The file does not say how the head lies (its sform and qform codes are 0): axes are taken "
                "as right, anterior, superior.",
                "Check left and right, front and top; convert the DICOM series again, e.g. with dcm2niix.",
            )
        )
    lps = affine * [[-1], [-1], [1]]
    spacing, direction, shear = orthogonal(lps[:, :3], str(path))
    if header.sform_code > 0:
        _require_same_steps(path, np.array(spacing), steps)
    if np.allclose(spacing, steps, rtol=ROUNDING, atol=0):
        spacing = tuple(steps.tolist())  # what other programs take, to the last digit
    if header.sform_code > 0 and header.qform_code > 0:
        remarks += _conflict(affine, _qform(path, header, steps, unit))
    if shear > 0.01:
        remarks.append(
            Remark(
                "sheared",
                f"The file's axes lean by {shear:.2f} degrees, as rounding does: "
                "the nearest perpendicular axes are used.",
            )
        )
    return Grid(size, spacing, tuple(lps[:, 3].tolist()), direction), tuple(remarks)


def _require_same_steps(path: Path, ours: np.ndarray, steps: np.ndarray) -> None:
    """Check that the sform's steps are those of pixdim, which other programs go by."""
    if steps.any() and not (np.abs(ours - steps) <= SAME_STEP * np.maximum(ours, steps)).all():
        sform, pixdim = (" x ".join(f"{step:.4g}" for step in three) for three in (ours, steps))
        raise InputError(
            "bad-geometry",
            f"{path} contradicts itself: its voxels are {sform} mm by its sform, {pixdim} mm by pixdim.",
            "Only the source can tell which is right: convert the DICOM series again.",
        )


def _conflict(sform: np.ndarray, qform: np.ndarray) -> list[Remark]:
    """Say so where sform and qform name different axes; the standard gives preference to the sform."""
    one, other = (Axes.of(affine[:, :3]) for affine in (sform, qform))
    if one == other:
        return []
    return [
        Remark(
            "orientation-conflict",
            "The file contradicts itself on how the head lies: sform and qform differ. The sform is used.",
            "Check left and right, front and top; convert the DICOM series again.",
        )
    ]


def _qform(path: Path, header: Header, steps: np.ndarray, unit: float) -> np.ndarray:
    """Return the (3, 4) affine of quaternion, steps and offset."""
    b, c, d = header.quatern
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest >= -1e-3 or not np.isfinite([*steps, *header.qoffset]).all():
        raise InputError(
            "bad-geometry", f"The qform of {path} is no rotation.", "Convert the DICOM series again."
        )
    a = np.sqrt(max(rest, 0.0))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    signed = steps * [1, 1, -1 if header.pixdim[0] < 0 else 1]
    return np.column_stack([rotation * signed, np.array(header.qoffset) * unit])
