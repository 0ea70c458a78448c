"""The device that computes: chosen, checked and described."""

from __future__ import annotations

import torch

from sahlora.errors import ResourceError, UsageError


def choose_device(name: str = "auto") -> torch.device:
    """Return the device named ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    UsageError
        ``unknown-device``.
    ResourceError
        ``no-device`` if this machine or this build of PyTorch lacks it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise UsageError(
            "unknown-device", f"There is no device “{name}”.", "Use auto, cpu, cuda, cuda:N or mps."
        )
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(_has_mps())}[kind]
    if int(index or 0) >= available:
        raise ResourceError(
            "no-device", f"PyTorch finds no device “{name}” here.", "Use --device auto or cpu."
        )
    return torch.device(name)


def available_devices() -> list[torch.device]:
    """Return every device of this machine that PyTorch can compute on, the one that "auto" means first."""
    gpus = [torch.device(f"cuda:{index}") for index in range(torch.cuda.device_count())]
    return [*gpus, *([torch.device("mps")] if _has_mps() else []), torch.device("cpu")]


def describe_device(device: torch.device) -> str:
    """Return a line for people: name and memory of a GPU, threads of a CPU."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return "Apple GPU" if device.type == "mps" else _threads()


def runs_bf16(device: torch.device) -> bool:
    """Whether this device computes in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error).lower() for text in ("out of memory", "can't allocate memory", "not enough memory")
    )


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def use_threads(count: int | None) -> None:
    """Compute on `count` threads of the CPU; None keeps PyTorch's choice.

    Raises
    ------
    UsageError
        ``bad-threads``.
    """
    if count is None:
        return
    if count < 1:
        raise UsageError("bad-threads", f"{count} threads compute nothing.", "Give at least 1.")
    torch.set_num_threads(count)


def _threads() -> str:
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"
