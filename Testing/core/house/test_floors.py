"""The house: packages lie on floors, and a module imports only from floors below its package's own."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sahlora
from helpers import CORE, environment

FLOORS = (
    {"errors", "about"},
    {"adapters", "runtime"},
    {"imaging"},
    {"models", "cases", "report", "simulation"},
    {"inference"},
    {"evaluation", "segmentation"},
    {"training"},
    {"crossval"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
)
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
TORCH_FREE = (
    "sahlora",
    "sahlora.adapters",
    "sahlora.adapters.config",
    "sahlora.cases.scans",
    "sahlora.imaging.planes",
    "sahlora.imaging.terminology",
    "sahlora.models.card",
    "sahlora.models.header",
    "sahlora.models.registry",
    "sahlora.training.settings",
)


def imported(path: Path, modules: set[str]) -> set[str]:
    """Return the modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sahlora":
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in whole if name in modules} or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sahlora"}
    return found


def arrows() -> dict[str, set[str]]:
    """Return which modules each module imports."""
    names = {
        ".".join(path.relative_to(CORE).with_suffix("").parts): path
        for path in (CORE / "sahlora").rglob("*.py")
    }
    modules = {name.removesuffix(".__init__") for name in names}
    return {name: imported(path, modules) for name, path in names.items()}


def package(module: str) -> str:
    """Return the room of a module: the name after ``sahlora``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_package_has_a_floor() -> None:
    assert {package(module) for module in arrows()} == FLOOR.keys()


def test_no_arrow_goes_up_or_across() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in arrows().items()
        for other in others
        if package(module) != package(other) and FLOOR[package(other)] >= FLOOR[package(module)]
    ]
    assert [arrow for arrow in wrong if arrow != "sahlora.__main__ imports sahlora.cli"] == []


def test_no_circle_between_modules() -> None:
    TopologicalSorter(arrows()).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_slicer_shows_is_importable_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


@pytest.mark.parametrize("name", sahlora.ROOMS)
def test_every_name_at_the_front_door_leads_somewhere(name: str) -> None:
    assert callable(getattr(sahlora, name))
    assert name in sahlora.__all__
