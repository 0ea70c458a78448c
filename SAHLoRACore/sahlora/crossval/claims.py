"""The claims of the published study beside what was found, and what the controls show.

Minoccheri et al., BMC Medical Imaging 26(1):58, doi 10.1186/s12880-025-02116-y. A claim about all methods is
supported only if each test supports it, so that no correction for the number of tests is needed (an
intersection–union test); it is not supported if one points the other way. Margin and limits are choices of
this project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np

from sahlora.adapters.config import STANDARD
from sahlora.crossval.grid import NONE, SHUFFLED, THRESHOLD, Configuration
from sahlora.crossval.study import Outcome
from sahlora.crossval.summary import dice_test, paired_dice
from sahlora.evaluation.evaluate import patient_values
from sahlora.evaluation.statistics import FEWEST_PAIRS, mean_interval, rank_correlation

Verdict = Literal["supported", "not supported", "cannot be said", "not examined"]

LEVEL = 0.05
MARGIN = 0.03
"""Mean loss of Dice up to which two methods count as on par."""


@dataclass(frozen=True)
class Claim:
    """A claim, the study's figures if it is the study's, a verdict, and what was found, always with n."""

    claim: str
    published: str
    verdict: Verdict
    found: str


@dataclass(frozen=True)
class Evidence:
    """One test of a claim: how far it points the claim's way, its p and its number of patients."""

    gain: float
    p_value: float
    n: int

    @property
    def points(self) -> bool:
        """Whether it points the claim's way."""
        return self.gain > 0

    @property
    def is_significant(self) -> bool:
        """Whether chance alone would hardly do that."""
        return self.p_value < LEVEL


def judge(evidence: Sequence[Evidence]) -> Verdict:
    """Return the verdict on a claim that all of the evidence must support."""
    if not evidence:
        return "not examined"
    if min(one.n for one in evidence) < FEWEST_PAIRS:
        return "cannot be said"
    if all(one.points and one.is_significant for one in evidence):
        return "supported"
    if any(not one.points for one in evidence):
        return "not supported"
    return "cannot be said"


def examine(outcomes: Sequence[Outcome]) -> list[Claim]:
    """Put each claim of the study beside what the outcomes show."""
    by_configuration = {one.configuration: one for one in outcomes if one.results}
    adapted = [one for what, one in by_configuration.items() if what.is_adapted]
    adapters = [one for what, one in by_configuration.items() if what.is_adapter]
    none = by_configuration.get(Configuration(NONE))

    def standard(one: Outcome) -> Outcome | None:
        return by_configuration.get(Configuration(STANDARD, None, one.configuration.scope))

    return [
        _differences(
            "All fine-tuning beats no fine-tuning.",
            "mean Dice 0.410 ± 0.26 without; every strategy above it (30 patients)",
            "fine-tuned configurations have a higher mean Dice than no fine-tuning",
            _tests(adapted, lambda _: none),
        ),
        _differences(
            "All LoRA and DoRA methods beat standard fine-tuning.",
            "about 4 % above the best standard strategy, the decoder, 0.527 ± 0.20",
            "adapters have a higher mean Dice than standard fine-tuning of the same scope",
            _tests(adapters, standard),
        ),
        _larger_bleeds(adapted),
        _on_par(by_configuration),
        _differences(
            "Higher ranks, even over-parameterized ones, beat low ranks.",
            "higher, even over-parameterized ranks above strictly low ones",
            "methods have a higher mean Dice at their highest rank than at their lowest",
            list(_highest_against_lowest(adapters)),
        ),
    ]


def examine_controls(outcomes: Sequence[Outcome]) -> list[Claim]:
    """Say whether what must hold of any sound comparison holds here."""
    by_configuration = {one.configuration: one for one in outcomes if one.results}
    none, threshold = (by_configuration.get(Configuration(name)) for name in (NONE, THRESHOLD))
    controls = [one for what, one in by_configuration.items() if what.is_control]
    adapted = [one for what, one in by_configuration.items() if what.is_adapted]
    return [
        _no_gain(_tests(controls, lambda _: none)),
        _differences(
            "Fine-tuned models beat a threshold of HU inside the brain.",
            "",
            "fine-tuned configurations have a higher mean Dice than the threshold",
            _tests(adapted, lambda _: threshold),
        ),
    ]


# -------------------------------------------------------------------------------------------------- evidence


def _tests(outcomes: Sequence[Outcome], partner: Callable[[Outcome], Outcome | None]) -> list[Evidence]:
    tests = (dice_test(one, partner(one)) for one in outcomes)
    return [Evidence(test.mean_difference, test.p_value, test.n) for test in tests if test is not None]


def _highest_against_lowest(adapters: Sequence[Outcome]) -> Iterator[Evidence]:
    """Test each method's highest rank against its lowest, scope by scope."""

    def group(one: Outcome) -> tuple[str, str]:
        return one.configuration.method, one.configuration.scope or ""

    for _, members in groupby(sorted(adapters, key=group), key=group):
        ranked = sorted(members, key=lambda one: one.configuration.rank or 0)
        if len(ranked) > 1:
            yield from _tests([ranked[-1]], lambda _, lowest=ranked[0]: lowest)  # type: ignore[misc]


def _differences(claim: str, published: str, what: str, evidence: Sequence[Evidence]) -> Claim:
    """Judge a claim about differences of Dice."""
    if not evidence:
        return Claim(claim, published, "not examined", "Nothing here is about it.")
    gains = [one.gain for one in evidence]
    found = (
        f"{sum(one.points for one in evidence)} of {len(evidence)} {what}, "
        f"{sum(one.points and one.is_significant for one in evidence)} of them with p < {LEVEL:g}; mean "
        f"differences {_span(gains)} ({_n(evidence)})."
    )
    return Claim(claim, published, judge(evidence), found)


def _larger_bleeds(adapted: Sequence[Outcome]) -> Claim:
    correlations = [
        rank_correlation(*(patient_values(one.results, name) for name in ("annotated_ml", "dice")))
        for one in adapted
    ]
    evidence = [Evidence(one.rho, one.p_value, one.n) for one in correlations if not np.isnan(one.rho)]
    claim, published = (
        "Larger bleeds are segmented better by all methods.",
        "standard decoder: 0.200 ± 0.01 below 25 mL, 0.683 ± 0.10 above 100 mL",
    )
    if not evidence:
        return Claim(claim, published, "not examined", "Nothing here is about it.")
    found = (
        f"Dice rises with the annotated volume in {sum(one.points for one in evidence)} of {len(evidence)} "
        f"fine-tuned configurations, {sum(one.points and one.is_significant for one in evidence)} of them "
        f"with p < {LEVEL:g}; Spearman's ρ {_span([one.gain for one in evidence])} ({_n(evidence)})."
    )
    return Claim(claim, published, judge(evidence), found)


def _on_par(outcomes: dict[Configuration, Outcome]) -> Claim:
    """Say whether CP-LoRA loses at most the margin against LoRA-C and convLoRA of the same rank and scope."""
    claim = "CP-LoRA is on par with the other adapters at far fewer parameters."
    published = "30–40 % of their parameters"
    lowest, means, counts, parts = [], [], [], []
    for what, cp in outcomes.items():
        if what.method != "cp-lora":
            continue
        for other in (outcomes.get(replace(what, method=name)) for name in ("lora-c", "conv-lora")):
            if other is None:
                continue
            difference = np.subtract(*paired_dice(cp, other))
            difference = difference[~np.isnan(difference)]
            lowest.append(mean_interval(difference.tolist())[0])
            means.append(float(difference.mean()) if difference.size else np.nan)
            counts.append(Evidence(0.0, 1.0, difference.size))
            parts.append((cp.parameters or 0) / (other.parameters or 1))
    if not counts:
        return Claim(claim, published, "not examined", "Nothing here is about it.")
    verdict: Verdict = "cannot be said"
    if min(one.n for one in counts) >= FEWEST_PAIRS:
        if all(low > -MARGIN for low in lowest):
            verdict = "supported"
        elif any(mean < -MARGIN for mean in means):
            verdict = "not supported"
    found = (
        f"Against LoRA-C and convLoRA of the same rank and scope, CP-LoRA has {100 * min(parts):.0f} to "
        f"{100 * max(parts):.0f} % of the parameters and mean differences of Dice of {_span(means)}; the "
        f"95 % interval excludes a loss above {MARGIN:g} in {sum(low > -MARGIN for low in lowest)} of "
        f"{len(lowest)} comparisons ({_n(counts)})."
    )
    return Claim(claim, published, verdict, found)


def _no_gain(evidence: Sequence[Evidence]) -> Claim:
    """Check that learning from shuffled labels gains nothing."""
    claim = f"Training on shuffled labels ({SHUFFLED}…) does not beat no fine-tuning."
    if not evidence:
        return Claim(claim, "", "not examined", "Nothing here is about it.")
    better = [one for one in evidence if one.points and one.is_significant]
    found = (
        f"{len(better)} of {len(evidence)} controls have a higher mean Dice than no fine-tuning with "
        f"p < {LEVEL:g}; mean differences {_span([one.gain for one in evidence])} ({_n(evidence)})."
    )
    if better:
        return Claim(claim, "", "not supported", found)
    below = all(not one.points for one in evidence) or min(one.n for one in evidence) >= FEWEST_PAIRS
    return Claim(claim, "", "supported" if below else "cannot be said", found)


def _span(values: Sequence[float]) -> str:
    low, high = (f"{value:+.3f}".replace("-", "−") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _n(evidence: Sequence[Evidence]) -> str:
    low, high = min(one.n for one in evidence), max(one.n for one in evidence)
    return f"n = {low} patients" if low == high else f"n = {low} to {high} patients"
