"""Write the lists of scripts and resources in each module's CMakeLists.txt, or check them.

    python Utilities/list_module_files.py           # rewrite the lists
    python Utilities/list_module_files.py --check   # exit 1 if a list and the tree differ

Slicer's CMake macro wants explicit lists: a listed file that is missing stops the configure, and a file
that is not listed is silently absent from the package.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
SCRIPTS, RESOURCES = "MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"


def files_in_tree(module: Path) -> dict[str, list[str]]:
    """Return the scripts and resources a module folder holds, as sorted relative paths with ``/``."""
    lists: dict[str, list[str]] = {SCRIPTS: [], RESOURCES: []}
    for path in sorted(module.rglob("*")):
        parts = path.relative_to(module).parts
        made = any(part.startswith(".") or part.endswith(("__pycache__", ".egg-info")) for part in parts)
        if path.is_file() and not made and parts != ("CMakeLists.txt",):
            lists[SCRIPTS if path.suffix == ".py" else RESOURCES].append("/".join(parts))
    return lists


def files_in_cmake(text: str) -> dict[str, list[str]]:
    """Return the scripts and resources that a module's CMakeLists.txt lists."""
    lists = {}
    for name in (SCRIPTS, RESOURCES):
        content = _block(name).search(text)
        if content is None:
            raise ValueError(f"no set({name} ...) in this CMakeLists.txt")
        lists[name] = content["files"].split()
    return lists


def with_files(text: str, lists: dict[str, list[str]]) -> str:
    """Return the text of a CMakeLists.txt with its lists replaced."""
    for name, files in lists.items():
        block = "".join(f"  {file}\n" for file in files)
        text = _block(name).sub(f"set({name}\n{block}  )", text)
    return text


def _block(name: str) -> re.Pattern[str]:
    return re.compile(rf"set\({name}\s(?P<files>[^)]*)\)")


def main() -> int:
    """Rewrite or check the lists of all modules."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a list is out of date"
    )
    check = parser.parse_args().check
    outdated = False
    for name in MODULES:
        cmake = ROOT / name / "CMakeLists.txt"
        text = cmake.read_text(encoding="utf-8")
        fresh = with_files(text, files_in_tree(cmake.parent))
        if fresh != text:
            outdated = True
            print(f"{name}/CMakeLists.txt: {'out of date' if check else 'rewritten'}")
            if not check:
                cmake.write_text(fresh, encoding="utf-8", newline="\n")
    return int(check and outdated)


if __name__ == "__main__":
    sys.exit(main())
