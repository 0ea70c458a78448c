"""Multi-view inference: a CT volume in, one probability volume out.

Slices of each view run through that view's network in batches; their probabilities are added, weighted, into
one volume on the working grid, which is then brought back to the volume's voxels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sahlora.errors import ResourceError, UsageError
from sahlora.imaging.planes import View, default_views
from sahlora.imaging.volume import Volume
from sahlora.inference.slicing import NEGLIGIBLE_WEIGHT, Fusion, WorkingGrid, pad_to_multiple, window
from sahlora.models.base_model import ViewModel
from sahlora.runtime.devices import describe_device, is_out_of_memory, runs_bf16
from sahlora.runtime.progress import SILENT, Progress

Precision = Literal["auto", "float32", "bf16"]

CPU = torch.device("cpu")
PIXELS_PER_BATCH = 2**19
PROBABILITY_FLOOR = 0.01


@dataclass(frozen=True)
class InferenceSettings:
    """How to run, not what.

    Parameters
    ----------
    views : tuple of View, optional
        None: axial alone for slices more than 3 mm apart, else all the models were made for.
    weights : mapping of View to float, optional
        Weights of the views in the mean; 1 each by default.
    flip : bool
        Average with the prediction on left-right mirrored slices (no sagittal slice has left and right).
    batch_size : int, optional
        Slices at once; by default as many as have half a million pixels together.
    precision : {"auto", "float32", "bf16"}
        Auto is bf16 where the processor or GPU computes in it.
    disagreement : bool
        Also tell how much the averaged predictions differ; needs two or more: views, or `flip`.
    """

    views: tuple[View, ...] | None = None
    weights: Mapping[View, float] | None = None
    flip: bool = False
    batch_size: int | None = None
    precision: Precision = "auto"
    disagreement: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError("bad-batch-size", f"A batch of {self.batch_size} slices.", "Give at least 1.")
        if self.weights is not None and (
            any(not 0 <= weight < float("inf") for weight in self.weights.values())
            or not sum(self.weights.values())
        ):
            raise UsageError(
                "bad-weights", "Weights of views must be 0 or more, one above 0.", "Correct them."
            )


@dataclass(frozen=True)
class Prediction:
    """Probabilities in every voxel, and how they came about.

    Parameters
    ----------
    probability : ndarray (Z, Y, X)
        float32 in canonical order, 0 where below 0.01.
    views : tuple of View
    device, precision : str
    seconds : float
    disagreement : ndarray (Z, Y, X), optional
        Standard deviation of the averaged probabilities, weighted as their mean is: from 0 to 0.5, 0 where
        below 0.01. None unless asked for.
    """

    probability: np.ndarray
    views: tuple[View, ...]
    device: str
    precision: str
    seconds: float
    disagreement: np.ndarray | None = None


def predict(
    volume: Volume,
    models: Mapping[View, ViewModel],
    settings: InferenceSettings = InferenceSettings(),
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> Prediction:
    """Return the probability of the models' target in every voxel.

    Parameters
    ----------
    volume : Volume
    models : mapping of View to ViewModel
        The model of each view that can be used.

    Raises
    ------
    UsageError
        ``no-model-for-view``; ``mixed-preprocessing`` if models of several spacings are to be fused;
        ``single-prediction`` if the disagreement of a single prediction is asked for.
    Cancelled
        Between two batches.

    Notes
    -----
    Axial slices are the slices as acquired. Where these lie on no even grid (gantry tilt, uneven steps),
    coronal and sagittal slices are cut from the CT interpolated on one.
    """
    started = time.monotonic()
    views = settings.views or default_views(tuple(models), volume.spacing[0])
    weights = _normalized_weights(views, settings.weights)
    for view in views:
        if view not in models:
            raise UsageError(
                "no-model-for-view", f"No model is given for {view} slices.", "Leave that view out."
            )
    if len({models[view].preprocessing.spacing for view in views}) > 1:
        raise UsageError(
            "mixed-preprocessing", "Models of several pixel sizes can't be fused.", "Choose others."
        )

    _require_several(settings, weights)
    runner = _Runner(device, _resolve_precision(settings.precision, device), settings, progress)
    acquired = [view for view in views if view == "axial" or volume.is_regular]
    reformatted = [view for view in views if view not in acquired]
    parts = [_fuse(volume, acquired, models, weights, runner)] if acquired else []
    if reformatted:
        parts.append(_fuse(volume.rectified(), reformatted, models, weights, runner).on_slices_of(volume))
    fused = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
    return Prediction(
        fused.total,
        views,
        describe_device(runner.device),
        "bf16" if runner.dtype == torch.bfloat16 else "float32",
        time.monotonic() - started,
        None if fused.variance is None else _standard_deviation(fused.variance),
    )


def _standard_deviation(variance: np.ndarray) -> np.ndarray:
    """Take the root in place; what is below the floor is 0, as in the probability."""
    deviation = np.sqrt(variance, out=variance)
    deviation[deviation < PROBABILITY_FLOOR] = 0
    return deviation


@dataclass(frozen=True)
class _Fused:
    """Sum of the weighted probabilities of some views, their weight, and the variance if it was asked for."""

    total: np.ndarray
    variance: np.ndarray | None
    weight: float

    def on_slices_of(self, volume: Volume) -> _Fused:
        """Bring what lies on the even grid of an irregular volume to its slices as acquired."""
        variance = None if self.variance is None else volume.from_rectified(self.variance)
        return _Fused(volume.from_rectified(self.total), variance, self.weight)

    def joined(self, other: _Fused) -> _Fused:
        """Put two sets of views together: their variances add up with that between their means."""
        variance, weight = None, self.weight + other.weight
        if self.variance is not None and other.variance is not None:
            variance = self.variance + other.variance
            if min(self.weight, other.weight) > NEGLIGIBLE_WEIGHT:
                between = self.total / self.weight - other.total / other.weight
                variance += self.weight * other.weight / weight * between**2
        return _Fused(self.total + other.total, variance, weight)


def _fuse(
    volume: Volume,
    views: list[View],
    models: Mapping[View, ViewModel],
    weights: Mapping[View, float],
    runner: _Runner,
) -> _Fused:
    """Run some views and fuse what they say."""
    grid = WorkingGrid.of(volume.hu, volume.spacing, models[views[0]].preprocessing.spacing)
    hu = grid.resample(volume.hu)
    fusion = Fusion(grid, with_variance=runner.disagreement)
    before = 0.0
    for view in views:
        runner.progress.stage(view)
        runner.add_view(fusion, hu, grid, view, models[view], weights[view], before)
        before += weights[view]
    shape = volume.hu.shape
    return _Fused(
        grid.restore(fusion.total, shape, PROBABILITY_FLOOR),
        None if fusion.variance is None else grid.restore(fusion.variance, shape, PROBABILITY_FLOOR**2),
        before,
    )


def _require_several(settings: InferenceSettings, weights: Mapping[View, float]) -> None:
    """Refuse the disagreement of a single prediction."""
    passes = [_passes(view, settings) for view, weight in weights.items() if weight > 0]
    if settings.disagreement and sum(passes) < 2:
        raise UsageError(
            "single-prediction",
            "A single prediction can't disagree with others.",
            "Add views (--views axial,coronal,sagittal) or the mirrored scan (--flip).",
        )


def _passes(view: View, settings: InferenceSettings) -> int:
    """Return how often a view is predicted: no sagittal slice has left and right to mirror."""
    return 2 if settings.flip and view != "sagittal" else 1


def _normalized_weights(views: tuple[View, ...], weights: Mapping[View, float] | None) -> dict[View, float]:
    chosen = {view: 1.0 if weights is None else weights.get(view, 0.0) for view in views}
    total = sum(chosen.values())
    if total == 0:
        raise UsageError("bad-weights", "The chosen views have no weight.", "Give one a weight above 0.")
    return {view: weight / total for view, weight in chosen.items()}


def _resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    bf16 = precision == "bf16" or (precision == "auto" and runs_bf16(device))
    return torch.bfloat16 if bf16 else torch.float32


class _Runner:
    """Runs slices on a device, with smaller batches and at last on the CPU when memory runs out."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, settings: InferenceSettings, progress: Progress
    ) -> None:
        self.device, self.dtype, self.progress = device, dtype, progress
        self.disagreement = settings.disagreement
        self._settings = settings

    @torch.inference_mode()
    def add_view(
        self,
        fusion: Fusion,
        hu: Tensor,
        grid: WorkingGrid,
        view: View,
        model: ViewModel,
        weight: float,
        before: float,
    ) -> None:
        """Add a view's predictions of this weight to those of the weight `before`, on the working grid."""
        count = grid.count(view)
        network = self._ready(model.network)
        passes = _passes(view, self._settings)
        batch = self._settings.batch_size or self._automatic_batch(grid.slices_of(hu, view, 0, 1))
        start = 0
        while start < count:
            stop = min(start + batch, count)
            slices = grid.stacks_of(hu, view, start, stop, model.preprocessing.neighbors)
            try:
                predictions = self._run(network, slices, model, mirror=passes == 2)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch = self._relieve(stop - start)
                network = self._ready(model.network)
                continue
            for number, probability in enumerate(predictions):
                fusion.add(probability, view, start, weight / passes, before + weight * number / passes)
            start = stop
            self.progress.update(start / count)

    def _run(self, network: nn.Module, hu: Tensor, model: ViewModel, *, mirror: bool) -> list[Tensor]:
        """Return probabilities (N, H, W) float32 of slices (N, C, H, W) in HU, and of the same ones mirrored.

        Slices of air alone are not run.
        """
        low, high = model.preprocessing.intensity_range
        middle = hu[:, hu.shape[1] // 2]
        predictions = [torch.zeros_like(middle) for _ in range(2 if mirror else 1)]
        occupied = torch.amax(middle, dim=(1, 2)) > model.preprocessing.window[0]
        if not occupied.any():
            return predictions
        image = window(hu[occupied], model.preprocessing.window, (low, high))
        size = image.shape[-2:]
        image = pad_to_multiple(image, model.multiple, low)
        image = image.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        results = [network(image).float().sigmoid()]
        if mirror:
            results.append(network(image.flip(-1)).float().sigmoid().flip(-1))
        for prediction, result in zip(predictions, results, strict=True):
            prediction[occupied] = result[:, 0, : size[0], : size[1]].cpu()
        return predictions

    def _ready(self, network: nn.Module) -> nn.Module:
        ready = fold_batch_norm(network).to(self.device, self.dtype)
        return ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def _automatic_batch(example: Tensor) -> int:
        return max(1, PIXELS_PER_BATCH // max(1, example[0].numel()))

    def _relieve(self, failed: int) -> int:
        """Halve the batch that did not fit, or go to the CPU; return the new batch size."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if failed > 1:
            self.progress.warning(
                "out-of-memory", f"{failed} slices at once need too much memory; trying {failed // 2}."
            )
            return failed // 2
        if self.device.type != "cpu":
            self.progress.warning("out-of-memory", f"One slice is too much for {self.device}; using the CPU.")
            self.device, self.dtype = CPU, _resolve_precision("auto", CPU)
            return 1
        raise ResourceError(
            "out-of-memory",
            "A single slice needs more memory than there is.",
            "Close other programs and run again.",
        )


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose BatchNorms are folded into the convolutions before them."""
    network = copy.deepcopy(network).eval()
    for sequence in network.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for i in range(len(sequence) - 1):
            convolution, norm = sequence[i], sequence[i + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                sequence[i] = fuse_conv_bn_eval(convolution, norm)
                sequence[i + 1] = nn.Identity()
    return network
