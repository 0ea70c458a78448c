"""Batches of annotated slices, half of them with blood, drawn and augmented by seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor

from sahlora.imaging.labels import UNKNOWN, UNMARKED
from sahlora.inference.slicing import window
from sahlora.models.card import Preprocessing
from sahlora.training.augmentation import augmentation
from sahlora.training.prepared import PreparedCase
from sahlora.training.settings import TrainingSettings


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
    augment : Compose
        Applied to each slice.
    seed : int
    with_unmarked : bool
        Count slices with blood that nobody outlined among those with blood; what is unknown in them is then
        labelled `UNMARKED`.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        preprocessing: Preprocessing,
        batch_size: int,
        crop: tuple[int, int] | None,
        multiple: int,
        augment: Compose,
        seed: int,
        *,
        with_unmarked: bool = False,
    ) -> None:
        self._cases, self._preprocessing, self._augment, self._seed = cases, preprocessing, augment, seed
        self._half = batch_size // 2
        self._unmarked = {(i, k) for i, case in enumerate(cases) for k in case.unmarked if with_unmarked}
        self._with = [(i, k) for i, case in enumerate(cases) for k in case.with_blood]
        self._with += sorted(self._unmarked)
        self._without = [(i, k) for i, case in enumerate(cases) for k in case.without_blood]
        if not self._without:  # every slice shows blood: nothing to pair with but themselves
            self._without = self._with
        spacing = preprocessing.spacing
        if crop is not None and spacing is not None:
            size = [round(mm / spacing) for mm in crop]
        else:
            size = np.max([case.image().shape[1:] for case in cases], axis=0).tolist()
        self._size = tuple(-(-n // multiple) * multiple for n in size)

    @classmethod
    def of(
        cls,
        cases: Sequence[PreparedCase],
        preprocessing: Preprocessing,
        settings: TrainingSettings,
        multiple: int,
    ) -> SliceBatches:
        """Make the batches that the settings of a training ask for."""
        return cls(
            cases, preprocessing, settings.batch_size, settings.crop, multiple,
            augmentation(settings.augmentation), settings.seed, with_unmarked=settings.unmarked_weight > 0,
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
        """Return the number of batches in an epoch: each slice with blood once."""
        return -(-len(self._with) // self._half)

    def epoch(
        self, epoch: int, first: int = 0, share: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images float32 and labels uint8, both (N, 1, H, W), from batch `first` on.

        Of each batch, `share` says which slices are made, all by default.
        """
        draw = np.random.default_rng((self._seed, epoch))
        with_blood = draw.permutation(len(self._with))
        pairs = len(self) * self._half
        with_blood = np.resize(with_blood, pairs)
        repeats = -(-pairs // len(self._without))
        without = np.concatenate([draw.permutation(len(self._without)) for _ in range(repeats)])[:pairs]
        for batch in range(first, len(self)):
            part = slice(batch * self._half, (batch + 1) * self._half)
            chosen = [self._with[i] for i in with_blood[part]] + [self._without[i] for i in without[part]]
            samples = [
                self._sample(case, index, (self._seed, epoch, batch, position))
                for position, (case, index) in list(enumerate(chosen))[share]
            ]
            images, labels = zip(*samples, strict=True)
            yield torch.stack(images), torch.stack(labels)

    def _sample(self, case: int, index: int, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        hu, label = self._cases[case].read([index])
        if (case, index) in self._unmarked:
            label[label == UNKNOWN] = UNMARKED
        low, high = self._preprocessing.intensity_range
        image = window(hu, self._preprocessing.window, (0.0, 1.0))
        self._augment.set_random_state(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        data = self._augment(
            {"image": _fit(image[0], self._size, 0)[None], "label": _fit(label[0], self._size, 0)[None]}
        )
        image, label = (convert_to_tensor(data[key], track_meta=False) for key in ("image", "label"))
        return image * (high - low) + low, label.to(torch.uint8)


def _fit(image: Tensor, size: tuple[int, ...], value: float) -> Tensor:
    """Cut or pad a slice (H, W) around its center to `size`."""
    for axis, target in enumerate(size):
        extra = image.shape[axis] - target
        if extra > 0:
            image = image.narrow(axis, extra // 2, target)
        elif extra < 0:
            padding = [0, 0, 0, 0]
            padding[2 * (1 - axis)], padding[2 * (1 - axis) + 1] = -extra // 2, -extra - (-extra // 2)
            image = torch.nn.functional.pad(image, padding, value=value)
    return image
