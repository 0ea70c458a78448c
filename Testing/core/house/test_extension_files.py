"""The extension's packaging files agree with the tree, with each other and with the extensions index."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
INDEX_FIELDS = {
    "$schema": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "category": str,
    "dicom_support_rule": str,
    "enabled": bool,
    "scm_revision": str,
    "scm_type": str,
    "scm_url": str,
    "tier": int,
}
BUNDLED_WITH_SLICER = {"numpy", "scipy", "simpleitk", "pydicom", "highdicom"}


def load_lister():
    spec = importlib.util.spec_from_file_location(
        "list_module_files", ROOT / "Utilities" / "list_module_files.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lister = load_lister()


def cmake_value(name: str) -> str:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf'set\({name} "([^"]*)"\)', text)[1]


def requirement_names(lines: list[str]) -> set[str]:
    return {
        re.split(r"[^A-Za-z0-9._-]", line.strip())[0].lower()
        for line in lines
        if line.strip()[:1] not in ("", "#")
    }


@pytest.mark.parametrize("module", MODULES)
def test_cmake_lists_every_file_of_the_module_and_no_other(module):
    text = (ROOT / module / "CMakeLists.txt").read_text(encoding="utf-8")

    assert lister.files_in_cmake(text) == lister.files_in_tree(ROOT / module), (
        "run: python Utilities/list_module_files.py"
    )


@pytest.mark.parametrize("path", [ROOT / "CMakeLists.txt", *(ROOT / m / "CMakeLists.txt" for m in MODULES)])
def test_cmake_files_are_made_of_commands_alone(path):
    """A line that a merge left behind stops the configure of the whole extension."""
    text = re.sub(r"(?m)^\s*#.*", "", path.read_text(encoding="utf-8"))
    rest = re.sub(r"\b\w+\s*\((?:[^()\"]|\"[^\"]*\")*\)", "", text)
    assert rest.strip() == ""


def test_lister_notices_a_file_that_is_not_listed(tmp_path):
    (tmp_path / "Extra.py").write_text("")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "Extra.pyc").write_text("")
    (tmp_path / "CMakeLists.txt").write_text("")

    assert lister.files_in_tree(tmp_path) == {lister.SCRIPTS: ["Extra.py"], lister.RESOURCES: []}


def test_rewritten_lists_read_back_as_they_were_written():
    text = "set(MODULE_PYTHON_SCRIPTS\n  Old.py\n  )\nset(MODULE_PYTHON_RESOURCES\n  )\n"
    lists = {lister.SCRIPTS: ["A.py", "Lib/B.py"], lister.RESOURCES: ["Resources/C.png"]}

    assert lister.files_in_cmake(lister.with_files(text, lists)) == lists


@pytest.mark.parametrize("module", MODULES)
def test_only_the_module_itself_lies_at_the_top_of_its_folder(module):
    """Slicer takes every top-level .py of a module folder for a module."""
    assert [path.name for path in (ROOT / module).glob("*.py")] == [f"{module}.py"]


def test_no_two_modules_install_a_file_to_the_same_place():
    """All modules of all extensions install flat into one folder."""
    installed = [
        file for module in MODULES for files in lister.files_in_tree(ROOT / module).values() for file in files
    ]

    assert len(installed) == len(set(installed))
    assert not {Path(file).parts[0] for file in installed} & {"Testing", "Lib", "Scripts"}


def test_index_entry_has_only_fields_of_the_schema_and_the_required_ones():
    entry = json.loads((ROOT / "SAHLoRA.json").read_text(encoding="utf-8"))

    assert {name: type(value) for name, value in entry.items()} == {
        name: INDEX_FIELDS[name] for name in entry
    }
    assert {"$schema", "category", "scm_url"} <= entry.keys()
    assert re.fullmatch(
        r"https://\S+/slicer-extension-catalog-entry-schema-v1\.0\.[12]\.json#", entry["$schema"]
    )
    assert entry["tier"] in (1, 3, 5)
    assert entry["scm_type"] == "git"


def test_index_entry_extension_and_repository_have_one_name_and_the_same_dependencies():
    entry = json.loads((ROOT / "SAHLoRA.json").read_text(encoding="utf-8"))
    project = re.search(r"project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1]

    assert (ROOT / f"{project}.json").is_file()
    assert entry["scm_url"].endswith(f"/Slicer{project}")
    assert entry["build_dependencies"] == cmake_value("EXTENSION_DEPENDS").split()


def test_pictures_the_extension_points_to_are_in_the_repository():
    raw = (
        cmake_value("EXTENSION_HOMEPAGE")
        .removesuffix("#readme")
        .replace("github.com", "raw.githubusercontent.com")
    )
    for name in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        for url in cmake_value(name).split():
            assert (ROOT / url.removeprefix(f"{raw}/main/")).is_file(), url


@pytest.mark.parametrize(
    "icon",
    [
        "Resources/Icons/SAHLoRA",
        "SAHLoRASegmenter/Resources/Icons/SAHLoRASegmenter",
        "SAHLoRATrainer/Resources/Icons/SAHLoRATrainer",
    ],
)
def test_icons_are_128_pixels_with_transparency_and_a_readable_source(icon):
    header = (ROOT / f"{icon}.png").read_bytes()[:26]
    width, height, _depth, color_type = struct.unpack(">IIBB", header[16:26])

    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (width, height, color_type) == (128, 128, 6)
    assert ElementTree.parse(ROOT / f"{icon}.svg").getroot().tag.endswith("svg")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_slicer_installs_every_run_time_dependency_that_it_does_not_bundle():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = ROOT / "SAHLoRACore" / "SAHLoRACoreLib" / "requirements.txt"
    installed = requirement_names(requirements.read_text(encoding="utf-8").splitlines())

    assert installed | BUNDLED_WITH_SLICER | {"torch"} == requirement_names(project["dependencies"])
    assert not installed & (BUNDLED_WITH_SLICER | {"torch"})


def slicer_side_files() -> list[Path]:
    return [
        path
        for module in MODULES
        for path in (ROOT / module).rglob("*.py")
        if not {"sahlora", "__pycache__"} & set(path.relative_to(ROOT / module).parts)
    ]


TEXT_PROPERTIES = {"text", "toolTip", "title", "helpText", "placeholderText", "specialValueText", "suffix"}
TEXT_CALLS = {"QLabel", "QPushButton", "QCheckBox", "QGroupBox", "addRow", "setText", "setToolTip"}
TEXT_CALLS |= {
    "errorDisplay",
    "infoDisplay",
    "warningDisplay",
    "confirmOkCancelDisplay",
    "tryWithErrorDisplay",
}


def bare_text(node: ast.expr) -> bool:
    """Tell whether an expression is a text with letters that goes to the user as it stands."""
    if isinstance(node, ast.JoinedStr):
        return any(bare_text(part) for part in node.values)
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return False
    return any(letter.isalpha() for letter in node.value)


@pytest.mark.parametrize("path", slicer_side_files(), ids=lambda path: path.stem)
def test_text_of_the_panels_can_be_translated(path):
    """`_` gets plain strings only, and no text reaches a widget or a message box without it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign):
            names = {getattr(target, "attr", "") for target in node.targets}
            assert not (names & TEXT_PROPERTIES and bare_text(node.value)), f"line {node.lineno}"
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "_":
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}"
        if name in TEXT_CALLS:
            assert not any(bare_text(argument) for argument in node.args), f"line {node.lineno}"


def test_bare_text_is_told_from_translated_and_from_signs():
    def expression(text: str) -> ast.expr:
        return ast.parse(text, mode="eval").body

    assert bare_text(expression("'Done.'"))
    assert bare_text(expression("f'{count} slices'"))
    assert not bare_text(expression("_('Done.')"))
    assert not bare_text(expression("f'{a}: {b}'"))


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", slicer_side_files(), ids=lambda path: path.stem)
def test_application_side_never_imports_torch(path):
    assert not {name.partition(".")[0] for name in imported_modules(path)} & {"torch", "monai"}


def test_parts_of_the_core_that_the_application_imports_bring_no_torch():
    modules = {name for path in slicer_side_files() for name in imported_modules(path)}
    core = sorted(name for name in modules if name.partition(".")[0] == "sahlora")
    assert core
    code = f"import sys, {', '.join(core)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "SAHLoRACore", check=False).returncode == 0


def test_license_is_the_one_the_package_declares():
    assert "Apache License" in (ROOT / "LICENSE.txt").read_text(encoding="utf-8")[:200]
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
