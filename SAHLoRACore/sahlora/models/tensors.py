"""Tensors of a model file: writing, reading and checking them; their SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sahlora.errors import InputError
from sahlora.models.card import (
    NetworkSpec,
)
from sahlora.models.header import (
    AGAIN,
    LENGTH_BYTES,
    TensorEntry,
    canonical_header,
    in_file_order,
    read_contents,
)  # fmt: skip
from sahlora.runtime.files import write_bytes

NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""Types of tensors as files name them."""


def weights_sha256(spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a network's definition and weights, whatever file they stand in."""
    digest = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], card_json: str) -> None:
    """Write tensors and a card to a safetensors file, in one piece or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    entries = [TensorEntry(name, NAMES[t.dtype], tuple(t.shape), 0, t.nbytes) for name, t in plain.items()]
    placed, end = [], 0
    for entry in sorted(entries, key=in_file_order):
        placed.append(replace(entry, start=end))
        end += entry.bytes
    header = canonical_header(card_json, placed)
    parts = [len(header).to_bytes(LENGTH_BYTES, "little"), header]
    parts += [plain[entry.name].reshape(-1).view(torch.uint8).numpy().tobytes() for entry in placed]
    write_bytes(path, b"".join(parts))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a model file.

    Raises
    ------
    InputError
        As `read_card_json`, or ``not-finite`` if a value is infinite or no number.
    """
    with _open(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                "not-finite", f"{path.name} holds values that are no numbers, in {name:.80}.", AGAIN
            )
    return tensors


def _open(path: Path) -> safe_open:
    read_contents(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            "not-a-model", f"{path.name} is no safetensors file, or a damaged one ({error}).", AGAIN
        ) from None


def require_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Check that names, shapes and types of tensors are exactly those expected.

    Raises
    ------
    InputError
        ``wrong-tensors``, naming the first difference.
    """
    for name in sorted(tensors.keys() ^ expected.keys()):
        state = "lacks" if name in expected else "has the unknown"
        raise InputError("wrong-tensors", f"{path.name} {state} tensor {name:.80}.", AGAIN)
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise InputError(
                "wrong-tensors",
                f"{path.name}: tensor {name:.80} is {tensor.dtype} {tuple(tensor.shape)} "
                f"instead of {wanted.dtype} {tuple(wanted.shape)}.",
                AGAIN,
            )
