"""Training in several processes started by ``torchrun``: each computes its share of every batch.

Nothing is averaged over processes. Logits and labels are gathered, so that the loss is the one of the whole
batch (Dice is no mean over slices); each process takes its slices' share of that loss's gradient back through
its own graph; the shares are added. BatchNorm in training mode uses the statistics of all processes. The
result is that of one process but for the order of additions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sahlora.errors import ResourceError, UsageError

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # the others wait while the first prepares cases; who died is noticed at once


class Processes:
    """The processes that train together; alone by default, when every exchange gives back what it got.

    Parameters
    ----------
    rank, count : int
        This process's number, from 0, and how many there are.
    device : torch.device
        Where this process computes.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.count, self.device = rank, count, device or torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, slices: int) -> slice:
        """Return which of a batch's slices are this process's.

        Raises
        ------
        UsageError
            ``bad-batch-size`` if they can't be divided evenly.
        """
        if slices % self.count:
            raise UsageError(
                "bad-batch-size",
                f"A batch of {slices} slices can't be divided among {self.count} processes.",
                f"Give a --batch-size that is a multiple of {self.count}.",
            )
        own = slices // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, own: Tensor) -> Tensor:
        """Return the tensors of all processes one after another, (N, …) → (count·N, …), without gradient."""
        if self.count == 1:
            return own
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, wish: bool) -> bool:
        """Whether any process wishes so."""
        if self.count == 1:
            return wish
        flag = torch.tensor(float(wish), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def by_first(self, work: Callable[[], T]) -> T:
        """Let the first process alone do something; all get what it returned.

        Raises
        ------
        ResourceError
            ``process-lost`` on the others if it failed; the first raises its own error.
        """
        if self.count == 1:
            return work()
        message: list[Any] = [None]
        if self.is_first:
            try:
                message = [(work(),)]
            finally:
                dist.broadcast_object_list(message, 0)
        else:
            dist.broadcast_object_list(message, 0)
        if message[0] is None:
            raise _lost()
        return message[0][0]


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, or yield a process that is alone.

    Parameters
    ----------
    device : torch.device
        Where to compute; of several GPUs each process takes its own.

    Raises
    ------
    ResourceError
        ``process-lost`` as soon as another process is gone.
    """
    if not dist.is_torchelastic_launched():
        yield Processes(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise _lost() from error
    finally:
        dist.destroy_process_group()


def refuse_several() -> None:
    """Refuse to run under ``torchrun``, where several processes would write the same files.

    Raises
    ------
    UsageError
        ``one-process``.
    """
    if dist.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "one-process", "This command runs in one process.", "Start it without torchrun; use --threads."
        )


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _lost() -> ResourceError:
    return ResourceError(
        "process-lost",
        "Another process of this training ended.",
        "See why in its own messages; the same command continues from the last state.",
    )


# --------------------------------------------------------------------------------------------- BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over all processes; the gradient is summed alike."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class JointBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the slices of all processes; PyTorch's SyncBatchNorm does it on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W); in training mode with mean and variance over all processes."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        count = x.numel() // x.shape[1] * dist.get_world_size()
        values = x.to(self.running_mean.dtype)
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def join_norms(network: nn.Module, processes: Processes) -> None:
    """Let every BatchNorm of a network use the statistics of all processes; names and values stay."""
    if processes.count > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = JointBatchNorm2d
