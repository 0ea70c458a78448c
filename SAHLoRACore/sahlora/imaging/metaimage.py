"""Headers of MetaImage (.mha, .mhd), judged before any voxel is read.

https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.geometry import Grid, orthogonal
from sahlora.imaging.stored import (
    Remark,
    StoredImage,
    Voxels,
    damaged,
    data_file,
    file_length,
    require_size,
)

LONGEST_HEADER = 1 << 20
DATA = "elementdatafile"  # the last field: what follows are voxels

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
DIRECTION, ORIGIN = ("transformmatrix", "rotation", "orientation"), ("offset", "position", "origin")
AXIS_LENGTH = 1e-3  # by how much a direction's length may differ from 1


def open_metaimage(path: Path) -> StoredImage:
    """Read and judge the header of a MetaImage.

    Raises
    ------
    InputError
        ``unreadable``, ``unsupported-format``, ``foreign-data-file``, ``not-3d``, ``too-large`` or
        ``bad-geometry``.
    """
    fields, end = read_header(path)
    try:
        dimensions = int(fields["ndims"])
        if not 1 <= dimensions <= 10:
            raise damaged(path, f"its header gives {dimensions} dimensions")
        size = [int(word) for word in fields["dimsize"].split()]
        components = int(fields.get("elementnumberofchannels", "1"))
        if len(size) != dimensions:
            raise damaged(path, "its header gives no size for each dimension")
        if dimensions < 3 or any(n != 1 for n in size[3:]):
            shape = " x ".join(map(str, size))
            raise InputError("not-3d", f"{path} is not one 3D volume but {shape}.", "Save one 3D volume.")
        voxels = _voxels(path, fields, end, int(np.prod(size, dtype=object)) * components)
        require_size(path, tuple(size[:3]), components, voxels)
        grid = _grid(path, fields, (size[0], size[1], size[2]), dimensions)
    except (ValueError, KeyError) as error:
        raise damaged(path, f"its header's {error} is missing or not understood") from error
    known = any(name in fields for name in DIRECTION)
    return StoredImage(
        path, grid, voxels, components, remarks=() if known else (ORIENTATION_UNKNOWN,), fields=fields
    )


def read_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of a header, their names in small letters, and its length in bytes.

    Raises
    ------
    InputError
        ``unreadable``.
    """
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            while (line := file.readline(LONGEST_HEADER)) and file.tell() <= LONGEST_HEADER:
                key, sign, value = line.decode("utf-8", "replace").partition("=")
                if not sign:
                    raise damaged(path, "its header holds a line that is no field")
                fields[key.strip().lower()] = value.strip()
                if key.strip().lower() == DATA:
                    return fields, file.tell()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    raise damaged(path, "its header does not name where the voxels are")


def _voxels(path: Path, fields: dict[str, str], end: int, count: int) -> Voxels:
    name = fields["elementtype"].upper()
    if name.endswith("_ARRAY") or name not in TYPES:
        raise damaged(path, f"its header names the unknown data type “{name[:40]}”")
    dtype = np.dtype(TYPES[name])
    big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False"))
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder(">" if _is_true(big) else "<")
    file = fields[DATA]
    if file.upper().startswith("LIST") or "%" in file:
        raise InputError(
            "unsupported-format",
            f"{path} has its voxels in several files.",
            "Save the image as one .mha or .nii.gz.",
        )
    if file.upper() != "LOCAL":
        path, end = data_file(path, file), 0
    skipped = int(fields.get("headersize", "0"))
    if _is_true(fields.get("compresseddata", "False")):
        return Voxels(path, dtype, "gzip", end)
    if not _is_true(fields.get("binarydata", "True")):
        return Voxels(path, np.dtype(TYPES[name]), "text", end)
    if skipped == -1:
        return Voxels(path, dtype, "raw", max(end, file_length(path) - count * dtype.itemsize))
    if not 0 <= skipped < file_length(path):
        raise damaged(path, f"its header skips {skipped} bytes")
    return Voxels(path, dtype, "raw", end + skipped)


def _is_true(text: str) -> bool:
    return text.strip().upper()[:1] in ("T", "Y", "1")


def _grid(path: Path, fields: dict[str, str], size: tuple[int, int, int], dimensions: int) -> Grid:
    def numbers(names: tuple[str, ...], default: np.ndarray) -> np.ndarray:
        text = next((fields[name] for name in names if name in fields), None)
        found = default if text is None else np.array([float(word) for word in text.split()])
        if found.size != default.size:
            raise damaged(path, f"its header's {names[0]} has {found.size} numbers")
        return found.reshape(default.shape)

    spacing = numbers(("elementspacing", "elementsize"), np.ones(dimensions))[:3]
    # Each row of the matrix is an axis of the grid.
    matrix = numbers(DIRECTION, np.eye(dimensions))[:3, :3].T
    origin = numbers(ORIGIN, np.zeros(dimensions))[:3]
    lengths, direction, _ = orthogonal(matrix, str(path))
    if max(abs(length - 1) for length in lengths) > AXIS_LENGTH:
        raise InputError(
            "bad-geometry", f"The axes in {path} have lengths other than 1.", "Export the CT again."
        )
    return Grid(size, tuple(spacing.tolist()), tuple(origin.tolist()), direction)


ORIENTATION_UNKNOWN = Remark(
    "orientation-unknown",
    "The file does not say how the head lies (its header holds no TransformMatrix): axes are taken as left, "
    "posterior, superior.",
    "Check left and right, front and top; export the CT again.",
)
