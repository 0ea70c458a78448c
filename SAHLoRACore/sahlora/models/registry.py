"""The models and adapters on this computer: list, find, add and remove them, without torch."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sahlora.errors import InputError, UsageError
from sahlora.models.header import card_kind, read_card_json
from sahlora.runtime.files import replacing, unwritable

SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parent / "weights"
FOLDER_VARIABLE = "SAHLORA_MODELS"


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


def require_replaceable(path: Path, kind: str) -> None:
    """Check that a file which a model is to replace, if it is there, is a model of the same kind.

    Raises
    ------
    UsageError
        ``foreign-file``.
    """
    if not path.exists():
        return
    try:
        found = card_kind(read_card_json(path))
    except InputError:
        found = None
    if found != kind:
        what = {"base": "a base model", "adapter": "an adapter"}
        raise UsageError(
            "foreign-file",
            f"{path} would be overwritten, and is {what.get(found or '', 'no model of SAHLoRA')}, "
            f"not {what[kind]}.",
            "Choose another name, or move that file.",
        )


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
