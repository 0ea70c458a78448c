"""Opening DICOM files wherever they lie, plain or in a zip archive, and getting values out of damaged ones.

Nothing here raises what a library raises: a value that can't be understood is absent, a file that is no DICOM
object is None.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.multival import MultiValue

from sahlora.errors import InputError

Source = Path | zipfile.Path
"""A file, or a member of a zip archive."""

MOST_BYTES = 2**30
"""A larger object is no slice and no label."""
MOST_MEMBER_BYTES = 2**28
DEFLATED = b"1.2.840.10008.1.2.1.99"
META_START, GROUP_LENGTH = 144, slice(140, 144)


def files_in(folder: Path) -> list[Source]:
    """List the files in a folder and its subfolders, or the members of a zip archive, ordered by name.

    Raises
    ------
    InputError
        ``unreadable`` if a folder or an archive can't be opened.
    """
    try:
        if folder.is_file():
            with zipfile.ZipFile(folder) as archive:
                names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
            return [zipfile.Path(folder, name) for name in names]
        return [*sorted(path for path in folder.rglob("*") if path.is_file())]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(
            "unreadable", f"{folder} can't be opened: {error}.", "Copy it again, or unpack the archive."
        ) from error


def is_zip(path: Path) -> bool:
    """Whether a path is a zip archive, by its ending and its first bytes."""
    return path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path)


def name_of(source: Source) -> str:
    """Return the path of a source for a message; of a member with its archive's."""
    return str(source)


def read_dataset(source: Source, tags: Sequence[str] | None = None) -> pydicom.FileDataset:
    """Read a DICOM object, with preamble or without; with `tags`, only these and no pixels.

    Raises
    ------
    Exception
        Whatever the library raises on a damaged file; ValueError if it is no DICOM object or a bomb.
    """
    with _opened(source) as stream:
        _require_object(stream)
        with lenient():
            return pydicom.dcmread(
                stream, stop_before_pixels=tags is not None, specific_tags=tags and list(tags), force=True
            )


@contextmanager
def lenient() -> Iterator[None]:
    """Accept values that are not as DICOM wants them, without a word: each is judged where it is used."""
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        if source.stat().st_size > MOST_BYTES:
            raise ValueError("it is larger than any slice")
        with source.open("rb") as stream:
            yield stream
        return
    with source.open("rb") as member:
        content = member.read(MOST_MEMBER_BYTES + 1)
    if len(content) > MOST_MEMBER_BYTES:
        raise ValueError("it is larger than any slice")
    yield io.BytesIO(content)


def _require_object(stream: BinaryIO) -> None:
    """Look at the first bytes: the mark of a DICOM file, or the first elements of an object without one."""
    head = stream.read(1024)
    if head[128:132] != b"DICM" and (head[:2] not in (b"\x08\x00", b"\x02\x00") or head[3:4] != b"\x00"):
        raise ValueError("it is no DICOM object")
    if DEFLATED in head:
        content = head + stream.read()
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        unpack.decompress(
            content[META_START + int.from_bytes(content[GROUP_LENGTH], "little") :], MOST_MEMBER_BYTES
        )
        if unpack.unconsumed_tail:
            raise ValueError("it unpacks to more than any slice")
    stream.seek(0)


# -------------------------------------------------------------------------------------------------- values


def value(dataset: pydicom.Dataset, name: str) -> Any:
    """Return a value, or None where there is none that can be understood."""
    try:
        with lenient():
            return dataset.get(name)
    except Exception:  # what a library raises on a damaged element is its own affair
        return None


def text(dataset: pydicom.Dataset, name: str) -> str:
    """Return a value as text, several joined by a backslash; empty where there is none."""
    found = value(dataset, name)
    if found is None:
        return ""
    with lenient():
        try:
            parts = list(found) if isinstance(found, (MultiValue, list, tuple)) else [found]
            joined = "\\".join("" if part is None else str(part) for part in parts)
        except Exception:
            return ""
    return joined.strip(" \0\n\r\t")


def numbers(dataset: pydicom.Dataset, name: str, count: int) -> np.ndarray | None:
    """Return `count` finite numbers, or None."""
    found = value(dataset, name)
    try:
        array = np.array([float(part) for part in (found if count > 1 else [found])])
    except (TypeError, ValueError, OverflowError):
        return None
    return array if len(array) == count and np.isfinite(array).all() else None


def whole(dataset: pydicom.Dataset, name: str, default: int = 0) -> int:
    """Return a whole number, or the default where there is none."""
    found = numbers(dataset, name, 1)
    return default if found is None or abs(found[0]) > 2**31 else int(found[0])
