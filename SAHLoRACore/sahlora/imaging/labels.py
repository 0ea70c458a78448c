"""Label maps: what an annotation outlines, on its own grid and on the voxels of its image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sahlora.errors import InputError
from sahlora.imaging.dicom_label import SegmentPlanes, find_segmentation, read_segmentation
from sahlora.imaging.dicom_slices import read_series
from sahlora.imaging.files import file_format, open_image
from sahlora.imaging.geometry import EVEN_TOLERANCE_MM, Grid, SliceStack
from sahlora.imaging.segments import (
    UNKNOWN,
    choose_segments,
    choose_values,
    segment_mask,
    slicer_segments,
)
from sahlora.imaging.stored import StoredImage
from sahlora.imaging.volume import Volume

UNMARKED = 254
"""While training: label of such voxels in a slice in which an expert sees blood that nobody outlined."""

SEGMENTATION_FORMAT = ".seg.nrrd"
SAME_PLACE_MM = 2 * EVEN_TOLERANCE_MM


@dataclass(frozen=True, eq=False)
class LabelMap:
    """An annotation on its own grid or planes.

    Parameters
    ----------
    values : np.ndarray
        uint8 (slice, row, column) in stored order: 0 nothing, 1 hemorrhage, 255 unknown.
    grid : Grid or None
        Where the voxels lie; None if they lie on planes of a DICOM object.
    stack : SliceStack, optional
        The planes of a DICOM series on no even grid, or of a DICOM SEG.
    segmentation : SegmentPlanes, optional
        A DICOM SEG, which leaves out planes where nothing is outlined.
    joined : str
        Values or segments that all count as hemorrhage, in words; empty if it is one.
    """

    values: np.ndarray
    grid: Grid | None
    stack: SliceStack | None = None
    segmentation: SegmentPlanes | None = None
    joined: str = ""

    def on(self, volume: Volume) -> np.ndarray:
        """Return the label on the voxels of its image, nearest neighbor, uint8 (Z, Y, X): 0, 1 or 255.

        Raises
        ------
        InputError
            ``other-slices`` for planes on no even grid that are not the image's.
        """
        if self.grid is not None:
            return _on_grid(self.values, self.grid, volume)
        assert self.stack is not None
        placed = _on_slices(self.values, self.stack, volume, all_of_them=self.segmentation is None)
        if placed is not None:
            return placed
        dense = None if self.segmentation is None else self.segmentation.dense()
        if dense is None:
            raise InputError(
                "other-slices",
                "The label's tilted or uneven slices are not those of the image.",
                "Export the label as .seg.nrrd or NIfTI.",
            )
        return _on_grid(*dense, volume)


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
        A label map (NIfTI, NRRD, MetaImage), a Slicer segmentation (.seg.nrrd), a DICOM SEG or a folder with
        one, or a folder with a label map as DICOM series.
    segment : str, optional
        Which segment counts: its name in a Slicer segmentation, its name or number in a DICOM SEG, the value
        in a label map. Without it, the only segment of a segmentation, or any value of a label map but 0
        and 255.

    Raises
    ------
    InputError
        ``unreadable-label``, ``bad-label``, ``label-is-image``, ``several-segments``, ``unknown-segment``,
        ``no-segment``, ``is-255-blood``, ``unsupported-label`` or ``several-labels``; of a DICOM series those
        of `sahlora.imaging.dicom_slices.read_series`.
    """
    if path.is_dir() or file_format(path) is None:
        return _from_dicom(path, segment)
    try:
        image = open_image(path)
        array = image.array()
    except InputError as error:
        if error.code != "unreadable":
            raise
        raise InputError("unreadable-label", error.message, error.hint) from error
    if is_segmentation(image):
        segments = slicer_segments(image.fields, image.components, path.name)
        chosen, joined = choose_segments(segments, path.name, segment)
        return LabelMap(segment_mask(array, chosen, segments, path.name), image.grid, joined=joined)
    if image.components != 1:
        raise InputError("bad-label", f"{path.name} has several values a voxel.", "Export it as a label map.")
    values, joined = choose_values(array, path.name, segment)
    return LabelMap(values, image.grid, joined=joined)


def is_segmentation(image: StoredImage) -> bool:
    """Whether an image is a segmentation of 3D Slicer, by its name or its header."""
    return image.path.name.lower().endswith(SEGMENTATION_FORMAT) or "Segment0_ID" in image.fields


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


def _from_dicom(path: Path, segment: str | None) -> LabelMap:
    source = find_segmentation(path)
    if source is not None:
        planes = read_segmentation(source, segment)
        return LabelMap(planes.mask, None, planes.stack, planes, planes.joined)
    series = read_series(path)
    values, joined = choose_values(np.stack(series.planes), path.name, segment)
    if series.stack.is_even:
        return LabelMap(values, series.stack.even_grid, joined=joined)
    return LabelMap(values, None, series.stack, joined=joined)


def _on_grid(values: np.ndarray, grid: Grid, volume: Volume) -> np.ndarray:
    """Return a label on a grid on the voxels of an image."""
    resampled = sitk.Resample(
        grid.image(values),
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
    unknown = volume.from_rectified(label == UNKNOWN) > 0
    return np.where(unknown, UNKNOWN, volume.mask_from_rectified(label == 1)).astype(np.uint8)


def _on_slices(
    values: np.ndarray, ours: SliceStack, volume: Volume, *, all_of_them: bool
) -> np.ndarray | None:
    """Lay planes on the slices of an image where they are; None if one of them is no slice of it."""
    theirs = volume.stack or _stack_of(volume.grid)
    same_plane = (
        ours.shape == theirs.shape
        and np.allclose(ours.pixel, theirs.pixel, rtol=1e-3)
        and np.allclose([*ours.row, *ours.column], [*theirs.row, *theirs.column], atol=2e-3)
    )
    if not same_plane or (all_of_them and len(ours.origins) != len(theirs.origins)):
        return None
    distance = np.linalg.norm(ours.origins[:, None] - theirs.origins[None], axis=2)
    nearest = distance.argmin(axis=1)
    if distance.min(axis=1).max() > SAME_PLACE_MM or len(set(nearest.tolist())) < len(nearest):
        return None
    label = np.zeros((len(theirs.origins), *theirs.shape), np.uint8)
    label[nearest] = values
    return np.ascontiguousarray(volume.axes.to_canonical(label))


def _stack_of(grid: Grid) -> SliceStack:
    """Return the planes of a grid along its third axis."""
    direction = np.reshape(grid.direction, (3, 3))
    columns, rows, count = grid.size
    origins = np.asarray(grid.origin) + np.arange(count)[:, None] * grid.spacing[2] * direction[:, 2]
    pixel = (grid.spacing[1], grid.spacing[0])
    return SliceStack(origins, direction[:, 0], direction[:, 1], pixel, (rows, columns))
