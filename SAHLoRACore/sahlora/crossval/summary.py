"""What was found: each configuration beside no fine-tuning and beside the standard strategy of its scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sahlora.adapters.config import STANDARD
from sahlora.crossval.grid import NONE, Configuration
from sahlora.crossval.study import Outcome
from sahlora.evaluation.evaluate import by_stratum, patient_values
from sahlora.evaluation.metrics import CohortScore
from sahlora.evaluation.statistics import PairedTest, paired_test


@dataclass(frozen=True, eq=False)
class Comparison:
    """One configuration and what it is compared with.

    Parameters
    ----------
    outcome : Outcome
    strata : dict of str to CohortScore
        Summaries of all cases and of each stratum of annotated volume; empty if no job finished.
    against_none, against_standard : PairedTest, optional
        Of Dice, patient by patient; None where there is nothing to compare with.
    """

    outcome: Outcome
    strata: dict[str, CohortScore]
    against_none: PairedTest | None
    against_standard: PairedTest | None


def compare_outcomes(outcomes: Sequence[Outcome]) -> list[Comparison]:
    """Compare every outcome with no fine-tuning, and with the standard strategy of the same scope."""
    by_configuration = {outcome.configuration: outcome for outcome in outcomes}
    compared = []
    for outcome in outcomes:
        what = outcome.configuration
        none = by_configuration.get(Configuration(NONE))
        standard = by_configuration.get(Configuration(STANDARD, None, what.scope))
        compared.append(
            Comparison(
                outcome,
                by_stratum(outcome.results) if outcome.results else {},
                dice_test(outcome, none),
                dice_test(outcome, standard) if what.trained else None,
            )
        )
    return compared


def dice_test(first: Outcome, second: Outcome | None) -> PairedTest | None:
    """Test the Dice of first − second over the patients both were tested on; None if that makes no sense."""
    if second is None or second is first or not (first.results and second.results):
        return None
    return paired_test(*paired_dice(first, second))


def paired_dice(first: Outcome, second: Outcome) -> tuple[list[float], list[float]]:
    """Return the Dice of the patients of the cases that both were tested on, in the same order."""
    both = {result.name for result in first.results} & {result.name for result in second.results}
    values = [
        patient_values(sorted((r for r in one.results if r.name in both), key=lambda r: r.name), "dice")
        for one in (first, second)
    ]
    return values[0], values[1]
