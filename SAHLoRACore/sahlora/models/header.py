"""What a model file holds, to the last byte, read without torch: a card, tensors, and nothing else.

A safetensors file is the length of its header, the header (JSON: name, type, shape and place of each tensor,
and texts), and the tensors' bytes. `read_contents` refuses a file with anything beside one card and the
tensors, so what it lists is all there is: no second text, no entry given twice, no byte outside the tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sahlora.errors import InputError

CARD_KEY = "sahlora"
LARGEST_FILE = 2**30
LARGEST_HEADER = 2**22
LENGTH_BYTES = 8
METADATA = "__metadata__"
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ALIGNMENT = 8
ITEM_BYTES = {
    "I64": 8,
    "F64": 8,
    "F32": 4,
    "I32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
TYPES = tuple(ITEM_BYTES)
"""In the order of their tensors in a file."""

AGAIN = "Get the file again from its author."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: `type` as safetensors names it, e.g. ``F32``; `start` counts from the file's beginning."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    bytes: int


@dataclass(frozen=True)
class Contents:
    """All that is in a model file.

    Parameters
    ----------
    card : str, optional
        The card's JSON, if there is one.
    tensors : tuple of TensorEntry
        In the order of their bytes, which follow each other without a gap to the file's end.
    header_bytes : int
        Bytes before the first tensor: the header's length, card and entries.
    """

    card: str | None
    tensors: tuple[TensorEntry, ...]
    header_bytes: int

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.header_bytes + self.tensor_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds beside the card, for JSON."""
        return {
            "file_bytes": self.file_bytes,
            "header_bytes": self.header_bytes,
            "tensor_bytes": self.tensor_bytes,
            "tensors": [
                {"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.bytes}
                for t in self.tensors
            ],
        }

    def lines(self) -> list[str]:
        """Return what the file holds for people: the whole card, every tensor, and the count of bytes."""
        width = max((len(tensor.name) for tensor in self.tensors), default=0)
        return [
            "card, complete:",
            *json.dumps(json.loads(self.card or "null"), indent=2, ensure_ascii=False).splitlines(),
            f"tensors, all {len(self.tensors)}:",
            *(f"  {t.name:<{width}}  {t.type} {_size(t.shape)}, {t.bytes:,} bytes" for t in self.tensors),
            f"{self.header_bytes:,} bytes of header with the card and {self.tensor_bytes:,} bytes of tensors"
            f" are the file's {self.file_bytes:,} bytes: nothing else is in it.",
        ]


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "1"


def read_contents(path: Path) -> Contents:
    """List what a model file holds, reading nothing but its header.

    Raises
    ------
    InputError
        ``not-found``, ``unreadable``; ``not-a-model`` (pickle, other format, damaged or truncated, huge
        header); ``wrong-tensors`` if an entry is given twice; ``more-than-a-model`` if there is text beside
        the card, bytes beside the tensors, or a header in another form than `canonical_header`'s.
    """
    try:
        return _read_contents(path)
    except OSError as error:
        raise InputError(
            "unreadable", f"Can't read {path}: {error.strerror or error}.", "Check who may read it."
        ) from None


def _read_contents(path: Path) -> Contents:
    if not path.is_file():
        raise InputError("not-found", f"There is no model file {path}.", "Check the path.")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little") if len(start) == LENGTH_BYTES else 0
        if start[:2] in PICKLES and length > size:
            raise InputError(
                "not-a-model",
                f"{path.name} is a pickled PyTorch checkpoint, which can run code when loaded.",
                "Bring a published checkpoint in with “sahlora models import”, or give a .safetensors file.",
            )
        if not 0 < length <= min(LARGEST_HEADER, size - LENGTH_BYTES) or size > LARGEST_FILE:
            raise _damaged(path)
        header = stream.read(length)
    return _checked(path, header, LENGTH_BYTES + length, size)


def _checked(path: Path, header: bytes, first: int, size: int) -> Contents:
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=distinct)
        texts = entries.pop(METADATA, {})
        tensors = sorted(
            (_entry(name, value, first) for name, value in entries.items()), key=lambda t: (t.start, t.bytes)
        )
        others = texts.keys() - {CARD_KEY}
        card = texts.get(CARD_KEY)
    except RepeatedNameError as error:
        raise InputError("wrong-tensors", f"{path.name} names {error} twice.", AGAIN) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(card, str | None):
        raise _damaged(path)
    if others:
        raise _more(path, f"a text “{min(others):.80}” beside its card")
    if card is not None and canonical_header(card, tensors) != header:
        raise _more(path, "a header in another form than SAHLoRA writes")
    end = first
    for tensor in tensors:
        if tensor.start != end:
            raise _damaged(path) if tensor.start < end else _more(path, "bytes between its tensors")
        end += tensor.bytes
    if end != size:
        raise _damaged(path) if end > size else _more(path, f"{size - end:,} bytes after its last tensor")
    return Contents(card, tuple(tensors), first)


def canonical_header(card: str, tensors: Sequence[TensorEntry]) -> bytes:
    """Return the one header of a file with this card and these tensors, padded so that tensors are aligned.

    It is the one that the library safetensors writes.
    """
    first = min((tensor.start for tensor in tensors), default=0)
    entries: dict[str, Any] = {METADATA: {CARD_KEY: card}}
    for tensor in sorted(tensors, key=in_file_order):
        begin = tensor.start - first
        offsets = [begin, begin + tensor.bytes]
        entries[tensor.name] = {"dtype": tensor.type, "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return text + b" " * (-len(text) % ALIGNMENT)


def in_file_order(tensor: TensorEntry) -> tuple[int, str]:
    """Return the key by which tensors follow each other: the widest types first, then by name."""
    return TYPES.index(tensor.type), tensor.name


def _entry(name: str, value: dict[str, Any], first: int) -> TensorEntry:
    """Read one tensor's entry; raise KeyError, TypeError or ValueError if it is no such entry."""
    start, end = value["data_offsets"]
    shape = tuple(value["shape"])
    sizes = (*shape, start, end)
    if value.keys() != {"dtype", "shape", "data_offsets"} or not all(
        type(n) is int and n >= 0 for n in sizes
    ):
        raise ValueError(name)
    if end - start != ITEM_BYTES[value["dtype"]] * math.prod(shape):
        raise ValueError(name)
    return TensorEntry(name, value["dtype"], shape, first + start, end - start)


class RepeatedNameError(ValueError):
    """Raised by `distinct`."""


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs; of a name given twice, readers would silently take one."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _value in pairs]
        raise RepeatedNameError(f"“{next(name for name in names if names.count(name) > 1):.80}”")
    return made


def _damaged(path: Path) -> InputError:
    return InputError("not-a-model", f"{path.name} is no safetensors file, or a damaged one.", AGAIN)


def _more(path: Path, what: str) -> InputError:
    return InputError("more-than-a-model", f"{path.name} holds {what}.", "Get a file that SAHLoRA wrote.")


def read_card_json(path: Path) -> str:
    """Return the card of a model file as JSON text, reading nothing but the header.

    Raises
    ------
    InputError
        As `sahlora.models.header.read_contents`, or ``no-card``.
    """
    contents = read_contents(path)
    if contents.card is None:
        raise InputError("no-card", f"{path.name} has no SAHLoRA card.", "Give a model file made by SAHLoRA.")
    return contents.card


def card_kind(card_json: str) -> str | None:
    """Return what a card says the file is: ``base``, ``adapter``, or None if it doesn't say."""
    try:
        kind = json.loads(card_json).get("kind")
    except (ValueError, AttributeError, RecursionError):
        return None
    return kind if isinstance(kind, str) else None
