"""Pre-training: a base model from annotated cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sahlora.card import BaseCard, Description, NetworkSpec, Preprocessing, Target
from sahlora.cases import Case
from sahlora.errors import UsageError
from sahlora.model import save_model
from sahlora.networks import MultiViewUNet, initialize_as_published
from sahlora.progress import SILENT, Progress
from sahlora.training.augmentation import augmentation
from sahlora.training.loop import TrainingState, train
from sahlora.training.settings import TrainingSettings
from sahlora.training.slices import PreparedCase, SliceBatches, prepare_cases


@dataclass(frozen=True)
class PretrainingPlan:
    """What is trained: network, preprocessing, settings, and the words and target for the card."""

    description: Description
    target: Target
    network: NetworkSpec = field(default_factory=NetworkSpec)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    settings: TrainingSettings = field(default_factory=TrainingSettings)


def pretrain(
    cases: Sequence[Case],
    plan: PretrainingPlan,
    output: Path,
    run: Path,
    device: torch.device,
    progress: Progress = SILENT,
) -> BaseCard:
    """Train a base model on one view's slices and write it to `output`.

    Parameters
    ----------
    cases : sequence of Case
    plan : PretrainingPlan
    output : Path
        The model file.
    run : Path
        Folder of the run: settings, state, metrics and prepared cases; a run found there is continued.
    device : torch.device
    """
    if len(plan.preprocessing.views) != 1:
        raise UsageError(
            "one-view", "A base is trained on one view.", "Give one of axial, coronal, sagittal."
        )
    run.mkdir(parents=True, exist_ok=True)
    prepared = prepare_cases(cases, plan.preprocessing, plan.preprocessing.views[0], run / "cache", progress)
    spec, settings = plan.network, plan.settings
    batches = SliceBatches(
        prepared, plan.preprocessing, settings.batch_size, settings.crop, 2**spec.level,
        augmentation(settings.augmentation), settings.seed,
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    network = MultiViewUNet(spec.level, spec.width, spec.in_channels, spec.out_channels)
    if settings.preset == "paper":
        initialize_as_published(network)
    state = train(network.to(device), batches, settings, run, progress, device)
    card = BaseCard(
        plan.description, plan.target, spec, plan.preprocessing, training=_record(prepared, settings, state)
    )
    save_model(output, network.cpu(), card)
    return card


def _record(prepared: list[PreparedCase], settings: TrainingSettings, state: TrainingState) -> dict:
    return {
        "settings": settings.to_dict(),
        "cases": len(prepared),
        "cases_with_blood": sum(bool(case.with_blood) for case in prepared),
        "slices_with_blood": sum(len(case.with_blood) for case in prepared),
        "slices_without_blood": sum(len(case.without_blood) for case in prepared),
        "final_loss": round(state.losses[-1], 5),
    }
