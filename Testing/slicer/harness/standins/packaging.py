"""Stands in for slicer.packaging: parses requirements and notes what would be installed; installs nothing."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

installed: list[list[str]] = []


def load_requirements(path: str | Path) -> list[Requirement]:
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def pip_check(requirement: Requirement) -> bool:
    try:
        return metadata.version(requirement.name) in requirement.specifier
    except metadata.PackageNotFoundError:
        return False


def pip_ensure(requirements: list[Requirement], requester: str | None = None, **options: Any) -> None:
    installed.append([str(r) for r in requirements])


def pip_install(arguments: str | list[str], **options: Any) -> None:
    installed.append(arguments.split() if isinstance(arguments, str) else list(arguments))


def pip_uninstall(names: str | list[str], **options: Any) -> None:
    installed.append(["uninstall", *(names.split() if isinstance(names, str) else names)])
