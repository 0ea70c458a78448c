"""Pre-training: a base model from annotated cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sahlora.cases.split import Cohort
from sahlora.errors import UsageError
from sahlora.models.base_model import Model, save_model
from sahlora.models.card import BaseCard, Description, NetworkSpec, Preprocessing, Target
from sahlora.models.network import MultiViewUNet, initialize_as_published
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.batches import SliceBatches
from sahlora.training.distributed import ALONE, Processes
from sahlora.training.loop import TrainingState, train
from sahlora.training.prepared import (
    PreparedCase,
    count_simulated,
    count_slices,
    prepare_cases,
    require_unlike,
)
from sahlora.training.run_folder import cache_of
from sahlora.training.settings import TrainingSettings
from sahlora.training.validation import slice_dice


@dataclass(frozen=True)
class PretrainingPlan:
    """What is trained: network, preprocessing, settings, and the words and target for the card.

    `start` is a base whose weights are the first ones; None draws them.
    """

    description: Description
    target: Target
    network: NetworkSpec = field(default_factory=NetworkSpec)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    start: Model | None = None


def pretrain(
    cohort: Cohort,
    plan: PretrainingPlan,
    output: Path,
    run: Path,
    device: torch.device,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
) -> BaseCard:
    """Train a base model on one view's slices and write it to `output`.

    Parameters
    ----------
    cohort : Cohort
        Cases to train on, and cases held out, whose slices are scored after each epoch.
    plan : PretrainingPlan
    output : Path
        The model file.
    run : Path
        Folder of the run: settings, state, metrics and prepared cases; a run found there is continued.
    device : torch.device
    processes : Processes
        Who trains together; the first prepares the cases, scores the epochs and writes.

    Raises
    ------
    UsageError
        ``one-view``, or ``bad-batch-size`` if a batch can't be divided among the processes.
    InputError
        From reading the cases, or ``other-run`` if the run was begun otherwise.
    ResourceError
        ``diverged``, ``out-of-memory``, ``disk-full``.
    """
    if len(plan.preprocessing.views) != 1:
        raise UsageError(
            "one-view", "A base is trained on one view.", "Give one of axial, coronal, sagittal."
        )
    spec, settings, multiple = plan.network, plan.settings, 2**plan.network.level
    processes.share(settings.batch_size)  # refuses a batch that can't be divided before any work
    prepared, held_out, simulated = processes.by_first(
        lambda: _prepare(cohort, plan.preprocessing, run, progress)
    )
    batches = SliceBatches.of(prepared, plan.preprocessing, settings, multiple, simulated)
    torch.manual_seed(settings.seed)
    network = MultiViewUNet(spec.level, spec.width, spec.in_channels, spec.out_channels)
    if settings.preset == "paper":
        initialize_as_published(network)
    if plan.start is not None:
        start_from(network, plan.start.network)
    state = train(
        network,
        batches,
        settings,
        run,
        progress.agreeing(processes.any),
        device,
        slice_dice(held_out, plan.preprocessing, multiple, progress) if held_out else None,
        belongs_to=_belongs_to(held_out, plan.start),
        processes=processes,
    )
    record = (
        _origin(plan.start)
        | _record(prepared, simulated, settings, state)
        | _score(held_out, settings, state)
    )
    card = BaseCard(plan.description, plan.target, spec, plan.preprocessing, training=record)
    if processes.is_first:
        save_model(output, network.cpu(), card)
    return card


def start_from(network: MultiViewUNet, earlier: MultiViewUNet) -> None:
    """Copy the weights of an earlier network; one that saw slices alone gets neighbors of no weight.

    Raises
    ------
    UsageError
        ``other-network`` if the networks differ in more than that.
    """
    state = {name: tensor.clone() for name, tensor in earlier.state_dict().items()}
    first = "stem.0.weight"
    if earlier.in_channels == 1 and network.in_channels > 1:
        alone, state[first] = state[first], torch.zeros_like(network.state_dict()[first])
        state[first][:, network.in_channels // 2] = alone[:, 0]
    expected = network.state_dict()
    if state.keys() != expected.keys() or any(state[name].shape != expected[name].shape for name in state):
        raise UsageError(
            "other-network", "The model to start from is another network.", "Give its --level and --width."
        )
    network.load_state_dict(state)


def _belongs_to(held_out: list[PreparedCase], start: Model | None) -> dict[str, Any] | None:
    """Return what a run must agree in to be continued, beside settings and cases."""
    told: dict[str, Any] = {"held_out": [case.folder.name for case in held_out]} if held_out else {}
    return told | _origin(start) or None


def _origin(start: Model | None) -> dict[str, str]:
    """Say on a card which weights training began with."""
    return {} if start is None else {"started_from": f"{start.card.description.title}, {start.sha256}"}


def _prepare(
    cohort: Cohort, preprocessing: Preprocessing, run: Path, progress: Progress
) -> tuple[list[PreparedCase], list[PreparedCase], list[PreparedCase]]:
    training, held_out, simulated = (
        prepare_cases(side, preprocessing, preprocessing.views[0], cache_of(run), progress) if side else []
        for side in (cohort.training, cohort.held_out, cohort.simulated)
    )
    require_unlike(training, held_out)
    return training, held_out, simulated


def _score(held_out: list[PreparedCase], settings: TrainingSettings, state: TrainingState) -> dict:
    """Return what the card says of held-out cases: the mean soft Dice of those with blood, by slices."""
    if not held_out:
        return {}
    kept = state.epoch if settings.patience is None else state.best_epoch
    return {
        "held_out_cases": sum(bool(case.with_blood) for case in held_out),
        "held_out_soft_dice": round(state.scores[kept - 1], 4),
        "epochs": state.epoch,
        "kept_epoch": kept,
    }


def _record(
    prepared: list[PreparedCase],
    simulated: list[PreparedCase],
    settings: TrainingSettings,
    state: TrainingState,
) -> dict:
    return {
        "settings": settings.to_dict(),
        "cases": len(prepared),
        "cases_with_blood": sum(bool(case.with_blood) for case in prepared),
        **count_slices(prepared),
        **count_simulated(simulated),
        "final_loss": round(state.losses[-1], 5),
    }
