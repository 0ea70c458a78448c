"""Which files hold an image that can be read, and opening one by its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sahlora.imaging.metaimage import open_metaimage
from sahlora.imaging.nifti import open_nifti
from sahlora.imaging.nrrd import open_nrrd
from sahlora.imaging.stored import StoredImage

READERS: dict[str, Callable[[Path], StoredImage]] = {
    ".nii": open_nifti,
    ".nii.gz": open_nifti,
    ".nrrd": open_nrrd,
    ".nhdr": open_nrrd,
    ".mha": open_metaimage,
    ".mhd": open_metaimage,
}
FILE_FORMATS = tuple(READERS)


def file_format(path: Path) -> str | None:
    """Return the ending of an image file that can be read, e.g. ``".nii.gz"``, or None."""
    name = path.name.lower()
    return next((ending for ending in FILE_FORMATS if name.endswith(ending)), None)


def open_image(path: Path) -> StoredImage:
    """Read and judge the header of an image file of one of `FILE_FORMATS`.

    Raises
    ------
    InputError
        ``unreadable``, ``unsupported-format``, ``foreign-data-file``, ``not-3d``, ``too-large`` or
        ``bad-geometry``.
    """
    ending = file_format(path)
    assert ending is not None, path
    return READERS[ending](path)
