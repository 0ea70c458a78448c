"""Settings of a training run and the named presets they start from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sahlora.errors import UsageError

Loss = Literal["soft-dice", "bce-dice"]
Schedule = Literal["constant", "one-cycle"]


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides how a network is trained, and that its card records.

    Parameters
    ----------
    preset : str
        Name of the preset these settings come from.
    epochs : int
        Passes over all slices with blood.
    batch_size : int
        Slices a step, half of them with blood; even.
    learning_rate, weight_decay : float
        Of AdamW, which is Adam where `weight_decay` is 0; the peak of the schedule.
    schedule : {"constant", "one-cycle"}
        One-cycle rises over the first tenth of all steps and falls to 0 as a cosine.
    loss : {"soft-dice", "bce-dice"}
        Soft Dice over the whole batch, alone or added to binary cross-entropy.
    unmarked_weight : float
        Above 0, slices in which an expert sees blood that nobody outlined are trained on too, and
        `sahlora.training.losses.unmarked_loss` is added to `loss` with this weight.
    empty_weight : float
        Above 0, `sahlora.training.losses.empty_loss` is added to `loss` with this weight: against specks of
        false blood in slices that show none.
    simulated_share : float
        Share of the slices with blood that is drawn from simulated cases, if there are any.
    vertex_draws : int
        How often slices without blood near the vertex are listed to be drawn.
    augmentation : {"none", "paper", "default", "robust"}
        See `sahlora.training.augmentation`.
    crop : tuple of int, optional
        Height and width in mm to which slices are cut or padded; None keeps the largest slice's, and so do
        native pixels, whose size in mm differs between scans.
    seed : int
        Decides initial weights, order of slices, augmentation and dropout.
    patience : int, optional
        Stop after so many epochs without a better result on held-out cases, and keep the weights of the best
        epoch; None trains all epochs and keeps the last.
    average : float, optional
        Keep the exponential moving average of the weights, with this decay a step, instead of the weights.
    slices_at_once : int, optional
        Compute a step in parts of so many slices: less memory, the same gradient. None computes it at once.
    """

    preset: str = "default"
    epochs: int = 12
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    schedule: Schedule = "one-cycle"
    loss: Loss = "bce-dice"
    unmarked_weight: float = 0.0
    empty_weight: float = 0.0
    simulated_share: float = 0.3
    vertex_draws: int = 1
    augmentation: str = "default"
    crop: tuple[int, int] | None = (192, 160)
    seed: int = 0
    patience: int | None = None
    average: float | None = None
    slices_at_once: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError("bad-epochs", f"{self.epochs} epochs train nothing.", "Give at least 1.")
        if self.batch_size < 2 or self.batch_size % 2:
            raise UsageError(
                "bad-batch-size",
                f"A batch of {self.batch_size} slices can't be half with and half without blood.",
                "Give an even number from 2.",
            )
        if not 0 < self.learning_rate < 1:
            raise UsageError(
                "bad-learning-rate", f"Learning rate {self.learning_rate}.", "Give one in (0, 1)."
            )
        for weight, what in ((self.unmarked_weight, "unmarked"), (self.empty_weight, "empty")):
            if not 0 <= weight < math.inf:
                raise UsageError("bad-weight", f"Weight {weight} of {what} slices.", "Give 0 or more.")
        if not 0 < self.simulated_share < 1:
            raise UsageError("bad-share", f"A share of {self.simulated_share}.", "Give one in (0, 1).")
        if self.vertex_draws < 1:
            raise UsageError("bad-draws", f"Slices drawn {self.vertex_draws} times.", "Give at least 1.")
        if self.seed < 0:
            raise UsageError("bad-seed", f"Seed {self.seed} is negative.", "Give one from 0.")
        if self.patience is not None and self.patience < 1:
            raise UsageError("bad-patience", f"Patience of {self.patience} epochs.", "Give at least 1.")
        if self.average is not None and not 0 < self.average < 1:
            raise UsageError("bad-average", f"Decay {self.average} of the average.", "Give one in (0, 1).")
        if self.slices_at_once is not None and self.slices_at_once < 1:
            raise UsageError("bad-batch-size", f"{self.slices_at_once} slices at once.", "Give at least 1.")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step `step` (from 0) of `steps`."""
        if self.schedule == "constant":
            return self.learning_rate
        rise = max(1, steps // 10)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return json.loads(json.dumps(asdict(self)))


PRESETS: dict[str, TrainingSettings] = {
    "default": TrainingSettings(),
    # Protocol of the published pipeline: whole slices, Adam, constant rate, one slice with and one without.
    "paper": TrainingSettings(
        preset="paper",
        epochs=60,
        batch_size=2,
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule="constant",
        loss="soft-dice",
        augmentation="paper",
        crop=None,
    ),
}

FINETUNING_PRESETS: dict[str, TrainingSettings] = {
    "default": TrainingSettings(
        epochs=20, learning_rate=5e-3, weight_decay=0.0, augmentation="default", crop=None, patience=6
    ),
    # Protocol of the published pipeline: 20 epochs, the last one counts.
    "paper": replace(PRESETS["paper"], epochs=20),
    # A first impression within minutes.
    "quick": TrainingSettings(
        preset="quick", epochs=5, learning_rate=5e-3, weight_decay=0.0, crop=None, patience=5
    ),
}


def preset(name: str, presets: dict[str, TrainingSettings], **changes: Any) -> TrainingSettings:
    """Return the settings of a preset with those `changes` that are not None.

    Raises
    ------
    UsageError
        ``unknown-preset``, or the setting that is out of bounds.
    """
    if name not in presets:
        raise UsageError(
            "unknown-preset", f"There is no preset “{name}”.", f"Use one of {', '.join(presets)}."
        )
    return replace(presets[name], **{key: value for key, value in changes.items() if value is not None})
