"""Published data sets of outlined hemorrhage as lists of cases: layout, label values, licence, citation.

None of them comes with this project, and none of its models saw them. Whoever may have them gets a manifest
to train and evaluate with; what each licence allows is for them to read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sahlora.cases.manifest import Case
from sahlora.errors import InputError, UsageError
from sahlora.imaging.labels import UNKNOWN

IMAGES = (".nii.gz", ".nii", ".nrrd")
CT_ICH_TABLE = "hemorrhage_diagnosis_raw_ct.csv"
CT_ICH_TYPES = ("Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural")


@dataclass(frozen=True)
class PublishedData:
    """One data set.

    Attributes
    ----------
    name : str
        As its authors call it.
    pairs : tuple of (str, str)
        Folders of images and labels that share their files' names, in the order in which they are looked for;
        or the names of image and label in each case's own folder, where they end like files.
    values : dict of int to str
        What label values mean; empty where any value is hemorrhage.
    licence, citation : str
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    values: dict[int, str]
    licence: str
    citation: str

    @property
    def sah(self) -> int | None:
        """The value of subarachnoid hemorrhage; None where labels don't tell."""
        return next((value for value, kind in self.values.items() if kind == "subarachnoid"), None)


DATA_SETS = {
    "BHSD": PublishedData(
        "BHSD",
        (("images", "ground truths"), ("images", "labels")),
        {1: "epidural", 2: "intraparenchymal", 3: "intraventricular", 4: "subarachnoid", 5: "subdural"},
        "MIT by its authors; the scans are those of the RSNA 2019 challenge, whose terms hold too",
        "Wu B et al., BHSD: A 3D Multi-class Brain Hemorrhage Segmentation Dataset, MLMI 2023, "
        "doi 10.1007/978-3-031-45673-2_15",
    ),
    "CT-ICH": PublishedData(
        "CT-ICH",
        (("ct_scans", "masks"),),
        {},
        "PhysioNet Restricted Health Data License (version 1.3.1 with NIfTI files)",
        "Hssayeni MD et al., Intracranial Hemorrhage Segmentation Using a Deep Convolutional Model, "
        "Data 2020, 5(1), 14, doi 10.13026/4nae-zg36",
    ),
    "INSTANCE": PublishedData(
        "INSTANCE 2022",
        (("data", "label"), ("images", "labels")),
        {},
        "the agreement of the INSTANCE 2022 challenge",
        "Li X et al., The state-of-the-art 3D anisotropic intracranial hemorrhage segmentation on "
        "non-contrast head CT: the INSTANCE challenge, arXiv 2301.03281",
    ),
    "Seg-CQ500": PublishedData(
        "Seg-CQ500",
        (("CT.nii", "ICH_mask.nii.gz"), ("CT.nii.gz", "ICH_mask.nii.gz")),
        {},
        "CC BY-NC-SA 4.0",
        "Spahr A et al., Label-efficient deep semantic segmentation of intracranial hemorrhages in CT-scans, "
        "Frontiers in Neuroimaging 2023, data doi 10.5281/zenodo.8063221; scans: Chilamkurthy S et al., "
        "Lancet 2018",
    ),
    "HemSeg": PublishedData(
        "HemSeg-200",
        (("images", "labels"), ("image", "label")),
        {},
        "of the labels, ask their authors; the scans are those of the RSNA 2019 challenge, whose terms hold",
        "Song C et al., HemSeg-200: A Voxel-Annotated Dataset for Intracerebral Hemorrhages Segmentation in "
        "Brain CT Scans, arXiv 2405.14559",
    ),
}


def published_cases(name: str, folder: Path, output: Path, *, only_sah: bool = False) -> list[Case]:
    """List the cases of a published data set.

    Parameters
    ----------
    name : str
        One of `DATA_SETS`.
    folder : Path
        Where it was unpacked; the folders of images and labels may lie anywhere below.
    output : Path
        The manifest to be; tables of slices are written beside it, into ``slices``.
    only_sah : bool
        Count subarachnoid hemorrhage alone, where labels tell it; scans without it are left out.

    Raises
    ------
    UsageError
        ``unknown-data`` or ``no-sah``.
    InputError
        ``not-found``, ``no-cases`` if nothing lies as it should, ``label-missing`` or ``unreadable-label``.
    """
    data = DATA_SETS.get(name)
    if data is None:
        raise UsageError(
            "unknown-data", f"There is no data set “{name}” here.", f"Give {', '.join(DATA_SETS)}."
        )
    if only_sah and data.sah is None:
        raise UsageError(
            "no-sah",
            f"The labels of {data.name} don't tell subarachnoid from other blood.",
            "Leave --sah out.",
        )
    if not folder.is_dir():
        raise InputError("not-found", f"There is no folder {folder}.", "Check its name.")
    pairs = list(_pairs(data, folder))
    if not pairs:
        wanted = " or ".join(f"“{image}” and “{label}”" for image, label in data.pairs)
        raise InputError(
            "no-cases", f"In {folder} nothing lies as in {data.name}: {wanted}.", "Give the unpacked folder."
        )
    tables = _ct_ich_tables(folder, output) if name == "CT-ICH" else {}
    cases = []
    for case, image, label in pairs:
        values = _values(label)
        if only_sah and data.sah not in values:
            continue
        # 255 otherwise means unknown
        segment = str(data.sah) if only_sah else str(UNKNOWN) if UNKNOWN in values else None
        cases.append(Case(case, image, label, tables.get(case), segment=segment))
    return cases


def _pairs(data: PublishedData, folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield name, image and label of every case, of the first layout that is found."""
    for images, labels in data.pairs:
        found = sorted(folder.rglob(images))
        if _stem(images) != images:  # names of files in each case's folder
            yield from ((image.parent.name, image, _required(image.with_name(labels))) for image in found)
        else:
            for place in (path for path in found if path.is_dir() and (path.parent / labels).is_dir()):
                for image in sorted(path for path in place.iterdir() if _stem(path.name) != path.name):
                    yield _stem(image.name), image, _label_of(image, place.parent / labels)
        if found:
            return


def _stem(name: str) -> str:
    return next((name.removesuffix(ending) for ending in IMAGES if name.endswith(ending)), name)


def _label_of(image: Path, labels: Path) -> Path:
    stem = _stem(image.name)
    for ending in IMAGES:
        if (labels / f"{stem}{ending}").exists():
            return labels / f"{stem}{ending}"
    return _required(labels / image.name)


def _required(label: Path) -> Path:
    if not label.exists():
        raise InputError("label-missing", f"The label {label} is missing.", "Get the data set again.")
    return label


def _values(label: Path) -> set[int]:
    """Return the values that a label holds."""
    try:
        values = np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(label))))
    except RuntimeError as error:
        raise InputError(
            "unreadable-label", f"The label {label.name} can't be read.", "Get it again."
        ) from error
    return {int(value) for value in values}


def _ct_ich_tables(folder: Path, output: Path) -> dict[str, Path]:
    """Write what two radiologists say of every slice; return the tables by case."""
    found = sorted(folder.rglob(CT_ICH_TABLE))
    if not found:
        return {}
    slices: dict[str, list[tuple[int, int]]] = {}
    with found[0].open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream):
            if row.get("PatientNumber"):
                bleeds = any(int(row[kind] or 0) for kind in CT_ICH_TYPES)
                name = f"{int(row['PatientNumber']):03d}"
                slices.setdefault(name, []).append((int(row["SliceNumber"]) - 1, int(bleeds)))
    place = output.parent / "slices"
    place.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name, rows in slices.items():
        tables[name] = place / f"{name}.csv"
        with tables[name].open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["slice", "hemorrhage"])
            writer.writerows(sorted(rows))
    return tables
