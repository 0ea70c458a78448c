"""Run ``sahlora`` by path, module or name: ``python -m sahlora`` or ``PythonSlicer path/to/sahlora``."""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CANCELED = 130


def start() -> NoReturn:
    """Run the command line; until it listens to Ctrl-C, which takes half a second, Ctrl-C just ends it."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(CANCELED))
    from sahlora.cli import run

    run()


if __name__ == "__main__":
    start()
