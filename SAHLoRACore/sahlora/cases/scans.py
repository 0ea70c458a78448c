"""Which scans lie in a folder or stand in a list, by a name of their own; read without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sahlora.cases.manifest import read_list
from sahlora.errors import InputError
from sahlora.imaging.dicom_series import is_dicom
from sahlora.imaging.files import FILE_FORMATS, file_format
from sahlora.imaging.labels import SEGMENTATION_FORMAT

UNFIT = re.compile(r'^\.+|[\\/:*?"<>|\x00-\x1f]+')
"""What can't be in a file's name on every system."""

FILES_TRIED = 5  # of a folder without volume files, to see whether it holds DICOM


def list_scans(path: Path) -> dict[str, Path]:
    """Return the scans below a folder, or those of a list, by a name that can be a file's.

    Parameters
    ----------
    path : Path
        A folder, see `scans_in`; or a CSV or JSON file with the columns case and image as in Docs/cases.md,
        of which all others are passed over.

    Raises
    ------
    InputError
        ``not-found``, ``bad-manifest`` or ``no-scan``.
    """
    if path.is_dir():
        scans = scans_in(path)
    else:
        scans = {}
        for row in read_list(path, ("case", "image")):
            name, image = row["case"].strip(), row["image"].strip()
            if name and image:
                scans[_free(UNFIT.sub("_", name), scans)] = (path.parent / image).resolve()
    if not scans:
        raise InputError(
            "no-scan",
            f"There is no scan in {path}.",
            f"Scans are files ({', '.join(FILE_FORMATS)}) and folders of DICOM files.",
        )
    return scans


def scans_in(folder: Path) -> dict[str, Path]:
    """Return the volume files and the folders of DICOM files below a folder, by their path in one word.

    Slicer segmentations (.seg.nrrd) are passed over.
    """
    scans: dict[str, Path] = {}
    for parent, subfolders, files in os.walk(folder):
        subfolders.sort()
        here = Path(parent)
        found = [here / name for name in sorted(files) if _is_volume(name)]
        if not found and any(is_dicom(here / name) for name in sorted(files)[:FILES_TRIED]):
            found = [here]
        for path in found:
            name = "_".join(path.relative_to(folder.parent if path == folder else folder).parts)
            scans[_free(name.removesuffix(".gz"), scans)] = path
    return scans


def _free(name: str, taken: dict[str, Path]) -> str:
    """Return the name, with a number behind it if another scan has it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _is_volume(name: str) -> bool:
    return file_format(Path(name)) is not None and not name.lower().endswith(SEGMENTATION_FORMAT)
