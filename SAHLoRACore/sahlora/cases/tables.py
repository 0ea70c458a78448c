"""Tables as spreadsheets and text editors save them: separators, encodings and headings of many kinds."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from sahlora.errors import InputError
from sahlora.runtime.files import read_cell

SEPARATORS = (",", ";", "\t", "|")
LARGEST_TABLE = 2**26
Row = dict[str, str]


class NoTableError(ValueError):
    """Says why a file is no table, as the end of a sentence."""


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read a table with at least these columns.

    Commas, semicolons, tabs and vertical bars separate cells, also after a first line ``sep=;``; the text is
    UTF-8, UTF-16, or else Windows-1252. Headings may have capitals, blanks and hyphens; cells lose the blanks
    around them, and rows without any content are passed over.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        In small letters, with underscores for blanks.

    Raises
    ------
    NoTableError
        What is wrong, for the caller's error.
    InputError
        ``not-found`` or ``unreadable``.
    """
    if not path.is_file():
        raise InputError("not-found", f"There is no file {path}.", "Check the path.")
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_TABLE else None
    except OSError as error:
        raise InputError(
            "unreadable", f"Can't read {path}: {error.strerror}.", "Check who may read it."
        ) from None
    if content is None:
        raise NoTableError("it is too large for a table")
    text = _decoded(content)
    if "\0" in text:
        raise NoTableError("it is no text")
    try:
        return _rows(text, columns)
    except csv.Error as error:
        raise NoTableError(f"it is no table ({error})") from None


def heading(text: str) -> str:
    """Return a column's name as it is asked for: small letters, underscores for blanks and hyphens."""
    return re.sub(r"[\s-]+", "_", text.strip().casefold())


def _decoded(content: bytes) -> str:
    for encoding in _encodings(content):
        try:
            return content.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
    raise NoTableError("it is no text in UTF-8, UTF-16 or Windows-1252")


def _encodings(content: bytes) -> tuple[str, ...]:
    """Return which encodings a text may have; without a mark, UTF-16 shows by every other byte being zero."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ("utf-16",)
    if b"\0" in content[:2]:
        return ("utf-16-be",) if content.startswith(b"\0") else ("utf-16-le",)
    return ("utf-8", "cp1252")


def _rows(text: str, columns: Sequence[str]) -> list[Row]:
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r'"?sep=(.)"?', first.strip("\r"))
    separators = (stated[1],) if stated else SEPARATORS
    text = rest if stated else text
    headings = {separator: _headings(text, separator) for separator in separators}
    separator = min(headings, key=lambda one: len(set(columns) - set(headings[one])))
    names = headings[separator]
    if missing := [column for column in columns if column not in names]:
        raise NoTableError(f"it lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if twice := [name for name in columns if names.count(name) > 1]:
        raise NoTableError(f"it has the column {twice[0]} twice")
    table = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    return [
        _row(names, cells, number) for number, cells in enumerate(table[1:], 1) if any(map(str.strip, cells))
    ]


def _headings(text: str, separator: str) -> list[str]:
    return [
        heading(cell) for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    ]


def _row(names: Sequence[str], cells: Sequence[str], number: int) -> Row:
    if any(map(str.strip, cells[len(names) :])):
        raise NoTableError(f"row {number} has more cells than headings: quote what holds a separator")
    values = [read_cell(cell.strip()) for cell in cells]
    values += [""] * (len(names) - len(values))
    return dict(zip(names, values[: len(names)], strict=True))
