"""Losses on slices of which some pixels may be unknown."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sahlora.labels import UNKNOWN
from sahlora.training.settings import Loss

DICE_SMOOTHING = 1e-5


def soft_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return 1 − (2Σpy + ε) / (Σp + Σy + ε) over all known pixels of the batch, ε = 1e-5.

    Parameters
    ----------
    logits : Tensor (N, 1, H, W)
    label : Tensor (N, 1, H, W)
        0, 1, or 255 where unknown.
    """
    known = label != UNKNOWN
    p, y = logits.sigmoid() * known, (label * known).to(logits.dtype)
    return 1 - (2 * (p * y).sum() + DICE_SMOOTHING) / (p.sum() + y.sum() + DICE_SMOOTHING)


def bce_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return `soft_dice_loss` plus the mean binary cross-entropy of the known pixels."""
    known = label != UNKNOWN
    entropy = F.binary_cross_entropy_with_logits(logits, (label * known).to(logits.dtype), reduction="none")
    return soft_dice_loss(logits, label) + (entropy * known).sum() / torch.clamp(known.sum(), min=1)


LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "soft-dice": soft_dice_loss,
    "bce-dice": bce_dice_loss,
}
