"""Scores of patients and cohorts: equal to MONAI's on any mask, and nan where nothing is defined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from scipy import ndimage, spatial

from sahlora.cases.strata import stratum
from sahlora.errors import InputError
from sahlora.evaluation.metrics import (
    CaseScore,
    dice,
    score_case,
    score_cohort,
    soft_dice,
    surface_distances,
)
from sahlora.runtime.files import to_plain

SPACING = (5.0, 0.45, 0.7)


def blobs(seed: int, shape: tuple[int, int, int] = (9, 31, 27)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0.7, 2, 2))
    return noise > np.quantile(noise, 0.85)


def noise(seed: int, shape: tuple[int, int, int] = (9, 31, 27)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.02


def box(*bounds: tuple[int, int], shape: tuple[int, int, int] = (9, 31, 27)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


def one_voxel(z: int, y: int, x: int) -> np.ndarray:
    return box((z, z + 1), (y, y + 1), (x, x + 1))


EMPTY = np.zeros((9, 31, 27), dtype=bool)
FULL = ~EMPTY
PAIRS = {
    "random": (blobs(0), blobs(1)),
    "random, unlike sizes": (blobs(5), ndimage.binary_erosion(blobs(6), iterations=1)),
    "random noise": (noise(7), noise(8)),
    "overlapping": (blobs(2), ndimage.binary_dilation(blobs(2))),
    "touching the border": (box((0, 4), (0, 12), (0, 9)), box((0, 9), (5, 31), (3, 27))),
    "whole volume": (FULL, blobs(3)),
    "identical": (blobs(4), blobs(4)),
    "far apart": (one_voxel(0, 0, 0), one_voxel(8, 30, 26)),
    "one slice": (box((3, 4), (5, 20), (5, 20)), box((3, 4), (8, 22), (4, 11))),
}


def batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(mask, dtype=np.float32))[None, None]


@pytest.mark.parametrize("name", PAIRS)
def test_dice_equals_monai(name: str) -> None:
    predicted, annotated = PAIRS[name]
    assert dice(predicted, annotated) == pytest.approx(
        compute_dice(batch(predicted), batch(annotated)).item(), abs=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_soft_dice_equals_one_minus_monais_loss(seed: int) -> None:
    probability = np.random.default_rng(seed).random(EMPTY.shape)
    loss = DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)(
        torch.from_numpy(probability)[None, None],
        torch.from_numpy(blobs(seed).astype(np.float64))[None, None],
    )
    assert soft_dice(probability, blobs(seed)) == pytest.approx(1 - loss.item(), abs=1e-9)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_surface_distances_equal_monai(name: str, spacing: tuple[float, float, float]) -> None:
    predicted, annotated = PAIRS[name]
    given = batch(predicted), batch(annotated)
    hd95 = compute_hausdorff_distance(*given, include_background=True, percentile=95, spacing=spacing).item()
    assd = compute_average_surface_distance(
        *given, include_background=True, symmetric=True, spacing=spacing
    ).item()
    assert surface_distances(predicted, annotated, spacing) == pytest.approx((hd95, assd), abs=1e-4)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_surface_distances_equal_scipys_nearest_neighbors(
    name: str, spacing: tuple[float, float, float]
) -> None:
    """Surface: voxels with a face neighbor outside the mask or the volume."""
    surfaces = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in PAIRS[name]]
    there, back = (
        spatial.cKDTree(other).query(own)[0] for own, other in (surfaces, reversed(surfaces))
    )  # fmt: skip
    hd95, assd = max(np.percentile(there, 95), np.percentile(back, 95)), np.mean([*there, *back])
    assert surface_distances(*PAIRS[name], spacing) == pytest.approx((hd95, assd), abs=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_dice_equals_one_minus_scipys_dissimilarity(name: str) -> None:
    predicted, annotated = (mask.ravel() for mask in PAIRS[name])
    expected = 1 - spatial.distance.dice(predicted, annotated)
    assert dice(*PAIRS[name]) == pytest.approx(expected, abs=1e-12)


def test_surface_distance_is_in_millimeters_along_each_axis() -> None:
    for axis, expected in enumerate(SPACING):
        moved = [4, 15, 13]
        moved[axis] += 1
        distances = surface_distances(one_voxel(4, 15, 13), one_voxel(*moved), SPACING)
        assert distances == pytest.approx((expected, expected), abs=1e-12)


@pytest.mark.parametrize("masks", [(EMPTY, EMPTY), (FULL, EMPTY), (EMPTY, FULL)])
def test_surface_distances_of_an_empty_mask_are_undefined(masks: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.isnan(surface_distances(*masks, SPACING)).all()


def test_dice_of_an_empty_annotation_is_undefined_and_of_an_empty_prediction_zero() -> None:
    assert math.isnan(dice(FULL, EMPTY)) and math.isnan(dice(EMPTY, EMPTY))
    assert math.isnan(soft_dice(np.ones(EMPTY.shape), EMPTY))
    assert dice(EMPTY, FULL) == 0


def test_volumes_use_the_thickness_of_each_slice() -> None:
    voxel_ml = np.linspace(0.001, 0.009, 9)
    predicted, annotated = box((0, 2), (0, 10), (0, 10)), box((1, 3), (0, 10), (0, 5))
    score = score_case(predicted, annotated, spacing=SPACING, voxel_ml=voxel_ml)
    assert score.predicted_ml == pytest.approx(100 * 0.001 + 100 * 0.002)
    assert score.annotated_ml == pytest.approx(50 * 0.002 + 50 * 0.003)
    assert score.false_positive_ml == pytest.approx(100 * 0.001 + 50 * 0.002)


def test_label_maps_of_integers_score_like_masks() -> None:
    predicted, annotated = PAIRS["random"]
    as_masks = score_case(
        predicted, annotated, spacing=SPACING, voxel_ml=np.ones(9), probability=predicted * 0.5
    )
    as_labels = score_case(
        predicted.astype(np.uint8),
        annotated * 2,
        spacing=SPACING,
        voxel_ml=np.ones(9),
        probability=predicted * 0.5,
    )
    assert as_labels == as_masks


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        score_case(FULL[:1], FULL, spacing=SPACING, voxel_ml=np.ones(9))
    assert caught.value.code == "label-shape"


# --------------------------------------------------------------------------------------------- cohort


def patient(dice_value: float, annotated_ml: float, predicted_ml: float = 1.0) -> CaseScore:
    false_positive_ml = predicted_ml if annotated_ml == 0 else 0.0
    return CaseScore(dice_value, dice_value, 1.0, 1.0, predicted_ml, annotated_ml, false_positive_ml)


def test_strata_are_open_below_and_closed_above() -> None:
    names = [stratum(ml) for ml in (1e-9, 25, 25.001, 50, 50.001, 100, 100.001, 1e6)]
    expected = [
        "0-25 mL",
        "0-25 mL",
        "25-50 mL",
        "25-50 mL",
        "50-100 mL",
        "50-100 mL",
        "above 100 mL",
        "above 100 mL",
    ]
    assert names == expected


def test_empty_annotations_are_left_out_of_dice_and_their_false_positives_reported() -> None:
    cohort = score_cohort(
        [patient(0.4, 10), patient(0.8, 60), patient(np.nan, 0, 3.0), patient(np.nan, 0, 5.0)]
    )
    assert (cohort.n, cohort.n_empty) == (4, 2)
    assert (cohort.measures["dice"].n, cohort.measures["dice"].undefined) == (2, 2)
    assert cohort.measures["dice"].mean == pytest.approx(0.6)
    assert cohort.measures["dice"].sd == pytest.approx(math.sqrt(0.08))
    assert (cohort.empty_false_positive_ml.n, cohort.empty_false_positive_ml.mean) == (2, 4.0)


def test_dice_is_summarized_in_each_stratum_with_its_number_of_patients() -> None:
    cohort = score_cohort([patient(0.2, 10), patient(0.4, 25), patient(0.9, 150), patient(np.nan, 0)])
    counts = {name: summary.n for name, summary in cohort.dice_by_stratum.items()}
    assert counts == {"0-25 mL": 2, "25-50 mL": 0, "50-100 mL": 0, "above 100 mL": 1}
    assert cohort.dice_by_stratum["0-25 mL"].mean == pytest.approx(0.3)


def test_results_become_json_with_null_for_undefined() -> None:
    plain = to_plain(score_cohort([patient(0.9, 150)]))
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["measures"]["dice"] == {"n": 1, "mean": 0.9, "sd": None, "undefined": 0}
