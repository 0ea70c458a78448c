"""The training loop: one network, one optimizer, batches that are a function of seed and step.

State is written at regular times; a killed run continues from its last state and, on a CPU, ends with the
same weights as an uninterrupted one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sahlora.errors import Cancelled, InputError
from sahlora.files import replacing
from sahlora.progress import Progress
from sahlora.training.learner import Learner
from sahlora.training.settings import TrainingSettings
from sahlora.training.slices import SliceBatches

SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class TrainingState:
    """How far a run has come.

    Parameters
    ----------
    epoch, batch : int
        Epochs done, and batches done in the present one.
    epoch_loss : float
        Sum of the present epoch's losses.
    losses, scores : tuple of float
        Mean loss of each epoch, and its score on held-out cases if there are any; higher is better.
    """

    epoch: int = 0
    batch: int = 0
    epoch_loss: float = 0.0
    losses: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, with the best score; the last one where there are no scores."""
        return 1 + self.scores.index(max(self.scores)) if self.scores else self.epoch

    def is_done(self, settings: TrainingSettings) -> bool:
        """Whether all epochs are done, or patience has run out."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= settings.epochs or (
            settings.patience is not None and waited >= settings.patience
        )


def train(
    network: nn.Module,
    batches: SliceBatches,
    settings: TrainingSettings,
    run: Path,
    progress: Progress,
    device: torch.device,
    evaluate: Callable[[nn.Module], float] | None = None,
    *,
    stage: str = "training",
    belongs_to: Mapping[str, Any] | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> TrainingState:
    """Train the parameters that require gradients, continuing from the state in `run` if there is one.

    Parameters
    ----------
    network : nn.Module
        Maps slices (N, 1, H, W) to logits of the same shape; ends with the final weights.
    batches : SliceBatches
    settings : TrainingSettings
    run : Path
        Folder for ``settings.json``, ``metrics.jsonl`` and the state, ``state.safetensors``.
    evaluate : callable, optional
        Scores the network in evaluation mode after each epoch, e.g. Dice on held-out cases. With
        `settings.patience`, the weights of the best epoch are kept.
    stage : str
        What to call this work in events.
    belongs_to : mapping, optional
        Whatever else a run must agree in to be continued, as plain values.

    Raises
    ------
    InputError
        ``other-run`` if the run was begun with other settings or cases.
    ResourceError
        ``diverged``, ``out-of-memory``, ``disk-full``; the last good state stays.
    Cancelled
        After the state was saved.
    """
    learner = Learner(network, settings, device, progress)
    identity = json.loads(
        json.dumps({**settings.to_dict(), **(belongs_to or {}), "cases": batches.fingerprint})
    )
    state = load_state(run, learner, identity)
    with replacing(run / "settings.json") as path:
        path.write_text(json.dumps(identity, indent=2) + "\n")
    steps = settings.epochs * len(batches)
    progress.stage(stage, done=(state.epoch * len(batches) + state.batch) / steps)
    try:
        while not state.is_done(settings):
            saved = time.monotonic()
            for image, label in batches.epoch(state.epoch, state.batch):
                step = state.epoch * len(batches) + state.batch
                loss = learner.step(image, label, step, settings.learning_rate_at(step, steps))
                state = replace(state, batch=state.batch + 1, epoch_loss=state.epoch_loss + loss)
                if time.monotonic() - saved >= save_every_s:
                    save_state(run, learner, identity, state)
                    saved = time.monotonic()
                progress.update((step + 1) / steps)
            state = _end_epoch(learner, state, len(batches), settings, progress, evaluate)
            save_state(run, learner, identity, state)
    except Cancelled:
        save_state(run, learner, identity, state)
        raise
    learner.finish()
    return state


def _end_epoch(
    learner: Learner,
    state: TrainingState,
    batches: int,
    settings: TrainingSettings,
    progress: Progress,
    evaluate: Callable[[nn.Module], float] | None,
) -> TrainingState:
    """Score the epoch, report it and remember the weights if they are the best."""
    mean = state.epoch_loss / batches
    state = TrainingState(state.epoch + 1, losses=(*state.losses, mean), scores=state.scores)
    if evaluate is None:
        progress.metric(epoch=state.epoch, loss=round(mean, 5))
        return state
    with learner.evaluated() as network:
        score = evaluate(network)
    state = replace(state, scores=(*state.scores, score))
    progress.metric(epoch=state.epoch, loss=round(mean, 5), held_out_dice=round(score, 4))
    if settings.patience is not None and state.best_epoch == state.epoch:
        learner.best = learner.weights()
    return state


# ------------------------------------------------------------------------------------------------ state


def save_state(run: Path, learner: Learner, identity: Mapping[str, Any], state: TrainingState) -> None:
    """Write weights, optimizer and progress to one file, then put it in the place of the last one."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.tensors().items()}
    metadata = {"settings": json.dumps(identity), "state": json.dumps(vars(state))}
    with replacing(run / "state.safetensors") as path:
        path.write_bytes(safetensors.torch.save(tensors, metadata))
    with replacing(run / "metrics.jsonl") as path:
        path.write_text("".join(f"{json.dumps(line)}\n" for line in _metrics(state)))


def _metrics(state: TrainingState) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = [{"epoch": i, "loss": loss} for i, loss in enumerate(state.losses, 1)]
    for line, score in zip(lines, state.scores, strict=False):
        line["held_out_dice"] = score
    return lines


def load_state(run: Path, learner: Learner, identity: Mapping[str, Any]) -> TrainingState:
    """Restore what `save_state` wrote, or return a fresh state if there is nothing.

    Raises
    ------
    InputError
        ``other-run`` if the run was begun with other settings or cases, ``damaged-run``.
    """
    path = run / "state.safetensors"
    if not path.exists():
        return TrainingState()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        settings, state = json.loads(metadata["settings"]), json.loads(metadata["state"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "damaged-run",
            f"The state of the run in {run} can't be read.",
            "Delete that folder, or name another.",
        ) from error
    if settings != identity:
        raise InputError(
            "other-run",
            f"The run in {run} was begun with other settings or cases.",
            "Delete that folder, or name another with --run.",
        )
    learner.restore(tensors)
    return TrainingState(
        state["epoch"], state["batch"], state["epoch_loss"], tuple(state["losses"]), tuple(state["scores"])
    )
