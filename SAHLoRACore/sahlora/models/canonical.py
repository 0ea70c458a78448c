"""The one form in which a card is written: nothing fits between its words but what they say.

Blanks between JSON tokens, the order of fields, spellings of numbers, letters that nobody sees: whatever
could differ without being read is fixed, so that a file in another form can be told and refused.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
"""Categories of Unicode for control and format characters, lone surrogates, private and unknown letters."""
SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0), range(0x180B, 0x1810))
"""Variation selectors, marks that are drawn as nothing."""
LONGEST_TEXT = 4096
LARGEST_INTEGER = 2**53
DEEPEST = 12


def dumps(value: Any) -> str:
    """Write JSON in the one form: sorted, in ASCII, no blank that could be left out or doubled.

    Raises
    ------
    ValueError
        If a number is infinite or none.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)


def loads(text: str, **options: Any) -> Any:
    """Read JSON as the standard has it.

    Raises
    ------
    ValueError
        Also for NaN and infinity, which Python's own reader takes.
    """

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse, **options)


def canonical(value: Any, digits: int | None) -> Any:
    """Return plain values as a card holds them: texts in one spelling, numbers of so many digits at most.

    Parameters
    ----------
    value : Any
        As `dataclasses.asdict` gives it.
    digits : int, optional
        Significant digits of a number; None keeps all.

    Raises
    ------
    ValueError
        If it can't be held: a number that is none or too large, a text that is too long, too many levels.
    """
    return _canonical(value, digits, DEEPEST)


def _canonical(value: Any, digits: int | None, levels: int) -> Any:
    if not levels:
        raise ValueError("it has too many levels")
    if isinstance(value, dict):
        return {
            _text(str(key)): _canonical(entry, digits, levels - 1) for key, entry in sorted(value.items())
        }
    if isinstance(value, (list, tuple)):
        return [_canonical(entry, digits, levels - 1) for entry in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool) or value is None:
        return value
    if not abs(value) <= LARGEST_INTEGER:
        raise ValueError("it holds a number that is too large, or none")
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if digits else float(value)
    return int(value)


def _text(text: str) -> str:
    """Return a text composed, with single blanks, without letters that nobody sees."""
    words = " ".join(unicodedata.normalize("NFC", text).split())
    seen = "".join(letter for letter in words if not _is_unseen(letter))
    cleaned = " ".join(seen.split())
    if len(cleaned) > LONGEST_TEXT:
        raise ValueError(f"it holds a text of {len(cleaned):,} letters; {LONGEST_TEXT:,} are the most")
    return cleaned


def _is_unseen(letter: str) -> bool:
    if letter.isascii():
        return not letter.isprintable()
    return unicodedata.category(letter) in UNSEEN or any(ord(letter) in block for block in SELECTORS)


def as_given(value: Any, given: Any) -> Any:
    """Return of `value` those fields that stand in `given`: older files lack newer fields."""
    if isinstance(value, dict) and isinstance(given, dict):
        return {key: as_given(entry, given[key]) for key, entry in value.items() if key in given}
    if isinstance(value, list) and isinstance(given, list) and len(value) == len(given):
        return [as_given(entry, other) for entry, other in zip(value, given, strict=True)]
    return value
