"""What the documentation points to is there: pages, sections, pictures, tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "Docs").rglob("*.md")),
    *sorted((ROOT / "Testing").rglob("*.md")),
]


@cache
def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")):
        target = page.parent / link if link else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            missing.append(f"{link}#{anchor}")
    assert missing == []


@pytest.mark.parametrize("script", ["list_commands.py", "draw_house.py"])
def test_what_scripts_write_is_current(script: str) -> None:
    command = [sys.executable, str(ROOT / "Utilities" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run: python Utilities/{script}\n{done.stdout}{done.stderr}"


def test_messages_quoted_as_trouble_are_the_programs_own() -> None:
    page = (ROOT / "Docs" / "troubleshooting.md").read_text(encoding="utf-8")
    problems = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    quoted = [words for problem in problems for words in re.findall(r'"([^"]+)"', problem)]
    strings = [
        node.value
        for module in ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
        for path in (ROOT / module).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [words for words in quoted if not any(words in text for text in strings)] == []
