"""Manifests of annotated cases: which image belongs to which label, and what is known of each slice."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sahlora.errors import InputError

COLUMNS = ("case", "image", "label")
OPTIONAL_COLUMNS = ("slices",)


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
    """

    name: str
    image: Path
    label: Path
    slices: Path | None = None

    def read_slice_labels(self, count: int) -> np.ndarray | None:
        """Return for each slice whether an expert sees blood, bool (count,), or None if unknown."""
        if self.slices is None:
            return None
        table = _read_table(self.slices, ("slice", "hemorrhage"))
        try:
            positive = {int(row["slice"]): bool(int(row["hemorrhage"])) for row in table}
        except ValueError as error:
            raise _malformed(self.slices, f"a value is no whole number ({error})") from None
        if positive.keys() != set(range(count)):
            raise _malformed(self.slices, f"it lists {len(positive)} slices, the image has {count}")
        return np.array([positive[i] for i in range(count)])


def read_manifest(path: Path) -> list[Case]:
    """Read a manifest: CSV with the columns case, image, label and optionally slices.

    Relative paths start at the manifest's folder.

    Raises
    ------
    InputError
        ``not-found``, ``bad-manifest``, ``missing-file``, ``duplicate-case`` or ``label-is-image``.
    """
    cases: list[Case] = []
    for row in _read_table(path, COLUMNS):
        files = {
            column: (path.parent / value).resolve()
            for column in ("image", "label", "slices")
            if (value := (row.get(column) or "").strip())
        }
        name = row["case"].strip()
        if not name or "image" not in files or "label" not in files:
            raise _malformed(path, f"row {len(cases) + 2} has an empty cell")
        for column, file in files.items():
            if not file.exists():
                raise InputError(
                    "missing-file",
                    f"The {column} of case {name} does not exist: {file}.",
                    "Correct the path; relative ones start at the manifest's folder.",
                )
        if files["image"] == files["label"]:
            raise InputError(
                "label-is-image",
                f"Case {name} has one file as image and label.",
                "Give the label map's path.",
            )
        if any(name == other.name for other in cases):
            raise InputError(
                "duplicate-case", f"Case {name} stands in the manifest twice.", "Remove one row."
            )
        cases.append(Case(name, files["image"], files["label"], files.get("slices")))
    if not cases:
        raise _malformed(path, "it lists no case")
    return cases


def _read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise InputError("not-found", f"There is no file {path}.", "Check the path.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise _malformed(path, f"it lacks the column {', '.join(missing)}")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _malformed(path, f"it is no CSV in UTF-8 ({error})") from error


def _malformed(path: Path, reason: str) -> InputError:
    return InputError(
        "bad-manifest",
        f"{path.name} can't be used: {reason}.",
        "Write a CSV whose first line names the columns, as Docs/training.md shows.",
    )
