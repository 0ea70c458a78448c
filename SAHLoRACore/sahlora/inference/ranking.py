"""What to annotate next: unlabelled scans in the order of how much the model's predictions of them differ.

The predictions of a scan are those of all views, of the mirrored slices, and of every adapter of an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sahlora.errors import Cancelled, InputError, UsageError
from sahlora.imaging.geometry import milliliters
from sahlora.imaging.planes import THICK_SLICE_MM, View
from sahlora.imaging.volume import Volume, read_volume
from sahlora.imaging.writers import write_image, write_label
from sahlora.inference.predictor import InferenceSettings, predict
from sahlora.models.base_model import Model
from sahlora.runtime.files import write_json, write_table
from sahlora.runtime.progress import Progress

SMOOTHING_ML = 1.0
PROPOSAL_ENDING, IMAGE_ENDING = ".seg.nrrd", "-ct.nrrd"

Ensemble = Sequence[Mapping[View, Model]]
"""The model of each view, once for each member."""


@dataclass(frozen=True)
class RankedScan:
    """One scan of the ranking; the figures are None if it could not be read.

    Parameters
    ----------
    scan : str
        Name in the list, or path in the folder.
    score : float, optional
        `disagreement_score`.
    predicted_ml : float, optional
        Volume that the mean prediction outlines.
    slice : int, optional
        Where the predictions differ most, 1 for the lowest slice.
    reason : str
        Why it stands where it stands, or why it could not be ranked; a sentence or two.
    image : str
        Path of the scan.
    proposal : str
        Path of the outline to correct; empty if none was written.
    proposal_image : str
        Path of the CT on the outline's grid: the scan itself, or of DICOM the slices that were segmented.
    """

    scan: str
    score: float | None
    predicted_ml: float | None
    slice: int | None
    reason: str
    image: str
    proposal: str = ""
    proposal_image: str = ""


@dataclass(frozen=True)
class Ranker:
    """Ranks scans with one ensemble.

    Parameters
    ----------
    ensemble : sequence of mappings of View to Model
        Members of one target and the same views.
    device : torch.device
    views : tuple of View, optional
        By default all that the models have; the same for every scan, so that the scores compare.
    proposals : Path, optional
        Folder to write each scan's outline to.

    Raises
    ------
    UsageError
        ``mixed-targets``, ``mixed-views``, ``no-model-for-view`` or ``single-prediction``.
    """

    ensemble: Ensemble
    device: torch.device
    views: tuple[View, ...] | None = None
    proposals: Path | None = None

    def __post_init__(self) -> None:
        if len({next(iter(models.values())).card.target.segment for models in self.ensemble}) > 1:
            raise UsageError("mixed-targets", "The adapters outline different things.", "Give one kind.")
        if len({tuple(sorted(models)) for models in self.ensemble}) > 1:
            raise UsageError(
                "mixed-views", "The adapters were trained on different views.", "Give adapters of one run."
            )
        if missing := set(self.views or ()) - self.ensemble[0].keys():
            raise UsageError(
                "no-model-for-view", f"No model is given for {min(missing)} slices.", "Leave that view out."
            )
        if self.predictions < 2:
            raise UsageError(
                "single-prediction",
                "A single prediction can't disagree with others.",
                "Add axial or coronal slices (--views), or a second adapter.",
            )

    @property
    def predictions(self) -> int:
        """Number of predictions of each scan: no sagittal slice has left and right to mirror."""
        return len(self.ensemble) * self._predictions_of_a_member

    @property
    def _predictions_of_a_member(self) -> int:
        return sum(1 if view == "sagittal" else 2 for view in self._chosen_views)

    @property
    def _chosen_views(self) -> tuple[View, ...]:
        return self.views or tuple(self.ensemble[0])

    def rank(self, scans: Mapping[str, Path], table: Path, progress: Progress) -> list[RankedScan]:
        """Rank scans, and write the table after each, so that nothing done is lost.

        Raises
        ------
        InputError
            ``no-scan-ranked`` if no scan could be read; the table says why.
        Cancelled
            The table then holds the scans ranked so far.
        """
        ranked: list[RankedScan] = []
        progress.stage("ranking")
        try:
            for number, (name, path) in enumerate(scans.items()):
                ranked.append(self._passing_over(name, path, progress))
                write_ranking(table, ranked)
                one = ranked[-1]
                progress.metric(scan=name, score=one.score, predicted_ml=one.predicted_ml)
                progress.update((number + 1) / len(scans))
        except Cancelled as error:
            kept = f"{len(ranked)} of {len(scans)} scans stand in {table}." if ranked else error.hint
            raise Cancelled(hint=kept) from None
        if all(one.score is None for one in ranked):
            raise InputError(
                "no-scan-ranked", f"None of {len(ranked)} scans could be ranked.", ranked[0].reason
            )
        return in_order(ranked)

    def _passing_over(self, name: str, path: Path, progress: Progress) -> RankedScan:
        """Rank one scan; one that can't be read is listed with the reason."""
        try:
            return self._rank_one(name, path, progress)
        except InputError as error:
            progress.warning(error.code, f"{name} was passed over: {error.message}", error.hint)
            return RankedScan(name, None, None, None, str(error), str(path))

    def _rank_one(self, name: str, path: Path, progress: Progress) -> RankedScan:
        volume = read_volume(path, progress=progress.without_stages())
        if volume.spacing[0] > THICK_SLICE_MM and self._chosen_views != ("axial",):
            progress.warning(
                "thick-slices",
                f"{name} has slices {volume.spacing[0]:.1f} mm apart, of which other views show little.",
                "Rank thick slices with --views axial.",
            )
        mean, variance = self._mean_and_variance(volume, progress.without_stages())
        target = next(iter(self.ensemble[0].values())).card.target
        label = mean >= target.threshold
        predicted_ml = milliliters(label, volume.voxel_ml)
        score = disagreement_score(mean, variance, volume.voxel_ml)
        slice_number = int(_per_slice(variance, volume.voxel_ml).argmax()) + 1
        found = RankedScan(
            name,
            round(score, 4),
            round(predicted_ml, 3),
            slice_number,
            self._reason(score, predicted_ml, slice_number),
            str(path),
        )
        return self._propose(found, volume, label) if self.proposals is not None else found

    def _propose(self, one: RankedScan, volume: Volume, label: np.ndarray) -> RankedScan:
        """Write the outline of a scan and, of DICOM, the CT that other programs could read differently."""
        assert self.proposals is not None
        proposal = self.proposals / f"{one.scan}{PROPOSAL_ENDING}"
        segment = next(iter(self.ensemble[0].values())).card.target.segment
        write_label(volume.to_grid(label, label=True), proposal, segment)
        image = Path(one.image)
        if volume.sources:
            image = self.proposals / f"{one.scan}{IMAGE_ENDING}"
            write_image(volume.to_grid(volume.hu, label=False), image)
        return replace(one, proposal=str(proposal), proposal_image=str(image))

    def _mean_and_variance(self, volume: Volume, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance over all predictions, within members and between their means."""
        settings = InferenceSettings(
            self._chosen_views, flip=True, disagreement=self._predictions_of_a_member > 1
        )
        mean, variance = (np.zeros(volume.hu.shape, np.float32) for _ in range(2))
        for number, models in enumerate(self.ensemble, 1):
            views = {view: model.for_inference() for view, model in models.items()}
            found = predict(volume, views, settings, self.device, progress)
            within = 0.0 if found.disagreement is None else found.disagreement**2
            distance = found.probability - mean
            mean += distance / number
            variance += (within + distance * (found.probability - mean) - variance) / number
        return mean, variance

    def _reason(self, score: float, predicted_ml: float, slice_number: int) -> str:
        if score == 0:
            return f"All {self.predictions} predictions agree on {predicted_ml:.1f} mL."
        found = f"on {predicted_ml:.1f} mL" if predicted_ml > 0 else "though nothing is outlined"
        return (
            f"{self.predictions} predictions agree to {1 - score:.0%} {found};"
            f" they differ most in slice {slice_number} from below."
        )


def disagreement_score(mean: np.ndarray, variance: np.ndarray, voxel_ml: np.ndarray) -> float:
    """Return how little the predictions of a scan overlap, 0 (all say the same) to 1.

    Parameters
    ----------
    mean, variance : ndarray (Z, Y, X)
        Weighted mean and variance of the probabilities over the predictions.
    voxel_ml : ndarray (Z,)
        Volume of a voxel of each slice.

    Notes
    -----
    One minus the soft Dice of two predictions p and q drawn by their weights, pooled over all pairs:
    1 − Σ 2pq / Σ (p² + q²) = Σ (p − q)² / Σ (p² + q²), in mL, with Dice's squared denominator (Milletari et
    al. 2016, doi 10.1109/3DV.2016.79). Averaged over pairs, (p − q)² is twice the variance and p² + q² twice
    mean² + variance, so that no pair has to be kept. How much predictions of a structure overlap stands in
    well for its true Dice (Roy et al. 2019, doi 10.1016/j.neuroimage.2019.03.042); the disagreement of an
    ensemble as a guide to what to annotate is Yang et al.'s (2017, doi 10.1007/978-3-319-66179-7_46), who
    also ask how representative an image is, which this does not. The score is relative to the volume, else
    the largest bleeds would always lead. Choice of this project: 1 mL is added to the denominator, so that
    specks on a scan without blood do not lead.
    """
    apart = float(_per_slice(variance, voxel_ml).sum())
    both = float(_per_slice(mean**2 + variance, voxel_ml).sum())
    return apart / (both + SMOOTHING_ML)


def _per_slice(values: np.ndarray, voxel_ml: np.ndarray) -> np.ndarray:
    return values.sum(axis=(1, 2), dtype=np.float64) * voxel_ml


def in_order(ranked: Sequence[RankedScan]) -> list[RankedScan]:
    """Put the scans with the most disagreement first, and those that could not be read last."""
    return sorted(ranked, key=lambda one: (one.score is None, -(one.score or 0.0), one.scan))


def write_ranking(path: Path, ranked: Sequence[RankedScan]) -> None:
    """Write the ranking, in order, as JSON if the file ends so, else as CSV.

    Raises
    ------
    ResourceError
        ``disk-full`` or ``unwritable``; an earlier table is then unchanged.
    """
    rows = as_rows(ranked)
    if path.suffix.lower() == ".json":
        write_json(path, rows)
    else:
        write_table(path, rows, ["rank", *(field.name for field in fields(RankedScan))])


def as_rows(ranked: Sequence[RankedScan]) -> list[dict[str, Any]]:
    """Return the ranking in order, each scan with its rank from 1; without one if it could not be read."""
    return [
        {"rank": None if one.score is None else number, **asdict(one)}
        for number, one in enumerate(in_order(ranked), 1)
    ]
