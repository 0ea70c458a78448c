"""Batches of slices for training: half with and half without blood, drawn, cut to one size and augmented."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sahlora.imaging.labels import UNKNOWN, UNMARKED
from sahlora.models.card import Preprocessing
from sahlora.training.augmentation import Augmentation, augmentation
from sahlora.training.prepared import PreparedCase
from sahlora.training.settings import TrainingSettings

AIR_HU = -1000
VERTEX_MM = 30.0
"""Slices so near the uppermost one that shows a head are near the vertex."""


class SliceBatches:
    """Batches of slices, half with and half without blood; a function of seed, epoch and number alone.

    Parameters
    ----------
    cases : sequence of PreparedCase
    preprocessing : Preprocessing
        Window and input range of the network.
    batch_size : int
        Even.
    crop : tuple of int, optional
        Height and width of every slice in mm; None, or native pixels, takes the largest of all cases.
    multiple : int
        Height and width are padded to multiples of this.
    augment : Augmentation
        Applied to the slices of a batch.
    seed : int
    with_unmarked : bool
        Count slices with blood that nobody outlined among those with blood; what is unknown in them is then
        labelled `UNMARKED`.
    simulated : sequence of PreparedCase
        Cases of which slices with blood are drawn beside the others'.
    simulated_share : float
        Share of these among the slices with blood.
    vertex_draws : int
        How often slices without blood near the vertex, where bone is seen in part, are listed to be drawn.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        preprocessing: Preprocessing,
        batch_size: int,
        crop: tuple[int, int] | None,
        multiple: int,
        augment: Augmentation,
        seed: int,
        *,
        with_unmarked: bool = False,
        simulated: Sequence[PreparedCase] = (),
        simulated_share: float = 0.0,
        vertex_draws: int = 1,
    ) -> None:
        self._cases, self._preprocessing, self._augment, self._seed = (
            [*cases, *simulated], preprocessing, augment, seed,
        )  # fmt: skip
        self._half = batch_size // 2
        self._unmarked = {(i, k) for i, case in enumerate(cases) for k in case.unmarked if with_unmarked}
        self._with = [(i, k) for i, case in enumerate(cases) for k in case.with_blood]
        self._with += sorted(self._unmarked)
        self._simulated = [(i, k) for i, case in enumerate(simulated, len(cases)) for k in case.with_blood]
        self._drawn = round(len(self._with) * simulated_share / (1 - simulated_share)) if simulated else 0
        self._without = [
            (i, k)
            for i, case in enumerate(cases)
            for k in case.without_blood
            for _ in range(vertex_draws if _is_near_vertex(case, k) else 1)
        ]
        if not self._without:  # every slice shows blood: nothing to pair with but themselves
            self._without = self._with
        spacing = preprocessing.spacing
        if crop is not None and spacing is not None:
            size = [round(mm / spacing) for mm in crop]
        else:
            size = np.max([case.image().shape[1:] for case in self._cases], axis=0).tolist()
        self._size = tuple(-(-n // multiple) * multiple for n in size)

    @classmethod
    def of(
        cls,
        cases: Sequence[PreparedCase],
        preprocessing: Preprocessing,
        settings: TrainingSettings,
        multiple: int,
        simulated: Sequence[PreparedCase] = (),
    ) -> SliceBatches:
        """Make the batches that the settings of a training ask for."""
        return cls(
            cases, preprocessing, settings.batch_size, settings.crop, multiple,
            augmentation(settings.augmentation, preprocessing.window), settings.seed,
            with_unmarked=settings.unmarked_weight > 0, simulated=simulated,
            simulated_share=settings.simulated_share, vertex_draws=settings.vertex_draws,
        )  # fmt: skip

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of every slice."""
        return self._size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of which files the slices come from; it tells nothing about them."""
        return hashlib.sha256(" ".join(case.folder.name for case in self._cases).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the batches of an epoch: each slice with blood once, and the share of simulated ones."""
        return -(-(len(self._with) + self._drawn) // self._half)

    def epoch(
        self, epoch: int, first: int = 0, share: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images float32 (N, C, H, W) and labels uint8 (N, 1, H, W), from batch `first` on.

        Of each batch, `share` says which slices are made, all by default.
        """
        draw = np.random.default_rng((self._seed, epoch))
        positives = self._with
        if self._drawn:
            repeats = -(-self._drawn // len(self._simulated))
            drawn = np.concatenate([draw.permutation(len(self._simulated)) for _ in range(repeats)])
            positives = positives + [self._simulated[i] for i in drawn[: self._drawn]]
        with_blood = draw.permutation(len(positives))
        pairs = len(self) * self._half
        with_blood = np.resize(with_blood, pairs)
        repeats = -(-pairs // len(self._without))
        without = np.concatenate([draw.permutation(len(self._without)) for _ in range(repeats)])[:pairs]
        for batch in range(first, len(self)):
            part = slice(batch * self._half, (batch + 1) * self._half)
            chosen = [positives[i] for i in with_blood[part]] + [self._without[i] for i in without[part]]
            numbered = list(enumerate(chosen))[share]
            seeds = [(self._seed, epoch, batch, position) for position, _ in numbered]
            yield self._batch([key for _, key in numbered], seeds)

    def _batch(
        self, slices: Sequence[tuple[int, int]], seeds: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(self._read(case, index) for case, index in slices), strict=True)
        image, label = self._augment(torch.stack(images), torch.stack(labels), seeds)
        low, high = self._preprocessing.intensity_range
        return image * (high - low) + low, label

    def _read(self, case: int, index: int) -> tuple[Tensor, Tensor]:
        """Read a slice and its neighbors, HU and label, both (C, H, W)."""
        hu, label = self._cases[case].read([index], self._preprocessing.neighbors)
        if (case, index) in self._unmarked:
            label[label == UNKNOWN] = UNMARKED
        return _fit(hu[0], self._size, AIR_HU), _fit(label[0], self._size, 0)


def _is_near_vertex(case: PreparedCase, index: int) -> bool:
    return (max(case.without_blood) - index) * case.slice_mm < VERTEX_MM


def _fit(image: Tensor, size: tuple[int, ...], value: float) -> Tensor:
    """Cut or pad a slice (C, H, W) around its center to `size`."""
    for axis, target in enumerate(size):
        extra = image.shape[axis + 1] - target
        if extra > 0:
            image = image.narrow(axis + 1, extra // 2, target)
        elif extra < 0:
            padding = [0, 0, 0, 0]
            padding[2 * (1 - axis)], padding[2 * (1 - axis) + 1] = -extra // 2, -extra - (-extra // 2)
            image = torch.nn.functional.pad(image, padding, value=value)
    return image
