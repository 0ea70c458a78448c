"""Whether an image is still the one that was read: a digest of all bytes that belong to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from sahlora.errors import InputError
from sahlora.imaging.dicom_headers import read_header
from sahlora.imaging.dicom_label import SEGMENTATION
from sahlora.imaging.files import file_format
from sahlora.runtime.files import digest_file

DETACHED = {".mhd": rb"(?m)^\s*ElementDataFile\s*=\s*(.+?)\s*$", ".nhdr": rb"(?m)^\s*data ?file:\s*(.+?)\s*$"}
LONGEST_HEADER = 1 << 20


def content_digest(path: Path) -> str:
    """Return the SHA-256 of an image's or label's files, by name and content; dates don't count.

    Raises
    ------
    InputError
        ``unreadable``.
    """
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            digest_file(digest, file)
    except OSError as error:
        raise InputError(
            "unreadable",
            f"{path} can't be read: {error.strerror or error}.",
            "Check the file and its permissions.",
        ) from error
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """List the files that an image is read from: a folder's, a DICOM file's series, a header's data."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
        return
    yield path
    ending = file_format(path)
    if ending in DETACHED:
        with path.open("rb") as stream:
            named = re.search(DETACHED[ending], stream.read(LONGEST_HEADER), re.I)
        beside = path.parent / named[1].decode("utf-8", "replace") if named else path
        if beside != path and beside.is_file():
            yield beside
    elif ending is None and path.suffix.lower() != ".csv":
        header = read_header(path)
        if header is not None and header.sop_class not in SEGMENTATION:
            yield from sorted(file for file in path.parent.iterdir() if file.is_file())
