"""The card of a model file: what the model is, what it saw, how its input is made, and what it outlines.

Cards are frozen dataclasses of plain values, stored as JSON in the file's header. Reading one checks every
type and bound, since the file may come from anywhere.
"""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sahlora.errors import InputError
from sahlora.imaging.planes import View
from sahlora.imaging.terminology import Segment
from sahlora.models.canonical import as_given, canonical, dumps, loads
from sahlora.models.header import RepeatedNameError, distinct

FORMAT_VERSION = 2
"""Version 2 has neighbors of slices; what has none stays version 1, which older software reads."""
LARGEST_CARD = 2**16
DIGITS = 8
"""Of a number on an adapter's card."""
Plain = str | int | float | bool | None | list[Any] | dict[str, Any]

T = TypeVar("T")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _bad(f"it states {what}")


def _bad(reason: str) -> InputError:
    return InputError(
        "bad-card", f"The model's card can't be used: {reason}.", "Get the file again from its author."
    )


def in_one_line(sentences: Sequence[str]) -> str:
    """Return the sentences, or parts of one, of a description in one line."""
    return "; ".join(sentences).replace(".; ", ". ")


@dataclass(frozen=True)
class NetworkSpec:
    """Constructor arguments of the network."""

    architecture: Literal["MultiViewUNet"] = "MultiViewUNet"
    level: int = 2
    width: int = 32
    in_channels: int = 1
    out_channels: int = 1

    def __post_init__(self) -> None:
        _require(1 <= self.level <= 8 and 1 <= self.width <= 512, f"level {self.level}, width {self.width}")
        _require(self.in_channels in (1, 3), f"{self.in_channels} channels in")
        _require(self.out_channels == 1, "other than one channel out")


@dataclass(frozen=True)
class Preprocessing:
    """How slices are made of a volume.

    Parameters
    ----------
    window : tuple of float
        HU clipped to this range.
    intensity_range : tuple of float
        The window is mapped linearly to this range.
    spacing : float, optional
        In-plane pixel size in mm; None keeps the volume's own.
    views : tuple of View
        Views the model was made for.
    neighbors : float, optional
        The network sees the slices that lie about so many mm below and above as further channels (below,
        itself, above); None shows it the slice alone.
    """

    window: tuple[float, float] = (0.0, 120.0)
    intensity_range: tuple[float, float] = (0.0, 1.0)
    spacing: float | None = 1.0
    views: tuple[View, ...] = ("axial",)
    neighbors: float | None = None

    def __post_init__(self) -> None:
        for low, high in (self.window, self.intensity_range):
            _require(math.isfinite(low) and math.isfinite(high) and low < high, "an empty or infinite range")
        _require(self.spacing is None or 0.1 <= self.spacing <= 10, f"a pixel size of {self.spacing} mm")
        _require(0 < len(self.views) == len(set(self.views)), "no view or a view twice")
        _require(self.neighbors is None or 0.1 <= self.neighbors <= 50, f"neighbors {self.neighbors} mm away")


@dataclass(frozen=True)
class Target:
    """What the model outlines and from which probability on."""

    segment: Segment
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _require(0 < self.threshold < 1, f"a threshold of {self.threshold}")
        _require(all(0 <= c <= 255 for c in self.segment.color), "a color outside 0 to 255")


@dataclass(frozen=True)
class Description:
    """Words for people: what the model is, what it saw and on which terms it may be used."""

    title: str
    summary: str = ""
    author: str = ""
    license: str = ""
    created: str = ""
    data: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaseCard:
    """Card of a base model.

    Parameters
    ----------
    training : dict
        Record of the training: settings, counts of cases and slices, figures with their n. Never a name, path
        or identifier of a patient.
    """

    description: Description
    target: Target
    network: NetworkSpec = field(default_factory=NetworkSpec)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    training: dict[str, Plain] = field(default_factory=dict)
    kind: Literal["base"] = "base"
    format_version: int = 1

    def __post_init__(self) -> None:
        require_version(self)
        with_neighbors = self.preprocessing.neighbors is not None
        _require(
            self.network.in_channels == (3 if with_neighbors else 1),
            f"{self.network.in_channels} channels {'with' if with_neighbors else 'without'} neighbors",
        )


def require_version(card: Any) -> None:
    """Set the version of a card, base's or adapter's, to the lowest that can say what its network needs."""
    version = FORMAT_VERSION if card.network.in_channels > 1 else 1
    object.__setattr__(card, "format_version", version)


# ------------------------------------------------------------------------------------------------- JSON


def encode(card: Any) -> str:
    """Write a card in the one form that `decode_card` reads.

    Raises
    ------
    InputError
        ``bad-card`` if it holds more than a card can.
    """
    try:
        text = dumps(canonical(_content(card), _digits(card)))
    except (ValueError, OverflowError) as error:
        raise _bad(str(error)) from None
    if len(text) > LARGEST_CARD:
        raise _bad(f"it would have {len(text):,} bytes, {LARGEST_CARD:,} are the most")
    return text


def _content(card: Any) -> dict[str, Any]:
    """Return what a card says as plain values; version 1 does not know of neighbors."""
    content = asdict(card)
    if content.get("preprocessing", {}).get("neighbors", 0) is None:
        del content["preprocessing"]["neighbors"]
    return content


def _digits(card: Any) -> int | None:
    """Return how many digits a number may have: few in an adapter, which is made to be shared."""
    return DIGITS if getattr(card, "kind", None) == "adapter" else None


def decode_card(kind: type[T], text: str) -> T:
    """Read the card of a model file: checked as `decode` does, and written as `encode` writes.

    Raises
    ------
    InputError
        As `decode`; ``bad-card`` if it holds anything beside what it says.
    """
    if len(text) > LARGEST_CARD:
        raise _bad(f"it has {len(text):,} bytes, {LARGEST_CARD:,} are the most")
    card = decode(kind, text)
    given = loads(text)
    try:
        written = dumps(as_given(canonical(asdict(card), _digits(card)), given))  # type: ignore[call-overload]
    except (ValueError, OverflowError) as error:
        raise _bad(str(error)) from None
    if written != text:
        raise _bad(f"it is not written as SAHLoRA writes cards{_first_difference(written, text)}")
    return card


def _first_difference(written: str, text: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(written, text, strict=False)) if a != b), len(written))
    return f", from {text[max(0, at - 20) : at + 20]!a} on"


def decode(kind: type[T], text: str) -> T:
    """Read a card, or a part of one, from JSON, checking every field.

    Raises
    ------
    InputError
        ``bad-card`` if a field is missing, unknown, of another type or out of bounds;
        ``newer-format`` if a newer version of SAHLoRA wrote it.
    """
    try:
        data = loads(text, object_pairs_hook=distinct)
    except RepeatedNameError as error:
        raise _bad(f"it names {error} twice") from None
    except (ValueError, RecursionError):
        raise _bad("it is no JSON") from None
    if not isinstance(data, dict):
        raise _bad("it is no JSON object")
    version = data.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            "newer-format",
            f"This file has format {version}; this version of SAHLoRA reads up to {FORMAT_VERSION}.",
            "Update SAHLoRA.",
        )
    value: T = _decode(kind, data, kind.__name__)
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if kind is Any or kind == Plain:
        return value
    if origin is Literal:
        if value not in arguments:
            raise _bad(f"{where} is {value!r:.80} instead of one of {arguments}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(
                _decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
            )
    if origin is dict and isinstance(value, dict):
        return {
            _decode(arguments[0], k, where): _decode(arguments[1], v, f"{where}.{k}")
            for k, v in value.items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (str, int, float, bool) and type(value) is kind:
        return value
    raise _bad(f"{where} is of type {type(value).__name__}")


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _bad(f"{where} is of type {type(value).__name__}")
    hints = get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    if unknown := sorted(value.keys() - names):
        raise _bad(f"{where} has the unknown field {unknown[0]!r:.80}")
    try:
        return kind(**{key: _decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})
    except TypeError:
        raise _bad(f"{where} lacks a field") from None
