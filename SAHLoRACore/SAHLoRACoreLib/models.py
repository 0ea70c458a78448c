"""The models a panel can offer, read from the headers of their files without torch."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".safetensors"
SHIPPED_FOLDER = Path(__file__).resolve().parents[1] / "sahlora" / "models"
FOLDER_VARIABLE = "SAHLORA_MODELS"
FOLDER_SETTING = "SAHLoRA/ModelsFolder"
LARGEST_HEADER = 2**22


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
    """

    name: str
    kind: str
    title: str
    summary: str
    license: str
    target: str
    threshold: float


def modelsFolder() -> Path:
    """Return the user's folder of models: the setting, else the environment's, else the platform's place."""
    import qt

    chosen = qt.QSettings().value(FOLDER_SETTING, "") or os.environ.get(FOLDER_VARIABLE, "")
    if chosen:
        return Path(chosen).expanduser()
    data = qt.QStandardPaths.writableLocation(qt.QStandardPaths.GenericDataLocation)
    return Path(data) / "sahlora" / "models"


def installedModels(kind: str) -> list[InstalledModel]:
    """Return the readable models of a kind, shipped ones first; a file that can't be read is left out."""
    found = {}
    for folder in (SHIPPED_FOLDER, modelsFolder()):
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            model = readModel(path)
            if model is not None and model.kind == kind:
                found[model.name] = model
    return list(found.values())


def readModel(path: Path) -> InstalledModel | None:
    """Return what a model file's card says, or None if the file has no card that can be read."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= LARGEST_HEADER else {}
        card = json.loads(header["__metadata__"]["sahlora"])
        return _model(path.name.removesuffix(SUFFIX), card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return None


def _model(name: str, card: dict[str, Any]) -> InstalledModel:
    words = card["description"]
    target = card.get("target") or {"segment": {"name": ""}, "threshold": 0.5}
    return InstalledModel(
        name=name,
        kind=str(card["kind"]),
        title=str(words["title"]),
        summary=str(words.get("summary", "")),
        license=str(words.get("license", "")),
        target=str(target["segment"]["name"]),
        threshold=float(target["threshold"]),
    )
