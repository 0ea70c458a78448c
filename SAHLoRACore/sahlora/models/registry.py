"""The models and adapters on this computer: list, find, add and remove them, without torch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sahlora.errors import InputError, ResourceError, UsageError
from sahlora.models.header import AGAIN, card_kind, read_card_json
from sahlora.runtime.files import require_writable, unwritable

T = TypeVar("T")
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
    """Return the user's folder of models: ``SAHLORA_MODELS``, else the platform's place for such data.

    Raises
    ------
    ResourceError
        ``no-home`` if the user has no home folder, or another user's is meant that isn't there.
    """
    try:
        return _models_folder()
    except RuntimeError as error:
        raise ResourceError(
            "no-home",
            f"There is no folder for models: {error}",
            f"Name one in the environment variable {FOLDER_VARIABLE}.",
        ) from None


def _models_folder() -> Path:
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

    Files that can't be read are left out here; `unusable` names them.
    """
    found, _ = _survey()
    return [model for model in found if kind in (None, model.kind)]


def unusable() -> dict[Path, InputError]:
    """Return the files among the models whose header can't be used, and why."""
    return _survey()[1]


def _survey() -> tuple[list[Installed], dict[Path, InputError]]:
    found, odd = [], {}
    own = own_folder()
    for folder, shipped in ((SHIPPED, True), *([(own, False)] if own else [])):
        for path in sorted(folder.glob(f"[!.]*{SUFFIX}"), key=lambda path: path.stem):
            try:
                kind = card_kind(read_card_json(path))
                if kind not in ("base", "adapter"):
                    raise InputError("bad-card", f"{path.name} doesn't say which kind of model it is.", AGAIN)
            except InputError as error:
                odd[path] = error
            else:
                found.append(Installed(path.name.removesuffix(SUFFIX), path, kind, shipped))
    return found, odd


def readable(
    models: Iterable[Installed], read: Callable[[Installed], T]
) -> tuple[list[tuple[Installed, T]], dict[Path, InputError]]:
    """Read something of each model; return what was read, and the files where that failed."""
    found, odd = [], {}
    for model in models:
        try:
            found.append((model, read(model)))
        except InputError as error:
            odd[model.path] = error
    return found, odd


def own_folder() -> Path | None:
    """Return the user's folder of models; None if the user has no place for one."""
    try:
        return models_folder()
    except ResourceError:
        return None


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
    require_writable(path)
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
