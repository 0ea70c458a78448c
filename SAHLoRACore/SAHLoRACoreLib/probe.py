"""Tells which modules can be imported; run by path in a child, because a broken torch can crash its process.

python probe.py torch monai   ->   {"event": "result", "modules": {"torch": {"state": "works", "version":
"2.9.1"}, "monai": {"state": "broken", "reason": "ImportError(...)"}}}
"""

from __future__ import annotations

import argparse
import importlib
import json


def main() -> None:
    """Try to import every named module and print what happened as one event."""
    parser = argparse.ArgumentParser(description="Tell which modules can be imported.")
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--cancel-file", help="ignored; every child gets it")
    parser.add_argument("--parent-pid", help="ignored; every child gets it")
    verdicts = {name: verdict(name) for name in parser.parse_args().modules}
    print(json.dumps({"event": "result", "modules": verdicts}))


def verdict(name: str) -> dict[str, str]:
    """Try to import a module; tell whether it works, and its version, is missing, or is broken, and why."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return {"state": "missing"} if error.name == name else {"state": "broken", "reason": repr(error)}
    except (Exception, SystemExit) as error:  # anything can happen while a half-installed package is imported
        return {"state": "broken", "reason": repr(error)}
    if module.__spec__ is None or module.__spec__.origin is None:  # an empty folder is importable, too
        return {"state": "missing"}
    return {"state": "works", "version": str(getattr(module, "__version__", ""))}


if __name__ == "__main__":
    main()
