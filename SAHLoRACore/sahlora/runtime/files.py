"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sahlora.errors import ResourceError, UsageError

TEMPORARY = ".sahlora-"  # how folders of files that are being written begin
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it takes the place of `path`.

    Raises
    ------
    ResourceError
        ``disk-full`` or ``unwritable`` if the file system refuses; `path` is then as it was before.
    """
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
        temporary = folder / path.name
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if folder is not None:
            with suppress(OSError):
                shutil.rmtree(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one piece or not at all; errors are those of `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


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
    """Check before long work that results can be written to these paths; nothing is left behind.

    Raises
    ------
    UsageError
        ``same-file`` if two outputs are one file, or one is an input.
    ResourceError
        ``unwritable`` if a path is a folder, or its folder can't be made or written to.
    """
    paths = [path for path in outputs if path is not None]
    taken = {path.resolve() for path in inputs}
    for path in paths:
        if path.resolve() in taken:
            raise UsageError(
                "same-file", f"{path} would be overwritten.", "Give every file a name of its own."
            )
        taken.add(path.resolve())
    for path in paths:
        if path.is_dir():
            raise unwritable(path, IsADirectoryError(errno.EISDIR, "it is a folder"))
        try:
            with _made_for_now(path.parent), tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise unwritable(path, error) from error


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


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as CSV; what is undefined is an empty cell.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value
