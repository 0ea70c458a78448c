"""Draw Docs/images/house.svg: the packages of ``sahlora`` on their floors, read from the imports.

    python Utilities/draw_house.py           # draw the picture anew
    python Utilities/draw_house.py --check   # exit 1 if picture and source differ

A package stands one floor above the highest package it imports. What is written in a room is the first
sentence of the package's docstring.
"""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "SAHLoRACore" / "sahlora"
PICTURE = ROOT / "Docs" / "images" / "house.svg"
WIDTH, MARGIN, GAP, LINE, HEAD, LETTER = 960, 24, 12, 16, 26, 6.4
NOT_A_ROOM = {"__init__", "__main__", "cli"}  # these are doors
DOORS = [
    (
        "SAHLoRASegmenter, SAHLoRATrainer",
        "In Slicer, without torch: they start a command as a child process and read its events",
    ),
    ("sahlora …", "The command line: finds the command, turns its outcome into an exit status"),
    ("import sahlora", "The front door for Python; importing it loads no torch"),
]
TITLE = "The packages of sahlora on their floors: each imports from floors below its own only"
STYLE = (
    "rect{stroke:#57606a;stroke-width:1}.room{fill:#f6f8fa}.door{fill:#ddf4ff}"
    "text{font:12px sans-serif;fill:#24292f}.title{font:bold 13px sans-serif}"
)
GROUND = '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>'


def rooms() -> dict[str, list[Path]]:
    """Return each package's, or single module's, source files."""
    found = {path.stem: [path] for path in SOURCE.glob("*.py") if path.stem not in NOT_A_ROOM}
    found |= {path.parent.name: sorted(path.parent.rglob("*.py")) for path in SOURCE.glob("*/__init__.py")}
    return dict(sorted(found.items()))


def sentence(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    path = SOURCE / room / "__init__.py"
    tree = ast.parse((path if path.exists() else SOURCE / f"{room}.py").read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
    return first.split(". ")[0].rstrip(".")


def imports(files: list[Path]) -> set[str]:
    """Return the rooms that files import from, whenever they do."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sahlora."):
                found.add(node.module.split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "sahlora":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sahlora.")}
    return found


def floors() -> list[list[str]]:
    """Return the rooms of each floor, from the ground up."""
    files = rooms()
    below = {room: (imports(paths) & set(files)) - {room} for room, paths in files.items()}

    @cache
    def floor(room: str) -> int:
        return max((floor(other) + 1 for other in below[room]), default=0)

    return [[room for room in files if floor(room) == level] for level in range(1 + max(map(floor, files)))]


def row(rooms_of_floor: list[tuple[str, str]], style: str, top: float) -> tuple[str, float]:
    """Return the boxes of one floor, and where the next one begins."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(rooms_of_floor) - 1)) / len(rooms_of_floor)
    lines = [textwrap.wrap(words, int((width - 20) / LETTER)) for _, words in rooms_of_floor]
    height = HEAD + LINE * (0.6 + max(map(len, lines)))
    parts = []
    for number, ((title, _), words) in enumerate(zip(rooms_of_floor, lines, strict=True)):
        x = MARGIN + number * (width + GAP)
        parts.append(
            f'<rect class="{style}" x="{x:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6"/>'
        )
        parts.append(text(x, top + 19, title, "title"))
        parts += [text(x, top + 37 + LINE * below, line) for below, line in enumerate(words)]
    return "\n".join(parts), top + height + GAP


def text(x: float, y: float, words: str, style: str = "words") -> str:
    """Return one line of text in a box."""
    return f'<text class="{style}" x="{x + 10:g}" y="{y:g}">{escape(words)}</text>'


def svg() -> str:
    """Return the picture."""
    levels = [(DOORS, "door")]
    levels += [([(room, sentence(room)) for room in level], "room") for level in reversed(floors())]
    top, parts = float(MARGIN), []
    for level, style in levels:
        boxes, top = row(level, style, top)
        parts.append(boxes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + MARGIN - GAP:g}" role="img">'
    return "\n".join([head, f"<title>{TITLE}</title>", f"<style>{STYLE}</style>", GROUND, *parts, "</svg>\n"])


def main() -> int:
    """Draw or check the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    check = parser.parse_args().check
    fresh = svg()
    outdated = not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != fresh
    if outdated:
        print(f"{PICTURE.name}: {'out of date' if check else 'drawn'}")
        if not check:
            PICTURE.write_text(fresh, encoding="utf-8", newline="\n")
    return int(check and outdated)


if __name__ == "__main__":
    sys.exit(main())
