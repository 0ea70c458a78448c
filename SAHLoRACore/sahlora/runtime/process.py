"""Other processes of this computer."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path


def process_exists(pid: int) -> bool:
    """Tell whether a process of this number runs; one that ended and waits to be noticed doesn't."""
    if sys.platform == "win32":
        import ctypes

        synchronize, still_running = 0x00100000, 0x00000102
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(synchronize, False, pid)
        if not handle:
            return False
        state = kernel.WaitForSingleObject(handle, 0)
        kernel.CloseHandle(handle)
        return bool(state == still_running)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # no number of a process
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended already, as far as Linux tells."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in (b"Z", b"X")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next batch instead of returning each to the kernel.

    Activations of the same sizes are allocated again and again; by default each is mapped and zeroed by the
    kernel every time, up to a third of the time of inference and training on a CPU. Does nothing where the C
    library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)


def end_at_second(number: int) -> None:
    """Let the operating system itself end this process at the second signal of a number.

    The first calls the handler that was set in Python, as before. Python calls none while a library computes
    and does not come back; the system does not ask Python. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        once = ctypes.CDLL(None).sysv_signal  # signal() of System V: a handler is good for one signal
        once.restype, once.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        once(number, once(number, None))
