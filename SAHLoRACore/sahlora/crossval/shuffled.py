"""A control: the same scans with labels of other slices at other places, to learn nothing from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from monai.transforms import ResizeWithPadOrCrop

from sahlora.cases.loading import load_case
from sahlora.cases.manifest import Case
from sahlora.imaging.volume import read_volume
from sahlora.imaging.writers import write_image
from sahlora.runtime.progress import SILENT, Progress


def shuffle_labels(
    cases: Sequence[Case], folder: Path, seed: int, progress: Progress = SILENT
) -> tuple[Case, ...]:
    """Give each scan the label of another one, its slices in random order and each moved at random.

    Cases stand in a random ring and each takes its neighbor's label, so that nobody keeps the own one (unless
    there is one case only); slices are cut or padded around their center and moved in-plane, round the edges.
    Without that, labels and blood would still meet in the basal cisterns, where both lie in most scans. All
    that a network can still learn is how much blood there is.

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
            label = load_case(cases[donors[index]]).label
            own = np.random.default_rng(seeds[index])
            order = np.resize(own.permutation(len(label)), len(volume.hu))
            fitted = np.asarray(ResizeWithPadOrCrop(volume.hu.shape[1:])(label[order]), dtype=np.uint8)
            moves = own.integers(fitted.shape[1:], size=(len(fitted), 2))
            moved = [np.roll(slice_, move, axis=(0, 1)) for slice_, move in zip(fitted, moves, strict=True)]
            write_image(volume.to_grid(np.stack(moved), label=True), path)
        shuffled.append(replace(case, label=path, slices=None, segment=None))
    return tuple(shuffled)
