"""Folds of a cross-validation: by patient, drawn with a seed, alike in how much blood they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sahlora.cases.manifest import Case
from sahlora.cases.strata import STRATA, volume_stratum
from sahlora.errors import UsageError
from sahlora.runtime.files import write_table


@dataclass(frozen=True)
class Assignment:
    """The fold of one case, from 0; None if it is held out."""

    case: str
    patient: str
    annotated_ml: float
    stratum: str
    fold: int | None


def assign_folds(
    cases: Sequence[Case], annotated_ml: Mapping[str, float], folds: int = 3, seed: int = 0
) -> list[Assignment]:
    """Assign every case that is not held out to a fold.

    Patients are shuffled within their stratum (the largest of their cases decides) and dealt to the folds in
    turn, each stratum going on where the one before ended. Folds so differ by at most one patient, in all
    and in each stratum.

    Parameters
    ----------
    cases : sequence of Case
    annotated_ml : mapping of str to float
        Annotated volume of each case by name.
    folds, seed : int
        Number of folds, seed of the shuffling.

    Raises
    ------
    UsageError
        ``bad-folds`` if there are fewer than two folds, or fewer patients than folds.
    """
    patients: dict[str, float] = {}
    for case in sorted(cases, key=lambda case: case.person):
        if not case.held_out:
            patient = case.person
            patients[patient] = max(patients.get(patient, 0.0), annotated_ml[case.name])
    if not 2 <= folds <= len(patients):
        raise UsageError(
            "bad-folds",
            f"{len(patients)} patients can't make {folds} folds.",
            f"Give 2 to {len(patients)} folds." if len(patients) > 1 else "Add cases of other patients.",
        )
    draw = np.random.default_rng(seed)
    order = [
        members[i]
        for name in STRATA
        if (members := [p for p, ml in patients.items() if volume_stratum(ml) == name])
        for i in draw.permutation(len(members))
    ]
    fold_of = {patient: place % folds for place, patient in enumerate(order)}
    return [
        Assignment(
            case.name,
            case.patient,
            annotated_ml[case.name],
            volume_stratum(annotated_ml[case.name]),
            None if case.held_out else fold_of[case.person],
        )
        for case in cases
    ]


def write_folds(path: Path, assignments: Sequence[Assignment]) -> None:
    """Write one row a case: case, patient, annotated_ml, stratum, fold (empty if held out)."""
    write_table(path, [{**asdict(one), "annotated_ml": round(one.annotated_ml, 3)} for one in assignments])
