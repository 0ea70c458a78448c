"""Which real CT to simulate blood into: one scan, a folder of files, or a list of cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sahlora.cases.manifest import list_cases
from sahlora.errors import InputError
from sahlora.imaging.files import file_format


@dataclass(frozen=True)
class Scan:
    """A head CT that is to bleed.

    Attributes
    ----------
    name : str
        Stem of the file or folder, or the case's name; starts the names of what is made from it.
    patient : str
        Whose scan it is.
    path : Path
        A file, or a folder with a DICOM series.
    """

    name: str
    patient: str
    path: Path


def list_scans(path: Path) -> list[Scan]:
    """List the scans that a path names.

    Parameters
    ----------
    path : Path
        A CT file or DICOM folder; a folder of CT files; or a list of cases (CSV, JSON) as Docs/cases.md
        describes, whose labels are not read. Cases with hemorrhage by their slice labels are left out.

    Raises
    ------
    InputError
        ``not-found``, ``bad-manifest``, ``missing-file`` or ``no-scans``.
    """
    if not path.exists():
        raise InputError("not-found", f"There is no file or folder {path}.", "Check the path.")
    if path.suffix.lower() in (".csv", ".json"):
        scans = [
            Scan(case.name, case.patient, case.image)
            for case in list_cases(path)
            if not case.has_known_hemorrhage
        ]
    elif path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.is_file() and file_format(entry))
        scans = [_of_file(file) for file in files] or [Scan(path.name, path.name, path)]
    else:
        scans = [_of_file(path)]
    for scan in scans:
        if not scan.path.exists():
            raise InputError("missing-file", f"The image of {scan.name} does not exist: {scan.path}.",
                             "Correct the path; relative ones start at the list's folder.")  # fmt: skip
    if not scans:
        raise InputError("no-scans", f"{path.name} lists no scan without hemorrhage.",
                         "Name scans without hemorrhage.")  # fmt: skip
    return scans


def _of_file(path: Path) -> Scan:
    ending = file_format(path)
    name = path.name[: -len(ending)] if ending else path.stem
    return Scan(name, name, path)
