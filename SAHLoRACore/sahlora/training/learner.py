"""A network that learns: its optimizer, its averaged and best weights, and a step that fits into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sahlora.errors import ResourceError
from sahlora.runtime.devices import is_out_of_memory, runs_bf16
from sahlora.runtime.progress import Progress
from sahlora.training.distributed import ALONE, Processes, join_norms
from sahlora.training.losses import LOSSES, empty_loss, unmarked_loss
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
        Told when memory runs out and what is done about it; asked between the parts of a step.
    processes : Processes
        Who shares each batch.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainingSettings,
        device: torch.device,
        progress: Progress,
        processes: Processes = ALONE,
    ) -> None:
        self.network, self.device = network, device
        self._settings, self._progress, self._processes = settings, progress, processes
        join_norms(network, processes)
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
        """Take step number `step` on images and labels, both (N, 1, H, W), and return the whole batch's loss.

        Raises
        ------
        ResourceError
            ``diverged`` if loss or gradient is no longer finite, ``out-of-memory`` if one slice on the CPU is
            too much; the network is then as after the last step.
        Cancelled
            Between the parts of the step; likewise.
        """
        before = self._buffers()
        try:
            loss = self._fitting_backward(image, label, step, before)
            gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
            if not (math.isfinite(loss) and torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
                raise ResourceError(
                    "diverged",
                    f"The loss or its gradient is no longer a number at step {step + 1}.",
                    "Lower the learning rate; the last good state is kept.",
                )
        except BaseException:
            self._set_buffers(before)
            raise
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._update_average(step)
        return loss

    def _fitting_backward(
        self, image: Tensor, label: Tensor, step: int, before: Mapping[str, Tensor]
    ) -> float:
        """Compute the loss and its gradient in parts as small as memory demands."""
        while True:
            try:
                return self._backward(image, label, step, before)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._relieve()  # outside the handler, whose traceback still holds the tensors
            self._set_buffers(before)

    def _backward(self, image: Tensor, label: Tensor, step: int, before: Mapping[str, Tensor]) -> float:
        """Compute the loss of all processes' slices and its gradient.

        The loss is one of the whole batch and no mean over slices, so its gradient at the logits is taken
        first and then taken further through this process's slices. If those are too many at once, each part
        runs again for that. The sum is the gradient of the whole batch (where BatchNorm is in training mode,
        with each part's own statistics).
        """
        self._optimizer.zero_grad(set_to_none=True)
        own, parts = self._processes, image.split(self._slices_at_once)
        if len(parts) == 1:
            logits = self._logits(image, step)
        else:
            with torch.no_grad():
                logits = torch.cat([self._logits(part, step) for part in parts])
            self._set_buffers(before)
        whole = own.gather(logits.detach()).requires_grad_()
        labels = own.gather(label.to(self.device))
        loss = LOSSES[self._settings.loss](whole, labels)
        if self._settings.unmarked_weight > 0:
            loss = loss + self._settings.unmarked_weight * unmarked_loss(whole, labels)
        if self._settings.empty_weight > 0:
            loss = loss + self._settings.empty_weight * empty_loss(whole, labels)
        loss.backward()
        assert whole.grad is not None
        gradient = whole.grad[own.share(len(whole))]
        if len(parts) == 1:
            logits.backward(gradient)
        else:
            for part, of_part in zip(parts, gradient.split(self._slices_at_once), strict=True):
                self._progress.check()
                self._logits(part, step).backward(of_part)
        own.add([p.grad for p in self._parameters.values() if p.grad is not None])
        return float(loss.detach())

    def _buffers(self) -> dict[str, Tensor]:
        """Copy what a forward pass may change: the statistics of BatchNorm."""
        return {name: buffer.clone() for name, buffer in self.network.named_buffers()}

    def _set_buffers(self, values: Mapping[str, Tensor]) -> None:
        for name, buffer in self.network.named_buffers():
            buffer.copy_(values[name])

    def _logits(self, image: Tensor, step: int) -> Tensor:
        """Run the network, in mixed precision where that is faster; its dropout is a function of the step."""
        torch.manual_seed(int(np.random.SeedSequence((self._settings.seed, step)).generate_state(1)[0]))
        image = image.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=runs_bf16(self.device)):
            return self.network(image).float()

    def _relieve(self) -> None:
        """Compute a step in smaller parts, or go to the CPU; several processes would fall out of step."""
        self._optimizer.zero_grad(set_to_none=True)
        if self._processes.count > 1:
            raise ResourceError(
                "out-of-memory",
                f"{self._slices_at_once} slices at once need too much memory.",
                "Give a lower --slices-at-once and the same command again; it continues.",
            )
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
