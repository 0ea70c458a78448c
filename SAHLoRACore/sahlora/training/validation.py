"""Held-out cases: which are kept from training, and how well they are segmented."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from sahlora.cases.loading import load_case
from sahlora.cases.manifest import Case
from sahlora.evaluation.metrics import SMOOTHING, dice
from sahlora.imaging.labels import UNKNOWN
from sahlora.imaging.planes import View
from sahlora.inference.predictor import predict
from sahlora.inference.slicing import pad_to_multiple, window
from sahlora.models.base_model import ViewModel
from sahlora.models.card import Preprocessing
from sahlora.runtime.progress import Progress
from sahlora.training.prepared import PreparedCase

SLICES_A_CASE = 40
SLICES_AT_ONCE = 4


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
            hu, labels = case.read(slices[start : start + SLICES_AT_ONCE], preprocessing.neighbors)
            label = labels[:, labels.shape[1] // 2]
            image = window(hu, preprocessing.window, preprocessing.intensity_range)
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
        loaded = load_case(case)
        volume, label = loaded.volume, loaded.label
        for models, found in zip(candidates, scores, strict=True):
            prediction = predict(volume, models, device=device, progress=progress.without_stages())
            found.append(dice((prediction.probability >= threshold) & (label != UNKNOWN), label == 1))
        progress.update((index + 1) / len(cases))
    return scores
