"""Which paths name one file, whatever their spelling, letter case, hard or symbolic links."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from sahlora.errors import UsageError

Node = tuple[int, int]


class FileSet:
    """Files and folders, to ask of another path whether it is one of them or lies inside one.

    Letter case is set aside: names that differ in nothing else are one file on many file systems.

    Parameters
    ----------
    paths : iterable of Path
        What is there, or will be.

    Raises
    ------
    UsageError
        ``bad-path``, as all methods do.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._spellings: dict[str, Path] = {}
        self._nodes: dict[Node, Path] = {}
        self._folders: list[Path] = []
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        """Take in one more path."""
        self._spellings[_spelling(path)] = path
        if (node := _node(path)) is not None:
            self._nodes[node] = path
            if path.is_dir():
                self._folders.append(path)

    def find(self, path: Path) -> Path | None:
        """Return the path of the set that names the same file, if there is one."""
        if (same := self._spellings.get(_spelling(path))) is not None:
            return same
        node = _node(path)
        return None if node is None else self._nodes.get(node) or self._linked(path, node)

    def around(self, path: Path) -> Path | None:
        """Return the folder of the set in which a path lies, if there is one."""
        for parent in _resolved(path).parents:
            if (folder := self.find(parent)) in self._folders:
                return folder
        return None

    def _linked(self, path: Path, node: Node) -> Path | None:
        """Return the file inside one of the folders that a hard link also names."""
        if path.is_dir() or path.stat().st_nlink < 2:
            return None
        inside = (file for folder in self._folders for file in folder.rglob("*"))
        return next((file for file in inside if _node(file) == node), None)


def _node(path: Path) -> Node | None:
    """Return what tells a file from all others of this computer; None if it is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _spelling(path: Path) -> str:
    return unicodedata.normalize("NFC", os.path.normcase(_resolved(path))).casefold()


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            "bad-path", f"{str(path)[:200]!r} is no path that can be used: {error}.", "Check the path."
        ) from None
