"""Fine-tuning: an adapter of a base model from annotated cases, checked on held-out ones."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sahlora.about import __version__
from sahlora.adapters.attach import adapt, collect
from sahlora.adapters.config import STANDARD, AdapterConfig
from sahlora.adapters.scope import count_parameters
from sahlora.cases.split import Cohort
from sahlora.evaluation.statistics import FEWEST_PAIRS, Summary, summarize
from sahlora.imaging.planes import View
from sahlora.inference.predictor import PIXELS_PER_BATCH
from sahlora.models.adapter_file import Adapter, AdapterCard, merged_model, require_strength, save_adapter
from sahlora.models.base_model import Model
from sahlora.models.card import Description, Plain, Target
from sahlora.runtime.files import to_plain, write_json
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.batches import SliceBatches
from sahlora.training.loop import TrainingState, train
from sahlora.training.prepared import count_simulated, count_slices, prepare_cases, require_unlike
from sahlora.training.run_folder import cache_of
from sahlora.training.settings import FINETUNING_PRESETS, TrainingSettings
from sahlora.training.validation import slice_dice, volume_dice

NOT_BETTER = "On the held-out cases the adapted model is not better than its base."
OPTIMISTIC = "The held-out cases also chose the epoch, so that their Dice is optimistic."
TOO_FEW = "These are too few cases to be sure."
UNCHECKED = "No case was held out: nothing is known about whether the adapted model is better than its base."

DECIMALS = 3
"""Of the Dice that are told and compared."""


@dataclass(frozen=True)
class FinetuningPlan:
    """What is trained: adapter, views, settings, and words for the card; `target` None keeps the base's.

    Training is at full strength; `strength` is that of `AdapterCard`, with which the adapter is then used.
    """

    description: Description
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    views: tuple[View, ...] = ("axial",)
    settings: TrainingSettings = FINETUNING_PRESETS["default"]
    target: Target | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        require_strength(self.strength)


@dataclass(frozen=True)
class Comparison:
    """Dice of the held-out cases as whole volumes, with the base and with the adapted model.

    Parameters
    ----------
    before, after : tuple of float
        Dice of each case with the base and with the adapted model.
    chose_epoch : bool
        Whether the same cases also chose the epoch; the figures are then optimistic.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    chose_epoch: bool = False

    @property
    def is_better(self) -> bool:
        """Whether the adapted model's mean Dice is higher, to the three decimals that are told."""
        before, after = (round(summarize(dice).mean, DECIMALS) for dice in (self.before, self.after))
        return after > before

    def __str__(self) -> str:
        """Say what was gained, or that nothing was."""
        before, after = (summarize(dice) for dice in (self.before, self.after))
        figures = f"Mean Dice of the held-out cases: {before} with the base, {after} with the adapter."
        doubts = {OPTIMISTIC: self.chose_epoch, TOO_FEW: len(self.after) < FEWEST_PAIRS}
        verdict = [*([] if self.is_better else [NOT_BETTER]), figures]
        return " ".join([*verdict, *(doubt for doubt, holds in doubts.items() if holds)])

    def to_dict(self) -> dict[str, Plain]:
        """Return the record for the card."""
        change = np.subtract(self.after, self.before)
        return {
            "dice_before": _plain(summarize(self.before)),
            "dice_after": _plain(summarize(self.after)),
            "cases_better": int((change > 0).sum()),
            "cases_worse": int((change < 0).sum()),
        }


def _plain(summary: Summary) -> dict[str, Plain]:
    return {key: to_plain(round(value, 4)) for key, value in asdict(summary).items()}


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning made: the adapter, and how it compares; None if no case was held out."""

    adapter: Adapter
    comparison: Comparison | None


def finetune(
    cohort: Cohort,
    base: Model,
    plan: FinetuningPlan,
    output: Path,
    run: Path,
    device: torch.device,
    progress: Progress = SILENT,
    *,
    cache: Path | None = None,
) -> Finetuned:
    """Train an adapter for each view and write them to one file.

    Parameters
    ----------
    cohort : Cohort
        Cases to train on and cases held out.
    base : Model
        Stays as it is.
    plan : FinetuningPlan
    output : Path
        The adapter file; one that is there already is replaced at the very end.
    run : Path
        Folder of the run: prepared cases, and for each view settings, metrics and state; a run found there is
        continued.
    device : torch.device
    cache : Path, optional
        Folder of prepared cases that several runs may share; one in the folder of the run by default.

    Raises
    ------
    UsageError
        ``unknown-scope``.
    InputError
        From reading the cases, or ``other-run`` if the run was begun otherwise.
    ResourceError
        ``diverged``, ``out-of-memory``, ``disk-full``.
    """
    count_parameters(base.network, plan.adapter)  # refuses an unknown scope before any work
    states: dict[View, dict[str, Tensor]] = {}
    views: dict[str, Plain] = {}
    for view in plan.views:
        states[view], views[view] = _train_view(
            cohort, base, plan, view, run, cache or cache_of(run), device, progress
        )
    adapter = Adapter(_card(cohort, base, plan, views), states)
    comparison = _compare(adapter, base, cohort, plan.settings, device, progress)
    adapter = replace(adapter, card=_with_comparison(adapter.card, plan.settings, comparison))
    save_adapter(output, adapter)
    write_json(run / "result.json", adapter.card.training)
    return Finetuned(adapter, comparison)


def _train_view(
    cohort: Cohort,
    base: Model,
    plan: FinetuningPlan,
    view: View,
    run: Path,
    cache: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[dict[str, Tensor], Plain]:
    """Train one view's adapter; return its tensors and the record of the training."""
    preprocessing, settings, multiple = base.card.preprocessing, plan.settings, 2**base.network.level
    cases = prepare_cases(cohort.training, preprocessing, view, cache, progress)
    held_out = prepare_cases(cohort.held_out, preprocessing, view, cache, progress) if cohort.held_out else []
    require_unlike(cases, held_out)
    simulated = (
        prepare_cases(cohort.simulated, preprocessing, view, cache, progress) if cohort.simulated else []
    )
    batches = SliceBatches.of(cases, preprocessing, settings, multiple, simulated)
    if settings.slices_at_once is None:
        settings = replace(settings, slices_at_once=max(1, PIXELS_PER_BATCH // int(np.prod(batches.size))))
    network = copy.deepcopy(base.network)
    torch.manual_seed(settings.seed)
    adapt(network, plan.adapter)
    state = train(
        network,
        batches,
        settings,
        run / view,
        progress,
        device,
        slice_dice(held_out, preprocessing, multiple, progress) if held_out else None,
        stage=f"training {view}",
        belongs_to={
            "adapter": asdict(plan.adapter),
            "base": base.sha256,
            "view": view,
            "held_out": [case.folder.name for case in held_out],
        },
    )
    counts = {**count_slices(cases), **count_simulated(simulated)}
    return collect(network.cpu()), {**counts, **_record(state, settings)}


def _record(state: TrainingState, settings: TrainingSettings) -> dict[str, Plain]:
    kept = state.epoch if settings.patience is None else state.best_epoch
    return {"epochs": state.epoch, "kept_epoch": kept, "loss": round(state.losses[kept - 1], 5)}


# ------------------------------------------------------------------------------------------------- card


def _card(cohort: Cohort, base: Model, plan: FinetuningPlan, views: dict[str, Plain]) -> AdapterCard:
    config, title = plan.adapter, base.card.description.title
    rank = "" if config.method == STANDARD else f" of rank {config.rank}"
    summary = (
        f"{config.method}{rank} on the scope {config.scope} of “{title}”, {', '.join(plan.views)} slices."
    )
    return AdapterCard(
        replace(plan.description, summary=plan.description.summary or summary),
        plan.target or base.card.target,
        base.sha256,
        title,
        base.card.network,
        dict.fromkeys(plan.views, config),
        {
            "sahlora": __version__,
            "settings": plan.settings.to_dict(),
            "cases": len(cohort.training),
            "patients": len({case.person for case in cohort.training}),
            "views": views,
        },
        plan.strength,
    )


def _compare(
    adapter: Adapter,
    base: Model,
    cohort: Cohort,
    settings: TrainingSettings,
    device: torch.device,
    progress: Progress,
) -> Comparison | None:
    """Segment each held-out case with the base, in its own views, and with the adapted model."""
    if not cohort.held_out:
        progress.warning("unchecked", UNCHECKED, "Hold out cases with --held-out.")
        return None
    adapted = {view: merged_model(adapter, base, view).for_inference() for view in adapter.states}
    own = dict.fromkeys(base.card.preprocessing.views, base.for_inference())
    threshold = adapter.card.target.threshold
    before, after = volume_dice(cohort.held_out, [own, adapted], threshold, device, progress)
    comparison = Comparison(tuple(before), tuple(after), chose_epoch=settings.patience is not None)
    if not comparison.is_better:
        progress.warning(
            "not-better",
            str(comparison),
            "Use the base, or train on more cases, for longer, or with another learning rate.",
        )
    return comparison


def _with_comparison(
    card: AdapterCard, settings: TrainingSettings, comparison: Comparison | None
) -> AdapterCard:
    """Add the figures of the held-out cases and what they do not show."""
    limits = [*card.description.limits]
    if comparison is None:
        limits.append(UNCHECKED)
    else:
        limits += [NOT_BETTER] if not comparison.is_better else []
        limits += [OPTIMISTIC] if settings.patience is not None else []
    return replace(
        card,
        description=replace(card.description, limits=tuple(limits)),
        training={
            **card.training,
            "held_out": {**comparison.to_dict(), "strength": card.strength} if comparison else None,
        },
    )
