"""The training loop: one network, one optimizer, batches that are a function of seed and step.

State is written at regular times; a killed run continues from its last state and, on a CPU, ends with the
same weights as an uninterrupted one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sahlora.errors import Cancelled, InputError
from sahlora.runtime.files import replacing, write_json, write_text
from sahlora.runtime.progress import Progress
from sahlora.training.batches import SliceBatches
from sahlora.training.distributed import ALONE, Processes
from sahlora.training.learner import Learner
from sahlora.training.prefetch import prefetched
from sahlora.training.settings import TrainingSettings

SAVING_SHARE = 0.02
"""Of the time of training, spent on saving states, so that a kill costs little more than the present step."""


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
    processes: Processes = ALONE,
    save_every_s: float | None = None,
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
    processes : Processes
        Who trains together, each with its share of every batch; `run` lies where all can read it, and the
        first writes.
    save_every_s : float, optional
        Seconds between two states; None saves as often as costs a fiftieth of the time.

    Raises
    ------
    InputError
        ``other-run`` if the run was begun with other settings or cases.
    ResourceError
        ``diverged``, ``out-of-memory``, ``disk-full``; the last good state stays.
    Cancelled
        After the state was saved.
    """
    learner = Learner(network, settings, device, progress, processes)
    identity = json.loads(
        json.dumps({**settings.to_dict(), **(belongs_to or {}), "cases": batches.fingerprint})
    )
    state = load_state(run, learner, identity)
    if processes.is_first:
        write_json(run / "settings.json", identity)
        _write_metrics(run, state)  # a kill may have come between state and metrics
    steps, share = settings.epochs * len(batches), processes.share(settings.batch_size)
    progress.stage(stage, done=(state.epoch * len(batches) + state.batch) / steps)
    saved, pause = time.monotonic(), save_every_s or 0.0
    try:
        while not state.is_done(settings):
            with closing(prefetched(batches.epoch(state.epoch, state.batch, share))) as ahead:
                for image, label in ahead:
                    step = state.epoch * len(batches) + state.batch
                    loss = learner.step(image, label, step, settings.learning_rate_at(step, steps))
                    state = replace(state, batch=state.batch + 1, epoch_loss=state.epoch_loss + loss)
                    if time.monotonic() - saved >= pause:
                        begun = time.monotonic()
                        save_state(run, learner, identity, state, processes)
                        saved = time.monotonic()
                        if save_every_s is None:
                            pause = (saved - begun) / SAVING_SHARE
                    progress.update((step + 1) / steps)
            state = _end_epoch(learner, state, len(batches), settings, progress, evaluate, processes)
            save_state(run, learner, identity, state, processes)
    except Cancelled:
        save_state(run, learner, identity, state, processes)
        raise Cancelled(hint=f"The state is saved in {run}; the same command continues.") from None
    learner.finish()
    return state


def _end_epoch(
    learner: Learner,
    state: TrainingState,
    batches: int,
    settings: TrainingSettings,
    progress: Progress,
    evaluate: Callable[[nn.Module], float] | None,
    processes: Processes,
) -> TrainingState:
    """Score the epoch, report it and remember the weights if they are the best."""
    mean = state.epoch_loss / batches
    state = TrainingState(state.epoch + 1, losses=(*state.losses, mean), scores=state.scores)
    if evaluate is None:
        progress.metric(epoch=state.epoch, loss=round(mean, 5))
        return state
    with learner.evaluated() as network:
        score = processes.by_first(lambda: evaluate(network))
    state = replace(state, scores=(*state.scores, score))
    progress.metric(epoch=state.epoch, loss=round(mean, 5), held_out_dice=round(score, 4))
    if settings.patience is not None and state.best_epoch == state.epoch:
        learner.best = learner.weights()
    return state


# ------------------------------------------------------------------------------------------------ state


def save_state(
    run: Path,
    learner: Learner,
    identity: Mapping[str, Any],
    state: TrainingState,
    processes: Processes = ALONE,
) -> None:
    """Write weights, optimizer and progress to one file, then put it in the place of the last one."""
    if not processes.is_first:
        return
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.tensors().items()}
    metadata = {"settings": json.dumps(identity), "state": json.dumps(vars(state))}
    with replacing(run / "state.safetensors") as path:
        path.write_bytes(safetensors.torch.save(tensors, metadata))
    if state.batch == 0:  # an epoch has ended
        _write_metrics(run, state)


def _write_metrics(run: Path, state: TrainingState) -> None:
    lines: list[dict[str, float]] = [{"epoch": i, "loss": loss} for i, loss in enumerate(state.losses, 1)]
    for line, score in zip(lines, state.scores, strict=False):
        line["held_out_dice"] = score
    write_text(run / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))


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
