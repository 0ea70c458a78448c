"""A network that learns: its optimizer, its averaged and best weights, and a step that fits into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sahlora.devices import is_out_of_memory, runs_bf16
from sahlora.errors import ResourceError
from sahlora.progress import Progress
from sahlora.training.losses import LOSSES
from sahlora.training.settings import TrainingSettings

CPU = torch.device("cpu")


class Learner:
    """Trains those parameters of a network that require gradients.

    Parameters
    ----------
    network : nn.Module
        Maps slices (N, 1, H, W) to logits of the same shape; moved to `device` and put in training mode.
    settings : TrainingSettings
    device : torch.device
    progress : Progress
        Told when memory runs out and what is done about it.
    """

    def __init__(
        self, network: nn.Module, settings: TrainingSettings, device: torch.device, progress: Progress
    ) -> None:
        self.network, self.device = network, device
        self._settings, self._progress = settings, progress
        self._slices_at_once = min(settings.slices_at_once or settings.batch_size, settings.batch_size)
        network.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._optimizer = self._new_optimizer()
        self._average = (
            {} if settings.average is None else {k: p.detach().clone() for k, p in self._parameters.items()}
        )
        self.best: dict[str, Tensor] = {}

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self._parameters.values(),
            lr=self._settings.learning_rate,
            weight_decay=self._settings.weight_decay,
            fused=False,
        )

    # ------------------------------------------------------------------------------------------ one step

    def step(self, image: Tensor, label: Tensor, step: int, learning_rate: float) -> float:
        """Take step number `step` on images and labels, both (N, 1, H, W), and return the loss.

        Raises
        ------
        ResourceError
            ``diverged`` if loss or gradient is no longer finite, ``out-of-memory`` if one slice on the CPU is
            too much; the weights are then those of the last step.
        """
        while True:
            try:
                loss = self._backward(image, label, step)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._relieve()  # outside the handler, whose traceback still holds the tensors
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        if not (math.isfinite(loss) and torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            raise ResourceError(
                "diverged",
                f"The loss or its gradient is no longer a number at step {step + 1}.",
                "Lower the learning rate; the last good state is kept.",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._update_average(step)
        return loss

    def _backward(self, image: Tensor, label: Tensor, step: int) -> float:
        """Compute the loss and its gradient, in parts if need be.

        The loss is one of the whole batch and no mean over slices, so its gradient at the logits is taken
        first; each part then runs again and takes its share of it further. The sum is the gradient of the
        whole batch (where BatchNorm is in training mode, with each part's own statistics).
        """
        loss_of, label = LOSSES[self._settings.loss], label.to(self.device)
        self._optimizer.zero_grad(set_to_none=True)
        if len(image) <= self._slices_at_once:
            loss = loss_of(self._logits(image, step), label)
            loss.backward()
            return float(loss.detach())
        parts = image.split(self._slices_at_once)
        with torch.no_grad():
            logits = torch.cat([self._logits(part, step) for part in parts])
        loss = loss_of(logits.requires_grad_(), label)
        loss.backward()
        assert logits.grad is not None
        for part, gradient in zip(parts, logits.grad.split(self._slices_at_once), strict=True):
            self._logits(part, step).backward(gradient)
        return float(loss.detach())

    def _logits(self, image: Tensor, step: int) -> Tensor:
        """Run the network, in mixed precision where that is faster; its dropout is a function of the step."""
        torch.manual_seed(int(np.random.SeedSequence((self._settings.seed, step)).generate_state(1)[0]))
        image = image.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=runs_bf16(self.device)):
            return self.network(image).float()

    def _relieve(self) -> None:
        """Compute a step in smaller parts, or go to the CPU."""
        self._optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._slices_at_once > 1:
            before, self._slices_at_once = self._slices_at_once, self._slices_at_once // 2
            self._progress.warning(
                "out-of-memory",
                f"{before} slices at once need too much memory; "
                f"steps of the same size are now computed {self._slices_at_once} at a time.",
            )
        elif self.device.type != "cpu":
            self._progress.warning(
                "out-of-memory", f"One slice is too much for {self.device}; training goes on on the CPU."
            )
            self._move(CPU)
        else:
            raise ResourceError(
                "out-of-memory",
                "Training on a single slice needs more memory than there is.",
                "Close other programs and run the same command again; it continues.",
            )

    def _move(self, device: torch.device) -> None:
        self.device, self._slices_at_once = device, self._settings.batch_size
        moments = self._optimizer.state_dict()
        self.network.to(device)
        self._parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self._optimizer = self._new_optimizer()
        self._optimizer.load_state_dict(moments)
        self._average = {name: tensor.to(device) for name, tensor in self._average.items()}

    # ------------------------------------------------------------------------------------------ weights

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Follow the weights, faster at first, so that the average does not remember the initial ones."""
        if self._settings.average is not None:
            decay = min(self._settings.average, (step + 1) / (step + 10))
            for name, average in self._average.items():
                average.lerp_(self._parameters[name], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Copy the weights as training would end now: the network's, averaged if settings say so."""
        state = {**self.network.state_dict(), **self._average}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """Show the network in evaluation mode with the weights as training would end now."""
        trained = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.weights())
        try:
            with torch.no_grad(), torch.autocast(
                self.device.type, torch.bfloat16, enabled=runs_bf16(self.device)
            ):  # fmt: skip
                yield self.network.eval()
        finally:
            self.network.load_state_dict(trained)
            self.network.train()

    def finish(self) -> None:
        """Give the network its final weights: the best ones if there are any, else the last."""
        self.network.load_state_dict(self.best or self.weights())

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a continued run needs, named ``network.…``, ``optimizer.…`` and so on."""
        groups = {"network": self.network.state_dict(), "average": self._average, "best": self.best}
        found = {f"{group}.{name}": t for group, state in groups.items() for name, t in state.items()}
        for index, values in self._optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up again what `tensors` returned."""
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "best": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            group, _, name = key.partition(".")
            groups[group][name] = tensor
        self.network.load_state_dict(groups["network"])
        self.best = groups["best"]
        for name, average in self._average.items():
            average.copy_(groups["average"][name])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in groups["optimizer"].items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = tensor
        self._optimizer.load_state_dict(
            {"state": moments, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
