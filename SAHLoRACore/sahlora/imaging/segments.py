"""Which values or segments of a label count as hemorrhage, whether somebody says so or not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sahlora.errors import InputError

UNKNOWN = 255
"""Label of voxels of which nobody says whether they are blood."""

MOST_VALUES = 255
"""A file with more distinct values, background included, is an image: an atlas of the brain has fewer."""
LISTED_VALUES = 8
ROUNDED = 1e-3
"""Values this close to a whole number are one that went through a conversion to float."""

SEGMENT_FIELD = re.compile(r"Segment(\d+)_(ID|Name|LabelValue)")


@dataclass(frozen=True)
class LabelSegment:
    """One segment of a file: its name, and where it is, as a value in a layer or as a number."""

    name: str
    value: int
    layer: int = 0


def listed(values: Sequence[int | str]) -> str:
    """Name label values in a message: the first few, and how many more there are."""
    named = ", ".join(map(str, values[:LISTED_VALUES]))
    more = len(values) - LISTED_VALUES
    return f"{named}, … {more} more" if more > 0 else named


def choose_values(array: np.ndarray, what: str, segment: str | None) -> tuple[np.ndarray, str]:
    """Return 0, 1 and 255 for the values of a label map, and the values that were merged into 1, in words.

    Parameters
    ----------
    array : np.ndarray
        Any shape and type.
    segment : str, optional
        The only value that counts; 255 then means blood, not unknown.

    Raises
    ------
    InputError
        ``bad-label``, ``label-is-image``, ``unknown-segment`` or ``is-255-blood``.
    """
    found = np.unique(array)
    whole = np.rint(found)
    if (whole < 0).any():
        raise _image(what, f"holds values down to {found.min():.5g}")
    with np.errstate(invalid="ignore"):  # of infinities
        off = ~(np.isfinite(found) & (np.abs(found - whole) <= ROUNDED))
    if off.any():
        raise InputError(
            "bad-label",
            f"{what} holds values such as {found[off][0]:.3g}.",
            "A label map holds whole numbers; probabilities are none.",
        )
    whole = np.unique(whole)
    if len(whole) > MOST_VALUES:
        raise _image(what, f"holds {len(whole)} distinct values")
    held = [int(value) for value in whole if value != 0]
    blood = [value for value in held if value != UNKNOWN]
    if segment is not None:
        if not segment.isascii() or not segment.isdecimal() or int(segment) not in held:
            raise _unknown(what, segment, f"It holds the values {listed(held) or 'none'}.")
        blood = [int(segment)]
    elif held == [UNKNOWN]:
        raise InputError(
            "is-255-blood",
            f"{what} holds no value but {listed([int(value) for value in whole])}, and 255 means unknown.",
            "If 255 is the hemorrhage, say segment 255 (column “segment” of the manifest); if all of it is "
            "unknown, leave the case out.",
        )
    near = np.rint(array) if array.dtype.kind == "f" else array
    label = np.isin(near, blood).astype(np.uint8)
    if UNKNOWN not in blood:
        label[near == UNKNOWN] = UNKNOWN
    return label, f"values {listed(blood)}" if len(blood) > 1 else ""


def slicer_segments(fields: Mapping[str, str], layers: int, what: str) -> list[LabelSegment]:
    """List the segments that the header of a Slicer segmentation names.

    Before Slicer 4.11 a segment had no value and no layer: segment n is what is 1 in layer n.

    Raises
    ------
    InputError
        ``no-segment``, or ``bad-label`` where a value or layer is no number, or a layer is not there.
    """
    numbers = sorted({int(match[1]) for key in fields if (match := SEGMENT_FIELD.fullmatch(key))})
    if not numbers:
        raise InputError("no-segment", f"{what} holds no segment.", "Draw one, or leave the case out.")
    is_old = not any(f"Segment{number}_LabelValue" in fields for number in numbers)
    segments = []
    for place, number in enumerate(numbers):
        name = fields.get(f"Segment{number}_Name", "").strip() or f"Segment {number + 1}"
        value = fields.get(f"Segment{number}_LabelValue", "1")
        layer = fields.get(f"Segment{number}_Layer", str(place) if is_old else "0")
        if not (value.isdecimal() and layer.isdecimal() and int(layer) < layers):
            raise InputError(
                "bad-label",
                f"{what}: the segment “{name}” has value {value} in layer {layer} of {layers}.",
                "Save the segmentation again in 3D Slicer.",
            )
        segments.append(LabelSegment(name, int(value), int(layer)))
    return segments


def choose_segments(
    segments: Sequence[LabelSegment], what: str, segment: str | None
) -> tuple[list[LabelSegment], str]:
    """Return the segments that count, all those of one name, and in words which are joined in one.

    Raises
    ------
    InputError
        ``several-segments`` or ``unknown-segment``.
    """
    names = list(dict.fromkeys(one.name for one in segments))
    quoted = ", ".join(f"“{name}”" for name in names)
    if segment is None and len(names) > 1:
        raise InputError(
            "several-segments",
            f"{what} holds several segments: {quoted}.",
            "Name the one that is hemorrhage in the manifest's column “segment”.",
        )
    if segment is not None and segment not in names:
        raise _unknown(what, segment, f"It holds {quoted}.")
    chosen = [one for one in segments if one.name == (segment or names[0])]
    return chosen, f"{len(chosen)} segments named “{chosen[0].name}”" if len(chosen) > 1 else ""


def segment_mask(
    array: np.ndarray, segments: Sequence[LabelSegment], declared: Sequence[LabelSegment], what: str
) -> np.ndarray:
    """Return where an array (slice, row, column), with layers last if there are several, holds segments.

    Raises
    ------
    InputError
        ``bad-label`` if they are empty while the file holds values that no segment has.
    """
    layers = array if array.ndim == 4 else array[..., None]
    mask = np.zeros(array.shape[:3], np.uint8)
    for one in segments:
        mask |= (layers[..., one.layer] == one.value).astype(np.uint8)
    stray = set(np.unique(array).tolist()) - {0, *(one.value for one in declared)}
    if stray and not mask.any():
        raise InputError(
            "bad-label",
            f"{what} holds {listed(sorted(stray))}, which no segment has, and nothing of the one asked for.",
            "Save the segmentation again in 3D Slicer.",
        )
    return mask


def _image(what: str, why: str) -> InputError:
    return InputError(
        "label-is-image",
        f"{what} is an image, not a label map: it {why}.",
        "Name the file that outlines the hemorrhage, in whole numbers from 0.",
    )


def _unknown(what: str, segment: str, held: str) -> InputError:
    return InputError("unknown-segment", f"{what} has no segment “{segment}”.", held)
