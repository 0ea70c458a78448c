"""Leaks: one scan or patient both among the cases trained on and among those kept from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sahlora.cases.manifest import Case, identity
from sahlora.errors import InputError
from sahlora.runtime.files import digest_file


def require_disjoint(training: Sequence[Case], held_out: Sequence[Case]) -> None:
    """Check that no scan and no patient is on both sides, as far as names and paths tell.

    A patient may be named like a case without a patient: the case's name then is the patient's.

    Raises
    ------
    InputError
        ``held-out-in-training``, naming two cases.
    """
    for what, key in (
        ("the same patient", lambda case: case.person),
        ("the same name", lambda case: identity(case.name)),
        ("the same image", lambda case: case.image),
    ):
        known = {key(case): case for case in training}
        for case in held_out:
            if (other := known.get(key(case))) is not None:
                raise leak(other.name, case.name, what)


def require_unlike_files(training: Sequence[Case], held_out: Sequence[Case]) -> None:
    """Check that no image of one side is a copy of one of the other; only images of equal size are read.

    Raises
    ------
    InputError
        ``held-out-in-training``, naming two cases.
    """
    by_size: dict[tuple[int, ...], list[Case]] = {}
    for case in training:
        by_size.setdefault(_sizes(case.image), []).append(case)
    for case in held_out:
        alike = by_size.get(_sizes(case.image), [])
        content = _content(case.image) if alike else ""
        for other in alike:
            if _content(other.image) == content:
                raise leak(other.name, case.name, "the same image, byte by byte")


def leak(trained: str, held_out: str, what: str) -> InputError:
    """Return the error that names a case trained on and one held out which share `what`."""
    return InputError(
        "held-out-in-training",
        f"“{trained}” is to be trained on and “{held_out}” held out, but both have {what}.",
        "Keep all scans of a patient on one side; leave one of two copies out.",
    )


def _files(image: Path) -> list[Path]:
    return [image] if image.is_file() else [path for path in image.rglob("*") if path.is_file()]


def _sizes(image: Path) -> tuple[int, ...]:
    return tuple(sorted(path.stat().st_size for path in _files(image)))


def _content(image: Path) -> str:
    """Return the SHA-256 of an image's files, whatever they are called."""
    digests = []
    for path in _files(image):
        digest = hashlib.sha256()
        digest_file(digest, path)
        digests.append(digest.hexdigest())
    return "".join(sorted(digests))
