from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from helpers import events, sahlora, simple_head
from sahlora.cases.checks import CheckedCase, check_cases
from sahlora.cases.folds import assign_folds
from sahlora.cases.manifest import Case, list_cases, read_manifest, write_manifest
from sahlora.cli import main
from sahlora.errors import InputError, UsageError
from sahlora.imaging.labels import UNKNOWN, read_label
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import Volume, read_volume
from sahlora.imaging.writers import write_label
from sahlora.simulation.head import HeadPhantom, SimulatedHead
from sahlora.simulation.scanner import Acquisition
from sahlora.simulation.writers import write_dicom_series

SPACING = (4.0, 2.0, 2.0)
SHAPE = (12, 56, 52)
HU = simple_head(SHAPE, SPACING)
LESION = (HU > 50) & (HU < 90)


def write(
    path: Path, array: np.ndarray, spacing: tuple[float, ...] = SPACING, origin: tuple[float, ...] = (0, 0, 0)
) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def case(
    folder: Path, label: np.ndarray = LESION, hu: np.ndarray = HU, name: str = "a", **fields: Any
) -> Case:
    return Case(
        name,
        write(folder / f"{name}-ct.nii.gz", hu),
        write(folder / f"{name}-label.nii.gz", label.astype(np.uint8)),
        **fields,
    )


def write_slicer_segments(path: Path, layers: list[np.ndarray], segments: list[tuple[str, int, int]]) -> Path:
    """Write NRRD as Slicer does: a list axis of layers; segments are (name, value, layer)."""
    z, y, x = layers[0].shape
    lines = [
        "NRRD0004", "type: unsigned char", "dimension: 4", "space: left-posterior-superior",
        f"sizes: {len(layers)} {x} {y} {z}", "space directions: none (2,0,0) (0,2,0) (0,0,4)",
        "kinds: list domain domain domain", "encoding: gzip", "space origin: (0,0,0)",
    ]  # fmt: skip
    for number, (name, value, layer) in enumerate(segments):
        fields = {"ID": f"Segment_{number}", "Name": name, "LabelValue": value, "Layer": layer}
        lines += [f"Segment{number}_{key}:={entry}" for key, entry in fields.items()]
    data = np.stack(layers, axis=-1).astype(np.uint8)
    path.write_bytes("\n".join([*lines, "", ""]).encode() + gzip.compress(data.tobytes()))
    return path


# --------------------------------------------------------------------------------------------- manifests


def test_csv_json_and_folder_list_the_same_cases(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        case(tmp_path, name=name)
        (tmp_path / "f" / name).mkdir(parents=True)
        for kind, file in (("ct", "ct.nii.gz"), ("label", "label.nii.gz")):
            (tmp_path / f"{name}-{kind}.nii.gz").rename(tmp_path / "f" / name / file)
    (tmp_path / "f" / "notes").mkdir()
    rows = [{"case": n, "image": f"f/{n}/ct.nii.gz", "label": f"f/{n}/label.nii.gz"} for n in ("p1", "p2")]
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (tmp_path / "m.json").write_text(json.dumps(rows))
    from_csv = read_manifest(tmp_path / "m.csv")
    assert [c.name for c in from_csv] == ["p1", "p2"]
    assert read_manifest(tmp_path / "m.json") == read_manifest(tmp_path / "f") == from_csv


def test_a_folder_with_a_manifest_is_that_manifest_and_what_was_read_can_be_written(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        case(tmp_path, name=name)
    (tmp_path / "s.csv").write_text("slice,hemorrhage\n0,1\n")
    table = (
        "case,image,label,slices,patient,segment,held_out\n"
        "a,p1-ct.nii.gz,p1-label.nii.gz,s.csv,Q,SAH é,yes\nb,p2-ct.nii.gz,p2-label.nii.gz,,,,\n"
    )
    (tmp_path / "manifest.csv").write_text(table, encoding="utf-8")
    cases = read_manifest(tmp_path)
    assert [one.held_out for one in cases] == [True, False]
    write_manifest(tmp_path / "elsewhere" / "again.csv", cases)
    assert (
        read_manifest(tmp_path / "elsewhere" / "again.csv")
        == cases
        == read_manifest(tmp_path / "manifest.csv")
    )


def test_optional_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "case,image,label,patient,segment,held_out\na,i,l,Q,SAH,yes\nb,i,l,,,0\n", encoding="utf-8"
    )
    first, second = list_cases(tmp_path / "m.csv")
    assert (first.patient, first.segment, first.held_out) == ("Q", "SAH", True)
    assert (second.patient, second.segment, second.held_out) == ("b", None, False)
    (tmp_path / "m.json").write_text(
        '[{"case": 7, "image": "i", "label": "l", "segment": 2, "held_out": true, "patient": null}]'
    )
    (only,) = list_cases(tmp_path / "m.json")
    assert (only.name, only.patient, only.segment, only.held_out) == ("7", "7", "2", True)


@pytest.mark.parametrize(
    "text", ["{", '{"case": "a"}', "[1]", "[]", '[{"case": "a"}]',
             '[{"case": "a", "image": "i", "label": "l", "held_out": "perhaps"}]'],
)  # fmt: skip
def test_bad_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path / "m.json")
    assert error.value.code == "bad-manifest"


@pytest.mark.parametrize(
    ("header", "words"),
    [("case,image", "lacks the column label"), ("a", "lacks the columns case, image, label")],
)
def test_missing_columns_are_named(header: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"{header}\n")
    with pytest.raises(InputError, match=words):
        read_manifest(tmp_path / "m.csv")


def test_a_folder_with_half_or_double_cases_is_named(tmp_path: Path) -> None:
    write(tmp_path / "half" / "p" / "ct.nii.gz", HU)
    for name in ("ct.nii.gz", "ct.nrrd", "label.nrrd"):
        write(tmp_path / "double" / "p" / name, HU)
    (tmp_path / "empty").mkdir()
    for folder, words in (("half", "p has no label"), ("double", "several ct"), ("empty", "no case")):
        with pytest.raises(InputError, match=words) as error:
            read_manifest(tmp_path / folder)
        assert error.value.code == "bad-manifest"


# ------------------------------------------------------------------------------------------------ labels


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return read_volume(write(tmp_path / "ct.nii.gz", HU))


def label_error(path: Path, volume: Volume, segment: str | None = None) -> InputError:
    with pytest.raises(InputError) as error:
        read_label(path, volume, segment)
    assert error.value.hint
    return error.value


def test_our_own_segmentation_is_read_back(volume: Volume, tmp_path: Path) -> None:
    write_label(volume.to_grid(LESION, label=True), tmp_path / "l.seg.nrrd", INTRACRANIAL_HEMORRHAGE)
    assert np.array_equal(read_label(tmp_path / "l.seg.nrrd", volume), LESION)


def test_segments_are_chosen_by_name_also_where_they_overlap(volume: Volume, tmp_path: Path) -> None:
    half = LESION.copy()
    half[: SHAPE[0] // 2] = False
    segments = [("all blood", 1, 0), ("upper half", 1, 1)]
    path = write_slicer_segments(tmp_path / "two.seg.nrrd", [LESION, half], segments)
    assert np.array_equal(read_label(path, volume, "all blood"), LESION)
    assert np.array_equal(read_label(path, volume, "upper half"), half)
    assert label_error(path, volume).code == "several-segments"
    assert label_error(path, volume, "other").code == "unknown-segment"
    assert "upper half" in label_error(path, volume, "other").hint
    assert label_error(write_slicer_segments(path, [LESION], []), volume).code == "no-segment"


def test_a_value_of_a_label_map_is_chosen(volume: Volume, tmp_path: Path) -> None:
    values = LESION.astype(np.uint8)
    values[SHAPE[0] // 2 :] *= 3
    values[0] = UNKNOWN
    path = write(tmp_path / "l.nii.gz", values)
    assert np.array_equal(read_label(path, volume) == 1, LESION & (values != UNKNOWN))
    assert np.array_equal(read_label(path, volume, "3") == 1, values == 3)
    assert (read_label(path, volume, "3")[0] == UNKNOWN).all()
    assert label_error(path, volume, "2").code == "unknown-segment"


def test_fractions_and_vectors_are_no_labels(volume: Volume, tmp_path: Path) -> None:
    for value in (0.4, np.inf, np.nan):
        array = np.where(LESION, np.float32(value), np.float32(0))
        assert label_error(write(tmp_path / "p.nrrd", array), volume).code == "bad-label"
    vectors = sitk.GetImageFromArray(np.stack([LESION.astype(np.uint8)] * 3, axis=-1), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / "v.nrrd"))
    assert label_error(tmp_path / "v.nrrd", volume).code == "bad-label"
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    assert label_error(tmp_path / "broken.nii.gz", volume).code == "unreadable-label"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("CT", HU),
        ("resampled CT", HU - np.float32(0.5)),
        ("windowed CT", np.arange(HU.size).reshape(SHAPE) % 256),
    ],
)
def test_an_image_is_no_label(kind: str, values: np.ndarray, volume: Volume, tmp_path: Path) -> None:
    values = values if kind == "resampled CT" else values.astype(np.int16)
    assert label_error(write(tmp_path / "ct2.nii.gz", values), volume).code == "label-is-image"
    assert label_error(write(tmp_path / "ct2.nii.gz", values), volume, "1").code == "label-is-image"


def test_a_ct_series_is_no_label(tilted: SimulatedHead, tmp_path: Path) -> None:
    write_dicom_series(tilted, tmp_path / "ct")
    assert label_error(tmp_path / "ct", read_volume(tmp_path / "ct")).code == "label-is-image"


def test_a_label_map_of_many_structures_is_a_label(volume: Volume, tmp_path: Path) -> None:
    values = (np.arange(HU.size).reshape(SHAPE) % 255).astype(np.int16)
    assert np.array_equal(read_label(write(tmp_path / "atlas.nii.gz", values), volume), values > 0)


@pytest.fixture(scope="module")
def tilted() -> SimulatedHead:
    """The simple head as if it had been acquired on tilted slices."""
    heights = tuple(np.arange(SHAPE[0]) * SPACING[0])
    acquisition = Acquisition(heights, (SPACING[0],) * SHAPE[0], SPACING[1:], SHAPE[1:], tilt=15.0)
    return SimulatedHead(HeadPhantom(3, tilt=15.0), acquisition, HU, LESION.astype(np.uint8))


def test_a_dicom_label_on_tilted_slices_is_exact(tilted: SimulatedHead, tmp_path: Path) -> None:
    write_dicom_series(tilted, tmp_path / "ct")
    write_dicom_series(tilted, tmp_path / "label", mask=True)
    volume = read_volume(tmp_path / "ct")
    assert not volume.is_regular
    assert np.array_equal(read_label(tmp_path / "label", volume) == 1, tilted.blood)
    other = Volume.from_array(HU, SPACING)
    assert label_error(tmp_path / "label", other).code == "other-slices"


# ---------------------------------------------------------------------------------------------- findings


def findings(*cases: Case) -> list[dict[str, str]]:
    """Check cases; return severity by code for each."""
    return [by_code(one) for one in check_cases(cases)]


def by_code(checked: CheckedCase) -> dict[str, str]:
    """Return severity by code, but for the warning that the heads drawn here are small."""
    return {one.code: one.severity for one in checked.findings if one.code != "doubtful-size"}


def test_a_good_case_has_no_finding_and_its_true_volume(tmp_path: Path) -> None:
    (checked,) = check_cases([case(tmp_path)])
    assert by_code(checked) == {}
    assert checked.annotated_ml == pytest.approx(LESION.sum() * np.prod(SPACING) / 1000, rel=1e-12)
    assert checked.median_hu == np.median(HU[LESION])


AIR = np.zeros(SHAPE, bool)
AIR[5, :3, :12] = True
SKULL = (HU > 600) & (np.arange(SHAPE[0]) == 5)[:, None, None]
BRAIN_AND_BONE = LESION | (SKULL & (np.arange(SHAPE[2]) < 11))
ONE_SIDE = LESION & (np.arange(SHAPE[2]) > SHAPE[2] // 2)
SPOTS = LESION.copy()
SPOTS[2, 28, 26] = SPOTS[9, 28, 20] = True
WATER = (HU > 20) & (HU < 40) & (np.indices(SHAPE)[1] < 30)

LABELS = {
    "empty-label": (np.zeros(SHAPE, bool), "warning"),
    "label-outside": (AIR, "error"),
    "label-on-air": (AIR, "error"),
    "label-on-bone": (SKULL, "error"),
    "unlikely-density": (SKULL, "warning"),
    "mirrored-label": (ONE_SIDE[:, :, ::-1], "error"),
    "tiny-fragments": (SPOTS, "note"),
    "several-values": (LESION * (1 + (np.arange(SHAPE[0]) > 5))[:, None, None], "note"),
    "unknown-voxels": (np.where(AIR, UNKNOWN, LESION), "note"),
}


@pytest.mark.parametrize("code", LABELS)
def test_labels_are_looked_at(code: str, tmp_path: Path) -> None:
    label, severity = LABELS[code]
    (found,) = findings(case(tmp_path, label))
    assert found.get(code) == severity


def test_of_many_values_a_few_are_listed(tmp_path: Path) -> None:
    values = np.where(LESION, 1 + np.arange(HU.size).reshape(SHAPE) % 20, 0)
    (checked,) = check_cases([case(tmp_path, values)])
    (message,) = [f.message for f in checked.findings if f.code == "several-values"]
    assert message == "The values 1, 2, 3, 4, 5, 6, 7, 8, … 12 more all count as hemorrhage."
    assert label_error(checked.case.label, read_volume(checked.case.image), "99").hint == (
        "It holds the values 1, 2, 3, 4, 5, 6, 7, 8, … 12 more."
    )


def test_bone_under_a_part_of_the_label_is_a_warning(tmp_path: Path) -> None:
    (found,) = findings(case(tmp_path, BRAIN_AND_BONE))
    assert found["label-on-bone"] == "warning"


@pytest.mark.parametrize("axis", range(3))
def test_the_exchanged_axis_is_named(axis: int, tmp_path: Path) -> None:
    (checked,) = check_cases([case(tmp_path, np.flip(ONE_SIDE, axis))])
    (message,) = [f.message for f in checked.findings if f.code == "mirrored-label"]
    assert ("top and bottom", "front and back", "left and right")[axis] in message


def with_label(tmp_path: Path, label: np.ndarray, **geometry: Any) -> Case:
    return replace(case(tmp_path), label=write(tmp_path / "other.nrrd", label.astype(np.uint8), **geometry))


def test_geometry_of_the_label_is_compared(tmp_path: Path) -> None:
    coarse = with_label(tmp_path, LESION[:, ::2, ::2], spacing=(4, 4, 4), origin=(1, 1, 0))
    assert findings(coarse) == [{"other-grid": "note"}]
    (found,) = findings(with_label(tmp_path, LESION, origin=(0, 0, 8)))
    assert found["shifted-label"] == "warning"
    (found,) = findings(with_label(tmp_path, LESION, origin=(0, 0, 900)))
    assert found["label-elsewhere"] == "error"
    (found,) = findings(with_label(tmp_path, LESION, origin=(0, 0, 24)))
    assert found["label-cut"] == "warning"
    assert findings(with_label(tmp_path, LESION, origin=(0, 0, 0.01))) == [{}]


def test_the_same_grid_stored_the_other_way_round_is_the_same(tmp_path: Path) -> None:
    good = case(tmp_path)
    image = sitk.GetImageFromArray(LESION[:, ::-1, ::-1].astype(np.uint8))
    image.SetSpacing(SPACING[::-1])
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin(((SHAPE[2] - 1) * 2, (SHAPE[1] - 1) * 2, 0))
    sitk.WriteImage(image, str(tmp_path / "turned.nrrd"))
    assert findings(replace(good, label=tmp_path / "turned.nrrd")) == [{}]


def test_slices_are_compared_with_the_expert(tmp_path: Path) -> None:
    labelled = LESION.any(axis=(1, 2))
    first, missing = int(labelled.argmax()), int((~labelled).argmax())
    expert = labelled.copy()
    expert[first], expert[missing] = False, True
    rows = [f"{i},{int(value)}\n" for i, value in enumerate(expert)]
    (tmp_path / "s.csv").write_text("slice,hemorrhage\n" + "".join(rows))
    (checked,) = check_cases([case(tmp_path, slices=tmp_path / "s.csv")])
    assert by_code(checked) == {
        "slices-disagree": "warning",
        "unlabelled-slices": "note",
    }
    kept = LESION.sum() - LESION[first].sum()
    assert checked.annotated_ml == pytest.approx(kept * np.prod(SPACING) / 1000)


def test_an_unreadable_case_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    broken = Case("broken", tmp_path / "broken.nii.gz", tmp_path / "broken.nii.gz.txt")
    (tmp_path / "broken.nii.gz.txt").touch()
    absent = Case("absent", tmp_path / "no.nii.gz", tmp_path / "no.nrrd")
    several = replace(case(tmp_path, name="s"), segment="SAH")
    found = findings(broken, absent, several, case(tmp_path, name="good"))
    assert found[0] == {"unreadable": "error"}
    assert found[1] == {"missing-file": "error"}
    assert found[2] == {"unknown-segment": "error"}
    assert found[3] == {}


def test_scans_and_patients_that_come_twice_are_found(tmp_path: Path) -> None:
    a, b = case(tmp_path, name="a"), case(tmp_path, name="b", hu=HU + 1, patient="a")
    assert findings(a, b) == [{"same-patient": "note"}] * 2
    assert findings(a, replace(b, held_out=True)) == [{"split-patient": "error"}] * 2
    assert findings(a, case(tmp_path, name="c")) == [{"same-image": "error"}] * 2


def test_one_dicom_patient_under_two_names_is_found(tilted: SimulatedHead, tmp_path: Path) -> None:
    cases = []
    for name, patient in (("a", "A"), ("b", "B")):
        head = replace(tilted, hu=tilted.hu + np.int16(name == "b"))
        write_dicom_series(head, tmp_path / name / "ct")
        write_dicom_series(head, tmp_path / name / "label", mask=True)
        cases.append(Case(name, tmp_path / name / "ct", tmp_path / name / "label", patient=patient))
    checked = check_cases(cases)
    assert [by_code(one)["same-dicom-patient"] for one in checked] == ["warning"] * 2
    assert "SIM" not in repr(checked)


# ------------------------------------------------------------------------------------------------- folds


def cohort(tmp_path: Path, volumes: dict[str, float]) -> list[Case]:
    return [Case(name, tmp_path, tmp_path, patient=name[0]) for name in volumes]


VOLUMES = {f"{chr(97 + i)}{scan}": v for i, v in enumerate([0, 3, 7, 9, 30, 40, 45, 60, 70, 80, 120, 5])
           for scan in range(1 + i % 2)}  # fmt: skip


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_keep_patients_together_and_strata_even(folds: int, tmp_path: Path) -> None:
    assigned = assign_folds(cohort(tmp_path, VOLUMES), VOLUMES, folds)
    fold_of = {one.patient: one.fold for one in assigned}
    assert all(one.fold == fold_of[one.patient] for one in assigned)
    strata = {one.patient: one.stratum for one in assigned}
    for group in (None, *set(strata.values())):
        sizes = Counter(dict.fromkeys(range(folds), 0))
        sizes.update(f for p, f in fold_of.items() if group in (None, strata[p]))
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_folds_follow_the_seed_not_the_order_of_cases(tmp_path: Path) -> None:
    cases = cohort(tmp_path, VOLUMES)
    first = {a.case: a.fold for a in assign_folds(cases, VOLUMES, seed=1)}
    assert {a.case: a.fold for a in assign_folds(cases[::-1], VOLUMES, seed=1)} == first
    assert {a.case: a.fold for a in assign_folds(cases, VOLUMES, seed=2)} != first


def test_held_out_cases_are_in_no_fold(tmp_path: Path) -> None:
    cases = [replace(c, held_out=c.patient == "c") for c in cohort(tmp_path, VOLUMES)]
    assert {a.patient for a in assign_folds(cases, VOLUMES) if a.fold is None} == {"c"}


@pytest.mark.parametrize("folds", [1, 13])
def test_impossible_folds_are_refused(folds: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="12 patients") as error:
        assign_folds(cohort(tmp_path, VOLUMES), VOLUMES, folds)
    assert error.value.hint == "Give 2 to 12 folds."


# ----------------------------------------------------------------------------------------------- command


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for number in range(3):
        case(tmp_path, hu=HU + np.int16(number), name=f"good{number}")
    case(tmp_path, label=ONE_SIDE[:, :, ::-1], hu=HU + np.int16(9), name="flipped")
    names = [*(f"good{i}" for i in range(3)), "flipped"]
    path = tmp_path / "é cases.csv"
    path.write_text("case,image,label\n" + "".join(f"{n},{n}-ct.nii.gz,{n}-label.nii.gz\n" for n in names))
    return path


def test_check_prints_a_table_and_ends_with_status_3(manifest: Path) -> None:
    done = sahlora("cases", "check", manifest)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "case", "good0", "good1", "good2", "flipped",
    ]  # fmt: skip
    assert "error [mirrored-label]" in done.stdout
    assert "1 of 4 cases have errors: flipped" in done.stderr


def test_check_prints_json(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cases", "check", str(manifest), "--json"]) == 3
    listed = json.loads(capsys.readouterr().out)
    assert [entry["case"] for entry in listed] == ["good0", "good1", "good2", "flipped"]
    assert listed[3]["findings"][0].keys() == {"severity", "code", "message", "hint"}
    assert main(["cases", "check", str(manifest), "--progress", "json"]) == 3
    told = events(capsys.readouterr().out)
    assert [event["event"] for event in told[-2:]] == ["result", "error"]
    assert told[-2]["cases"] == listed
    assert told[-1]["code"] == "bad-cases"


def test_folds_are_written_for_good_cases_only(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "folds.csv"
    assert main(["cases", "folds", str(manifest), "-o", str(out), "--folds", "2"]) == 3
    assert not out.exists()
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))
    assert main(["cases", "folds", str(manifest), "-o", str(out), "--folds", "2"]) == 0
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["good0", "good1", "good2"]
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert {row["stratum"] for row in rows} == {"0-25 mL"}


def test_the_gravest_finding_comes_first(tmp_path: Path) -> None:
    (checked,) = check_cases([case(tmp_path, AIR)])
    order = [f.severity for f in checked.findings]
    assert order == sorted(order, key=("error", "warning", "note").index)
    assert checked.severity == "error"
    assert CheckedCase(checked.case).severity is None


def test_what_lies_beside_an_image_without_being_one_is_passed_over(tmp_path: Path) -> None:
    for name in ("ct.nii.gz", "label.mhd"):
        write(tmp_path / "p" / name, HU if name.startswith("ct") else LESION.astype(np.uint8))
    (tmp_path / "p" / "ct.json").write_text("{}")
    (only,) = read_manifest(tmp_path)
    assert (only.image.name, only.label.name) == ("ct.nii.gz", "label.mhd")


def test_a_label_of_all_ones_is_warned_about(tmp_path: Path) -> None:
    (found,) = findings(case(tmp_path, np.ones(SHAPE, bool)))
    assert found["label-everywhere"] == "warning"


def test_warnings_of_reading_the_image_are_findings(tilted: SimulatedHead, tmp_path: Path) -> None:
    write_dicom_series(tilted, tmp_path / "ct")
    write_dicom_series(tilted, tmp_path / "label", mask=True)
    for file in (tmp_path / "ct").iterdir():
        data = pydicom.dcmread(file)
        data.ConvolutionKernel = "H60s"
        data.save_as(file)
    (found,) = findings(Case("a", tmp_path / "ct", tmp_path / "label"))
    assert found["bone-kernel"] == "warning"
