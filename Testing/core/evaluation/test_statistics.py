"""Statistics equal pingouin's, scikit-learn's and SciPy's, or their formula; undefined is nan."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from sahlora.evaluation.statistics import (
    agreement,
    auroc,
    auroc_by_patient,
    intraclass_correlations,
    paired_test,
    summarize,
)


def two_raters(seed: int, n: int = 20, bias: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = rng.gamma(2, 15, n)
    return np.column_stack([truth + rng.normal(bias, 4, n), truth + rng.normal(0, 4, n)])


def test_summary_has_mean_and_sample_standard_deviation_of_what_is_defined() -> None:
    summary = summarize([1.0, np.nan, 2.0, 6.0])
    assert (summary.n, summary.undefined, summary.mean) == (3, 1, 3.0)
    assert summary.sd == pytest.approx(math.sqrt(7))
    assert str(summary) == "3.000 ± 2.646 (n = 3)"


def test_summary_of_nothing_is_undefined_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarize([np.nan])
    assert (summary.n, summary.undefined) == (0, 1)
    assert math.isnan(summary.mean) and math.isnan(summary.sd)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("raters", [2, 4])
def test_intraclass_correlations_equal_pingouin(seed: int, raters: int) -> None:
    ratings = np.column_stack([two_raters(seed), two_raters(seed, bias=-8.0)])[:, :raters]
    table = pd.DataFrame(ratings).reset_index().melt(id_vars="index", var_name="rater", value_name="ml")
    reference = pingouin.intraclass_corr(table, targets="index", raters="rater", ratings="ml")
    # rows in every version of pingouin: ICC(1,1), ICC(2,1), ICC(3,1), then the averages of k raters
    assert intraclass_correlations(ratings) == pytest.approx(
        (reference["ICC"].iloc[2], reference["ICC"].iloc[1]), abs=1e-9
    )


def test_intraclass_correlations_equal_the_worked_example_of_shrout_and_fleiss() -> None:
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert intraclass_correlations(ratings) == pytest.approx((0.71, 0.29), abs=0.005)


def test_a_constant_bias_lowers_absolute_agreement_only() -> None:
    first = np.arange(10.0)
    biased = agreement(first + 5, first)
    assert biased.icc_3_1 == pytest.approx(1.0)
    assert biased.icc_2_1 < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_limits_of_agreement_equal_bland_and_altmans_formula(seed: int) -> None:
    first, second = two_raters(seed).T
    difference = first - second
    bias = difference.mean()
    sd = math.sqrt(((difference - bias) ** 2).sum() / (len(difference) - 1))
    result = agreement(first, second)
    assert (result.n, result.bias, result.sd) == (20, pytest.approx(bias), pytest.approx(sd))
    assert (result.lower, result.upper) == pytest.approx((bias - 1.96 * sd, bias + 1.96 * sd))


@pytest.mark.parametrize("seed", range(4))
def test_pearsons_correlation_equals_scipy(seed: int) -> None:
    first, second = two_raters(seed).T
    assert agreement(first, second).pearson_r == pytest.approx(
        stats.pearsonr(first, second).statistic, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(4))
def test_paired_test_equals_scipys_wilcoxon(seed: int) -> None:
    first, second = two_raters(seed).T
    result, expected = paired_test(first, second), stats.wilcoxon(first, second)
    assert (result.statistic, result.p_value) == pytest.approx(
        (expected.statistic, expected.pvalue), abs=1e-12
    )


@pytest.mark.parametrize("values", [([], []), ([1.0], [2.0]), ([3.0, 3.0], [3.0, 3.0])])
def test_agreement_of_too_little_is_undefined_without_a_warning(
    values: tuple[list[float], list[float]],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = agreement(*values)
    assert result.n == len(values[0])
    assert math.isnan(result.icc_3_1) and math.isnan(result.icc_2_1) and math.isnan(result.pearson_r)


# ------------------------------------------------------------------------------------------ detection


def slices_of_patients(seed: int = 0, patients: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    owner = np.repeat([f"p{i}" for i in range(patients)], 8)
    positive = rng.random(owner.size) < 0.3
    return np.round(rng.normal(positive * 1.2, 1.0), 1), positive, owner


@pytest.mark.parametrize("seed", range(4))
def test_auroc_equals_scikit_learn_also_with_ties(seed: int) -> None:
    scores, positive, _ = slices_of_patients(seed)
    assert len(np.unique(scores)) < scores.size
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_auroc_of_one_class_is_undefined() -> None:
    assert math.isnan(auroc(np.arange(3.0), np.ones(3, dtype=bool)))


def test_interval_draws_whole_patients() -> None:
    scores, positive, owner = slices_of_patients()
    once = auroc_by_patient(scores, positive, owner, resamples=300)
    # ten copies of every slice hold no new information: every draw of patients has the same AUROC
    copied = auroc_by_patient(np.tile(scores, 10), np.tile(positive, 10), np.tile(owner, 10), resamples=300)
    assert (copied.value, copied.lower, copied.upper) == pytest.approx(
        (once.value, once.lower, once.upper), abs=1e-12
    )
    assert (copied.n, copied.n_patients) == (960, 12)


def test_interval_equals_scipys_percentile_bootstrap_within_monte_carlo_error() -> None:
    scores, positive, _ = slices_of_patients(3, patients=30)
    ours = auroc_by_patient(scores, positive, np.arange(scores.size), resamples=1000)  # one slice a patient
    reference = stats.bootstrap(
        (scores, positive), share_of_pairs_in_order, paired=True, vectorized=False, method="percentile",
        n_resamples=1000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (ours.lower, ours.upper) == pytest.approx((reference.low, reference.high), abs=0.015)


def share_of_pairs_in_order(scores: np.ndarray, positive: np.ndarray) -> float:
    of_one_class = [scores[positive == value] for value in (1, 0)]
    difference = np.subtract.outer(*of_one_class)
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)


def test_interval_is_repeated_by_its_seed() -> None:
    data = slices_of_patients()
    first = auroc_by_patient(*data, resamples=200, seed=5)
    assert auroc_by_patient(*data, resamples=200, seed=5) == first
    assert auroc_by_patient(*data, resamples=200, seed=6).lower != first.lower


def test_draws_without_both_classes_are_left_out_and_counted() -> None:
    result = auroc_by_patient([0.1, 0.2, 0.9], [False, False, True], ["a", "b", "c"], resamples=500)
    assert result.value == 1.0
    assert 0 < result.resamples < 500
    # a draw lacks the positive patient with probability (2/3)^3, or the two others with (1/3)^3
    assert result.resamples / 500 == pytest.approx(1 - 8 / 27 - 1 / 27, abs=0.08)


# ----------------------------------------------------------------------------------------- comparison


def test_paired_test_equals_the_exact_distribution_of_signs() -> None:
    result = paired_test([1.1, 2.2, 3.3, 4.4, 5.5], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (result.n, result.n_equal, result.statistic) == (5, 0, 0.0)
    assert result.p_value == pytest.approx(2 / 2**5)
    assert result.mean_difference == pytest.approx(0.3)


def test_paired_test_leaves_out_undefined_pairs_and_counts_equal_ones() -> None:
    result = paired_test([0.5, np.nan, 0.7, 0.6], [0.4, 0.3, 0.7, np.nan])
    assert (result.n, result.n_equal) == (2, 1)


def test_paired_test_of_equal_methods_has_no_p_value() -> None:
    result = paired_test([0.5, 0.6], [0.5, 0.6])
    assert (result.n, result.n_equal) == (2, 2)
    assert math.isnan(result.p_value)
