"""Evaluation of models on annotated cases: predict, score, summarize by stratum, compare two models.

Voxels marked unknown, and slices with blood that nobody outlined, are left out of every measure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sahlora.cases.loading import LoadedCase, load_case
from sahlora.cases.manifest import Case, identity
from sahlora.cases.strata import STRATA, volume_stratum
from sahlora.errors import InputError
from sahlora.evaluation.baseline import brain_threshold
from sahlora.evaluation.metrics import CaseScore, CohortScore, score_case, score_cohort
from sahlora.evaluation.statistics import Auroc, PairedTest, auroc_by_patient, paired_test
from sahlora.imaging.labels import UNKNOWN
from sahlora.imaging.planes import View
from sahlora.imaging.volume import Volume
from sahlora.inference.predictor import CPU, InferenceSettings, predict
from sahlora.models.base_model import ViewModel
from sahlora.runtime.progress import SILENT, Progress

ALL = "all"
DEFAULTS = InferenceSettings()
MEASURES = ("dice", "soft_dice", "hd95_mm", "assd_mm", "volume_error_ml")
"""What two models are compared by, patient by patient."""


@dataclass(frozen=True, eq=False)
class System:
    """What is evaluated: models of the views, the probability from which on a voxel counts, and its name.

    Parameters
    ----------
    name : str
        Shown in results.
    models : mapping of View to ViewModel
    threshold : float
    facts : mapping of str
        Facts of the model card, shown as given.
    """

    name: str
    models: Mapping[View, ViewModel]
    threshold: float
    facts: Mapping[str, str]

    def probability(
        self, volume: Volume, settings: InferenceSettings, device: torch.device, progress: Progress
    ) -> np.ndarray:
        """Return the probability of each voxel, float32 (Z, Y, X)."""
        return predict(volume, self.models, settings, device, progress).probability


@dataclass(frozen=True, eq=False)
class ThresholdSystem(System):
    """No model: bright voxels inside the brain, see `sahlora.evaluation.baseline.brain_threshold`."""

    name: str
    models: Mapping[View, ViewModel] = field(default_factory=dict)
    threshold: float = 0.5
    facts: Mapping[str, str] = field(default_factory=dict)

    def probability(
        self, volume: Volume, settings: InferenceSettings, device: torch.device, progress: Progress
    ) -> np.ndarray:
        """Return 1 for blood, else 0."""
        return brain_threshold(volume.hu, volume.spacing).astype(np.float32)


Keep = Callable[[Case, System, Volume, np.ndarray], None]


@dataclass(frozen=True)
class CaseResult:
    """Scores of one case.

    Parameters
    ----------
    name, patient : str
    score : CaseScore
    slice_scores : tuple of float
        Highest probability in each slice.
    slice_labels : tuple of bool
        What an expert says of each slice; empty if nobody did, and then `slice_scores` too.
    """

    name: str
    patient: str
    score: CaseScore
    slice_scores: tuple[float, ...] = ()
    slice_labels: tuple[bool, ...] = ()

    @property
    def person(self) -> str:
        """The patient's name as patients are told apart, letter case and blanks aside."""
        return identity(self.patient)

    @property
    def stratum(self) -> str:
        """Name of the stratum of its annotated volume."""
        return volume_stratum(self.score.annotated_ml)

    @property
    def volume_error_ml(self) -> float:
        """Absolute difference of predicted and annotated volume."""
        return abs(self.score.predicted_ml - self.score.annotated_ml)


@dataclass(frozen=True)
class Failure:
    """A case that could not be evaluated, and the code of the reason."""

    name: str
    code: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of all systems on the same cases.

    Parameters
    ----------
    systems : tuple of System
    results : mapping of str to tuple of CaseResult
        By name of the system; the same cases in the same order for each.
    failures : tuple of Failure
    """

    systems: tuple[System, ...]
    results: Mapping[str, tuple[CaseResult, ...]]
    failures: tuple[Failure, ...] = ()

    @property
    def patients(self) -> int:
        """Number of patients evaluated."""
        return len({result.person for result in self.results[self.systems[0].name]})


def evaluate(
    cases: Sequence[Case],
    systems: Sequence[System],
    settings: InferenceSettings = DEFAULTS,
    device: torch.device = CPU,
    progress: Progress = SILENT,
    keep: Keep | None = None,
) -> Evaluation:
    """Predict and score every case with every system; a case that can't be read is listed and passed over.

    Parameters
    ----------
    cases : sequence of Case
    systems : sequence of System
    settings : InferenceSettings
    device : torch.device
    progress : Progress
    keep : callable, optional
        Called with case, system, volume and probability, float32 (Z, Y, X), of each prediction.

    Raises
    ------
    InputError
        ``nothing-evaluated`` if no case could be read.
    UsageError
        Of `sahlora.inference.predictor.predict`.
    """
    results: dict[str, list[CaseResult]] = {system.name: [] for system in systems}
    failures = []
    quiet = progress.without_stages()
    progress.stage("evaluating")
    for done, case in enumerate(cases, 1):
        try:
            scored = _evaluate_case(case, systems, settings, device, quiet, keep)
        except InputError as error:
            failures.append(Failure(case.name, error.code))
            progress.warning(error.code, f"Case {case.name} is left out: {error.message}", error.hint)
        else:
            for system, result in zip(systems, scored, strict=True):
                results[system.name].append(result)
                progress.metric(case=case.name, model=system.name, dice=_defined(result.score.dice))
        progress.update(done / len(cases))
    if len(failures) == len(cases):
        raise InputError("nothing-evaluated", "No case could be evaluated.", "Run “sahlora cases check”.")
    return Evaluation(tuple(systems), {k: tuple(v) for k, v in results.items()}, tuple(failures))


def _evaluate_case(
    case: Case,
    systems: Sequence[System],
    settings: InferenceSettings,
    device: torch.device,
    progress: Progress,
    keep: Keep | None,
) -> list[CaseResult]:
    loaded = load_case(case, progress)
    volume, results = loaded.volume, []
    for system in systems:
        probability = system.probability(volume, settings, device, progress)
        if keep is not None:
            keep(case, system, volume, probability)
        results.append(score_prediction(loaded, probability, system.threshold))
    return results


def score_prediction(
    loaded: LoadedCase,
    probability: np.ndarray,
    threshold: float,
) -> CaseResult:
    """Score one prediction on the known voxels.

    Parameters
    ----------
    loaded : LoadedCase
    probability : np.ndarray
        float32 (Z, Y, X).
    threshold : float
        Probability from which on a voxel is predicted.
    """
    case, volume, label, expert = loaded.case, loaded.volume, loaded.label, loaded.expert
    known = np.where(label == UNKNOWN, np.float32(0), probability)
    score = score_case(
        known >= threshold,
        label == 1,
        spacing=volume.spacing,
        voxel_ml=volume.voxel_ml,
        probability=known,
    )
    if expert is None:
        return CaseResult(case.name, case.patient, score)
    highest = probability.max(axis=(1, 2)).tolist()
    return CaseResult(case.name, case.patient, score, tuple(highest), tuple(expert.tolist()))


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


# ------------------------------------------------------------------------------------------------- summary


def by_stratum(results: Sequence[CaseResult]) -> dict[str, CohortScore]:
    """Summarize all cases and those of each stratum of annotated volume that has any."""
    groups = {ALL: list(results)}
    for name in STRATA:
        if members := [result for result in results if result.stratum == name]:
            groups[name] = members
    return {name: score_cohort([result.score for result in group]) for name, group in groups.items()}


def detection(results: Sequence[CaseResult]) -> Auroc | None:
    """Area under the ROC curve of slices against an expert's labels; None without both kinds of slices."""
    told = [result for result in results if result.slice_labels]
    labels = [label for result in told for label in result.slice_labels]
    if len(set(labels)) < 2:
        return None
    scores = [score for result in told for score in result.slice_scores]
    owners = [result.person for result in told for _ in result.slice_labels]
    return auroc_by_patient(scores, labels, owners)


def compare(first: Sequence[CaseResult], second: Sequence[CaseResult]) -> dict[str, PairedTest]:
    """Test first − second of each measure of `MEASURES` over patients; several cases of one are averaged."""
    return {name: paired_test(patient_values(first, name), patient_values(second, name)) for name in MEASURES}


def patient_values(results: Sequence[CaseResult], measure: str) -> list[float]:
    """Return a measure of each patient, in the order of the results; several cases of one are averaged."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for result in results:
        values[result.person].append(case_values(result)[measure])
    return [
        float(np.mean(defined)) if (defined := [v for v in given if not np.isnan(v)]) else np.nan
        for given in values.values()
    ]


def case_values(result: CaseResult) -> dict[str, Any]:
    """Return all measures of a case by name."""
    return {**vars(result.score), "volume_error_ml": result.volume_error_ml}
