"""The command ``sahlora``: finds the command's module, runs it, and turns its outcome into an exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from sahlora.about import __version__
from sahlora.errors import InputError, ResourceError, SAHLoRAError
from sahlora.runtime.process import keep_freed_memory
from sahlora.runtime.progress import BarSink, Event, JsonSink, LogSink, Progress, cancellation, under_torchrun
from sahlora.runtime.streams import OUTPUT_FAILURES, Quiet, flush_output, output_error, use_plain_letters

COMMANDS = (
    "segment",
    "evaluate",
    "cases",
    "finetune",
    "crossval",
    "pretrain",
    "simulate",
    "models",
    "adapters",
    "devices",
    "demo",
)

EPILOG = """\
For research use only, not for diagnosis.

exit status: 0 done, 1 internal error, 2 bad usage, 3 bad input, 4 out of resources, 130 canceled"""


def run() -> NoReturn:
    """Run the command line of this process and end it at once.

    All that was opened is closed by then. Taking down an interpreter that has loaded PyTorch adds seconds,
    for which whoever cancels waits.
    """
    try:
        status = main()
    except SystemExit as error:  # argparse: help shown, or bad usage told
        status = error.code if isinstance(error.code, int) else 2
    try:
        flush_output()
    except ResourceError as error:
        _say(f"sahlora: {error}")
        status = status or error.exit_status
    with suppress(OSError, AttributeError):  # nobody reads any more, or Windows gave none
        sys.stderr.flush()
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    use_plain_letters()
    modules = {name: importlib.import_module(f"sahlora.commands.{name}") for name in COMMANDS}
    args = build_parser(modules).parse_args(arguments)
    log: Any = Quiet(sys.stderr)
    sinks: dict[str, Callable[[], Callable[[Event], None]]] = {
        "json": lambda: JsonSink(sys.stdout),
        "bar": lambda: BarSink(log),
        "none": lambda: LogSink(log),
    }
    keep_freed_memory()
    with cancellation(args.cancel_file, args.parent_pid) as cancelled:
        progress = Progress(sinks[args.progress if _is_first_process() else "none"](), cancelled)
        try:
            modules[args.command].run(args, progress)
            flush_output()
        except Exception as error:
            known = _known(error)
            progress.error(known)
            _say(f"sahlora {args.command}: {known.message}\n{known.hint}".rstrip())
            return known.exit_status
    return 0


def _known(error: Exception) -> SAHLoRAError:
    """Return the error to tell; of one that nobody foresaw, the traceback is printed."""
    try:
        flush_output()
    except ResourceError as closed:
        return error if isinstance(error, SAHLoRAError) else closed
    if isinstance(error, SAHLoRAError):
        return error
    if isinstance(error, OSError) and error.errno in OUTPUT_FAILURES:
        return output_error(error)
    if isinstance(error, OSError) and error.filename is not None:
        return InputError(
            "unreadable",
            f"Can't use {error.filename}: {error.strerror or error}.",
            "Check that it is there and that you may read it.",
        )
    with suppress(OSError, AttributeError):
        traceback.print_exc()
    if isinstance(error, ModuleNotFoundError):
        return ResourceError(
            "missing-package",
            f"The package {error.name} is not installed.",
            "Install the packages again, in Slicer by a click on Segment.",
        )
    return SAHLoRAError("internal", f"Internal error: {error!r}.", "Please report it with the text above.")


def _say(text: str) -> None:
    """Print to standard error, if there is any."""
    with suppress(OSError, ValueError):
        Quiet(sys.stderr).write(f"{text}\n")


def _is_first_process() -> bool:
    """Whether this is the one that reports; the others that ``torchrun`` started are quiet."""
    return not under_torchrun() or os.environ.get("RANK", "0") == "0"


def build_parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("progress and canceling")
    group.add_argument(
        "--progress",
        choices=("bar", "json", "none"),
        default="bar" if sys.stderr is not None and sys.stderr.isatty() else "none",
        help="a bar on standard error, one JSON event a line on standard output, or nothing "
        "(default: bar on a terminal)",
    )
    group.add_argument("--cancel-file", type=Path, metavar="FILE", help="stop once this file exists")
    group.add_argument("--parent-pid", type=int, metavar="PID", help="stop once this process is gone")

    parser = argparse.ArgumentParser(
        prog="sahlora",
        description="Segment hemorrhage on head CT, and adapt the model with LoRA and DoRA.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sahlora {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in modules.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[] if hasattr(module, "ACTIONS") else [common],
        )
        if hasattr(module, "ACTIONS"):
            actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
            for action, summary in module.ACTIONS.items():
                module.configure(
                    action, actions.add_parser(action, help=summary, description=summary, parents=[common])
                )
        else:
            module.configure(command)
    return parser


if __name__ == "__main__":
    run()
