"""Headers of NRRD (.nrrd, .nhdr), judged before any voxel is read.

https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.geometry import Grid, orthogonal
from sahlora.imaging.stored import (
    Encoding,
    Remark,
    StoredImage,
    Voxels,
    damaged,
    data_file,
    file_length,
    require_size,
)

LONGEST_HEADER = 1 << 20

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64",
           "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
DTYPES = {name: dtype for dtype, names in TYPES.items() for name in names}
ENCODINGS: dict[str, Encoding] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2", "ascii": "text",
    "text": "text", "txt": "text",
}  # fmt: skip
TO_LPS = {
    "left-posterior-superior": (1, 1), "lps": (1, 1), "right-anterior-superior": (-1, -1), "ras": (-1, -1),
    "left-anterior-superior": (1, -1), "las": (1, -1),
}  # fmt: skip
"""Signs that turn the first two coordinates of a space into those towards left and posterior."""

SPACE_AXES = {"domain", "space", "", "???", "none"}


def open_nrrd(path: Path) -> StoredImage:
    """Read and judge the header of an NRRD file.

    Raises
    ------
    InputError
        ``unreadable``, ``unsupported-format``, ``foreign-data-file``, ``not-3d``, ``too-large`` or
        ``bad-geometry``.
    """
    fields, end = read_header(path)
    size, components = _size(path, fields)
    try:
        voxels = _voxels(path, fields, end)
        require_size(path, size, components, voxels)
        grid, remarks = _grid(path, fields, size, components)
    except (ValueError, KeyError) as error:
        raise damaged(path, f"its header's {error} is missing or not understood") from error
    return StoredImage(path, grid, voxels, components, remarks=remarks, fields=fields)


def read_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields and key/value pairs of a header, names of fields in small letters, and its length.

    Raises
    ------
    InputError
        ``unreadable``.
    """
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            if not file.read(8).startswith(b"NRRD000"):
                raise damaged(path, "it does not begin like NRRD")
            file.readline(LONGEST_HEADER)
            while file.tell() < LONGEST_HEADER:
                line = file.readline(LONGEST_HEADER).decode("utf-8", "replace")
                if not line.strip("\r\n"):
                    return fields, file.tell()
                if line.startswith("#"):
                    continue
                key, colon, value = line.rstrip("\r\n").partition(":")
                if not colon:
                    raise damaged(path, f"its header holds the line “{line.strip()[:40]}”")
                is_pair = value.startswith("=")
                fields[key if is_pair else key.strip().lower()] = value[is_pair:].strip()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    raise damaged(path, "its header does not end")


def _size(path: Path, fields: dict[str, str]) -> tuple[tuple[int, int, int], int]:
    """Return the three sizes and the number of components."""
    try:
        sizes = [int(word) for word in fields["sizes"].split()]
        if len(sizes) != int(fields["dimension"]):
            raise ValueError
    except (KeyError, ValueError) as error:
        raise damaged(path, "its header gives no size") from error
    components = 1
    if len(sizes) == 4 and _has_components(fields):
        components = sizes.pop(0)
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        shape = " x ".join(map(str, sizes))
        raise InputError("not-3d", f"{path} is not one 3D volume but {shape}.", "Save one 3D volume.")
    return (sizes[0], sizes[1], sizes[2]), components


def _has_components(fields: dict[str, str]) -> bool:
    """Whether the first axis is one of values rather than of space."""
    kinds = fields.get("kinds", "").lower().split()
    if kinds:
        return kinds[0] not in SPACE_AXES
    return fields.get("space directions", "").lstrip().lower().startswith("none")


def _voxels(path: Path, fields: dict[str, str], end: int) -> Voxels:
    name = fields["type"].lower()
    if name not in DTYPES:
        raise damaged(path, f"its header names the unknown data type “{name[:40]}”")
    dtype = np.dtype(DTYPES[name])
    order = fields.get("endian", "").lower()
    encoding = ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise InputError(
            "unsupported-format",
            f"{path} is encoded as {fields['encoding'][:40]}.",
            "Save it raw or as gzip, e.g. as .nrrd from 3D Slicer.",
        )
    if dtype.itemsize > 1 and encoding != "text":
        if order not in ("little", "big"):
            raise damaged(path, "its header does not name the byte order")
        dtype = dtype.newbyteorder("<" if order == "little" else ">")
    detached = fields.get("data file", fields.get("datafile"))
    if detached is not None:
        if detached.upper().startswith("LIST") or "%" in detached:
            raise InputError(
                "unsupported-format",
                f"{path} has its voxels in several files.",
                "Save the image as one .nrrd or .nii.gz.",
            )
        path, end = data_file(path, detached), 0
    lines = int(fields.get("line skip", fields.get("lineskip", "0")))
    skipped = int(fields.get("byte skip", fields.get("byteskip", "0")))
    end += _length_of_lines(path, end, lines)
    if encoding == "raw" and skipped == -1:
        count = int(np.prod([int(word) for word in fields["sizes"].split()], dtype=object))
        return Voxels(path, dtype, encoding, max(end, file_length(path) - count * dtype.itemsize))
    if not 0 <= skipped < file_length(path) or (encoding == "text" and skipped):
        raise damaged(path, f"its header skips {skipped} bytes")
    if encoding == "raw":
        return Voxels(path, dtype, encoding, end + skipped)
    return Voxels(path, dtype, encoding, end, skipped)


def _length_of_lines(path: Path, start: int, lines: int) -> int:
    """Return how many bytes some lines of text before the voxels take."""
    if not 0 <= lines <= 10_000:
        raise damaged(path, f"its header skips {lines} lines")
    with path.open("rb") as file:
        file.seek(start)
        return sum(len(file.readline(LONGEST_HEADER)) for _ in range(lines))


def _grid(
    path: Path, fields: dict[str, str], size: tuple[int, int, int], components: int
) -> tuple[Grid, tuple[Remark, ...]]:
    known = fields.get("space", "").lower().removesuffix("-time") in TO_LPS
    signs = TO_LPS.get(fields.get("space", "").lower().removesuffix("-time"), (1, 1))
    flip = np.array([*signs, 1])
    if "space directions" in fields:
        words = re.findall(r"\([^)]*\)|none", fields["space directions"], re.I)
        vectors = [_vector(word) for word in words if word.lower() != "none"][:3]
        steps = np.array([vector[:3] for vector in vectors], float).T
    else:
        words = fields.get("spacings", "1 1 1").split()[int(components > 1) :]
        steps = np.diag([abs(float(word)) for word in words[:3]])
    if steps.shape != (3, 3):
        raise damaged(path, "its header has no direction for each axis")
    origin = np.array((_vector(fields.get("space origin", "")) or [0.0, 0.0, 0.0])[:3])
    if origin.shape != (3,):
        raise damaged(path, "its header's space origin is no point")
    spacing, direction, _ = orthogonal(flip[:, None] * steps, str(path))
    remarks = () if known else (ORIENTATION_UNKNOWN,)
    return Grid(size, spacing, tuple((flip * origin).tolist()), direction), remarks


def _vector(text: str) -> list[float]:
    return [float(word) for word in text.strip().strip("()").split(",") if word.strip()]


ORIENTATION_UNKNOWN = Remark(
    "orientation-unknown",
    "The file does not say how the head lies (its header names no space): axes are taken as left, posterior, "
    "superior.",
    "Check left and right, front and top; export the CT again.",
)
