"""Which cases are trained on and which are kept from training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sahlora.cases.leaks import require_disjoint
from sahlora.cases.manifest import Case
from sahlora.errors import InputError, UsageError
from sahlora.imaging.labels import read_label_map
from sahlora.runtime.progress import SILENT, Progress


@dataclass(frozen=True)
class Cohort:
    """Cases to train on and cases held out, both with blood among them, and simulated ones.

    Raises
    ------
    InputError
        ``held-out-in-training`` if a scan or patient is on both sides.
    """

    training: tuple[Case, ...]
    held_out: tuple[Case, ...] = ()
    simulated: tuple[Case, ...] = ()

    def __post_init__(self) -> None:
        require_disjoint((*self.training, *self.simulated), self.held_out)


def split_cases(
    cases: Sequence[Case], held_out: int | None, seed: int, progress: Progress = SILENT
) -> Cohort:
    """Hold out patients with blood.

    Parameters
    ----------
    cases : sequence of Case
    held_out : int, optional
        How many patients, drawn by `seed` whatever the order of the cases; 0 for none. None takes the
        manifest's column ``held_out``, or, where it names nobody, a fifth.

    Raises
    ------
    InputError
        ``no-blood`` or ``one-case``, or from reading the labels.
    UsageError
        ``bad-held-out`` if nobody would be left to train on.
    """
    if held_out is None and any(case.held_out for case in cases):
        cohort = Cohort(
            tuple(case for case in cases if not case.held_out), tuple(case for case in cases if case.held_out)
        )
        require_blood(cohort, progress)
        return cohort
    positive = sorted({case.person for case in _with_blood(cases, progress)})
    if not positive:
        raise _no_blood("No case")
    if held_out is None and len(positive) == 1:
        raise InputError(
            "one-case",
            "Only one patient shows blood, so that none is left to check the adapted model on.",
            "Add cases, give others with --held-out MANIFEST, or train unchecked with --held-out 0.",
        )
    count = math.ceil(len(positive) / 5) if held_out is None else held_out
    if not 0 <= count < len(positive):
        raise UsageError(
            "bad-held-out",
            f"{count} of {len(positive)} patients with blood can't be held out.",
            f"Give a number from 0 to {len(positive) - 1}.",
        )
    drawn = {positive[i] for i in np.random.default_rng(seed).permutation(len(positive))[:count]}
    return Cohort(
        tuple(case for case in cases if case.person not in drawn),
        tuple(case for case in cases if case.person in drawn),
    )


def require_blood(cohort: Cohort, progress: Progress = SILENT) -> None:
    """Check that both sides of a cohort show blood.

    Raises
    ------
    InputError
        ``no-blood``, or from reading the labels.
    """
    for side, name in ((cohort.training, "No case to train on"), (cohort.held_out, "No held-out case")):
        if not _with_blood(side, progress):
            raise _no_blood(name)


def _with_blood(cases: Sequence[Case], progress: Progress) -> list[Case]:
    found = []
    for case in cases:
        progress.check()
        is_empty = case.slices is not None and not case.has_known_hemorrhage  # whatever the label says
        if not is_empty and (read_label_map(case.label, case.segment).values == 1).any():
            found.append(case)
    return found


def _no_blood(who: str) -> InputError:
    return InputError("no-blood", f"{who} has a label that shows blood.", "Check the label maps.")
