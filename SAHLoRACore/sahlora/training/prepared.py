"""Annotated slices for training: prepared once on the working grid, then read from memory-mapped files.

Memory stays at a few slices however many cases there are: nothing but the slices of a batch is read, and no
file stays mapped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor

from sahlora.cases.manifest import Case
from sahlora.errors import InputError
from sahlora.imaging.labels import UNKNOWN, UNMARKED, known_label, read_label
from sahlora.imaging.volume import Volume, read_volume
from sahlora.inference.slicing import View, WorkingGrid, window
from sahlora.models.card import Preprocessing
from sahlora.runtime.files import replacing
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.augmentation import augmentation
from sahlora.training.settings import TrainingSettings

PREPARATION = 2
"""Version of what is prepared; cases of another one are prepared anew."""


@dataclass(frozen=True)
class PreparedCase:
    """One case on the working grid, cut along one view.

    Parameters
    ----------
    name : str
        Name of the case.
    folder : Path
        Holds ``image.npy`` (int16 HU) and ``label.npy`` (uint8), both (N, H, W).
    with_blood, without_blood : tuple of int
        Slices that surely show blood, and slices that surely don't; the others are unknown.
    unmarked : tuple of int
        Those of the unknown slices in which an expert sees blood that nobody outlined.
    """

    name: str
    folder: Path
    with_blood: tuple[int, ...]
    without_blood: tuple[int, ...]
    unmarked: tuple[int, ...] = ()

    def image(self) -> np.ndarray:
        """Map the image into memory, int16 HU (N, H, W)."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def label(self) -> np.ndarray:
        """Map the label into memory, uint8 (N, H, W): 0, 1 or 255."""
        return np.load(self.folder / "label.npy", mmap_mode="r")

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read slices: HU float32 and label uint8, both (len(indices), H, W).

        Raises
        ------
        InputError
            ``unreadable-case`` if the prepared files are gone or damaged.
        """
        try:
            image, label = self.image()[list(indices)], self.label()[list(indices)]
        except (OSError, ValueError) as error:
            raise InputError(
                "unreadable-case",
                f"The prepared slices of case {self.name} can't be read any more.",
                "Run the same command again: the case is prepared anew and training continues.",
            ) from error
        return torch.from_numpy(image).float(), torch.from_numpy(label)


def prepare_cases(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    view: View,
    cache: Path,
    progress: Progress = SILENT,
) -> list[PreparedCase]:
    """Bring every case to the working grid and keep it in `cache`; cases found there are not made again.

    Raises
    ------
    InputError
        From reading the case, ``label-outside`` or ``no-blood`` if no slice of any case shows blood.
    """
    progress.stage("preparing cases")
    prepared = []
    for index, case in enumerate(cases):
        prepared.append(_prepare_case(case, preprocessing, view, cache))
        progress.update((index + 1) / len(cases))
    if not any(case.with_blood for case in prepared):
        raise InputError("no-blood", "No slice of any case is labelled as blood.", "Check the label maps.")
    return prepared


def count_slices(cases: Sequence[PreparedCase]) -> dict[str, int]:
    """Return what a card records of the slices: how many show blood, surely none, and unmarked blood."""
    return {
        "slices_with_blood": sum(len(case.with_blood) for case in cases),
        "slices_without_blood": sum(len(case.without_blood) for case in cases),
        "slices_unmarked": sum(len(case.unmarked) for case in cases),
    }


def _prepare_case(case: Case, preprocessing: Preprocessing, view: View, cache: Path) -> PreparedCase:
    files = [path for path in (case.image, case.label, case.slices) if path is not None]
    stamps = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    settings = [PREPARATION, stamps, case.segment, preprocessing.spacing, view]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    folder = cache / key
    if not _is_prepared(folder):
        volume = read_volume(case.image)
        expert = case.read_slice_labels(len(volume.hu))
        label = known_label(read_label(case.label, volume, case.segment), expert)
        grid = WorkingGrid.of(volume.hu, volume.spacing, preprocessing.spacing)
        if (label == 1).any() and not (label[grid.box] == 1).any():
            raise InputError(
                "label-outside", f"The label of case {case.name} lies outside the head.", "Check it."
            )
        is_unmarked = np.zeros(len(label), dtype=bool)
        if expert is not None and view == "axial":  # other slices cross some that an expert calls empty
            is_unmarked = expert & ~(label == 1).any(axis=(1, 2))
        _write_case(folder, volume, label, grid, view, np.flatnonzero(is_unmarked[grid.box[0]]).tolist())
    slices = json.loads((folder / "slices.json").read_text())
    return PreparedCase(case.name, folder, **{kind: tuple(indices) for kind, indices in slices.items()})


def _is_prepared(folder: Path) -> bool:
    """Whether a case lies there complete; whoever cleans up may have taken a part of it."""
    try:
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label")]
        return (folder / "slices.json").exists() and arrays[0].shape == arrays[1].shape
    except (OSError, ValueError):
        return False


def _write_case(
    folder: Path, volume: Volume, label: np.ndarray, grid: WorkingGrid, view: View, unmarked: list[int]
) -> None:
    image = grid.resample(volume.hu)
    blood, unknown = (grid.resample(label == value) for value in (1, UNKNOWN))
    count = grid.count(view)
    hu, b, u = (grid.slices_of(part, view, 0, count) for part in (image, blood, unknown))
    target = torch.where(u > 0.5, UNKNOWN, (b >= 0.5).to(torch.int16)).to(torch.uint8).numpy()
    tissue = (hu > -300).float().mean(dim=(1, 2)) > 0.02
    with_blood = [i for i in range(count) if (target[i] == 1).any()]
    without = [i for i in range(count) if not target[i].any() and tissue[i]]
    for name, array in (("image", hu.round().to(torch.int16).numpy()), ("label", target)):
        with replacing(folder / f"{name}.npy") as path:
            np.save(path, array)
    with replacing(folder / "slices.json") as path:
        path.write_text(
            json.dumps({"with_blood": with_blood, "without_blood": without, "unmarked": unmarked})
        )


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
