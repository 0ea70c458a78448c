"""Annotated cases: which image belongs to which label, whose scan it is, and what is known of each slice.

Cases are listed in a CSV or JSON file, or lie in a folder with one subfolder a case; see Docs/cases.md.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sahlora.cases.tables import NoTableError, heading, read_table
from sahlora.errors import InputError
from sahlora.imaging.files import file_format
from sahlora.runtime.files import as_table, write_text

COLUMNS = ("case", "image", "label")
OPTIONAL_COLUMNS = ("slices", "patient", "segment", "held_out")
FILE_COLUMNS = ("image", "label", "slices")
IMAGE_STEM, LABEL_STEM, SLICES_NAME = "ct", "label", "slices.csv"
MANIFEST_NAME = "manifest.csv"
DICOM_ENDINGS = ("", ".dcm", ".dicom", ".ima", ".zip")
YES, NO = ("1", "yes", "true"), ("", "0", "no", "false")


def identity(name: str) -> str:
    """Return a patient's or case's name with letter case and blanks set aside."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


@dataclass(frozen=True)
class Case:
    """One annotated scan.

    Parameters
    ----------
    name : str
        Name that is unique in the manifest; never written into a model.
    image, label : Path
        CT and its label map: 1 (or any other value) hemorrhage, 0 none, 255 unknown.
    slices : Path, optional
        Table with the columns ``slice`` (0 is the lowest) and ``hemorrhage`` (0 or 1): what an expert says of
        whole slices.
    patient : str
        Whose scan it is; the case's name if not given. Scans of one patient stay together.
    segment : str, optional
        Which segment of the label is hemorrhage, see `sahlora.imaging.labels.read_label_map`.
    held_out : bool
        Never trained on: kept for a last test.
    """

    name: str
    image: Path
    label: Path
    slices: Path | None = None
    patient: str = ""
    segment: str | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        if not self.patient:
            object.__setattr__(self, "patient", self.name)

    @property
    def person(self) -> str:
        """The patient's name as patients are told apart, see `identity`."""
        return identity(self.patient)

    @property
    def files(self) -> tuple[Path, ...]:
        """Image, label and table of slices, as far as there are any."""
        return tuple(file for column in FILE_COLUMNS if (file := getattr(self, column)) is not None)

    def require_files(self) -> None:
        """Check that the files are there.

        Raises
        ------
        InputError
            ``missing-file`` or ``label-is-image``.
        """
        for column in FILE_COLUMNS:
            file = getattr(self, column)
            if file is not None and not file.exists():
                raise InputError(
                    "missing-file",
                    f"The {column} of case {self.name} does not exist: {file}.",
                    "Correct the path; relative ones start at the manifest's folder.",
                )
        if self.image == self.label:
            raise InputError(
                "label-is-image",
                f"Case {self.name} has one file as image and label.",
                "Give the label map's path.",
            )

    def read_slice_labels(self, count: int) -> np.ndarray | None:
        """Return for each slice whether an expert sees blood, bool (count,), or None if unknown."""
        if self.slices is None:
            return None
        positive = self._expert_slices(self.slices)
        if positive.keys() != set(range(count)):
            raise _malformed(self.slices, f"it lists {len(positive)} slices, the image has {count}")
        return np.array([positive[i] for i in range(count)])

    @property
    def has_known_hemorrhage(self) -> bool:
        """Whether an expert sees blood in any slice; False if no expert is known to have looked."""
        return self.slices is not None and any(self._expert_slices(self.slices).values())

    @staticmethod
    def _expert_slices(path: Path) -> dict[int, bool]:
        table = _read_table(path, ("slice", "hemorrhage"))
        try:
            return {int(row["slice"]): bool(int(row["hemorrhage"])) for row in table}
        except ValueError as error:
            raise _malformed(path, f"a value is no whole number ({error})") from None


def read_manifest(path: Path) -> list[Case]:
    """Read the list of cases and check that all their files are there.

    Parameters and errors are those of `list_cases`, and ``missing-file`` or ``label-is-image``.
    """
    cases = list_cases(path)
    for case in cases:
        case.require_files()
    return cases


def list_cases(path: Path) -> list[Case]:
    """Read the list of cases, whether or not their files are there.

    Parameters
    ----------
    path : Path
        A CSV file with the columns case, image, label and optionally slices, patient, segment, held_out; a
        JSON file with a list of objects of the same names; or a folder of folders CASE with ``ct`` (a file of
        any format, or a folder with DICOM), ``label`` and optionally ``slices.csv``, or with a
        ``manifest.csv``. Relative paths start at the manifest's folder.

    Raises
    ------
    InputError
        ``not-found``, ``bad-manifest`` or ``duplicate-case``.
    """
    if (path / MANIFEST_NAME).is_file():
        path = path / MANIFEST_NAME
    rows = _folder_rows(path) if path.is_dir() else read_list(path, COLUMNS)
    folder = path if path.is_dir() else path.parent
    cases: list[Case] = []
    for number, row in enumerate(rows, 1):
        case = _case(row, folder, path, number)
        if any(case.name == other.name for other in cases):
            raise InputError(
                "duplicate-case", f"Case {case.name} stands in the manifest twice.", "Remove one row."
            )
        cases.append(case)
    if not cases:
        raise _malformed(path, "it lists no case")
    return cases


def manifest_files(path: Path) -> list[Path]:
    """Return the file that lists the cases, if `path` is one or a folder that holds one."""
    return [file for file in (path, path / MANIFEST_NAME) if file.is_file()]


def write_manifest(path: Path, cases: Iterable[Case]) -> None:
    """Write a list of cases that `list_cases` reads, with whole paths.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    write_text(path, manifest_table(cases))


def manifest_table(cases: Iterable[Case]) -> str:
    """Return the text that `write_manifest` writes."""
    rows = [
        {
            "case": case.name,
            "image": case.image,
            "label": case.label,
            "slices": case.slices or "",
            "patient": case.patient,
            "segment": case.segment or "",
            "held_out": YES[1] if case.held_out else NO[2],
        }
        for case in cases
    ]
    return as_table(rows)


def _case(row: dict[str, str], folder: Path, manifest: Path, number: int) -> Case:
    values = {column: (row.get(column) or "").strip() for column in (*COLUMNS, *OPTIONAL_COLUMNS)}
    if not all(values[column] for column in COLUMNS):
        raise _malformed(manifest, f"case number {number} has an empty cell")
    held_out = values["held_out"].lower()
    if held_out not in (*YES, *NO):
        raise _malformed(manifest, f"held_out of case {values['case']} is “{held_out}”, not yes or no")
    try:
        files = {column: (folder / values[column]).resolve() for column in FILE_COLUMNS if values[column]}
    except (OSError, RuntimeError, ValueError) as error:
        raise _malformed(manifest, f"a path of case {values['case']} can't be used ({error})") from None
    return Case(
        values["case"],
        files["image"],
        files["label"],
        files.get("slices"),
        values["patient"],
        values["segment"] or None,
        held_out in YES,
    )


# ------------------------------------------------------------------------------------------------- sources


def read_list(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV file with at least these columns, or a JSON file with a list of objects of these names.

    Raises
    ------
    InputError
        ``not-found`` or ``bad-manifest``.
    """
    if path.suffix.lower() != ".json":
        return _read_table(path, columns)
    return [{**dict.fromkeys(columns, ""), **row} for row in _json_rows(path)]


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        return read_table(path, columns)
    except NoTableError as error:
        raise _malformed(path, str(error)) from None


def _json_rows(path: Path) -> list[dict[str, str]]:
    """Read a list of objects; numbers and truth values become the words a table would hold."""
    if not path.is_file():
        raise InputError("not-found", f"There is no file {path}.", "Check the path.")
    try:
        listed: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _malformed(path, f"it is no JSON ({error})") from error
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise _malformed(path, "it is no list of objects")
    return [
        {heading(key): "" if value is None else str(value) for key, value in entry.items()}
        for entry in listed
    ]


def _folder_rows(path: Path) -> list[dict[str, str]]:
    """List the subfolders that hold an image or a label."""
    rows = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        image, label = (_only(folder, stem, path) for stem in (IMAGE_STEM, LABEL_STEM))
        if not image and not label:
            continue
        if not (image and label):
            raise _malformed(path, f"{folder.name} has no {'label' if image else 'ct'}")
        slices = SLICES_NAME if (folder / SLICES_NAME).is_file() else ""
        named = {"image": image, "label": label, "slices": slices}
        files = {column: f"{folder.name}/{name}" for column, name in named.items() if name}
        rows.append({"case": folder.name, **files})
    return rows


def _only(folder: Path, stem: str, root: Path) -> str:
    """Name the one file ``stem.*`` or folder ``stem`` that can hold an image; empty if there is none.

    What other programs leave beside it (``ct.json`` of dcm2niix, ``ct.raw`` of ``ct.mhd``) is passed over.
    """
    named = [entry for entry in folder.iterdir() if entry.name.partition(".")[0] == stem]
    images = [entry for entry in named if entry.is_dir() or _can_be_image(entry)]
    found = [entry.name for entry in images or named]
    if len(found) > 1:
        raise _malformed(root, f"{folder.name} has several {stem}: {', '.join(sorted(found))}")
    return found[0] if found else ""


def _can_be_image(path: Path) -> bool:
    return file_format(path) is not None or path.suffix.lower() in DICOM_ENDINGS


def _malformed(path: Path, reason: str) -> InputError:
    return InputError(
        "bad-manifest",
        f"{path.name} can't be used: {reason}.",
        "List the cases as Docs/cases.md shows.",
    )
