"""Losses on slices of which some pixels may be unknown."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sahlora.imaging.labels import UNKNOWN, UNMARKED
from sahlora.training.settings import Loss

DICE_SMOOTHING = 1e-5
SMALLEST_BLEED = 25
"""Pixels; at 1 mm and slices of 5 mm, 0.125 mL."""


def is_known(label: Tensor) -> Tensor:
    """Return where a label (…) says whether there is blood."""
    return (label != UNKNOWN) & (label != UNMARKED)


def soft_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return 1 − (2Σpy + ε) / (Σp + Σy + ε) over all known pixels of the batch, ε = 1e-5.

    Parameters
    ----------
    logits : Tensor (N, 1, H, W)
    label : Tensor (N, 1, H, W)
        0, 1, or `UNMARKED` or `UNKNOWN` where unknown.
    """
    known = is_known(label)
    p, y = logits.sigmoid() * known, (label * known).to(logits.dtype)
    return 1 - (2 * (p * y).sum() + DICE_SMOOTHING) / (p.sum() + y.sum() + DICE_SMOOTHING)


def bce_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return `soft_dice_loss` plus the mean binary cross-entropy of the known pixels."""
    known = is_known(label)
    entropy = F.binary_cross_entropy_with_logits(logits, (label * known).to(logits.dtype), reduction="none")
    return soft_dice_loss(logits, label) + (entropy * known).sum() / torch.clamp(known.sum(), min=1)


def unmarked_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return Σ −log p̄ / N over the unmarked ones of N slices: blood must be found somewhere in them.

    p̄ is the mean of the `SMALLEST_BLEED` highest probabilities among a slice's unmarked pixels. This is
    multiple-instance learning: that the slice shows blood is known, of its pixels it is not. To take the mean
    of the highest few is a choice of this project; the paper has no such slices.

    Parameters
    ----------
    logits, label : Tensor (N, 1, H, W)
        Slices without a pixel `UNMARKED` are left out.
    """
    unmarked = (label == UNMARKED).flatten(1)
    slices = unmarked.any(dim=1)
    candidates = logits.flatten(1)[slices].masked_fill(~unmarked[slices], -math.inf)
    highest = F.logsigmoid(candidates.topk(min(SMALLEST_BLEED, candidates.shape[1]), dim=1).values)
    return (math.log(highest.shape[1]) - highest.logsumexp(dim=1)).sum() / len(label)


def empty_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return Σ −log(1 − p̄) / N over those of N slices that surely show no blood.

    p̄ is the mean of the `SMALLEST_BLEED` highest probabilities of a slice. A speck of false blood hardly
    counts among the pixels of a batch; here it does. A choice of this project.

    Parameters
    ----------
    logits, label : Tensor (N, 1, H, W)
        Slices with a pixel of blood, or of which nobody knows, are left out.
    """
    empty = (label == 0).flatten(1).all(dim=1)
    highest = logits.flatten(1)[empty].topk(min(SMALLEST_BLEED, logits[0].numel()), dim=1).values
    mean = highest.sigmoid().mean(dim=1).clamp(max=1 - 1e-6)
    return -torch.log1p(-mean).sum() / len(label)


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "soft-dice": soft_dice_loss,
    "bce-dice": bce_dice_loss,
}
