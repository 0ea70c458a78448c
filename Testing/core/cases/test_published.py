"""Published data sets as cases, on folders made in their layouts."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sahlora.cases.manifest import read_manifest, write_manifest
from sahlora.cases.published import DATA_SETS, published_cases
from sahlora.errors import InputError, UsageError
from sahlora.imaging.labels import read_label_map

LAYOUTS = {
    "BHSD": ("label_192/images/ID_a.nii.gz", "label_192/ground truths/ID_a.nii.gz"),
    "CT-ICH": ("ct_scans/049.nii", "masks/049.nii"),
    "INSTANCE": ("train_2/data/001.nii.gz", "train_2/label/001.nii.gz"),
    "Seg-CQ500": ("data/volumes/CQ500-CT-1/CT.nii", "data/volumes/CQ500-CT-1/ICH_mask.nii.gz"),
    "HemSeg": ("images/1.nii.gz", "labels/1.nii.gz"),
}


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def unpacked(folder: Path, name: str, blood: int = 1) -> Path:
    """Make one case of a data set, with two kinds of blood where it tells them."""
    image, label = LAYOUTS[name]
    write(folder / image, np.zeros((2, 8, 8), np.int16))
    values = np.zeros((2, 8, 8), np.uint8)
    values[1, 2:4, 2:4] = blood
    values[0, 0, 0] = 5 if name == "BHSD" else 0
    write(folder / label, values)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_becomes_a_manifest(name: str, tmp_path: Path) -> None:
    cases = published_cases(name, unpacked(tmp_path / "data", name), tmp_path / "cases.csv")
    write_manifest(tmp_path / "cases.csv", cases)
    (case,) = read_manifest(tmp_path / "cases.csv")
    assert (read_label_map(case.label, case.segment).values == 1).sum() == (5 if name == "BHSD" else 4)


def test_subarachnoid_blood_alone_is_one_value(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "data", "BHSD", blood=DATA_SETS["BHSD"].sah or 0)
    (case,) = published_cases("BHSD", folder, tmp_path / "cases.csv", only_sah=True)
    assert (read_label_map(case.label, case.segment).values == 1).sum() == 4
    with pytest.raises(UsageError) as caught:
        published_cases("INSTANCE", folder, tmp_path / "cases.csv", only_sah=True)
    assert caught.value.code == "no-sah"


def test_a_label_of_255_is_blood_there(tmp_path: Path) -> None:
    (case,) = published_cases(
        "INSTANCE", unpacked(tmp_path / "data", "INSTANCE", blood=255), tmp_path / "cases.csv"
    )
    assert (read_label_map(case.label, case.segment).values == 1).sum() == 4


def test_the_slices_of_ct_ich_are_known(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "data", "CT-ICH")
    columns = ["PatientNumber", "SliceNumber", "Intraventricular", "Intraparenchymal", "Subarachnoid",
               "Epidural", "Subdural", "No_Hemorrhage", "Fracture_Yes_No"]  # fmt: skip
    with (folder / "hemorrhage_diagnosis_raw_ct.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([columns, [49, 1, 0, 0, 0, 0, 0, 1, 0], [49, 2, 0, 0, 1, 0, 0, 0, 0]])
    (case,) = published_cases("CT-ICH", folder, tmp_path / "cases.csv")
    assert case.read_slice_labels(2).tolist() == [False, True]


def test_what_lies_otherwise_is_an_error(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "data", "INSTANCE")
    with pytest.raises(InputError) as caught:
        published_cases("Seg-CQ500", folder, tmp_path / "cases.csv")
    assert caught.value.code == "no-cases"
    (folder / LAYOUTS["INSTANCE"][1]).unlink()
    with pytest.raises(InputError) as caught:
        published_cases("INSTANCE", folder, tmp_path / "cases.csv")
    assert caught.value.code == "label-missing"
    with pytest.raises(UsageError) as unknown:
        published_cases("RSNA", folder, tmp_path / "cases.csv")
    assert unknown.value.code == "unknown-data"
