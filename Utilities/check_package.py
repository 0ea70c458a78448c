"""Compare a package of the extension with the repository: every file of the modules is in it, no other is."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")
LEFT_OUT = {"CMakeLists.txt"}
PLACE = "qt-scripted-modules/"  # the part of a path before the files of all modules


def main() -> int:
    """Print what is missing or too much in each package and return how many differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with packages (.tar.gz, .zip)")
    folder = parser.parse_args().folder
    packages = [path for ending in ("tar.gz", "zip") for path in sorted(folder.rglob(f"*.{ending}"))]
    if not packages:
        print(f"There is no package in {folder}.")
        return 1
    differing = 0
    for package in packages:
        missing, extra = difference(expected(), packaged(package))
        differing += bool(missing or extra)
        print(f"{package.name}: {len(missing)} files missing, {len(extra)} too many")
        for path in sorted(missing):
            print(f"  missing: {path}")
        for path in sorted(extra):
            print(f"  too much: {path}")
    return differing


def expected() -> set[str]:
    """Return the files of the modules, as paths below the folder where all modules are installed."""
    listed = subprocess.run(
        ["git", "ls-files", *MODULES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    paths = [Path(line) for line in listed]
    return {path.relative_to(path.parts[0]).as_posix() for path in paths if path.name not in LEFT_OUT}


def packaged(package: Path) -> set[str]:
    """Return the files of a package, as paths below the folder of the modules."""
    if package.suffix == ".zip":
        with zipfile.ZipFile(package) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    else:
        with tarfile.open(package) as archive:
            names = [member.name for member in archive.getmembers() if member.isfile()]
    inside = [name.partition(PLACE)[2] for name in names if PLACE in name]
    return {name for name in inside if name and not name.endswith(".pyc")}


def difference(wanted: set[str], found: set[str]) -> tuple[set[str], set[str]]:
    """Return what is missing and what is too much."""
    return wanted - found, found - wanted


if __name__ == "__main__":
    sys.exit(main())
