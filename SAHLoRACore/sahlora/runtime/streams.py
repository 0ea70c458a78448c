"""Standard output and error: readable whatever letters they know, and never lost in silence."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from contextlib import suppress
from typing import Any

from sahlora.errors import ResourceError
from sahlora.runtime.files import FULL_DISK

PLAIN = {
    "“": '"', "”": '"', "’": "'", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+/-", "·": "*",
    "≥": ">=", "≤": "<=", "→": "->", "²": "2", "³": "3", "Δ": "Delta", "ρ": "rho", "κ": "kappa",
}  # fmt: skip
"""Signs of our own texts in letters that every terminal has."""
OUTPUT_FAILURES = {*FULL_DISK, errno.EPIPE}
"""What fails in standard output alone: whoever writes files tells these with the file's name."""
HANDLER = "sahlora-plain"


def use_plain_letters() -> None:
    """Let standard output and error write what their encoding lacks in plain letters, else as an escape."""
    codecs.register_error(HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, or one that a program put there
            stream.reconfigure(errors=HANDLER)  # type: ignore[union-attr]


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    escaped = (PLAIN.get(x) or x.encode("ascii", "backslashreplace").decode("ascii") for x in letters)
    return "".join(escaped), error.end


def flush_output() -> None:
    """Write what standard output still holds.

    Raises
    ------
    ResourceError
        ``output-closed`` or ``disk-full``; standard output is then closed for good.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        close_output()
        raise output_error(error) from None


def close_output() -> None:
    """Send the rest of standard output nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output_error(error: OSError) -> ResourceError:
    """Turn a failure to write to standard output into an error with a way out."""
    if error.errno in FULL_DISK:
        return ResourceError(
            "disk-full", "The disk is full: the output is not complete.", "Free some space and run again."
        )
    reason = "nobody reads it any more" if error.errno == errno.EPIPE else error.strerror or error
    return ResourceError(
        "output-closed", f"The output is not complete: {reason}.", "Read it to its end, or send it to a file."
    )


class Quiet:
    """Passes text on to standard error as long as somebody takes it: the log is not the result."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
