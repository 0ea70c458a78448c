"""Reading a case: its scan, and what is known of every voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sahlora.cases.manifest import Case
from sahlora.imaging.labels import known_label, read_label
from sahlora.imaging.volume import Volume, read_volume
from sahlora.runtime.progress import SILENT, Progress


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case in memory.

    Parameters
    ----------
    case : Case
    volume : Volume
    label : ndarray (Z, Y, X)
        uint8 on the volume: 1 hemorrhage, 0 none, 255 unknown, with what the expert says of whole slices.
    expert : ndarray (Z,), optional
        bool: slices in which an expert sees blood.
    """

    case: Case
    volume: Volume
    label: np.ndarray
    expert: np.ndarray | None


def load_case(case: Case, progress: Progress = SILENT) -> LoadedCase:
    """Read scan, label and the expert's slices of a case.

    Raises
    ------
    InputError
        ``missing-file``, ``label-is-image``, or from reading one of them.
    """
    case.require_files()
    volume = read_volume(case.image, progress=progress)
    expert = case.read_slice_labels(len(volume.hu))
    return LoadedCase(case, volume, known_label(read_label(case.label, volume, case.segment), expert), expert)
