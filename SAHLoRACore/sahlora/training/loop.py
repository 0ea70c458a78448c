"""The training loop: one network, one optimizer, batches that are a function of seed and step.

State is written at regular times; a killed run continues from its last state and, on a CPU, ends with the
same weights as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sahlora.devices import runs_bf16
from sahlora.errors import InputError, ResourceError
from sahlora.files import replacing
from sahlora.progress import Progress
from sahlora.training.losses import LOSSES
from sahlora.training.settings import TrainingSettings
from sahlora.training.slices import SliceBatches

SAVE_EVERY_S = 60.0


@dataclass
class TrainingState:
    """How far a run has come: epochs done, batches done in the present epoch, losses of the epochs."""

    epoch: int = 0
    batch: int = 0
    epoch_loss: float = 0.0
    losses: tuple[float, ...] = ()


def train(
    network: nn.Module,
    batches: SliceBatches,
    settings: TrainingSettings,
    run: Path,
    progress: Progress,
    device: torch.device,
    after_epoch: Callable[[int, float], None] | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> TrainingState:
    """Train the parameters that require gradients, continuing from the state in `run` if there is one.

    Parameters
    ----------
    network : nn.Module
        Maps slices (N, 1, H, W) to logits of the same shape; on `device`.
    batches : SliceBatches
    settings : TrainingSettings
    run : Path
        Folder for the state (``state.safetensors``) and the metrics (``metrics.jsonl``).
    after_epoch : callable, optional
        Called with the number of epochs done and the mean loss, e.g. to evaluate.

    Raises
    ------
    ResourceError
        ``diverged`` if the loss is no longer finite; the last good state stays.
    Cancelled
        After the state was saved.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=False
    )
    state = load_state(run, network, optimizer, settings)
    loss_of = LOSSES[settings.loss]
    steps = settings.epochs * len(batches)
    bf16 = runs_bf16(device)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    progress.stage("training")
    saved = time.monotonic()
    try:
        while state.epoch < settings.epochs:
            for image, label in batches.epoch(state.epoch, state.batch):
                step = state.epoch * len(batches) + state.batch
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate_at(step, steps)
                image = image.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits = network(image)
                loss = loss_of(logits.float(), label.to(device))
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise ResourceError(
                        "diverged",
                        f"The loss is no longer a number at step {step + 1}.",
                        "Lower the learning rate; the last good state is kept.",
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                state.batch += 1
                state.epoch_loss += value
                if time.monotonic() - saved >= save_every_s:
                    save_state(run, network, optimizer, settings, state)
                    saved = time.monotonic()
                progress.update((step + 1) / steps)
            mean = state.epoch_loss / len(batches)
            state = TrainingState(state.epoch + 1, losses=(*state.losses, mean))
            progress.metric(epoch=state.epoch, loss=round(mean, 5))
            save_state(run, network, optimizer, settings, state)
            saved = time.monotonic()
            if after_epoch is not None:
                after_epoch(state.epoch, mean)
                network.train()
    except BaseException as error:
        if not isinstance(error, ResourceError):
            save_state(run, network, optimizer, settings, state)
        raise
    return state


# ------------------------------------------------------------------------------------------------ state


def save_state(
    run: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    state: TrainingState,
) -> None:
    """Write weights, optimizer and progress to one file, then put it in the place of the last one."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
    metadata = {"settings": json.dumps(settings.to_dict()), "state": json.dumps(vars(state))}
    with replacing(run / "state.safetensors") as path:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata
        )
    with replacing(run / "metrics.jsonl") as path:
        lines = (json.dumps({"epoch": i + 1, "loss": loss}) for i, loss in enumerate(state.losses))
        path.write_text("".join(f"{line}\n" for line in lines))


def load_state(
    run: Path, network: nn.Module, optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> TrainingState:
    """Restore what `save_state` wrote, or return a fresh state if there is nothing.

    Raises
    ------
    InputError
        ``other-run`` if the run was begun with other settings.
    """
    path = run / "state.safetensors"
    if not path.exists():
        return TrainingState()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["settings"]) != settings.to_dict():
            raise InputError(
                "other-run", f"The run in {run} was begun with other settings.", "Choose another run folder."
            )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    weights = {key.removeprefix("network."): t for key, t in tensors.items() if key.startswith("network.")}
    network.load_state_dict(weights)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    state = json.loads(metadata["state"])
    return TrainingState(state["epoch"], state["batch"], state["epoch_loss"], tuple(state["losses"]))
