"""Write Docs/commands.md, the table of all commands and options, from the parsers themselves.

python Utilities/list_commands.py           # rewrite the page
python Utilities/list_commands.py --check   # exit 1 if page and parsers differ
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from sahlora.cli import COMMANDS, build_parser

PAGE = Path(__file__).resolve().parent.parent / "Docs" / "commands.md"
COMMON = "progress and canceling"
HEAD = f"""\
# Commands

All commands with all their options, as `sahlora COMMAND --help` prints them; written by
`Utilities/list_commands.py`. In capitals what you fill in, in parentheses what holds without the option. Each
command also has the options under [{COMMON}](#{COMMON.replace(" ", "-")}). Exit status and events:
[events](events.md); what an error means: [errors](errors.md).
"""


def page() -> str:
    """Return the page as it should be."""
    parser = build_parser({name: importlib.import_module(f"sahlora.commands.{name}") for name in COMMANDS})
    commands = dict(_leaves(parser, "sahlora"))
    common = next(iter(commands.values()))
    parts = [HEAD, *(_section(name, command) for name, command in commands.items())]
    groups = [group for group in common._action_groups if group.title == COMMON]
    parts.append(f"## {COMMON.capitalize()}\n\n{_table(_rows(common, groups))}")
    return "\n".join(parts)


def _leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command that can be given, an action of a command as one of its own."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, command in action.choices.items():
            yield from _leaves(command, f"{name} {word}")


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    summary = (parser.description or "").strip().splitlines()[0].rstrip(".")
    sentence = f"{summary[:1].upper()}{summary[1:]}."
    groups = [group for group in parser._action_groups if group.title != COMMON]
    rows = _rows(parser, groups)
    return "\n\n".join(
        [f"## {name}", sentence, *([_table(rows)] if rows else ["It has no options of its own.\n"])]
    )


def _rows(parser: argparse.ArgumentParser, groups: list[argparse._ArgumentGroup]) -> list[tuple[str, str]]:
    formatter = parser._get_formatter()
    rows = []
    for group in groups:
        for action in group._group_actions:
            if "--help" in action.option_strings or action.help == argparse.SUPPRESS:
                continue
            names = ", ".join(action.option_strings)
            value = "" if action.nargs == 0 else formatter._format_args(action, _metavar(action))
            words = formatter._expand_help(action) if action.help else f"(default: {action.default})"
            if action.choices and action.metavar is None:
                value = "|".join(map(str, action.choices))
            rows.append((f"{names} {value}".strip(), words))
    return rows


def _metavar(action: argparse.Action) -> str:
    return action.dest.upper() if action.option_strings else str(action.metavar or action.dest)


def _table(rows: list[tuple[str, str]]) -> str:
    def cell(words: str) -> str:
        return words.replace("|", r"\|")

    lines = [f"| `{cell(option)}` | {cell(words)} |" for option, words in rows]
    return "\n".join(["| option | what it does |", "|---|---|", *lines]) + "\n"


def main() -> int:
    """Rewrite or check the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    check = parser.parse_args().check
    fresh = page()
    outdated = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != fresh
    if outdated:
        print(f"{PAGE.name}: {'out of date' if check else 'rewritten'}")
        if not check:
            PAGE.write_text(fresh, encoding="utf-8", newline="\n")
    return int(check and outdated)


if __name__ == "__main__":
    sys.exit(main())
