"""Which of the DICOM series to take, why, and what the user should know of the choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sahlora.errors import InputError
from sahlora.imaging.dicom_headers import stack_of
from sahlora.imaging.dicom_series import SeriesInfo

SHORTEST_MM, HEAD_COVERAGE_MM, WHOLE_HEAD_MM = 40.0, 80.0, 130.0
ROUTINE_STEP_MM = 5.0
LARGEST_GAP_STEPS = 2.5
LARGEST_OVERLAP = 0.35

CRITERIA = (
    ("axial", lambda s: s.orientation == "axial"),
    ("longer than 40 mm", lambda s: s.coverage >= SHORTEST_MM),
    ("of a soft-tissue kernel", lambda s: not s.sharp),
    ("longer than 80 mm", lambda s: s.coverage >= HEAD_COVERAGE_MM),
    ("without contrast agent", lambda s: not s.agent),
    ("not described as with contrast agent", lambda s: not s.contrast),
    ("not described as for bone", lambda s: not s.bone),
    ("original", lambda s: "DERIVED" not in s.image_type.upper()),
)
"""In this order. What the scanner wrote comes before what somebody typed."""


def choose_series(listed: list[SeriesInfo], series: str | None = None) -> list[SeriesInfo]:
    """Choose one series and say of each why it was or wasn't chosen.

    Left out are: other modalities than CT, multi-frame objects, localizers, projections (MIP) and reports,
    color images, images without a position, fewer than 3 slices, several images at the same positions. Of the
    others the first by the order of `CRITERIA` is chosen; then slice step nearest to 5 mm, the step of
    routine head CT (thinner slices are noisier); more slices; lower number in the list.

    Parameters
    ----------
    listed : list of SeriesInfo
        From `sahlora.imaging.dicom_series.list_series`.
    series : str, optional
        The user's own choice: number as listed, UID, unique beginning of a UID, or description.

    Returns
    -------
    list of SeriesInfo
        The same series, the chosen one first, with ``chosen`` and ``reason`` set.

    Raises
    ------
    InputError
        ``no-ct-series``, ``several-studies``, ``unknown-series``, ``ambiguous-series``, ``unusable-series``.
    """
    if series is not None:
        best, why = _requested(listed, series), "asked for"
        if best.obstacle:
            raise InputError(
                "unusable-series", f"Series {best.title} can't be used: {best.obstacle}.", _others(listed)
            )
    else:
        best = _preferred(listed)
        why = _merits(best)
    rest = [
        replace(s, reason=s.obstacle or f"series {best.number} is {_difference(best, s)}")
        for s in listed
        if s is not best
    ]
    return [replace(best, chosen=True, reason=why), *rest]


def tell_doubts(best: SeriesInfo, others: list[SeriesInfo], warning: Callable[[str, str, str], None]) -> None:
    """Warn, with code, sentence and way out, of what may be wrong with a series that was chosen."""
    parts = [s for s in others if s.uid == best.uid and s.study == best.study]
    if best.part and parts:
        numbers = " or ".join(str(s.number) for s in parts)
        warning(
            "several-volumes",
            f"{len(parts) + 1} volumes are stored as one series; the one taken has the {best.part}, "
            f"not the {', '.join(s.part for s in parts)}.",
            f"Take another with --series {numbers}.",
        )
    kernels = list(dict.fromkeys(h.kernel for h in best.headers))
    if len(kernels) > 1:
        warning(
            "mixed-kernels",
            f"The slices of the series have different kernels: {', '.join(k or 'none' for k in kernels)}.",
            "Blood looks unlike in them: send the slices of one kernel, if there is a whole series of it.",
        )
    if best.sharp:
        warning(
            "bone-kernel",
            f"The series has a bone or lung kernel ({best.kernel or 'by its description'}): blood is missed "
            "in its noise.",
            "Use the series of a soft-tissue kernel.",
        )
    if len({h.study for h in best.headers}) > 1:
        warning(
            "mixed-studies",
            "Slices of the series carry the UIDs of several studies.",
            "Check that all slices are of one examination.",
        )
    if half := next((s for s in others if not s.obstacle and _continues(best, s)), None):
        warning(
            "split-head",
            f"Series {half.number} seems to be the rest of the head: the chosen one covers "
            f"{best.coverage:.0f} mm, and that one goes on where it ends.",
            f"Segment it too, with --series {half.number}, and add the volumes.",
        )


def _preferred(listed: list[SeriesInfo]) -> SeriesInfo:
    usable = sorted((s for s in listed if not s.obstacle), key=_preference)
    if not usable:
        found = "; ".join(f"{s.title}: {s.obstacle}" for s in listed)
        raise InputError("no-ct-series", "There is no CT series that can be used.", f"Found {found}.")
    studies = {(s.patient, s.study) for s in usable}
    if len(studies) > 1:
        patients = len({patient for patient, _ in studies})
        what = f"{patients} patients" if patients > 1 else f"{len(studies)} studies of one patient"
        raise InputError("several-studies", f"There is CT of {what}.", _others(listed))
    return usable[0]


def _requested(listed: list[SeriesInfo], series: str) -> SeriesInfo:
    for exact in (
        [s for s in listed if s.uid == series],
        [s for s in listed if str(s.number) == series],
        [s for s in listed if s.description.strip().lower() == series.strip().lower()],
        [s for s in listed if s.uid.startswith(series)],
    ):
        if len(exact) == 1:
            return exact[0]
        if exact:
            raise InputError("ambiguous-series", f"{len(exact)} series fit {series!r}.", _others(exact))
    raise InputError("unknown-series", f"There is no series {series!r}.", _others(listed))


def _others(listed: list[SeriesInfo]) -> str:
    return "Choose a series by its number: " + "; ".join(s.title for s in listed) + "."


def _preference(s: SeriesInfo) -> tuple[float, ...]:
    return (
        *(not met(s) for _, met in CRITERIA),
        round(abs(np.log(s.step / ROUTINE_STEP_MM)), 2),
        -s.slices,
        s.number,
    )


def _merits(s: SeriesInfo) -> str:
    met = [
        name
        for name, test in CRITERIA
        if test(s) and not name.startswith(("not described", "longer than 40"))
    ]
    return ", ".join(met) or "the only one"


def _difference(best: SeriesInfo, other: SeriesInfo) -> str:
    lacking = [name for name, met in CRITERIA if met(best) and not met(other)]
    return lacking[0] if lacking else "preferred for its slices"


def _continues(best: SeriesInfo, other: SeriesInfo) -> bool:
    """Whether a short series and another one lie end to end in one head: little overlap and no gap."""
    a, b = best.headers[0], other.headers[0]
    if (
        best.coverage >= WHOLE_HEAD_MM
        or (best.study, best.orientation, a.frame_of_reference)
        != (other.study, other.orientation, b.frame_of_reference)
        or best.coverage + other.coverage > 2 * WHOLE_HEAD_MM
    ):
        return False
    normal = stack_of(list(best.headers)).normal
    ours, theirs = (
        np.sort([h.position @ normal for h in s.headers if h.position is not None]) for s in (best, other)
    )
    low, high = max(ours[0], theirs[0]), min(ours[-1], theirs[-1])
    shorter = min(np.ptp(ours), np.ptp(theirs))
    gap = low - high
    return bool(-LARGEST_OVERLAP * shorter <= gap <= LARGEST_GAP_STEPS * max(best.step, other.step))
