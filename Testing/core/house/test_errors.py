"""Docs/errors.md and Docs/cases.md hold every code that the source can give, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [
    path
    for module in ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
    for path in sorted((ROOT / module).rglob("*.py"))
    if not path.stem.startswith("fake")  # test doubles make codes up
]
ERRORS = {"SAHLoRAError", "UsageError", "InputError", "ResourceError", "ChildError", "Remark"}
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def name_of(call: ast.Call) -> str:
    """Return the last part of the called function's name."""
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def text(node: ast.expr) -> Iterator[str]:
    """Yield the string if the expression is one that can be a code."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        yield node.value


def codes_of_errors(tree: ast.Module) -> Iterator[str]:
    """Yield the codes of errors and warnings: direct, through a parameter `code`, or in a table."""
    takes_code = {
        function.name: [argument.arg for argument in function.args.args].index("code")
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and "code" in [a.arg for a in function.args.args]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = name_of(node)
            position = 0 if name in ERRORS or name == "warning" else takes_code.get(name)
            if position is not None:
                for argument in node.args[position : position + 1]:
                    yield from text(argument)
        elif isinstance(node, ast.Tuple) and len(node.elts) == 4:  # (holds, code, message, hint)
            holds, code, message, _ = node.elts
            if isinstance(holds, ast.Compare | ast.BoolOp | ast.Call) and isinstance(
                message, ast.JoinedStr | ast.Constant
            ):
                yield from text(code)


def codes_of_findings(tree: ast.Module) -> Iterator[str]:
    """Yield the codes of what the check of cases finds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) == "Finding":
            yield from text(node.args[1])
        elif isinstance(node, ast.Tuple) and len(node.elts) == 3:  # (code, tissue, part)
            yield from (code for code in text(node.elts[0]) if code.startswith("label-"))


def documented(page: str, section: str = "") -> set[str]:
    """Return the codes in the first column of the page's tables."""
    words = (ROOT / "Docs" / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", words[words.index(section) :], re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row)}


@cache
def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]


def test_every_code_of_an_error_or_warning_is_explained() -> None:
    codes = {"cancelled"} | {code for tree in trees() for code in codes_of_errors(tree)}
    assert len(codes) > 100, "the walk through the source finds hardly any codes"
    assert codes - documented("errors.md") == set()
    assert documented("errors.md") - codes == set(), "no such code any more"


def test_every_finding_of_the_check_of_cases_is_explained() -> None:
    findings = {code for tree in trees() for code in codes_of_findings(tree)}
    assert len(findings) > 10
    assert findings - documented("cases.md", "## Checking") == set()


@pytest.mark.parametrize(
    ("page", "columns"), [("errors.md", 3), ("troubleshooting.md", 3)], ids=["errors", "troubleshooting"]
)
def test_every_row_says_what_to_do(page: str, columns: int) -> None:
    rows = [
        line
        for line in (ROOT / "Docs" / page).read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert [row for row in cells if len(row) != columns or not all(row)] == []
