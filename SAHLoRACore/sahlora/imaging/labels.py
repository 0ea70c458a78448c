"""Label maps: what an annotation outlines, on its own grid and on the voxels of its image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sahlora.errors import InputError
from sahlora.imaging.dicom_slices import read_series
from sahlora.imaging.geometry import Grid, SliceStack
from sahlora.imaging.volume import Volume

UNKNOWN = 255
"""Label of voxels of which nobody says whether they are blood."""

UNMARKED = 254
"""While training: label of such voxels in a slice in which an expert sees blood that nobody outlined."""

SEGMENTATION_FORMAT = ".seg.nrrd"
SAME_PLACE_MM = 0.1
MOST_VALUES = 255
"""A file with more distinct values, background included, is an image: an atlas of the brain has fewer."""
LISTED_VALUES = 8


@dataclass(frozen=True, eq=False)
class LabelMap:
    """An annotation on its own grid.

    Parameters
    ----------
    values : np.ndarray
        uint8 (slice, row, column) in stored order: 0 nothing, 1 hemorrhage, 255 unknown.
    grid : Grid
        Where the voxels lie; the even grid of `stack` if there is one.
    stack : SliceStack, optional
        The acquired slices of a DICOM series that lie on no even grid.
    merged : tuple of str
        Label values that all count as hemorrhage, if there are several.
    """

    values: np.ndarray
    grid: Grid
    stack: SliceStack | None = None
    merged: tuple[str, ...] = ()

    def on(self, volume: Volume) -> np.ndarray:
        """Return the label on the voxels of its image, nearest neighbor, uint8 (Z, Y, X): 0, 1 or 255."""
        if self.stack is not None:
            return self._on_acquired_slices(volume)
        resampled = sitk.Resample(
            self.grid.image(self.values),
            volume.grid.size,
            sitk.Transform(),
            sitk.sitkNearestNeighbor,
            volume.grid.origin,
            volume.grid.spacing,
            volume.grid.direction,
        )
        label = np.ascontiguousarray(volume.axes.to_canonical(sitk.GetArrayFromImage(resampled)))
        if volume.is_regular:
            return label
        # Acquired slices between planes of the even grid: inside where most of the interpolation weight is.
        unknown, blood = (volume.from_rectified(label == value) for value in (UNKNOWN, 1))
        return np.where(unknown > 0, UNKNOWN, blood >= 0.5).astype(np.uint8)

    def _on_acquired_slices(self, volume: Volume) -> np.ndarray:
        ours, theirs = self.stack, volume.stack
        assert ours is not None
        if (
            theirs is None
            or ours.shape != theirs.shape
            or ours.origins.shape != theirs.origins.shape
            or np.abs(ours.origins - theirs.origins).max() > SAME_PLACE_MM
        ):
            raise InputError(
                "other-slices",
                "The label's tilted or uneven slices are not those of the image.",
                "Export the label as .seg.nrrd or NIfTI.",
            )
        return np.ascontiguousarray(volume.axes.to_canonical(self.values))


def read_label(path: Path, volume: Volume, segment: str | None = None) -> np.ndarray:
    """Read an annotation onto the voxels of its image: uint8 (Z, Y, X) of 0, 1 or 255 (unknown).

    Parameters and errors are those of `read_label_map`; also ``other-slices``.
    """
    return read_label_map(path, segment).on(volume)


def read_label_map(path: Path, segment: str | None = None) -> LabelMap:
    """Read an annotation.

    Parameters
    ----------
    path : Path
        A label map (NIfTI, NRRD, MetaImage), a Slicer segmentation (.seg.nrrd), or a folder with a label map
        as DICOM series.
    segment : str, optional
        Which segment counts: its name in a Slicer segmentation, the value in a label map. Without it, the
        only segment of a segmentation, or any value of a label map but 0 and 255.

    Raises
    ------
    InputError
        ``unreadable-label``, ``bad-label``, ``label-is-image``, ``several-segments``, ``unknown-segment`` or
        ``no-segment``; of a DICOM series those of `sahlora.imaging.dicom_slices.read_series`.
    """
    if path.is_dir():
        series = read_series(path)
        values, merged = _chosen_values(np.stack(list(series.planes)), path, segment)
        return LabelMap(
            values, series.stack.even_grid, None if series.stack.is_even else series.stack, merged
        )
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            "unreadable-label", f"The label {path.name} can't be read.", "Export it again, e.g. as NIfTI."
        ) from error
    if image.GetDimension() != 3:
        raise InputError("bad-label", f"{path.name} is no 3D label map.", "Export it as a label map.")
    grid = Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    if path.name.lower().endswith(SEGMENTATION_FORMAT):
        return LabelMap(_chosen_segment(image, path, segment), grid)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError("bad-label", f"{path.name} has several values a voxel.", "Export it as a label map.")
    values, merged = _chosen_values(sitk.GetArrayViewFromImage(image), path, segment)
    return LabelMap(values, grid, None, merged)


def listed(values: Sequence[int | str]) -> str:
    """Name label values in a message: the first few, and how many more there are."""
    named = ", ".join(map(str, values[:LISTED_VALUES]))
    more = len(values) - LISTED_VALUES
    return f"{named}, … {more} more" if more > 0 else named


def known_label(label: np.ndarray, expert: np.ndarray | None) -> np.ndarray:
    """Gate a label (Z, Y, X) by what an expert says of whole slices, bool (Z,).

    A slice without blood is empty whatever the label says; a slice with blood but without a label is unknown.
    """
    if expert is None:
        return label
    gated = label.copy()
    gated[~expert] = 0
    gated[expert & ~(label == 1).any(axis=(1, 2))] = UNKNOWN
    return gated


# ------------------------------------------------------------------------------------------------- choice


def _chosen_values(array: np.ndarray, path: Path, segment: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return 0, 1 and 255 for the values of a label map, and the values that were merged into 1."""
    found = np.unique(array)
    if (found < 0).any():
        raise _image(path, f"holds values down to {found.min():.5g}")
    whole = np.isfinite(found) & (found == np.rint(found))
    if not whole.all():
        raise InputError(
            "bad-label",
            f"{path.name} holds values such as {found[~whole][0]:.3g}.",
            "A label map holds whole numbers; probabilities are none.",
        )
    if len(found) > MOST_VALUES:
        raise _image(path, f"holds {len(found)} distinct values")
    blood = [int(value) for value in found if value not in (0, UNKNOWN)]
    if segment == str(UNKNOWN) and UNKNOWN in found:  # asked for by name: here it means blood
        return (array == UNKNOWN).astype(np.uint8), ()
    if segment is not None:
        if segment not in map(str, blood):
            raise _unknown_segment(path, segment, f"It holds the values {listed(blood) or 'none'}.")
        blood = [int(segment)]
    label = np.isin(array, blood).astype(np.uint8)
    label[array == UNKNOWN] = UNKNOWN
    return label, tuple(map(str, blood)) if len(blood) > 1 else ()


def _chosen_segment(image: sitk.Image, path: Path, segment: str | None) -> np.ndarray:
    """Return the mask of one segment of a Slicer segmentation, whose overlapping segments are in layers."""
    segments: dict[str, tuple[int, int]] = {}
    for number in range(sum(key.endswith("_LabelValue") for key in image.GetMetaDataKeys())):
        name, value, layer = (
            image.GetMetaData(key) if image.HasMetaDataKey(key) else default
            for key, default in (
                (f"Segment{number}_Name", f"Segment {number + 1}"),
                (f"Segment{number}_LabelValue", "1"),
                (f"Segment{number}_Layer", "0"),
            )
        )
        segments[name.strip()] = (int(layer), int(value))
    names = ", ".join(f"“{name}”" for name in segments)
    if not segments:
        raise InputError("no-segment", f"{path.name} holds no segment.", "Draw one, or leave the case out.")
    if segment is None and len(segments) > 1:
        raise InputError(
            "several-segments",
            f"{path.name} holds several segments: {names}.",
            "Name the one that is hemorrhage in the manifest's column “segment”.",
        )
    if segment is not None and segment not in segments:
        raise _unknown_segment(path, segment, f"It holds {names}.")
    layer, value = segments[segment] if segment is not None else next(iter(segments.values()))
    array = sitk.GetArrayViewFromImage(image)
    return ((array if array.ndim == 3 else array[..., layer]) == value).astype(np.uint8)


def _image(path: Path, why: str) -> InputError:
    return InputError(
        "label-is-image",
        f"{path.name} is an image, not a label map: it {why}.",
        "Name the file that outlines the hemorrhage, in whole numbers from 0.",
    )


def _unknown_segment(path: Path, segment: str, held: str) -> InputError:
    return InputError("unknown-segment", f"{path.name} has no segment “{segment}”.", held)
