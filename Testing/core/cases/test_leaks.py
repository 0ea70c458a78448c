"""Who is held out: the same patients whatever the order, and nobody on both sides under another name."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import write_head, write_manifest
from sahlora.cases.folds import assign_folds
from sahlora.cases.leaks import require_unlike_files
from sahlora.cases.manifest import Case, read_manifest
from sahlora.cases.split import Cohort, split_cases
from sahlora.errors import InputError


def case(name: str, patient: str = "") -> Case:
    return Case(name, Path(f"{name}.nii"), Path(f"{name}-label.nii"), patient=patient)


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [
        (case("P1"), case("second", "P1")),
        (case("first", "P1"), case("P1", "")),
        (case("a", "P1"), case("b", "p1")),
        (case("a", "Doe  Jane"), case("b", " doe jane")),
        (case("a", "P１"), case("b", "P1")),
        (case("A", "P1"), case("a ", "P2")),
        (case("a", "P1"), replace(case("b", "P2"), image=Path("a.nii"))),
    ],
)
def test_one_patient_or_scan_is_not_on_both_sides(trained: Case, held_out: Case) -> None:
    with pytest.raises(InputError) as raised:
        Cohort((trained,), (held_out,))
    assert raised.value.code == "held-out-in-training"
    assert trained.name in raised.value.message and held_out.name in raised.value.message


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    rows = [write_head(folder, name) for name in "abcdef"]
    return read_manifest(write_manifest(folder / "cases.csv", rows))


def test_a_copy_under_another_name_is_found(cases: list[Case], tmp_path: Path) -> None:
    require_unlike_files(cases[:3], cases[3:])
    copy = replace(cases[0], name="z", patient="z", image=tmp_path / "z.nii.gz")
    shutil.copyfile(cases[0].image, copy.image)
    for name, one in (("one", cases[0]), ("two", copy)):
        (tmp_path / name).mkdir()
        shutil.copyfile(one.image, tmp_path / name / f"{one.name}.dcm")
    folders = [replace(copy, image=tmp_path / name) for name in ("one", "two")]
    for trained, held_out in ((cases[:3], [copy]), (folders[:1], folders[1:])):
        with pytest.raises(InputError) as raised:
            require_unlike_files(trained, held_out)
        assert raised.value.code == "held-out-in-training"


def test_a_seed_holds_out_the_same_whatever_the_order(cases: list[Case]) -> None:
    named = [replace(one, patient=f"{'pP'[number % 2]}{number // 2}") for number, one in enumerate(cases)]
    shuffled = list(named)
    random.Random(0).shuffle(shuffled)
    splits = [{one.name for one in split_cases(order, 1, seed=1).held_out} for order in (named, shuffled)]
    assert splits[0] == splits[1] and len(splits[0]) == 2  # letter case doesn't make another patient

    volumes = dict.fromkeys("abcdef", 10.0)
    folds = [assign_folds(order, volumes, 3, seed=1) for order in (named, shuffled)]
    assert set(folds[0]) == set(folds[1])
