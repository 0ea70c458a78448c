"""From a CT volume to slices of the model's spacing and back: head box, three views, one probability volume.

A working grid carries everything between reading and writing: the head box with its slices as acquired and
its rows and columns at the model's in-plane spacing. Axial slices are slices of this grid; coronal and
sagittal ones are cut from it and brought to the same spacing along z. Box edges, not voxel centres, are
aligned in every resampling, so resampling to the volume's own spacing is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sahlora.imaging.geometry import DECIMALS, whole_number
from sahlora.imaging.head import Box, head_box
from sahlora.imaging.planes import SLICE_AXIS, View

NEGLIGIBLE_WEIGHT = 1e-12  # its variance can't be seen in float32, but dividing by it overflows


# ------------------------------------------------------------------------------------------------- box


# --------------------------------------------------------------------------------------- working grid


@dataclass(frozen=True)
class WorkingGrid:
    """Where the network works: the head box, slices as acquired, rows and columns at the model's spacing.

    Parameters
    ----------
    box : Box
        Head box in voxels of the volume, (z, y, x).
    shape : tuple of int
        Size (Z, Y, X) of the grid.
    reformatted : int
        Number of rows along z in coronal and sagittal slices.
    step_mm : tuple of float
        Distance in mm of neighboring slices, rows and columns of the grid.
    """

    box: Box
    shape: tuple[int, int, int]
    reformatted: int
    step_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, hu: np.ndarray, spacing: tuple[float, float, float], in_plane: float | None) -> WorkingGrid:
        """Lay the grid for a volume (Z, Y, X) of `spacing` mm; `in_plane` None keeps the native pixels."""
        box = head_box(hu, spacing)
        z, y, x = (s.stop - s.start for s in box)
        steps = (round(spacing[0], DECIMALS), round(spacing[1], DECIMALS), round(spacing[2], DECIMALS))
        if in_plane is None:
            return cls(box, (z, y, x), max(1, whole_number(z * spacing[0] / min(spacing[1:]))), steps)
        rows, columns, reformatted = (
            max(1, whole_number(n * mm / in_plane))
            for n, mm in ((y, spacing[1]), (x, spacing[2]), (z, spacing[0]))
        )
        return cls(box, (z, rows, columns), reformatted, (steps[0], in_plane, in_plane))

    def resample(self, array: np.ndarray, batch: int = 32) -> Tensor:
        """Bring a volume (Z, Y, X) of any real type to this grid, as float32 (Z', Y', X')."""
        cropped = array[self.box]
        out = torch.empty(self.shape, dtype=torch.float32)
        for start in range(0, len(cropped), batch):
            part = np.ascontiguousarray(cropped[start : start + batch])
            out[start : start + batch] = resize(torch.from_numpy(part).float(), self.shape[1:])
        return out

    def slices_of(self, volume: Tensor, view: View, start: int, stop: int) -> Tensor:
        """Cut slices `start` to `stop` of a view out of a volume on this grid, (N, H, W)."""
        axis = SLICE_AXIS[view]
        part = volume.narrow(axis, start, stop - start).movedim(axis, 0)
        return part if view == "axial" else resize(part, (self.reformatted, part.shape[2]))

    def stacks_of(self, volume: Tensor, view: View, start: int, stop: int, neighbors: float | None) -> Tensor:
        """Cut slices `start` to `stop` of a view with what the network sees beside each, (N, C, H, W).

        `neighbors` is the distance in mm of the slices below and above that are channels too; None for none.
        """
        if neighbors is None:
            return self.slices_of(volume, view, start, stop)[:, None]
        offset = neighbor_offset(neighbors, self.step_mm[SLICE_AXIS[view]])
        first, last = max(0, start - offset), min(self.count(view), stop + offset)
        indices = neighbor_indices(np.arange(start, stop), offset, self.count(view)) - first
        return self.slices_of(volume, view, first, last)[torch.from_numpy(indices)]

    def fitted(self, slices: Tensor, view: View) -> Tensor:
        """Bring slices (N, H, W) of a view, as `slices_of` cuts them, back to the sampling of this grid."""
        return slices if view == "axial" else resize(slices, (self.shape[0], slices.shape[2]))

    def restore(self, probability: Tensor, shape: tuple[int, ...], floor: float) -> np.ndarray:
        """Bring probabilities on this grid back to the voxels of the volume, float32 (Z, Y, X) = `shape`.

        Only the box that probabilities of at least `floor` reach is resampled, the rest is 0. Interpolation
        never exceeds its neighbors, so a label at any threshold from `floor` up is exact.
        """
        restored = np.zeros(shape, dtype=np.float32)
        foreground = probability >= floor
        if not foreground.any():
            return restored
        z, y, x = self.box
        rows, columns = _interpolation(y, self.shape[1]), _interpolation(x, self.shape[2])
        planes = _extent(foreground.any(2).any(1))
        top_bottom = _extent(rows @ foreground.any(2).any(0).float() > 0)
        left_right = _extent(columns @ foreground.any(1).any(0).float() > 0)
        part = rows[top_bottom] @ probability[planes] @ columns[left_right].T
        part[part < floor] = 0
        target = restored[z, y, x]
        target[planes, top_bottom, left_right] = part.numpy()
        return restored

    def count(self, view: View) -> int:
        """Return the number of slices of a view."""
        return self.shape[SLICE_AXIS[view]]


class Fusion:
    """The weighted mean of several predictions of one volume and, on request, their variance around it.

    Parameters
    ----------
    grid : WorkingGrid
        Where the predictions lie.
    with_variance : bool
        Whether the variance is wanted; it takes a second volume, however many predictions there are.

    Attributes
    ----------
    total : Tensor (Z, Y, X)
        Sum of weight × probability.
    variance : Tensor (Z, Y, X), optional
        Sum of weight × squared distance from the mean.

    Notes
    -----
    The variance grows with each prediction by its distance from the mean of those before (West, Commun. ACM
    22:532, 1979): it never subtracts one large sum from another, so equal predictions give 0 up to rounding.
    """

    def __init__(self, grid: WorkingGrid, *, with_variance: bool = False) -> None:
        self._grid = grid
        self.total = torch.zeros(grid.shape)
        self.variance = torch.zeros(grid.shape) if with_variance else None

    def add(self, slices: Tensor, view: View, start: int, weight: float, before: float) -> None:
        """Add slices (N, H, W) of a view, in place, after predictions of the weight `before`."""
        values = self._grid.fitted(slices, view)
        total = self._part(self.total, view, start, len(slices))
        if self.variance is not None and before > NEGLIGIBLE_WEIGHT:
            distance = values - total / before
            variance = self._part(self.variance, view, start, len(slices))
            variance.addcmul_(distance, distance, value=weight * before / (weight + before))
        total.add_(values, alpha=weight)

    @staticmethod
    def _part(volume: Tensor, view: View, start: int, count: int) -> Tensor:
        axis = SLICE_AXIS[view]
        return volume.narrow(axis, start, count).movedim(axis, 0)


def neighbor_offset(neighbors: float, step: float) -> int:
    """Return how many slices away neighbors at a distance in mm are, where slices lie `step` mm apart."""
    return max(1, whole_number(neighbors / step))


def neighbor_indices(indices: np.ndarray, offset: int, count: int) -> np.ndarray:
    """Return the slices below, itself and above for each of some, (N, 3); ends are their own neighbors."""
    return np.clip(indices[:, None] + np.array([-offset, 0, offset]), 0, count - 1)


def resize(slices: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample slices (N, H, W) to (N, *size), linearly, averaging where pixels get larger."""
    if slices.shape[1:] == size:
        return slices
    return F.interpolate(slices[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _interpolation(extent: slice, samples: int) -> Tensor:
    """Return the matrix that `resize` applies along one axis, (native voxels, samples)."""
    return resize(torch.eye(samples)[None], (extent.stop - extent.start, samples))[0]


def _extent(used: Tensor) -> slice:
    """Return the range from the first to the last True."""
    indices = torch.nonzero(used).ravel()
    return slice(int(indices[0]), int(indices[-1]) + 1)


def window(hu: Tensor, low_high: tuple[float, float], scale: tuple[float, float]) -> Tensor:
    """Clip HU to a window and map it linearly to the network's input range, in place."""
    low, high = low_high
    return hu.clamp_(low, high).sub_(low).mul_((scale[1] - scale[0]) / (high - low)).add_(scale[0])


def pad_to_multiple(slices: Tensor, multiple: int, value: float) -> Tensor:
    """Pad slices (N, C, H, W) at the bottom and right so that H and W are multiples."""
    height, width = slices.shape[-2:]
    return F.pad(slices, (0, -width % multiple, 0, -height % multiple), value=value)
