"""How good a segmentation is: overlap, surface distances and volumes of a patient, and of a cohort.

What is undefined is nan, never 0 or 1. Dice of an empty annotation is undefined: it is left out and counted,
and its false-positive volume reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sahlora.cases.strata import STRATA_ML, stratum, stratum_name
from sahlora.errors import InputError
from sahlora.evaluation.statistics import Agreement, Summary, agreement, summarize
from sahlora.imaging.geometry import milliliters

SMOOTHING = 1e-5  # of the soft Dice, as in the loss of the published pipeline


# ---------------------------------------------------------------------------------------- one patient


@dataclass(frozen=True)
class CaseScore:
    """Scores of one patient; nan where a score is undefined.

    Parameters
    ----------
    dice, soft_dice : float
        Overlap, 0 to 1; undefined (nan) when nothing is annotated. `soft_dice` needs the probability.
    hd95_mm, assd_mm : float
        95th-percentile Hausdorff and average symmetric surface distance; undefined when either mask is empty.
    predicted_ml, annotated_ml, false_positive_ml : float
        Volumes predicted, annotated, and predicted where nothing is annotated.
    """

    dice: float
    soft_dice: float
    hd95_mm: float
    assd_mm: float
    predicted_ml: float
    annotated_ml: float
    false_positive_ml: float


def score_case(
    predicted: np.ndarray,
    annotated: np.ndarray,
    *,
    spacing: tuple[float, float, float],
    voxel_ml: np.ndarray,
    probability: np.ndarray | None = None,
) -> CaseScore:
    """Score one patient's prediction against the annotation.

    Parameters
    ----------
    predicted, annotated : np.ndarray
        bool (Z, Y, X).
    spacing : tuple of float
        (z, y, x) in mm.
    voxel_ml : np.ndarray
        (Z,) volume in mL of one voxel in each slice.
    probability : np.ndarray, optional
        (Z, Y, X), 0 to 1, before thresholding; without it the soft Dice is nan.

    Raises
    ------
    InputError
        ``label-shape`` if prediction and annotation are not on one grid.
    """
    predicted, annotated = np.asarray(predicted, dtype=bool), np.asarray(annotated, dtype=bool)
    if predicted.shape != annotated.shape:
        raise InputError(
            "label-shape",
            f"The prediction has {predicted.shape} voxels, the annotation {annotated.shape}.",
            "Compare segmentations of the same scan.",
        )
    hd95_mm, assd_mm = surface_distances(predicted, annotated, spacing)
    return CaseScore(
        dice=dice(predicted, annotated),
        soft_dice=np.nan if probability is None else soft_dice(probability, annotated),
        hd95_mm=hd95_mm,
        assd_mm=assd_mm,
        predicted_ml=milliliters(predicted, voxel_ml),
        annotated_ml=milliliters(annotated, voxel_ml),
        false_positive_ml=milliliters(predicted & ~annotated, voxel_ml),
    )


def dice(predicted: np.ndarray, annotated: np.ndarray) -> float:
    """Dice coefficient 2|P∩A| / (|P|+|A|) of two masks; nan when nothing is annotated."""
    size = np.count_nonzero(annotated)
    if size == 0:
        return np.nan
    return 2 * np.count_nonzero(predicted & annotated) / (np.count_nonzero(predicted) + size)


def soft_dice(probability: np.ndarray, annotated: np.ndarray) -> float:
    """Dice of a probability, (2Σpa+ε) / (Σp+Σa+ε) with ε = 1e-5; nan when nothing is annotated.

    One minus this is the loss of the published pipeline.
    """
    size = np.count_nonzero(annotated)
    if size == 0:
        return np.nan
    shared = probability.sum(where=annotated, dtype=np.float64)
    total = probability.sum(dtype=np.float64) + size
    return float((2 * shared + SMOOTHING) / (total + SMOOTHING))


def surface_distances(
    predicted: np.ndarray, annotated: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[float, float]:
    """Return the 95th-percentile Hausdorff and the average symmetric surface distance, in mm.

    The surface of a mask are its voxels with a face neighbor outside; beyond the volume's border is outside.
    Distances run from voxel center to voxel center. HD95 is the larger of the two directed 95th percentiles;
    ASSD the mean over the surface voxels of both masks (MONAI's definitions).

    Parameters
    ----------
    predicted, annotated : np.ndarray
        bool (Z, Y, X).
    spacing : tuple of float
        (z, y, x) in mm.

    Returns
    -------
    tuple of float
        HD95 and ASSD; both nan when either mask is empty.
    """
    if not (predicted.any() and annotated.any()):
        return np.nan, np.nan
    box = ndimage.find_objects((predicted | annotated).astype(np.uint8))[0]
    surfaces = [_surface(mask[box]) for mask in (predicted, annotated)]
    to_predicted, to_annotated = (ndimage.distance_transform_edt(~s, sampling=spacing) for s in surfaces)
    there, back = to_annotated[surfaces[0]], to_predicted[surfaces[1]]
    hd95_mm = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95_mm), float(np.concatenate([there, back]).mean())


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


# ----------------------------------------------------------------------------------------- one cohort


@dataclass(frozen=True)
class CohortScore:
    """Scores of a cohort: each measure over all patients, Dice by stratum, and the agreement of volumes.

    Parameters
    ----------
    n, n_empty : int
        Patients, and those of them without any annotation.
    measures : dict
        `Summary` of each measure of `CaseScore`.
    dice_by_stratum : dict
        `Summary` of Dice by annotated volume, e.g. ``"25-50 mL"``: above 25, at most 50.
    empty_false_positive_ml : Summary
        Volume predicted in the patients without any annotation.
    volumes : Agreement
        Predicted against annotated volume, all patients.
    """

    n: int
    n_empty: int
    measures: dict[str, Summary]
    dice_by_stratum: dict[str, Summary]
    empty_false_positive_ml: Summary
    volumes: Agreement


def score_cohort(scores: Sequence[CaseScore]) -> CohortScore:
    """Summarize the scores of a cohort, one a patient."""
    empty = [s for s in scores if s.annotated_ml == 0]
    strata: dict[str, list[float]] = {stratum_name(*bounds): [] for bounds in STRATA_ML}
    for score in scores:
        if score.annotated_ml > 0:
            strata[stratum(score.annotated_ml)].append(score.dice)
    return CohortScore(
        n=len(scores),
        n_empty=len(empty),
        measures={
            name: summarize([getattr(s, name) for s in scores]) for name in CaseScore.__dataclass_fields__
        },
        dice_by_stratum={name: summarize(values) for name, values in strata.items()},
        empty_false_positive_ml=summarize([s.false_positive_ml for s in empty]),
        volumes=agreement([s.predicted_ml for s in scores], [s.annotated_ml for s in scores]),
    )
