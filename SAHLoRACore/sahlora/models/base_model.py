"""Model files: safetensors whose header holds a JSON card; reading them safely; the models installed here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sahlora.errors import InputError, UsageError
from sahlora.inference.predictor import ViewModel
from sahlora.models.card import (
    BaseCard,
    Description,
    NetworkSpec,
    Preprocessing,
    Target,
    decode,
    encode,
    in_one_line,
)
from sahlora.models.header import AGAIN, CARD_KEY, read_contents
from sahlora.models.network import MultiViewUNet, network_from_published
from sahlora.runtime.files import replacing, unwritable

SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parent / "weights"
FOLDER_VARIABLE = "SAHLORA_MODELS"

C = TypeVar("C")


@dataclass(frozen=True)
class Model:
    """A base model ready to run: its card, network (in eval mode, float32) and the SHA-256 of its weights."""

    card: BaseCard
    network: MultiViewUNet
    sha256: str

    def for_inference(self) -> ViewModel:
        """Return what inference needs."""
        return ViewModel(self.network, self.card.preprocessing, 2**self.card.network.level)

    def facts(self) -> dict[str, str]:
        """Return the card's facts for a report."""
        about = self.card.description
        facts = {
            "name": about.title,
            "outlines": self.card.target.segment.name,
            "about": about.summary,
            "data": in_one_line(about.data),
            "limits": in_one_line(about.limits),
            "adapted from": _origin(self.card.training.get("merged_from")),
            "author": about.author,
            "license": about.license,
            "created": about.created,
            "SHA-256 of the weights": self.sha256,
        }
        return {key: value for key, value in facts.items() if value}


def _origin(merged: Any) -> str:
    """Say which base an adapter was merged into, and how strongly; empty if none was."""
    if not isinstance(merged, dict):
        return ""
    return "{base}, SHA-256 {base_sha256}, at strength {strength:g}".format(**merged)


# ------------------------------------------------------------------------------------------------ files


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
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    with replacing(path) as temporary:
        temporary.write_bytes(save(plain, {CARD_KEY: card_json}))


def read_card_json(path: Path) -> str:
    """Return the card of a model file as JSON text, reading nothing but the header.

    Raises
    ------
    InputError
        As `sahlora.models.header.read_contents`, or ``no-card``.
    """
    contents = read_contents(path)
    if contents.card is None:
        raise InputError("no-card", f"{path.name} has no SAHLoRA card.", "Give a model file made by SAHLoRA.")
    return contents.card


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


def save_model(path: Path, network: MultiViewUNet, card: BaseCard) -> None:
    """Write a base model."""
    write_tensors(path, network.state_dict(), encode(card))


def load_model(path: Path) -> Model:
    """Read a base model; everything is checked before anything is used.

    Raises
    ------
    InputError
        As `read_tensors`, `sahlora.models.card.decode` and `require_tensors`, or ``not-a-base``.
    """
    card = read_base_card(path)
    with torch.device("meta"):
        expected = _build(card.network).state_dict()
    tensors = read_tensors(path)
    require_tensors(tensors, expected, path)
    network = _build(card.network)
    network.load_state_dict(tensors)
    return Model(card, network.eval(), weights_sha256(card.network, tensors))


def read_base_card(path: Path) -> BaseCard:
    """Read the card of a base model file."""
    return _read_card(path, BaseCard, "base", "not-a-base")


def _read_card(path: Path, card_type: type[C], kind: str, code: str) -> C:
    text = read_card_json(path)
    if card_kind(text) not in (kind, None):
        raise InputError(code, f"{path.name} is no {kind} model.", f"Give a file of kind “{kind}”.")
    return decode(card_type, text)


def card_kind(card_json: str) -> str | None:
    """Return what a card says the file is: ``base``, ``adapter``, or None if it doesn't say."""
    try:
        kind = json.loads(card_json).get("kind")
    except (ValueError, AttributeError, RecursionError):
        return None
    return kind if isinstance(kind, str) else None


def _build(spec: NetworkSpec) -> MultiViewUNet:
    return MultiViewUNet(spec.level, spec.width, spec.in_channels, spec.out_channels)


def import_published(path: Path, title: str, target: Target) -> tuple[MultiViewUNet, BaseCard]:
    """Read a checkpoint of the published pipeline (a pickled state dict, loaded as weights only).

    Raises
    ------
    InputError
        ``not-found``, ``unsafe-checkpoint`` if it holds anything but tensors, ``foreign-checkpoint``.
    """
    if not path.is_file():
        raise InputError("not-found", f"There is no checkpoint {path}.", "Check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            "unsafe-checkpoint",
            f"{path.name} is no state dict of tensors, or a damaged one.",
            "Save the network with torch.save(network.state_dict(), path) and import that.",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise InputError("foreign-checkpoint", f"{path.name} holds no state dict.", "Give a MultiViewUNet's.")
    network = network_from_published(state).eval()
    spec = NetworkSpec(
        level=network.level,
        width=network.width,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
    )
    card = BaseCard(
        Description(
            title, summary="Imported checkpoint of the published pipeline; what it saw is not recorded."
        ),
        target,
        spec,
        Preprocessing(window=(0.0, 140.0), intensity_range=(0.0, 255.0), spacing=None, views=("axial",)),
    )
    return network, card


# --------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class Installed:
    """A model file found in the shipped or the user's folder."""

    name: str
    path: Path
    kind: str
    shipped: bool


def models_folder() -> Path:
    """Return the user's folder of models: ``SAHLORA_MODELS``, else the platform's place for such data."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Application Support"
    else:
        root = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return root / "sahlora" / "models"


def installed(kind: str | None = None) -> list[Installed]:
    """List the installed models of a kind (``base``, ``adapter``; None for all), shipped ones first.

    Files that can't be read are left out here; `find` names what is wrong with them.
    """
    found = []
    for folder, shipped in ((SHIPPED, True), (models_folder(), False)):
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stem):
            try:
                file_kind = card_kind(read_card_json(path))
            except InputError:
                continue
            if file_kind in ("base", "adapter") and kind in (None, file_kind):
                found.append(Installed(path.name.removesuffix(SUFFIX), path, file_kind, shipped))
    return found


def find(name: str, kind: str | None = None) -> Path:
    """Return the file of an installed model by name, or of a model given by its path.

    Raises
    ------
    InputError
        ``unknown-model``, listing what is installed.
    """
    path = Path(name)
    if path.suffix == SUFFIX or path.is_file():
        return path
    for model in reversed(installed(kind)):
        if model.name == name:
            return model.path
    names = ", ".join(model.name for model in installed(kind)) or "none"
    what, other = ("adapter", "a base model") if kind == "adapter" else ("model", "an adapter")
    hint = f"“{name}” is {other}. " if any(model.name == name for model in installed()) else ""
    raise InputError("unknown-model", f"No {what} “{name}” is installed.", f"{hint}Installed: {names}.")


def install(name: str, write: Callable[[Path], None], *, replace: bool = False) -> Path:
    """Put a file under a name into the user's folder.

    Parameters
    ----------
    name : str
        Letters, digits, dots, hyphens and underscores.
    write : callable
        Writes the file to the path it is given.

    Raises
    ------
    UsageError
        ``bad-name`` or ``name-taken``.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        raise UsageError("bad-name", f"“{name}” can't be a model's name.", "Use letters, digits, . _ and -.")
    path = models_folder() / f"{name}{SUFFIX}"
    if (path.exists() and not replace) or any(m.name == name and m.shipped for m in installed()):
        raise UsageError("name-taken", f"A model “{name}” is installed already.", "Choose another name.")
    write(path)
    return path


def copy_to(source: Path) -> Callable[[Path], None]:
    """Return a writer for `install` that copies a file in one piece."""

    def write(path: Path) -> None:
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)

    return write


def remove(name: str, kind: str | None = None) -> Path:
    """Delete a model from the user's folder and return where it was.

    Raises
    ------
    InputError
        ``unknown-model``.
    UsageError
        ``shipped-model``: those that come with SAHLoRA stay.
    """
    path = find(name, kind)
    if path.parent.resolve() != models_folder().resolve():
        raise UsageError(
            "shipped-model", f"“{name}” is not in {models_folder()}.", "Only models there are removed."
        )
    try:
        path.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    return path
