"""Run ``sahlora`` by path or module: ``python -m sahlora`` or ``PythonSlicer path/to/sahlora``."""

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sahlora.cli import run

if __name__ == "__main__":
    run()
