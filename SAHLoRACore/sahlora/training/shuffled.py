"""A control: the same scans with labels that belong to other slices, from which nothing can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from monai.transforms import ResizeWithPadOrCrop

from sahlora.cases import Case
from sahlora.labels import known_label, read_label
from sahlora.outputs import write_image
from sahlora.progress import SILENT, Progress
from sahlora.volume import read_volume


def shuffle_labels(
    cases: Sequence[Case], folder: Path, seed: int, progress: Progress = SILENT
) -> tuple[Case, ...]:
    """Give each scan the label of another one, its slices in random order.

    Cases stand in a random ring and each takes its neighbor's label, so that nobody keeps the own one (unless
    there is one case only); slices are cut or padded around their center. All that a network can still learn
    is where blood lies in the mean, and how much of it there is.

    Parameters
    ----------
    cases : sequence of Case
    folder : Path
        Gets the new label maps; those that are there already are kept.
    seed : int

    Returns
    -------
    tuple of Case
        The same images with the new labels, in the same order; what experts say of slices is left out.
    """
    draw = np.random.default_rng(seed)
    ring = draw.permutation(len(cases))
    donors = dict(zip(ring, np.roll(ring, 1), strict=True))
    seeds = draw.integers(2**63, size=len(cases))
    shuffled = []
    for index, case in enumerate(cases):
        progress.check()
        path = folder / f"{index}.nii.gz"
        if not path.exists():
            volume = read_volume(case.image)
            label = _known(cases[donors[index]])
            order = np.random.default_rng(seeds[index]).permutation(len(label))
            fitted = ResizeWithPadOrCrop(volume.hu.shape[1:])(label[np.resize(order, len(volume.hu))])
            write_image(volume.to_grid(np.asarray(fitted, dtype=np.uint8), label=True), path)
        shuffled.append(replace(case, label=path, slices=None, segment=None))
    return tuple(shuffled)


def _known(case: Case) -> np.ndarray:
    volume = read_volume(case.image)
    expert = case.read_slice_labels(len(volume.hu))
    return known_label(read_label(case.label, volume, case.segment), expert)
