"""An image file whose header has been judged: where its voxels are, of which type, and on which grid.

Nothing is read by a library that believes the header. Voxels come one plane at a time, so that a file needs
no more memory than the result, and a bomb is known before it is opened.
"""

from __future__ import annotations

import bz2
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.geometry import Grid

MOST_VOXELS = 2**30
"""1024 x 1024 x 1024: 2 GiB as int16, more than any scanner's head."""

MOST_UNPACKED_BYTES, MOST_UNPACKED_RATIO = 2**28, 32
"""Packed data may grow to 256 MiB (512 x 512 x 512 in int16) or 32 times their size; head CT grows twice."""

LONGEST_AXIS = 8192
BLOCK = 1 << 18
MOST_TRAILING = 1 << 20

Encoding = Literal["raw", "gzip", "bzip2", "text"]


@dataclass(frozen=True)
class Remark:
    """Something in a header that the user should know though the file can be read."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Voxels:
    """Where voxels are stored and how.

    Parameters
    ----------
    path : Path
        The file that holds them.
    dtype : np.dtype
        Type and byte order.
    encoding : str
        How they are packed.
    offset : int
        Bytes of the file before the voxels, or before the packed stream.
    skipped : int
        Bytes of what is unpacked before the first voxel.
    """

    path: Path
    dtype: np.dtype
    encoding: Encoding = "raw"
    offset: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class StoredImage:
    """One image in a file: a judged header, and the way to its voxels.

    Parameters
    ----------
    grid : Grid
        Three axes; further ones hold one voxel.
    components : int
        Values a voxel has; they lie together.
    slope, intercept : float
        Value = stored x slope + intercept.
    remarks : tuple of Remark
        What is doubtful in the header.
    fields : mapping
        The header's own fields as text, where the format has such.
    """

    path: Path
    grid: Grid
    voxels: Voxels
    components: int = 1
    slope: float = 1.0
    intercept: float = 0.0
    remarks: tuple[Remark, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (slice, row, column) of the stored array, with components last if there are several."""
        return (*self.grid.size[::-1], *([self.components] if self.components > 1 else []))

    def planes(self) -> Iterator[np.ndarray]:
        """Read the planes (row, column) one by one, scaled where the header says so.

        Raises
        ------
        InputError
            ``unreadable`` if the file ends early or is damaged.
        """
        try:
            for plane in self._stored_planes():
                if (self.slope, self.intercept) == (1.0, 0.0):
                    yield plane
                else:
                    yield plane * np.float64(self.slope) + self.intercept
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise damaged(self.path, str(error)) from error

    def array(self) -> np.ndarray:
        """Read all voxels (slice, row, column); errors are those of `planes`."""
        return np.stack(list(self.planes()))

    def _stored_planes(self) -> Iterator[np.ndarray]:
        count, *shape = self.shape
        voxels, length = self.voxels, math.prod(shape)
        if voxels.encoding == "text":
            numbers = _numbers(voxels, count * length)
            yield from numbers.reshape(count, *shape)
            return
        with opened(voxels) as stream:
            for _ in range(count):
                content = read_exactly(stream, length * voxels.dtype.itemsize)
                plane = np.frombuffer(content, voxels.dtype).reshape(shape)
                yield plane if voxels.dtype.isnative else plane.astype(voxels.dtype.newbyteorder("="))
            stream.read(MOST_TRAILING)  # a checksum stands behind what is packed


# ------------------------------------------------------------------------------------------------- judging


def require_size(path: Path, size: tuple[int, ...], components: int, voxels: Voxels) -> None:
    """Check that an image's size is sensible and that its file can hold it.

    Raises
    ------
    InputError
        ``unreadable`` where a size is not positive or the file is too short, ``too-large`` beyond the limits
        of this module.
    """
    shape = " x ".join(map(str, size))
    if min(size) < 1 or components < 1:
        raise damaged(path, f"its header gives a size of {shape}")
    count = math.prod(size) * components
    if max(size) > LONGEST_AXIS or count > MOST_VOXELS:
        raise InputError(
            "too-large",
            f"The header of {path} gives a size of {shape} voxels.",
            f"At most {LONGEST_AXIS} along an axis and {MOST_VOXELS >> 20} million in all are read.",
        )
    stored = file_length(voxels.path) - voxels.offset
    needed = voxels.skipped + count * voxels.dtype.itemsize
    if voxels.encoding == "raw" and stored < needed:
        raise damaged(path, f"{needed} bytes of voxels are announced and {max(stored, 0)} are there")
    if voxels.encoding == "text" and stored < 2 * count - 1:
        raise damaged(path, f"{count} numbers are announced and the file is too short for them")
    if voxels.encoding in ("gzip", "bzip2") and needed > max(
        MOST_UNPACKED_BYTES, MOST_UNPACKED_RATIO * stored
    ):
        raise InputError(
            "too-large",
            f"{path} would unpack from {stored} to {needed} bytes.",
            "No CT packs so well: if it is one, save it uncompressed.",
        )


def damaged(path: Path, why: str) -> InputError:
    """Return the error for a file that can't be read, with the reason."""
    return InputError(
        "unreadable", f"{path} can't be read: {why}.", "It may be damaged: copy or export it again."
    )


def data_file(header: Path, name: str) -> Path:
    """Find the file with the voxels that a header names: a plain file beside it and no other.

    Raises
    ------
    InputError
        ``foreign-data-file`` for a name that leads elsewhere, ``unreadable`` if nothing is there.
    """
    path = header.parent / name
    if not name or Path(name).name != name or "\\" in name or "\0" in name or path.is_symlink():
        raise InputError(
            "foreign-data-file",
            f"{header} names “{name}” as the file with its voxels.",
            "Only a file in the same folder is read: put it there, or save the image as one file.",
        )
    if not path.is_file():
        raise damaged(header, f"its data file {name} is missing")
    return path


def file_length(path: Path) -> int:
    """Return the length of a file in bytes; raises ``unreadable``."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error


# ------------------------------------------------------------------------------------------------- reading


class Stream(Protocol):
    """What voxels are read from."""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end."""
        ...


class Inflated:
    """A gzip or zlib stream, unpacked no further than asked for.

    Several gzip members one after the other are one stream; what follows and is none is left alone.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._waiting = stream, b""
        self._unpack = zlib.decompressobj(wbits=47)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end of the data.

        Raises
        ------
        EOFError
            If the stream ends before its end mark.
        """
        while True:
            if self._unpack.eof:
                self._waiting = self._unpack.unused_data or self._stream.read(BLOCK)
                if self._waiting[:2] != b"\x1f\x8b":
                    return b""
                self._unpack = zlib.decompressobj(wbits=47)
            else:
                self._waiting = self._waiting or self._stream.read(BLOCK)
                if not self._waiting:
                    raise EOFError("its packed data end early")
            content = self._unpack.decompress(self._waiting, size)
            self._waiting = self._unpack.unconsumed_tail
            if content:
                return content


@contextmanager
def opened(voxels: Voxels) -> Iterator[Stream]:
    """Open a file at its first voxel."""
    with voxels.path.open("rb") as file:
        file.seek(voxels.offset)
        stream: Stream = file
        if voxels.encoding == "gzip":
            stream = Inflated(file)
        elif voxels.encoding == "bzip2":
            stream = bz2.BZ2File(file)
        if voxels.skipped:
            read_exactly(stream, voxels.skipped)
        yield stream


def read_exactly(stream: Stream, size: int) -> bytearray:
    """Read so many bytes.

    Raises
    ------
    EOFError
        If there are fewer.
    """
    content = bytearray()
    while len(content) < size:
        block = stream.read(size - len(content))
        if not block:
            raise EOFError("it ends before its last voxel")
        content += block
    return content


def _numbers(voxels: Voxels, count: int) -> np.ndarray:
    """Read numbers written as text."""
    with voxels.path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of text that goes on with something else
        file.seek(voxels.offset)
        numbers = np.fromstring(file.read(), np.float64, count, sep=" ")
    if len(numbers) < count:
        raise EOFError(f"{count} numbers are announced and {len(numbers)} are there")
    return numbers.astype(voxels.dtype)
