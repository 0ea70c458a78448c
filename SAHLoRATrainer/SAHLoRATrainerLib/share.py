"""Keeping an adapter with words on its card, taking in others' files, and giving one away."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from SAHLoRACoreLib.models import InstalledModel, installedModels, readModel, weightsSha256

LICENSES = ("", "CC-BY-4.0", "CC-BY-NC-4.0", "CC0-1.0", "Apache-2.0")


@dataclass(frozen=True)
class CardWords:
    """What an author says of an adapter; what is empty stays as the card has it."""

    title: str = ""
    summary: str = ""
    author: str = ""
    license: str = ""

    def arguments(self) -> list[str]:
        """Return the options of ``sahlora adapters import`` for these words."""
        words = {name: value.strip() for name, value in vars(self).items()}
        return [part for name, value in words.items() if value for part in (f"--{name}", value)]


def importCommand(
    command: Sequence[str],
    file: Path,
    name: str,
    words: CardWords = CardWords(),
    strength: float | None = None,
) -> list[str]:
    """Return the command line that checks an adapter file and installs it under a name.

    Its strength, how far it goes from its base (0) to what was trained (1), stays as it is unless given.
    """
    options = [] if strength is None else ["--strength", f"{strength:g}"]
    return [*command, "adapters", "import", str(file), "--name", name, *words.arguments(), *options]


def installedNames() -> set[str]:
    """Return the names that are taken."""
    return {model.name for kind in ("base", "adapter") for model in installedModels(kind)}


def freeName(wanted: str, taken: Collection[str]) -> str:
    """Return a name that the commands accept and that is not taken, as near as possible to this one."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:70] or "adapter"
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def baseOf(adapter: InstalledModel) -> InstalledModel | None:
    """Return the installed model that an adapter belongs to, or None."""
    wanted = adapter.card.get("base_sha256")
    return next((base for base in installedModels("base") if weightsSha256(base) == wanted), None)


def requireBase(path: Path) -> None:
    """Refuse an adapter file of a model that is not installed; other files are left to the command to refuse.

    Raises
    ------
    ValueError
        Naming the model it belongs to.
    """
    adapter = readModel(path)
    if adapter is not None and adapter.kind == "adapter" and baseOf(adapter) is None:
        raise ValueError(
            _(
                '{title} belongs to the model "{base}" ({sha256}), which is not installed here.'
                " Add that model first; an adapter changes no other."
            ).format(
                title=adapter.title,
                base=adapter.card.get("base_title", ""),
                sha256=str(adapter.card.get("base_sha256", ""))[:12],
            )
        )


def contentText(adapter: InstalledModel) -> str:
    """Return all that is in an adapter's file, to the last byte.

    Raises
    ------
    sahlora.errors.InputError
        If the file is damaged, or holds more than an adapter.
    """
    from sahlora.models.header import read_contents  # needs no torch

    return "\n".join(read_contents(adapter.path).lines())


def exportAdapter(adapter: InstalledModel, path: Path) -> None:
    """Copy an adapter to a file, in one piece or not at all.

    Raises
    ------
    sahlora.errors.ResourceError
        If it can't be written.
    """
    import shutil

    from sahlora.runtime.files import replacing  # needs no torch

    with replacing(path) as temporary:
        shutil.copyfile(adapter.path, temporary)
