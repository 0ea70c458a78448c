"""What a segmentation measures: volume, components, area per slice, extent, mean HU; as JSON and as CSV.

The key names of both files carry their units and are described in Docs/report.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from sahlora.errors import InputError, UsageError
from sahlora.imaging.pieces import connected_pieces
from sahlora.imaging.volume import Volume
from sahlora.runtime import files

FORMAT = "sahlora-measurements"
FORMAT_VERSION = 1
MINIMUM_COMPONENT_ML = 0.1
SCORE_WEIGHTS = (0.25, 0.5, 0.25)
"""Of a slice and its neighbors in its score; at the ends the last slice is its own neighbor."""


@dataclass(frozen=True)
class SliceArea:
    """The segmentation in one acquired slice; `index` counts from 0, inferior to superior.

    `expected_ml` is the slice's score: the volume that the probabilities let expect, half in the slice itself
    and a quarter in each neighbor. It ranks slices that show little or nothing above the threshold; None
    where no probabilities are known.
    """

    index: int
    position_mm: float
    thickness_mm: float
    area_mm2: float
    volume_ml: float
    expected_ml: float | None = None


@dataclass(frozen=True)
class Extent:
    """Size of the box around the segmentation, in mm, along the axes of the acquired slices."""

    right_left_mm: float
    anterior_posterior_mm: float
    inferior_superior_mm: float


@dataclass(frozen=True)
class Measurements:
    """Measurements of one segmentation.

    Parameters
    ----------
    volume_ml : float
        Volume of all segmented voxels, each with its slice's true thickness; 0 for an empty segmentation.
    components_ml : tuple of float
        Volume of each connected component (26-connectivity) of at least `minimum_component_ml`, largest
        first.
    minimum_component_ml : float
        Smaller components are not listed; `volume_ml` includes them.
    mean_hu : float or None
        Mean HU of the segmented tissue (each voxel weighted with its volume); None when nothing is segmented.
    extent : Extent or None
        Box around the segmentation; None when nothing is segmented.
    largest_slice : int or None
        Index of the slice with the largest area; None when nothing is segmented.
    slices : tuple of SliceArea
        Every acquired slice, inferior to superior, also those without segmentation.
    """

    volume_ml: float
    components_ml: tuple[float, ...]
    minimum_component_ml: float
    mean_hu: float | None
    extent: Extent | None
    largest_slice: int | None
    slices: tuple[SliceArea, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def measure(
    label: np.ndarray,
    volume: Volume,
    *,
    probability: np.ndarray | None = None,
    minimum_component_ml: float = MINIMUM_COMPONENT_ML,
) -> Measurements:
    """Measure a segmentation.

    Parameters
    ----------
    label : np.ndarray
        bool (Z, Y, X), True inside, on the canonical grid of `volume`.
    volume : Volume
        The CT the segmentation belongs to.
    probability : np.ndarray, optional
        float (Z, Y, X), of which slices get their scores.
    minimum_component_ml : float
        Connected components smaller than this are not listed.

    Raises
    ------
    InputError
        ``label-shape`` if the label is not on the volume's grid.
    UsageError
        ``minimum-component`` if the minimum is negative or not a number.
    """
    label = np.asarray(label, dtype=bool)
    _require_grid(label, volume)
    _require_minimum(minimum_component_ml)
    counts = np.count_nonzero(label, axis=(1, 2))
    slices = _slices(counts, volume, None if probability is None else slice_scores(probability, volume))
    if not counts.any():
        return Measurements(0.0, (), minimum_component_ml, None, None, None, slices)
    box = bounding_box(label)
    _, component_ml = _components(label[box], volume.voxel_ml[box[0]])
    listed = np.sort(component_ml[component_ml >= minimum_component_ml])[::-1]
    return Measurements(
        volume_ml=float(counts @ volume.voxel_ml),
        components_ml=tuple(listed.tolist()),
        minimum_component_ml=minimum_component_ml,
        mean_hu=_mean_hu(label[box], volume.hu[box], volume.voxel_ml[box[0]]),
        extent=_extent(box, volume),
        largest_slice=int(np.argmax(counts)),
        slices=slices,
    )


def slice_scores(probability: np.ndarray, volume: Volume) -> np.ndarray:
    """Return the score of every slice in mL, see `SliceArea`, of probabilities (Z, Y, X)."""
    expected = probability.sum(axis=(1, 2), dtype=np.float64) * volume.voxel_ml
    return ndimage.correlate1d(expected, SCORE_WEIGHTS, mode="nearest")


def remove_small_components(label: np.ndarray, volume: Volume, minimum_ml: float) -> np.ndarray:
    """Return a copy without connected components (26-connectivity) smaller than `minimum_ml`.

    Parameters
    ----------
    label : np.ndarray
        bool (Z, Y, X) on the canonical grid of `volume`.
    volume : Volume
        Gives each voxel its volume.
    minimum_ml : float
        Components of at least this many mL stay.

    Returns
    -------
    np.ndarray
        bool (Z, Y, X).

    Raises
    ------
    InputError
        ``label-shape`` if the label is not on the volume's grid.
    UsageError
        ``minimum-component`` if the minimum is negative or not a number.
    """
    _require_grid(label, volume)
    _require_minimum(minimum_ml)
    kept = np.array(label, dtype=bool)
    if kept.any():
        box = bounding_box(kept)
        labeled, component_ml = _components(kept[box], volume.voxel_ml[box[0]])
        stays = np.concatenate(([False], component_ml >= minimum_ml))
        kept[box] = stays[labeled]
    return kept


def bounding_box(label: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the slices (z, y, x) of the smallest box around a mask (Z, Y, X) that is not empty."""
    footprint = np.any(label, axis=0)
    hits = (np.any(label, axis=(1, 2)), np.any(footprint, axis=1), np.any(footprint, axis=0))
    ends = (np.flatnonzero(hit)[[0, -1]] for hit in hits)
    z, y, x = (slice(int(first), int(last) + 1) for first, last in ends)
    return z, y, x


# ---------------------------------------------------------------------------------------------- writing


def write_json(path: Path, measurements: Measurements, about: Mapping[str, Any] | None = None) -> None:
    """Write the measurements as JSON.

    Parameters
    ----------
    path : Path
        File to write; an earlier one is replaced.
    measurements : Measurements
        What was measured.
    about : mapping, optional
        What else the file should say, e.g. `ReportContext.to_dict()`.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "note": "For research use only, not for diagnosis.",
        **(about or {}),
        "measurements": measurements.to_dict(),
    }
    files.write_json(path, content)


def write_csv(path: Path, measurements: Measurements) -> None:
    """Write the area per slice as CSV, one acquired slice a row; errors are those of `write_json`."""
    names = list(SliceArea.__dataclass_fields__)
    files.write_table(path, [asdict(row) for row in measurements.slices], names)


# ----------------------------------------------------------------------------------------------- parts


def _slices(counts: np.ndarray, volume: Volume, scores: np.ndarray | None) -> tuple[SliceArea, ...]:
    """Measure each slice; its position is the middle of its slab, from the middle of the lowest slab up."""
    thickness = volume.slice_thickness
    position = np.cumsum(thickness) - thickness / 2
    position = position - position[0]
    areas = counts * (volume.spacing[1] * volume.spacing[2])
    milliliters = counts * volume.voxel_ml
    columns = zip(position.tolist(), thickness.tolist(), areas.tolist(), milliliters.tolist(), strict=True)
    expected = [None] * len(counts) if scores is None else scores.tolist()
    return tuple(
        SliceArea(index, *row, score)
        for index, (row, score) in enumerate(zip(columns, expected, strict=True))
    )


def _components(label: np.ndarray, voxel_ml: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labeled components (0 outside, 1…n) and the volume in mL of each of the n."""
    labeled, n = connected_pieces(label)
    per_slice = np.stack([np.bincount(plane.ravel(), minlength=n + 1)[1:] for plane in labeled], axis=1)
    return labeled, per_slice @ voxel_ml


def _mean_hu(label: np.ndarray, hu: np.ndarray, voxel_ml: np.ndarray) -> float:
    weights = np.broadcast_to(voxel_ml[:, None, None], label.shape)[label]
    return float(np.average(hu[label].astype(np.float64), weights=weights))


def _extent(box: tuple[slice, slice, slice], volume: Volume) -> Extent:
    z, y, x = box
    return Extent(
        right_left_mm=(x.stop - x.start) * volume.spacing[2],
        anterior_posterior_mm=(y.stop - y.start) * volume.spacing[1],
        inferior_superior_mm=float(volume.slice_thickness[z].sum()),
    )


def _require_grid(label: np.ndarray, volume: Volume) -> None:
    if label.shape != volume.hu.shape:
        raise InputError(
            "label-shape",
            f"The segmentation has {label.shape} voxels, the CT {volume.hu.shape}.",
            "Use a segmentation made on this CT.",
        )


def _require_minimum(minimum_ml: float) -> None:
    if not minimum_ml >= 0:
        raise UsageError(
            "minimum-component",
            f"The smallest component can't be {minimum_ml} mL.",
            "Give 0 (keep all) or a positive number of mL.",
        )
