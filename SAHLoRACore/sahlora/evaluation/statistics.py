"""Statistics of a study: mean and spread, agreement of two measurements, detection, comparison of methods.

What is undefined is nan, and every result says how many values it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n−1) of `n` values; `undefined` counts the nan left out."""

    n: int
    mean: float
    sd: float
    undefined: int

    def __str__(self) -> str:
        spread = f" ± {self.sd:.3f}" if self.n > 1 else ""
        return f"{self.mean:.3f}{spread} (n = {self.n})"


def summarize(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean and standard deviation (n−1) of the defined values; sd is nan below two, mean below one."""
    given = np.asarray(values, dtype=np.float64)
    defined = given[~np.isnan(given)]
    return Summary(
        n=defined.size,
        mean=float(defined.mean()) if defined.size else np.nan,
        sd=float(defined.std(ddof=1)) if defined.size > 1 else np.nan,
        undefined=given.size - defined.size,
    )


# ------------------------------------------------------------------------------------------ agreement


@dataclass(frozen=True)
class Agreement:
    """Agreement of two measurements of the same `n` subjects, e.g. predicted and annotated mL.

    Parameters
    ----------
    bias, sd, lower, upper : float
        Bland–Altman: mean and standard deviation (n−1) of first − second, and bias ∓ 1.96 sd.
    icc_3_1, icc_2_1 : float
        Intraclass correlation of single measures: consistency, two-way mixed; absolute agreement, two-way
        random.
    pearson_r : float
        Pearson's correlation.
    """

    n: int
    bias: float
    sd: float
    lower: float
    upper: float
    icc_3_1: float
    icc_2_1: float
    pearson_r: float


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Compare two measurements of the same subjects; what too few or constant values leave undefined is nan.

    Sources: Bland & Altman, Lancet 1986, 1:307; Shrout & Fleiss, Psychological Bulletin 1979, 86:420.
    """
    pairs = np.column_stack([first, second]).astype(np.float64)
    difference = summarize(pairs[:, 0] - pairs[:, 1])
    margin = 1.96 * difference.sd
    icc_3_1, icc_2_1 = intraclass_correlations(pairs)
    varies = len(pairs) > 1 and (np.ptp(pairs, axis=0) > 0).all()
    return Agreement(
        n=len(pairs),
        bias=difference.mean,
        sd=difference.sd,
        lower=difference.mean - margin,
        upper=difference.mean + margin,
        icc_3_1=icc_3_1,
        icc_2_1=icc_2_1,
        pearson_r=float(stats.pearsonr(*pairs.T).statistic) if varies else np.nan,
    )


def intraclass_correlations(ratings: np.ndarray) -> tuple[float, float]:
    """Return ICC(3,1) and ICC(2,1) of ratings (n subjects, k raters), nan when undefined.

    From the mean squares of the two-way analysis of variance: BMS between subjects, JMS between raters, EMS
    residual (Shrout & Fleiss, Psychological Bulletin 1979, 86:420):
    ICC(3,1) = (BMS − EMS) / (BMS + (k−1) EMS),
    ICC(2,1) = (BMS − EMS) / (BMS + (k−1) EMS + k (JMS − EMS) / n).
    """
    n, k = ratings.shape
    if n < 2:
        return np.nan, np.nan
    grand = ratings.mean()
    subjects, raters = ratings.mean(axis=1), ratings.mean(axis=0)
    bms = k * ((subjects - grand) ** 2).sum() / (n - 1)
    jms = n * ((raters - grand) ** 2).sum() / (k - 1)
    ems = ((ratings - subjects[:, None] - raters + grand) ** 2).sum() / ((n - 1) * (k - 1))
    consistency = bms + (k - 1) * ems
    absolute = consistency + k * (jms - ems) / n
    return (
        float((bms - ems) / consistency) if consistency > 0 else np.nan,
        float((bms - ems) / absolute) if absolute > 0 else np.nan,
    )


# ------------------------------------------------------------------------------ detection, comparison


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with a percentile bootstrap interval over patients."""

    value: float
    lower: float
    upper: float
    level: float
    n: int
    n_positive: int
    n_patients: int
    resamples: int


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve from ranks (Mann–Whitney), ties counted half; nan when one class is missing.

    Parameters
    ----------
    scores : np.ndarray
        (n,) higher means more suspicious.
    positive : np.ndarray
        bool (n,).
    """
    with_blood, without = scores[positive], scores[~positive]
    if with_blood.size == 0 or without.size == 0:
        return np.nan
    u = stats.mannwhitneyu(with_blood, without, method="asymptotic").statistic
    return float(u / (with_blood.size * without.size))


def auroc_by_patient(
    scores: Sequence[float],
    positive: Sequence[bool],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Auroc:
    """AUROC of slices, with an interval that draws whole patients with replacement.

    Slices of one patient resemble each other; drawing slices would make the interval too narrow. Draws
    without both classes are left out; `Auroc.resamples` counts those used.

    Parameters
    ----------
    scores, positive, patients : sequence
        One entry a slice: score, expert label, patient.
    resamples, level, seed : int, float, int
        Draws, coverage of the interval, seed of the draws.
    """
    score, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    members = [np.flatnonzero(owner == patient) for patient in range(names.size)]
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([members[p] for p in generator.integers(names.size, size=names.size)])
        drawn.append(auroc(score[rows], truth[rows]))
    defined = np.array([value for value in drawn if not np.isnan(value)])
    tail = (1 - level) / 2
    lower, upper = np.quantile(defined, [tail, 1 - tail]) if defined.size else (np.nan, np.nan)
    return Auroc(
        value=auroc(score, truth),
        lower=float(lower),
        upper=float(upper),
        level=level,
        n=score.size,
        n_positive=int(truth.sum()),
        n_patients=names.size,
        resamples=defined.size,
    )


FEWEST_PAIRS = 6
"""Below, Wilcoxon's two-sided test can't fall below 0.05, however large the differences."""


@dataclass(frozen=True)
class PairedTest:
    """Wilcoxon's signed-rank test of `n` pairs, `n_equal` of them without a difference."""

    n: int
    n_equal: int
    mean_difference: float
    statistic: float
    p_value: float


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Two-sided Wilcoxon signed-rank test of first − second, patient by patient.

    Pairs with a nan are left out. Equal pairs carry no sign and are dropped by the test; when nothing else is
    left, there is nothing to test and `statistic` and `p_value` are nan.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    difference = difference[~np.isnan(difference)]
    nonzero = int(np.count_nonzero(difference))
    statistic, p_value = stats.wilcoxon(difference) if nonzero else (np.nan, np.nan)
    return PairedTest(
        n=difference.size,
        n_equal=difference.size - nonzero,
        mean_difference=float(difference.mean()) if difference.size else np.nan,
        statistic=float(statistic),
        p_value=float(p_value),
    )


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Student's t for the mean of the defined values; nan below two values."""
    summary = summarize(values)
    if summary.n < 2:
        return np.nan, np.nan
    lower, upper = stats.t.interval(level, summary.n - 1, summary.mean, summary.sd / np.sqrt(summary.n))
    return float(lower), float(upper)


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of `n` pairs with its two-sided p; nan if constant or below three pairs."""

    n: int
    rho: float
    p_value: float


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation:
    """Return Spearman's correlation of the pairs of which both are defined."""
    pairs = np.column_stack([first, second]).astype(np.float64)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return RankCorrelation(len(pairs), np.nan, np.nan)
    rho, p_value = stats.spearmanr(*pairs.T)
    return RankCorrelation(len(pairs), float(rho), float(p_value))
