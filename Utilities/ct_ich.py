#!/usr/bin/env python3
"""Turn the CT-ICH data (folder named by SAHLORA_DATA) into volumes, labels and manifests for training.

    python Utilities/ct_ich.py DEST

Written into DEST: volumes/, labels/ (1 blood, 255 unknown), slices/ (experts' labels of whole slices) and
manifests: all.csv, blood-free.csv (patients without a positive slice) and, for each fold K of
ct_ich_folds.csv, train-K.csv and test-K.csv, which lists its patients.

Blood is where the machine labels' probability of blood is at least 0.10, the cut that agrees best with
radiologists' outlines. Voxels from 0.05 to 0.10 are unknown, and so are pieces of blood under 0.1 mL or
nowhere above 0.25 (most of these lie on falx, sinuses and skull), and blood in bone or outside the brain.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

BLOOD_FROM, UNCERTAIN_FROM = 0.10, 0.05
FRAGMENT_ML, FRAGMENT_PEAK = 0.1, 0.25
BONE_HU = 96
"""The machine's outlines overlap the inner table; clot is less dense."""
OUTSIDE_MM = 2.0
"""Blood so far outside the brain mask is not believed."""
DISBELIEVED = ("081",)
"""Patients whose two pictures of a slice don't fit, so that the machine outlines the skull."""
UNKNOWN = 255
FOLDS = Path(__file__).with_name("ct_ich_folds.csv")
TYPES = ("Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural")


def read_slice_labels(source: Path) -> dict[str, list[dict[str, int]]]:
    """Return the experts' labels of every slice, lowest first, by patient."""
    labels: dict[str, list[dict[str, int]]] = {}
    with (source / "slice_labels.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            values = {key: int(row[key]) for key in TYPES}
            labels.setdefault(f"{int(row['PatientNumber']):03d}", []).append(values)
    return labels


def read_folds() -> dict[str, int]:
    """Return the fold of every patient."""
    with FOLDS.open(newline="") as stream:
        return {row["patient"]: int(row["fold"]) for row in csv.DictReader(stream)}


def write_label(source: Path, patient: str, volume: Path, target: Path) -> None:
    """Write the machine label of a patient as blood, empty for patients without one."""
    image = sitk.ReadImage(str(volume))
    label = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    machine = source / "machine_labels" / f"{patient}_blood.nii.gz"
    if machine.exists():
        probability = sitk.GetArrayFromImage(sitk.ReadImage(str(machine))) / 255
        blood = probability >= BLOOD_FROM
        label[probability >= UNCERTAIN_FROM] = UNKNOWN
        blood &= sitk.GetArrayFromImage(image) < BONE_HU
        label[blood & ~_is_fragment(blood, probability, image) & _may_bleed(source, patient, image)] = 1
    result = sitk.GetImageFromArray(label)
    result.CopyInformation(image)
    sitk.WriteImage(result, str(target), True)


def _is_fragment(blood: np.ndarray, probability: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Return which voxels (Z, Y, X) lie in pieces too small or nowhere probable enough to be believed."""
    pieces, count = ndimage.label(blood, np.ones((3, 3, 3)))
    doubtful = np.bincount(pieces.ravel()) * np.prod(image.GetSpacing()) / 1000 < FRAGMENT_ML
    peaks = ndimage.maximum(probability, pieces, np.arange(count + 1))
    doubtful |= np.asarray(peaks) < FRAGMENT_PEAK
    doubtful[0] = False
    return doubtful[pieces]


def _may_bleed(source: Path, patient: str, image: sitk.Image) -> np.ndarray:
    """Return the voxels (Z, Y, X) where the machine is believed: inside the brain mask or near it."""
    path = source / "brain_masks" / f"{patient}.nii.gz"
    if patient in DISBELIEVED:
        return np.zeros(image.GetSize()[::-1], dtype=bool)
    if not path.exists():
        return np.ones(image.GetSize()[::-1], dtype=bool)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
    if not mask.any():
        return np.ones_like(mask)
    spacing = image.GetSpacing()[::-1]
    near = np.stack([ndimage.distance_transform_edt(~plane, spacing[1:]) <= OUTSIDE_MM for plane in mask])
    near[~mask.any(axis=(1, 2))] = True  # a slice that the mask says nothing of
    return near


def main() -> None:
    """Build everything that is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dest", type=Path, metavar="DEST")
    args = parser.parse_args()
    if "SAHLORA_DATA" not in os.environ:
        sys.exit("Set SAHLORA_DATA to the folder that holds ct_ich.")
    source = Path(os.environ["SAHLORA_DATA"]) / "ct_ich"
    for folder in ("volumes", "labels", "slices"):
        (args.dest / folder).mkdir(parents=True, exist_ok=True)

    experts, folds = read_slice_labels(source), read_folds()
    missing = [p for p in experts if not (args.dest / "volumes" / f"{p}.nii.gz").exists()]
    if missing:
        converter = source.parent.parent / "tools" / "ct_ich_to_nifti.py"
        subprocess.run([sys.executable, str(converter), str(args.dest / "volumes"), *missing], check=True)
    rows = []
    for patient, slices in sorted(experts.items()):
        volume, label, table = (
            args.dest / folder / f"{patient}{ending}"
            for folder, ending in (("volumes", ".nii.gz"), ("labels", ".nii.gz"), ("slices", ".csv"))
        )
        if not label.exists():
            write_label(source, patient, volume, label)
        with table.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["slice", "hemorrhage"])
            writer.writerows((i, int(any(values.values()))) for i, values in enumerate(slices))
        rows.append([patient, *(str(p.relative_to(args.dest)) for p in (volume, label, table))])
    bleeding = {patient for patient, slices in experts.items() if any(any(s.values()) for s in slices)}
    write_manifest(args.dest / "all.csv", rows)
    write_manifest(args.dest / "blood-free.csv", [row for row in rows if row[0] not in bleeding])
    for fold in sorted(set(folds.values())):
        write_manifest(args.dest / f"train-{fold}.csv", [row for row in rows if folds[row[0]] != fold])
        write_manifest(args.dest / f"test-{fold}.csv", [row for row in rows if folds[row[0]] == fold])


def write_manifest(path: Path, rows: list[list[str]]) -> None:
    """Write a list of cases."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "image", "label", "slices"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
