"""What is outlined: coded concepts, and the segments that models of this project have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept, e.g. ``Code("50960005", "SCT", "Hemorrhage")``."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """What a label outlines: name, color (0 to 255) and terminology."""

    name: str
    color: tuple[int, int, int]
    category: Code
    type: Code
    region: Code | None = None


MORPHOLOGY = Code("49755003", "SCT", "Morphologically Altered Structure")
HEMORRHAGE = Code("50960005", "SCT", "Hemorrhage")
BLOOD_RED = (188, 65, 28)
SAH = Segment(
    "Subarachnoid hemorrhage",
    BLOOD_RED,
    MORPHOLOGY,
    HEMORRHAGE,
    Code("35951006", "SCT", "Subarachnoid space"),
)

INTRACRANIAL_HEMORRHAGE = Segment(
    "Intracranial hemorrhage",
    BLOOD_RED,
    MORPHOLOGY,
    HEMORRHAGE,
    Code("1101003", "SCT", "Intracranial structure"),
)
