"""Folders that one process at a time works in, and what a killed process left behind.

A lock is the operating system's, on an open file: it is gone with the process that held it, however that
ended, also where process numbers are used again or mean another computer's.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sahlora.errors import ResourceError
from sahlora.runtime.process import process_exists

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEMPORARY = ".sahlora-"  # how folders of files that are being written begin
LOCK, OWNER = "lock.json", ".owner"
BEYOND = 2**30
"""Byte that Windows locks, behind what others should still read."""
LONGEST_START_S = 60
"""From the making of a temporary folder to its lock, by far."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process.

    Where the file system knows no locks, nobody is kept out.

    Raises
    ------
    ResourceError
        ``in-use``, saying by whom and how long.
    """
    path = folder / LOCK
    stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if not _try_lock(stream):
        os.close(stream)
        raise _in_use(folder)
    try:
        holder = {"process": os.getpid(), "computer": platform.node(), "since": time.time()}
        os.ftruncate(stream, 0)
        os.write(stream, json.dumps(holder).encode())
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; a lock's file without a lock keeps nobody out
            path.unlink()
        os.close(stream)


def _in_use(folder: Path) -> ResourceError:
    try:
        holder = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        who = f"process {holder['process']} on {holder['computer']} for {_age(time.time() - holder['since'])}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return ResourceError(
        "in-use", f"{folder} is in use by {who}.", "Wait until that has ended, or name another folder."
    )


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} seconds"


def _try_lock(stream: int) -> bool:
    """Lock an open file unless another process has; True also where the file system can't tell."""
    try:
        if sys.platform == "win32":
            os.lseek(stream, BEYOND, os.SEEK_SET)
            msvcrt.locking(stream, msvcrt.LK_NBLCK, 1)
            os.lseek(stream, 0, os.SEEK_SET)
        else:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


# -------------------------------------------------------------------------------------- temporary folders


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder for files that are being written; it is removed at the end.

    Raises
    ------
    OSError
        If the file system refuses.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{os.getpid()}-", dir=parent))
    owner = None
    try:
        unlocked = folder / f"{OWNER}.new"
        owner = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)
        _try_lock(owner)
        with suppress(PermissionError):  # Windows renames no open file: the process's number has to do
            unlocked.rename(folder / OWNER)
        yield folder
    finally:
        if owner is not None:
            os.close(owner)
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders in a folder whose process is gone; they may hold a patient's label map."""
    for left in folder.glob(f"{TEMPORARY}*"):
        if left.is_dir() and _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        owner = os.open(folder / OWNER, os.O_RDWR)
    except FileNotFoundError:
        return _has_no_process(folder)
    except OSError:
        return False
    try:
        return _try_lock(owner)
    finally:
        os.close(owner)


def _has_no_process(folder: Path) -> bool:
    """Judge a folder that was not locked yet, or not at all, by its name and age."""
    number = folder.name.removeprefix(TEMPORARY).partition("-")[0]
    if number.isdecimal():
        return not process_exists(int(number))
    try:
        return time.time() - folder.stat().st_mtime > LONGEST_START_S
    except OSError:
        return False
