"""Annotated slices for training: prepared once on the working grid, then read from memory-mapped files.

Memory stays at a few slices however many cases there are: nothing but the slices of a batch is read, and no
file stays mapped.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sahlora.cases.leaks import leak
from sahlora.cases.loading import load_case
from sahlora.cases.manifest import Case
from sahlora.errors import InputError
from sahlora.imaging.contents import content_digest
from sahlora.imaging.labels import UNKNOWN
from sahlora.imaging.planes import SLICE_AXIS, View
from sahlora.imaging.volume import Volume
from sahlora.inference.slicing import WorkingGrid, neighbor_indices, neighbor_offset
from sahlora.models.card import Preprocessing
from sahlora.runtime.files import replacing
from sahlora.runtime.progress import SILENT, Progress

PREPARATION = 4
"""Version of what is prepared; cases of another one are prepared anew."""


SLICES = ("with_blood", "without_blood", "unmarked")


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
    image_sha256 : str
        Of the image's slices, to find one scan under two names.
    slice_mm : float
        Distance of neighboring slices.
    """

    name: str
    folder: Path
    with_blood: tuple[int, ...]
    without_blood: tuple[int, ...]
    unmarked: tuple[int, ...] = ()
    image_sha256: str = ""
    slice_mm: float = 1.0

    def image(self) -> np.ndarray:
        """Map the image into memory, int16 HU (N, H, W)."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def label(self) -> np.ndarray:
        """Map the label into memory, uint8 (N, H, W): 0, 1 or 255."""
        return np.load(self.folder / "label.npy", mmap_mode="r")

    def read(self, indices: Sequence[int], neighbors: float | None = None) -> tuple[Tensor, Tensor]:
        """Read slices: HU float32 and label uint8, both (len(indices), C, H, W).

        C is 1, or 3 with the slices that lie `neighbors` mm below and above.

        Raises
        ------
        InputError
            ``unreadable-case`` if the prepared files are gone or damaged.
        """
        try:
            image, label = self.image(), self.label()
            where = np.array(indices)[:, None]
            if neighbors is not None:
                where = neighbor_indices(where[:, 0], neighbor_offset(neighbors, self.slice_mm), len(image))
            image, label = image[where], label[where]
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


def require_unlike(training: Sequence[PreparedCase], held_out: Sequence[PreparedCase]) -> None:
    """Check that no scan is on both sides, whatever its name and format.

    Raises
    ------
    InputError
        ``held-out-in-training``.
    """
    known = {case.image_sha256: case.name for case in training if case.image_sha256}
    for case in held_out:
        if (name := known.get(case.image_sha256)) is not None:
            raise leak(name, case.name, "the same image")


def count_slices(cases: Sequence[PreparedCase]) -> dict[str, int]:
    """Return what a card records of the slices: how many show blood, surely none, and unmarked blood."""
    return {
        "slices_with_blood": sum(len(case.with_blood) for case in cases),
        "slices_without_blood": sum(len(case.without_blood) for case in cases),
        "slices_unmarked": sum(len(case.unmarked) for case in cases),
    }


def count_simulated(cases: Sequence[PreparedCase]) -> dict[str, int]:
    """Return what a card records of simulated cases; nothing where there are none."""
    if not cases:
        return {}
    slices = sum(len(case.with_blood) for case in cases)
    return {"simulated_cases": len(cases), "simulated_slices_with_blood": slices}


def _prepare_case(case: Case, preprocessing: Preprocessing, view: View, cache: Path) -> PreparedCase:
    contents = [content_digest(path) for path in case.files]
    settings = [PREPARATION, contents, case.segment, preprocessing.spacing, view]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    folder = cache / key
    if (prepared := _read_prepared(case.name, folder)) is None:
        loaded = load_case(case)
        volume, label, expert = loaded.volume, loaded.label, loaded.expert
        grid = WorkingGrid.of(volume.hu, volume.spacing, preprocessing.spacing)
        if (label == 1).any() and not (label[grid.box] == 1).any():
            raise InputError(
                "label-outside", f"The label of case {case.name} lies outside the head.", "Check it."
            )
        is_unmarked = np.zeros(len(label), dtype=bool)
        if expert is not None and view == "axial":  # other slices cross some that an expert calls empty
            is_unmarked = expert & ~(label == 1).any(axis=(1, 2))
        _write_case(folder, volume, label, grid, view, np.flatnonzero(is_unmarked[grid.box[0]]).tolist())
        prepared = _read_prepared(case.name, folder)
    if prepared is None:
        raise InputError(
            "unreadable-case",
            f"The prepared slices of case {case.name} can't be read in {folder}.",
            "Check the disk and whether another program changes files there.",
        )
    return prepared


def _read_prepared(name: str, folder: Path) -> PreparedCase | None:
    """Read a prepared case; None if it isn't there complete, as a kill or whoever cleans up leaves it."""
    try:
        arrays = [np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("image", "label")]
        record = json.loads((folder / "slices.json").read_text(encoding="utf-8"))
        slices = {kind: tuple(map(int, record[kind])) for kind in SLICES}
        slice_mm = float(record["slice_mm"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    fit = all(0 <= index < len(arrays[0]) for indices in slices.values() for index in indices)
    if arrays[0].shape != arrays[1].shape or not fit:
        return None
    return PreparedCase(
        name, folder, **slices, image_sha256=str(record.get("image_sha256", "")), slice_mm=slice_mm
    )


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
    pixels = hu.round().to(torch.int16).numpy()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, array in (("image", pixels), ("label", target)):
        content = io.BytesIO()
        np.save(content, array)
        _write_private(folder / f"{name}.npy", content.getvalue())
    record = {
        **dict(zip(SLICES, (with_blood, without, unmarked), strict=True)),
        "image_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "slice_mm": grid.step_mm[SLICE_AXIS[view]],
    }
    _write_private(folder / "slices.json", json.dumps(record).encode())


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody but its owner may read: it holds a patient's slices."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        temporary.chmod(0o600)
