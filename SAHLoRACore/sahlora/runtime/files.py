"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from sahlora.errors import ResourceError, UsageError
from sahlora.runtime.identity import FileSet
from sahlora.runtime.locks import remove_leftovers, temporary_folder

BLOCK_BYTES = 2**20  # read at once of a file that is hashed

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\n]")
"""How a cell begins that spreadsheets would compute, or that was quoted so that they don't."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it takes the place of `path`.

    Raises
    ------
    ResourceError
        ``disk-full`` or ``unwritable`` if the file system refuses; `path` is then as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            if temporary.is_file():
                with temporary.open("rb+") as stream:
                    os.fsync(stream.fileno())
            temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one piece or not at all; errors are those of `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 in one piece or not at all; bytes of names that are no UTF-8 are written as escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs, see `to_plain`; in one piece or not at all.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    text = json.dumps(to_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")


def to_plain(value: Any) -> Any:
    """Return a result as plain values for JSON: what is no finite number is None, a path is text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {name: to_plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def unwritable(path: Path, error: OSError) -> ResourceError:
    """Turn an operating system's refusal to write into an error with a way out."""
    if error.errno in FULL_DISK:
        return ResourceError(
            "disk-full", f"The disk is full: {path} was not written.", "Free some space and run again."
        )
    return ResourceError(
        "unwritable", f"Can't write {path}: {error.strerror or error}.", "Choose a folder you may write to."
    )


def require_ending(path: Path, *endings: str) -> None:
    """Check before long work that a file's name has one of these endings.

    Raises
    ------
    UsageError
        ``unsupported-output``.
    """
    if not path.name.lower().endswith(endings):
        *others, last = endings
        raise UsageError(
            "unsupported-output",
            f"{path} has no ending that can be written.",
            f"End it with {', '.join(others)}{' or ' * bool(others)}{last}.",
        )


def require_writable(*outputs: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Check before long work that results can be written to these paths, and replace no input.

    Nothing new is left behind, and what killed processes left half-written beside the paths is removed.

    Parameters
    ----------
    *outputs : Path, optional
        Files to write; None is passed over.
    inputs : iterable of Path
        Files, and folders such as a DICOM series.

    Raises
    ------
    UsageError
        ``same-file`` if two outputs are one file, or one is an input, whatever its spelling, letter case or
        links; ``inside-input`` if one lies in a folder that is an input.
    ResourceError
        ``unwritable`` if a path is a folder, or its folder can't be made or written to.
    """
    paths = [path for path in outputs if path is not None]
    require_apart(paths, inputs)
    for path in paths:
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            with _made_for_now(path.parent), tempfile.TemporaryFile(dir=path.parent):
                remove_leftovers(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error


def require_apart(outputs: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Check that no output is an input, lies in one or is another output; errors as `require_writable`."""
    given, written = FileSet(inputs), FileSet()
    for path in outputs:
        if (same := given.find(path)) is not None:
            raise UsageError(
                "same-file",
                f"{path} would be overwritten: it is the input {same}.",
                "Give the result a name of its own, different not in letter case alone.",
            )
        if (folder := given.around(path)) is not None:
            if path.exists():
                raise UsageError(
                    "same-file",
                    f"{path} would be overwritten: it is a file of the input {folder}.",
                    "Give the result a name of its own, in another folder.",
                )
            raise UsageError(
                "inside-input", f"{path} lies in {folder}, which is an input.", "Write to another folder."
            )
        if (other := written.find(path)) is not None:
            raise UsageError(
                "same-file", f"{path} and {other} are one file.", "Give every file a name of its own."
            )
        written.add(path)


def require_own(files: Iterable[Path], is_own: Callable[[], bool]) -> None:
    """Check before long work that files in a folder of results replace nobody else's.

    Parameters
    ----------
    files : iterable of Path
        What will be written under names that the user didn't choose.
    is_own : callable
        Whether what is there was written by the same command; asked if anything is there.

    Raises
    ------
    UsageError
        ``foreign-file``.
    """
    there = next((path for path in files if path.exists()), None)
    if there is not None and not is_own():
        raise UsageError(
            "foreign-file",
            f"{there} would be overwritten, and was not written by this command.",
            "Choose a new folder, or move that file.",
        )


def says_format(path: Path, name: str) -> bool:
    """Whether a file is JSON of the format of this name, as results say of themselves."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["format"] == name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


@contextmanager
def _made_for_now(folder: Path) -> Iterator[None]:
    """Make a folder; afterwards remove what had to be made and is still empty."""
    made: list[Path] = []
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    there = (missing[-1] if missing else folder / "any").parent
    if not there.is_dir():
        raise ResourceError("unwritable", f"{there} is a file, not a folder.", "Choose a folder.")
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            made.append(parent)
        yield
    finally:
        with suppress(OSError):
            for parent in reversed(made):
                parent.rmdir()


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows of the same columns as CSV, see `as_table`.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    write_text(path, as_table(rows, columns))


def as_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return rows of the same columns as CSV; what is undefined is an empty cell.

    Cells that a spreadsheet would compute get an apostrophe before them, which `read_cell` takes away.
    """
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, columns or list(rows[0]), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) for name, value in row.items()})
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.9g}" if math.isfinite(value) else ""
    text = "" if value is None else str(value).replace("\r", "\n")  # csv quotes line feeds alone
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def read_cell(text: str) -> str:
    """Return what a cell held before `write_table` quoted it."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def digest_file(digest: hashlib._Hash, path: Path) -> None:
    """Add a file's content to a digest, block by block, however large it is."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
