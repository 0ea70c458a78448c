"""CT volumes: read a file or a DICOM series, bring it to canonical order, and put results back on its grid.

Canonical order is (z, y, x) with z towards superior, y towards posterior and x towards left, reached by
permuting and flipping axes only, so that nothing is interpolated and the way back is exact.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sahlora.errors import InputError
from sahlora.imaging.dicom_files import Source
from sahlora.imaging.dicom_slices import read_series, stands_for_dicom
from sahlora.imaging.files import FILE_FORMATS, file_format, open_image
from sahlora.imaging.geometry import OUTSIDE_HU, Axes, Grid, SliceStack
from sahlora.imaging.plausibility import (
    CONTRAST_FRACTION,
    contrast_fraction,
    doubts,
    require_ct,
    require_grid,
)
from sahlora.imaging.stored import Remark
from sahlora.runtime.progress import SILENT, Progress

INT16 = (-32768, 32767)
CONTRAST = Remark(
    "contrast",
    "This seems to be CT with contrast agent: enhanced vessels look like blood.",
    "Use the non-contrast series.",
)


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in canonical order.

    Parameters
    ----------
    hu : np.ndarray
        int16 (Z, Y, X) in HU, at least -1024.
    grid : Grid
        The input's own grid; for slices without one, the even grid that results go to.
    stack : SliceStack, optional
        The acquired slices where no even, orthogonal grid holds them (gantry tilt, uneven steps).
    name : str
        Stem of the file or folder; never a patient's name.
    notes : tuple of str
        Plain sentences on what was found and chosen.
    identifiers : dict of str
        Patient name, ID and dates as DICOM has them; empty otherwise.
    sources : tuple of Path
        The DICOM file of each stored slice, or its member of a zip archive; empty otherwise.
    """

    hu: np.ndarray
    grid: Grid
    stack: SliceStack | None = None
    name: str = ""
    notes: tuple[str, ...] = ()
    identifiers: dict[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    @classmethod
    def from_array(cls, hu: np.ndarray, spacing: tuple[float, float, float], name: str = "") -> Volume:
        """Make a volume of a canonical (Z, Y, X) array with spacing (z, y, x) in mm."""
        grid = Grid(
            hu.shape[::-1], tuple(spacing[::-1]), (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        )
        return cls(np.asarray(hu, np.int16), grid, name=name)

    @property
    def is_regular(self) -> bool:
        """Whether the voxels lie on an even, orthogonal grid."""
        return self.stack is None

    @property
    def axes(self) -> Axes:
        """How stored and canonical order are related; the same for acquired slices and even grid."""
        return self.grid.axes

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm; z is the median slice step where steps are uneven."""
        z, y, x = self.grid.canonical_spacing
        return (z if self.stack is None else float(np.median(self.stack.steps))), y, x

    @property
    def slice_thickness(self) -> np.ndarray:
        """(Z,) slab in mm each slice stands for, along the slice normal."""
        if self.stack is None:
            return np.full(self.hu.shape[0], self.spacing[0])
        return self.stack.thickness[::-1].copy() if 0 in self.axes.flipped else self.stack.thickness

    @property
    def voxel_ml(self) -> np.ndarray:
        """(Z,) volume in mL of one voxel of each slice."""
        _, y, x = self.spacing
        return self.slice_thickness * (y * x / 1000.0)

    def to_grid(self, array: np.ndarray, *, label: bool) -> sitk.Image:
        """Put a canonical array on the input's own grid, or on the even grid where the slices have none.

        Parameters
        ----------
        array : np.ndarray
            (Z, Y, X). A label is a mask: what is not 0 belongs to it.
        label : bool
            True gives uint8 0 and 1, of the same volume where slices are resampled. False keeps the type, and
            gives float32 where slices are resampled (0 outside).
        """
        stored = self.axes.to_stored(np.asarray(array))
        if label:
            mask = stored != 0
            return self.grid.image(
                (mask if self.stack is None else self.stack.mask_to_even(mask)).astype(np.uint8)
            )
        return self.grid.image(stored if self.stack is None else self.stack.to_even(stored, 0.0))

    def rectified(self) -> Volume:
        """Return the CT on the even, orthogonal grid: itself if it already is, else interpolated linearly."""
        if self.stack is None:
            return self
        even = np.rint(self.stack.to_even(self.axes.to_stored(self.hu), OUTSIDE_HU)).astype(np.int16)
        hu = np.ascontiguousarray(self.axes.to_canonical(even))
        return Volume(hu, self.grid, name=self.name, notes=self.notes, identifiers=self.identifiers)

    def mask_from_rectified(self, mask: np.ndarray) -> np.ndarray:
        """Bring a canonical mask on the even grid back to the acquired slices, bool, at the same volume."""
        if self.stack is None:
            return mask
        stored = self.stack.mask_from_even(self.axes.to_stored(mask))
        return np.ascontiguousarray(self.axes.to_canonical(stored))

    def from_rectified(self, array: np.ndarray) -> np.ndarray:
        """Bring a canonical array on the even grid, e.g. probabilities, back to the acquired slices."""
        if self.stack is None:
            return array
        return np.ascontiguousarray(self.axes.to_canonical(self.stack.from_even(self.axes.to_stored(array))))


def read_volume(path: Path | str, *, series: str | None = None, progress: Progress = SILENT) -> Volume:
    """Read a head CT from NIfTI, NRRD, MetaImage or DICOM.

    Parameters
    ----------
    path : Path
        A file, or a folder with DICOM series (of a DICOM file, its series in its folder).
    series : str, optional
        Which series of a DICOM folder; without it the one that
        `sahlora.imaging.dicom_series.choose_series` prefers.

    Raises
    ------
    InputError
        ``not-found``, ``unreadable``, ``unsupported-format``, ``not-3d``, ``too-few-slices``,
        ``bad-geometry``, ``not-finite``, ``constant``, ``not-ct``, ``unsupported-slices``,
        or those of `sahlora.imaging.dicom_slices.read_series`.
    """
    path = Path(path)
    _require_there(path)
    progress.stage("reading")
    ending = file_format(path)
    if ending is None or path.is_dir():
        volume, remarks = _read_dicom(path, series, progress)
    else:
        volume, remarks = _read_file(path, path.name[: -len(ending)], progress)
    seen = require_ct(volume.hu, str(path))
    height = float(volume.slice_thickness.mean())  # of a slice; the median would hide uneven steps
    found = [*remarks, *doubts(seen, (height, *volume.spacing[1:]))]
    np.maximum(volume.hu, OUTSIDE_HU, out=volume.hu)
    if CONTRAST not in found and contrast_fraction(volume.hu, volume.spacing) > CONTRAST_FRACTION:
        found.append(CONTRAST)
    progress.update(1.0)
    for remark in found:
        progress.warning(remark.code, remark.message, remark.hint)
    return replace(volume, notes=(*volume.notes, *(remark.message for remark in found)))


def _require_there(path: Path) -> None:
    """Check that a file or folder is there and may be read, whatever its name holds."""
    try:
        path.stat()
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise PermissionError(errno.EACCES, "you may not read it")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError("not-found", f"There is no file or folder {path}.", "Check the path.") from error
    except (OSError, ValueError) as error:  # links in a circle, a name too long or with a NUL
        why = getattr(error, "strerror", None) or str(error)
        raise InputError("unreadable", f"{path!s:.200} can't be opened: {why}.", "Check the path.") from error


def _read_dicom(path: Path, series: str | None, progress: Progress) -> tuple[Volume, tuple[Remark, ...]]:
    if path.is_file() and not stands_for_dicom(path):
        raise InputError(
            "unsupported-format",
            f"{path} is in no format that can be read.",
            f"Use {', '.join(FILE_FORMATS)}, or DICOM as file, folder or zip archive.",
        )
    found = read_series(path, series, progress)
    grid = found.stack.even_grid
    hu = _canonical(found.planes, (len(found.planes), *found.stack.shape), grid.axes, str(path), progress)
    require_grid(grid, hu.shape, str(path))
    even = found.stack.is_even
    if not even and grid.axes.order[0] != 0:
        raise InputError(
            "unsupported-slices",
            f"{path} has uneven or tilted slices that are not axial.",
            "Use an axial series.",
        )
    name = path.name if path.is_dir() else path.stem
    return Volume(
        hu, grid, None if even else found.stack, name, found.notes, found.identifiers, found.files
    ), (CONTRAST,) if found.contrast else ()  # fmt: skip


def _read_file(path: Path, name: str, progress: Progress) -> tuple[Volume, tuple[Remark, ...]]:
    image = open_image(path)
    if image.components != 1:
        raise InputError("not-3d", f"{path} has {image.components} values a voxel.", "Use a plain CT.")
    axes = image.grid.axes
    require_grid(image.grid, tuple(image.shape[axis] for axis in axes.order), str(path))
    hu = _canonical(image.planes(), image.shape, axes, str(path), progress)
    return Volume(hu, image.grid, name=name), image.remarks


def _canonical(
    planes: Iterable[np.ndarray], shape: tuple[int, ...], axes: Axes, what: str, progress: Progress
) -> np.ndarray:
    """Copy stored planes of any type into a contiguous canonical int16 array, one by one."""
    hu = np.empty(tuple(shape[axis] for axis in axes.order), np.int16)
    for target, plane in zip(axes.to_stored(hu), planes, strict=True):
        progress.check()
        if plane.dtype.kind == "f" and not np.isfinite(plane).all():
            raise InputError("not-finite", f"{what} has voxels that are not numbers.", "Export the CT again.")
        target[...] = plane if plane.dtype == np.int16 else np.clip(np.rint(plane), *INT16)
    return hu
