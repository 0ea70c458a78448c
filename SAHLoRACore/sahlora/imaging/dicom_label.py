"""DICOM SEG as label: the frames of a segment at their true positions; other kinds are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from sahlora.errors import InputError
from sahlora.imaging.dicom_files import Source, files_in, is_zip, name_of, numbers, read_dataset, text, whole
from sahlora.imaging.dicom_headers import ImageHeader, read_header
from sahlora.imaging.dicom_pixels import pixels_of
from sahlora.imaging.geometry import EVEN_TOLERANCE_MM, Grid, SliceStack
from sahlora.imaging.segments import LabelSegment, choose_segments

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
REFUSED = {
    "1.2.840.10008.5.1.4.1.1.481.3": "an RT structure set, which holds contours",
    "1.2.840.10008.5.1.4.1.1.481.2": "an RT dose",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation, which holds meshes",
    "1.2.840.10008.5.1.4.1.1.66.1": "a spatial registration",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document",
}
REFUSED_KINDS = {
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.481.": "an RT object",
}
MOST_VOXELS = 2**30


@dataclass(frozen=True, eq=False)
class SegmentPlanes:
    """The frames of a segmentation: where each lies, and which pixels belong to the segment asked for.

    Parameters
    ----------
    stack : SliceStack
        Planes that the file has, ascending; those between them are empty.
    mask : np.ndarray
        uint8 (N, rows, columns).
    step : float or None
        Distance in mm of the planes of the whole scan, where the file says so.
    joined : str
        Segments that count as one, in words.
    """

    stack: SliceStack
    mask: np.ndarray
    step: float | None
    joined: str

    def dense(self) -> tuple[np.ndarray, Grid] | None:
        """Return the mask and its grid with all planes from first to last, or None if they are on none."""
        origins, normal = self.stack.origins, self.stack.normal
        heights = (origins - origins[0]) @ normal
        step = self.step or (float(np.diff(heights).min()) if len(heights) > 1 else 0.0)
        if step <= 0:
            return None
        places = np.rint(heights / step).astype(int)
        if places[-1] > 0:
            step = float(heights[-1] / places[-1])
        ideal = origins[0] + places[:, None] * step * normal
        if np.linalg.norm(origins - ideal, axis=1).max() > EVEN_TOLERANCE_MM or len(set(places)) < len(
            places
        ):
            return None
        rows, columns = self.stack.shape
        if (int(places[-1]) + 1) * rows * columns > MOST_VOXELS:
            return None
        mask = np.zeros((int(places[-1]) + 1, rows, columns), np.uint8)
        mask[places] = self.mask
        direction = np.stack([self.stack.row, self.stack.column, normal], axis=1)
        grid = Grid(
            (columns, rows, len(mask)),
            (self.stack.pixel[1], self.stack.pixel[0], step),
            tuple(origins[0].tolist()),
            tuple(direction.ravel().tolist()),
        )
        return mask, grid


def find_segmentation(path: Path) -> Source | None:
    """Return the DICOM SEG that a path is or holds; None if it holds images.

    Raises
    ------
    InputError
        ``unsupported-label`` for what is neither, by name; ``several-labels`` for several DICOM SEG;
        ``unreadable-label`` for what is no DICOM.
    """
    files = files_in(path) if path.is_dir() or is_zip(path) else [path]
    headers = [header for file in files if (header := read_header(file)) is not None]
    if not headers:
        raise InputError(
            "unreadable-label",
            f"The label {path.name} is in no format that can be read.",
            "Give NIfTI, NRRD, MetaImage, a Slicer segmentation or DICOM SEG.",
        )
    found = [header for header in headers if header.sop_class in SEGMENTATION]
    if len(found) > 1:
        names = ", ".join(name_of(header.source) for header in found[:4])
        raise InputError(
            "several-labels",
            f"{path.name} holds {len(found)} DICOM SEG: {names}{' …' * (len(found) > 4)}.",
            "Name the file of one as the label.",
        )
    if found:
        return found[0].source
    kinds = {kind for header in headers if (kind := _refused(header))}
    if kinds and all(_refused(header) for header in headers):
        raise InputError(
            "unsupported-label",
            f"{path.name} is {' and '.join(sorted(kinds))}, not a label map.",
            "Load it in 3D Slicer and save it as .seg.nrrd.",
        )
    return None


def _refused(header: ImageHeader) -> str:
    """Name a kind of object that is no label map; empty for images."""
    if header.sop_class in REFUSED:
        return REFUSED[header.sop_class]
    return next((kind for start, kind in REFUSED_KINDS.items() if header.sop_class.startswith(start)), "")


def read_segmentation(source: Source, segment: str | None) -> SegmentPlanes:
    """Read the frames of one segment of a DICOM SEG: binary, fractional (from a half on) or label map.

    Parameters
    ----------
    segment : str, optional
        Its label or its number; without it, the only one.

    Raises
    ------
    InputError
        ``unreadable-label`` if it is damaged or cut short, ``no-segment``, ``several-segments``,
        ``unknown-segment``.
    """
    try:
        data = read_dataset(source)
        segments = [_segment(item) for item in data.get("SegmentSequence") or ()]
        groups = list(data.PerFrameFunctionalGroupsSequence)
        shared = (data.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
        places = [_place(group, shared) for group in groups]
        kinds = [_referenced(group, shared) for group in groups]
        frames = _frames(data, len(groups))
        step = _step(groups, shared)
    except InputError:
        raise
    except Exception as error:  # anything may be missing or damaged in nested sequences
        raise InputError(
            "unreadable-label",
            f"The label {name_of(source)} can't be read: {error}.",
            "It may be damaged or cut short: export it again.",
        ) from error
    if not segments or not groups:
        raise InputError(
            "no-segment", f"{name_of(source)} holds no segment.", "Draw one, or leave the case out."
        )
    by_number = [s for s in segments if segment is not None and str(s.value) == segment]
    names = {s.name for s in segments}
    chosen, joined = (by_number, "") if by_number and segment not in names else choose_segments(
        segments, name_of(source), segment
    )  # fmt: skip
    return _joined(frames, places, kinds, chosen, step, joined, text(data, "SegmentationType"))


def _segment(item: pydicom.Dataset) -> LabelSegment:
    number = whole(item, "SegmentNumber")
    return LabelSegment(text(item, "SegmentLabel") or f"Segment {number}", number)


def _frames(data: pydicom.FileDataset, described: int) -> np.ndarray:
    """Decode the frames; raises ValueError where the file announces more or less than it holds."""
    count = whole(data, "NumberOfFrames", 1)
    if count != described:
        raise ValueError(f"it announces {count} frames and describes {described}")
    if count * whole(data, "Rows") * whole(data, "Columns") > MOST_VOXELS:
        raise ValueError(f"it announces {count} frames, more than any head has")
    pixels = pixels_of(data)
    frames = pixels if pixels.ndim == 3 else pixels[None]
    if len(frames) != count:
        raise ValueError(f"it announces {count} frames and holds {len(frames)}")
    if text(data, "SegmentationType") == "FRACTIONAL":
        return (frames >= whole(data, "MaximumFractionalValue", 255) / 2).astype(np.uint8)
    return frames


Place = tuple[np.ndarray, np.ndarray, np.ndarray]


def _place(group: pydicom.Dataset, shared: pydicom.Dataset) -> Place:
    """Return position (3,), cosines (2, 3) and pixel spacing (2,) of a frame; raises ValueError."""
    position = numbers(_item(group, shared, "PlanePositionSequence"), "ImagePositionPatient", 3)
    cosines = numbers(_item(group, shared, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    pixel = numbers(_item(group, shared, "PixelMeasuresSequence"), "PixelSpacing", 2)
    if position is None or cosines is None or pixel is None or not (pixel > 0).all():
        raise ValueError("a frame has no position, orientation or pixel spacing")
    axes = cosines.reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        raise ValueError("a frame has axes that are not perpendicular")
    return position, axes, pixel


def _step(groups: list[pydicom.Dataset], shared: pydicom.Dataset) -> float | None:
    measures = _item(groups[0], shared, "PixelMeasuresSequence") if groups else pydicom.Dataset()
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = numbers(measures, name, 1)
        if found is not None and found[0] > 0:
            return float(found[0])
    return None


def _referenced(group: pydicom.Dataset, shared: pydicom.Dataset) -> int:
    """Return which segment a frame belongs to; 0 if it holds several, as a label map does."""
    return whole(_item(group, shared, "SegmentIdentificationSequence"), "ReferencedSegmentNumber")


def _item(group: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> Any:
    for dataset in (group, shared):
        sequence = dataset.get(name)
        if sequence:
            return sequence[0]
    return pydicom.Dataset()


def _joined(
    frames: np.ndarray,
    places: list[Place],
    kinds: list[int],
    chosen: list[LabelSegment],
    step: float | None,
    joined: str,
    kind: str,
) -> SegmentPlanes:
    """Lay the frames of the chosen segments on the planes that the file has, each once."""
    _, cosines, pixel = places[0]
    if any(
        not np.allclose(c, cosines, atol=2e-3) or not np.allclose(p, pixel, atol=1e-4) for _, c, p in places
    ):
        raise InputError(
            "bad-label",
            "The frames of the DICOM SEG do not lie in parallel planes.",
            "Export it as .seg.nrrd.",
        )
    origins = np.array([position for position, _, _ in places])
    heights = origins @ np.cross(cosines[0], cosines[1])
    order = np.argsort(heights, kind="stable")
    starts = np.concatenate([[True], np.diff(heights[order]) > EVEN_TOLERANCE_MM / 10])
    plane_of = np.empty(len(order), int)
    plane_of[order] = np.cumsum(starts) - 1
    mask = np.zeros((int(starts.sum()), *frames.shape[1:]), np.uint8)
    values = [one.value for one in chosen]
    for frame, plane, number in zip(frames, plane_of.tolist(), kinds, strict=True):
        if kind == "LABELMAP" or number == 0:
            mask[plane] |= np.isin(frame, values).astype(np.uint8)
        elif number in values:
            mask[plane] |= (frame != 0).astype(np.uint8)
    stack = SliceStack(
        origins[order][starts], cosines[0], cosines[1], (float(pixel[0]), float(pixel[1])), frames.shape[1:]
    )
    return SegmentPlanes(stack, mask, step, joined)
