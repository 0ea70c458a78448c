"""Held-out cases: which are kept from training, and how well they are segmented."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sahlora.cases.manifest import Case
from sahlora.errors import InputError, UsageError
from sahlora.evaluation.metrics import SMOOTHING, dice
from sahlora.imaging.labels import UNKNOWN, known_label, read_label, read_label_map
from sahlora.imaging.volume import read_volume
from sahlora.inference.predictor import ViewModel, predict
from sahlora.inference.slicing import View, pad_to_multiple, window
from sahlora.models.card import Preprocessing
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.prepared import PreparedCase

SLICES_A_CASE = 40
SLICES_AT_ONCE = 4


@dataclass(frozen=True)
class Cohort:
    """Cases to train on and cases held out, both with blood among them.

    Raises
    ------
    InputError
        ``held-out-in-training`` if a scan or patient is on both sides.
    """

    training: tuple[Case, ...]
    held_out: tuple[Case, ...] = ()

    def __post_init__(self) -> None:
        sides = [
            {case.image for case in side} | {case.patient for case in side if case.patient != case.name}
            for side in (self.training, self.held_out)
        ]
        if sides[0] & sides[1]:
            raise InputError(
                "held-out-in-training",
                "A scan or patient is both to be trained on and held out.",
                "Keep all scans of a patient on one side.",
            )


def split_cases(
    cases: Sequence[Case], held_out: int | None, seed: int, progress: Progress = SILENT
) -> Cohort:
    """Hold out patients with blood.

    Parameters
    ----------
    cases : sequence of Case
    held_out : int, optional
        How many patients, drawn by `seed`; 0 for none. None takes the manifest's column ``held_out``, or,
        where it names nobody, a fifth.

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
    positive = list(dict.fromkeys(case.patient for case in _with_blood(cases, progress)))
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
        tuple(case for case in cases if case.patient not in drawn),
        tuple(case for case in cases if case.patient in drawn),
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


# ------------------------------------------------------------------------------------- slices, each epoch


def slice_dice(
    cases: Sequence[PreparedCase], preprocessing: Preprocessing, multiple: int, progress: Progress
) -> Callable[[nn.Module], float]:
    """Return a function that scores a network by the mean soft Dice of the cases with blood.

    It is cheap enough for each epoch: at most 40 slices a case are looked at, evenly spread over those whose
    label is known.
    """
    chosen = []
    for case in cases:
        if case.with_blood:
            known = sorted({*case.with_blood, *case.without_blood})
            chosen.append((case, known[:: math.ceil(len(known) / SLICES_A_CASE)]))

    def evaluate(network: nn.Module) -> float:
        return float(np.mean([_dice_of(network, case, slices) for case, slices in chosen]))

    def _dice_of(network: nn.Module, case: PreparedCase, slices: list[int]) -> float:
        device, shared, total = next(network.parameters()).device, 0.0, 0.0
        for start in range(0, len(slices), SLICES_AT_ONCE):
            progress.check()
            hu, label = case.read(slices[start : start + SLICES_AT_ONCE])
            image = window(hu, preprocessing.window, preprocessing.intensity_range)[:, None]
            image = pad_to_multiple(image, multiple, preprocessing.intensity_range[0])
            image = image.to(device, memory_format=torch.channels_last)
            p = network(image).float().sigmoid()[:, 0, : label.shape[1], : label.shape[2]].cpu()
            p, y = p * (label != UNKNOWN), label == 1
            shared += float(p[y].sum())
            total += float(p.sum() + y.sum())
        return (2 * shared + SMOOTHING) / (total + SMOOTHING)

    return evaluate


# -------------------------------------------------------------------------------- whole volumes, at the end


def volume_dice(
    cases: Sequence[Case],
    candidates: Sequence[Mapping[View, ViewModel]],
    threshold: float,
    device: torch.device,
    progress: Progress,
) -> list[list[float]]:
    """Return the Dice of each candidate on each case as a whole volume; nan where no blood is annotated.

    One volume is in memory at a time. Views are fused as `sahlora.inference.predictor.predict` does by
    default; voxels whose label is unknown do not count.
    """
    progress.stage("comparing")
    scores: list[list[float]] = [[] for _ in candidates]
    for index, case in enumerate(cases):
        volume = read_volume(case.image)
        expert = case.read_slice_labels(len(volume.hu))
        label = known_label(read_label(case.label, volume, case.segment), expert)
        for models, found in zip(candidates, scores, strict=True):
            prediction = predict(volume, models, device=device, progress=progress.without_stages())
            found.append(dice((prediction.probability >= threshold) & (label != UNKNOWN), label == 1))
        progress.update((index + 1) / len(cases))
    return scores
