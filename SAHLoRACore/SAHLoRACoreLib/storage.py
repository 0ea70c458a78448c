"""Everything that SAHLoRA keeps on this computer: models, packages, trainings and temporary folders."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import slicer
from packaging.utils import canonicalize_name
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import abandonedFolders
from SAHLoRACoreLib.models import installedModels, removeModel
from SAHLoRACoreLib.settings import dataFolder, settingKey

INSTALLED_PACKAGES = settingKey("installedPackages")


@dataclass(frozen=True)
class StoredItem:
    """One thing that takes up space and can be removed.

    Parameters
    ----------
    kind : str
        What it is, for people.
    name : str
        Which one.
    size : int
        Bytes on disk.
    place : str
        Where it lies.
    remove : callable
        Deletes it; raises OSError, ValueError or RuntimeError if it can't.
    """

    kind: str
    name: str
    size: int
    place: str
    remove: Callable[[], None]


def storedItems() -> list[StoredItem]:
    """Return all there is now. What came with the extension is not listed: it goes with the extension."""
    return [*_models(), *_packages(), *_trainings(), *_leftBehind()]


def installedDistributions() -> set[str]:
    """Return the names of all packages in this Python, spelled as pip compares them."""
    importlib.invalidate_caches()
    names = (distribution.metadata.get("Name") for distribution in importlib.metadata.distributions())
    return {canonicalize_name(name) for name in names if name}


def notePackages(names: Iterable[str]) -> None:
    """Remember that these packages were installed by SAHLoRA, so that they can be offered for removal."""
    import qt

    known = set(notedPackages()) | set(names)
    qt.QSettings().setValue(INSTALLED_PACKAGES, ",".join(sorted(known)))


def notedPackages() -> list[str]:
    """Return the packages that SAHLoRA installed."""
    import qt

    return [name for name in str(qt.QSettings().value(INSTALLED_PACKAGES, "") or "").split(",") if name]


# ----------------------------------------------------------------------------------------------- parts


def _models() -> list[StoredItem]:
    kinds = {"base": _("Model"), "adapter": _("Adapter")}
    return [
        StoredItem(title, model.title, model.path.stat().st_size, str(model.path), _remover(model))
        for kind, title in kinds.items()
        for model in installedModels(kind)
        if not model.isShipped
    ]


def _remover(model: object) -> Callable[[], None]:
    return lambda: removeModel(model)


def _packages() -> list[StoredItem]:
    items = []
    for name in notedPackages():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        files = [Path(str(file.locate())) for file in distribution.files or ()]
        size = sum(path.stat().st_size for path in files if path.is_file())
        place = str(Path(str(distribution.locate_file(""))))
        title = f"{name} {distribution.version}"
        items.append(StoredItem(_("Package"), title, size, place, _uninstaller(name)))
    return items


def _uninstaller(name: str) -> Callable[[], None]:
    def uninstall() -> None:
        import qt

        slicer.util.pip_uninstall(name)
        kept = [other for other in notedPackages() if other != name]
        qt.QSettings().setValue(INSTALLED_PACKAGES, ",".join(kept))

    return uninstall


def _trainings() -> list[StoredItem]:
    kinds = {"runs": _("Training run"), "comparisons": _("Comparison"), "cases": _("Exported case")}
    return [
        _folder(title, folder)
        for name, title in kinds.items()
        for folder in sorted((dataFolder() / name).glob("*"))
        if folder.is_dir()
    ]


def _leftBehind() -> list[StoredItem]:
    return [_folder(_("Left behind"), folder) for folder in abandonedFolders()]


def _folder(kind: str, folder: Path) -> StoredItem:
    return StoredItem(kind, folder.name, _sizeOf(folder), str(folder), _deleter(folder))


def _deleter(folder: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(folder)


def _sizeOf(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
