"""The models and adapters a panel can offer, read from their files without torch; adding and removing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from sahlora.models.registry import SHIPPED as SHIPPED_FOLDER
from sahlora.models.registry import SUFFIX
from SAHLoRACoreLib.settings import modelsFolder

DEFAULT_MODEL = "hemorrhage-base"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")  # what the commands accept
TORCH_TYPES = {"F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16", "I64": "torch.int64"}


@dataclass(frozen=True)
class InstalledModel:
    """What a panel shows of a model file.

    Parameters
    ----------
    name : str
        What the commands call it: the file's name without its ending.
    kind : str
        ``base`` or ``adapter``.
    title, summary, license : str
        Words of its card.
    target : str
        What it outlines, e.g. "Intracranial hemorrhage"; empty for an adapter that has its base's.
    threshold : float
        Its own threshold.
    path : Path
        The file.
    card : dict
        The whole card.
    """

    name: str
    kind: str
    title: str
    summary: str
    license: str
    target: str
    threshold: float
    path: Path
    card: dict[str, Any] = field(repr=False, hash=False)

    @property
    def isShipped(self) -> bool:
        """Tell whether the file came with SAHLoRA; such files are not removed."""
        return self.path.parent == SHIPPED_FOLDER


def installedModels(kind: str) -> list[InstalledModel]:
    """Return the readable models of a kind, shipped ones first; a file that can't be read is left out."""
    found = {}
    for folder in (SHIPPED_FOLDER, modelsFolder()):
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stem):
            model = readModel(path)
            if model is not None and model.kind == kind:
                found[model.name] = model
    return list(found.values())


def installedAdapters(base: InstalledModel) -> list[InstalledModel]:
    """Return the readable adapters that belong to a base, by the SHA-256 of its weights in their cards."""
    adapters = installedModels("adapter")
    if not adapters:
        return []
    return [adapter for adapter in adapters if adapter.card.get("base_sha256") == weightsSha256(base)]


def weightsSha256(model: InstalledModel) -> str:
    """Return the SHA-256 of a model's weights, by which adapters name their base."""
    return _sha256(model.path, model.path.stat().st_mtime_ns)


def addModel(path: Path) -> InstalledModel:
    """Copy a model or adapter file into the user's folder and return it; loading it checks its tensors.

    Raises
    ------
    ValueError
        If the file has no readable card, or its name can't be used; the message says what to do.
    OSError
        If it can't be copied.
    """
    model = readModel(path)
    if model is None or path.suffix != SUFFIX:
        raise ValueError(
            _("{file} is no model or adapter of SAHLoRA. Choose a .safetensors file.").format(file=path.name)
        )
    if not NAME.fullmatch(model.name):
        raise ValueError(
            _("{file} can't be a model's name. Rename it: letters, digits, . _ and -.").format(file=path.name)
        )
    if any(model.name == other.name for kind in ("base", "adapter") for other in installedModels(kind)):
        raise ValueError(_("{name} is installed already. Rename the file.").format(name=model.name))
    folder = modelsFolder()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{path.name}.part"
    try:
        shutil.copyfile(path, unfinished)
        unfinished.replace(folder / path.name)
    finally:
        unfinished.unlink(missing_ok=True)
    return _model(folder / path.name, model.card)


def removeModel(model: InstalledModel) -> None:
    """Delete a model or adapter from the user's folder; raise ValueError if it came with SAHLoRA."""
    if model.isShipped:
        raise ValueError(_("{title} came with SAHLoRA and stays.").format(title=model.title))
    model.path.unlink()


def cardText(model: InstalledModel) -> str:
    """Return what a card says, one line a fact, for people."""
    words, adapters = model.card["description"], model.card.get("adapters", {})
    facts = [
        (_("Title"), model.title),
        (_("Summary"), model.summary),
        (_("Outlines"), model.target),
        (_("Threshold"), f"{model.threshold:g}"),
        (_("Base"), str(model.card.get("base_title", ""))),
        *((view, _adapterText(config)) for view, config in adapters.items()),
        (_("Strength"), f"{model.card.get('strength', 1):g}" if adapters else ""),
        (_("License"), model.license),
        (_("Author"), str(words.get("author", ""))),
        (_("Created"), str(words.get("created", ""))),
        (_("Data"), "\n    ".join(map(str, words.get("data", ())))),
        (_("Limits"), "\n    ".join(map(str, words.get("limits", ())))),
        (_("Training"), _inWords(model.card.get("training") or "")),
        (_("File"), str(model.path)),
    ]
    return "\n".join(f"{name}: {value}" for name, value in facts if value)


def readModel(path: Path) -> InstalledModel | None:
    """Return what a model file's card says, or None if the file has no card that can be read."""
    from sahlora.errors import InputError
    from sahlora.models.header import read_contents

    try:
        return _model(path, json.loads(read_contents(path).card))
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


# ----------------------------------------------------------------------------------------------- parts


@lru_cache(maxsize=8)
def _sha256(path: Path, _changed: int) -> str:
    """Return the `weights_sha256` of a file, the name by which adapters know their base."""
    from sahlora.models.header import read_contents

    contents = read_contents(path)
    network = json.loads(contents.card).get("network")
    digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
    with path.open("rb") as stream:
        for tensor in sorted(contents.tensors, key=lambda tensor: tensor.name):
            kind = TORCH_TYPES.get(tensor.type, tensor.type)
            digest.update(f"{tensor.name} {kind} {tensor.shape}".encode())
            stream.seek(tensor.start)
            digest.update(stream.read(tensor.bytes))
    return digest.hexdigest()


def _inWords(value: Any) -> str:
    """Write a training record without braces: names with values, nested ones in parentheses."""
    if isinstance(value, dict):
        parts = []
        for name, inner in value.items():
            text = _inWords(inner)
            parts.append(f"{name.replace('_', ' ')} {f'({text})' if isinstance(inner, dict) else text}")
        return ", ".join(parts)
    if isinstance(value, list):
        return " × ".join(map(_inWords, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _adapterText(config: dict[str, Any]) -> str:
    return _("{method}, rank {rank}, scope {scope}").format(
        **{name: config.get(name, "") for name in ("method", "rank", "scope")}
    )


def _model(path: Path, card: dict[str, Any]) -> InstalledModel:
    words = card["description"]
    target = card.get("target") or {"segment": {"name": ""}, "threshold": 0.5}
    return InstalledModel(
        name=path.name.removesuffix(SUFFIX),
        kind=str(card["kind"]),
        title=str(words["title"]),
        summary=str(words.get("summary", "")),
        license=str(words.get("license", "")),
        target=str(target["segment"]["name"]),
        threshold=float(target["threshold"]),
        path=path,
        card=card,
    )
