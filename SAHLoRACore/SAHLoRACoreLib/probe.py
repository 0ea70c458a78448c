"""Tells which packages can't be imported; run by path in a child, because a broken torch can crash its
process.

python probe.py torch monai ...   ->   {"event": "result", "missing": [...], "broken": {...}, "torch":
"2.9.1"}
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json


def main() -> None:
    """Try to import every named package and print what happened as one event."""
    parser = argparse.ArgumentParser(description="Tell which packages can't be imported.")
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--cancel-file", help="ignored; every child gets it")
    parser.add_argument("--parent-pid", help="ignored; every child gets it")
    missing: list[str] = []
    broken: dict[str, str] = {}
    versions: dict[str, str] = {}
    for name in parser.parse_args().packages:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                missing.append(name)
            else:
                broken[name] = repr(error)
        except Exception as error:  # anything can happen while a half-installed package is imported
            broken[name] = repr(error)
        else:
            versions[name] = str(getattr(module, "__version__", ""))
    print(json.dumps({"event": "result", "missing": missing, "broken": broken, "versions": versions}))


if __name__ == "__main__":
    main()
