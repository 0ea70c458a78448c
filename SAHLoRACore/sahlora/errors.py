"""Errors a user can act on: a code for programs, a sentence for people, and a way out."""

from __future__ import annotations


class SAHLoRAError(Exception):
    """Base of all errors raised on purpose; anything else is a bug.

    Parameters
    ----------
    code : str
        Stable kebab-case name for programs, e.g. ``"not-ct"``.
    message : str
        One sentence that names the problem.
    hint : str
        What the user can do about it.
    """

    exit_status = 1

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def printable(text: str) -> str:
    """Return a text whose letters can all be seen, however hostile the file or name that is quoted in it."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode-escape").decode()
        for letter in text
    )


class UsageError(SAHLoRAError):
    """The call itself is wrong: unknown option value, contradicting options."""

    exit_status = 2


class InputError(SAHLoRAError):
    """A file or its content can't be used: missing, not CT, truncated, of another base."""

    exit_status = 3


class ResourceError(SAHLoRAError):
    """The machine ran out of something: memory, disk, permission to write, a device."""

    exit_status = 4


class Cancelled(SAHLoRAError):  # noqa: N818 - a request honored, not a failure
    """The user asked to stop; nothing was half-written."""

    exit_status = 130

    def __init__(self, message: str = "Canceled.", hint: str = "Nothing was written.") -> None:
        super().__init__("cancelled", message, hint)
