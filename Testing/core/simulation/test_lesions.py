"""Hemorrhages of every kind in a real head: HU, masks, places and settings."""

from __future__ import annotations

import numpy as np
import pytest

from sahlora.errors import UsageError
from sahlora.imaging.labels import UNKNOWN
from sahlora.imaging.volume import Volume
from sahlora.simulation.head import HeadPhantom, simulate_head
from sahlora.simulation.in_ct import Patient, prepare
from sahlora.simulation.lesion_kinds import KINDS
from sahlora.simulation.lesions import ANY, COHORT_KINDS, MIXTURE, Lesion, SimulatedLesion, simulate_lesion

REAL_HU = (33, 45, 54, 61, 71)
"""5th, 25th, 50th, 75th and 95th percentile inside radiologists' outlines of real hemorrhage."""


@pytest.fixture(scope="module")
def patient() -> Patient:
    """A head without blood, in thick slices."""
    head = simulate_head(HeadPhantom(seed=12, sah_volume_ml=0, spacing=(5, 0.9, 0.9)))
    return prepare(Volume.from_array(head.hu, (5, 0.9, 0.9)))


@pytest.fixture(scope="module")
def lesions(patient: Patient) -> dict[str, SimulatedLesion]:
    """One lesion of each kind that this head has room for."""
    made = {}
    for first, kind in enumerate((*KINDS, MIXTURE), 1):
        for seed in range(first, first + 60, 12):
            try:
                made[kind] = simulate_lesion(patient, Lesion.draw(seed, kind))
                break
            except UsageError as error:
                assert error.code == "no-room"
    return made


def test_a_head_has_room_for_every_kind(lesions: dict[str, SimulatedLesion]) -> None:
    assert set(lesions) == {*KINDS, MIXTURE}


def test_what_blood_and_swelling_do_not_reach_is_the_scan(
    patient: Patient, lesions: dict[str, SimulatedLesion]
) -> None:
    swollen = {"intraparenchymal", "contusion", MIXTURE}
    for kind, lesion in lesions.items():
        if kind not in swollen:
            assert np.array_equal(lesion.hu[lesion.share == 0], patient.volume.hu[lesion.share == 0]), kind
    rim = lesions["contusion"].hu < patient.volume.hu - 2
    assert rim.any() and lesions["contusion"].blood[rim].mean() < 0.05


def test_the_mask_is_where_half_of_a_voxel_is_blood(lesions: dict[str, SimulatedLesion]) -> None:
    for kind, lesion in lesions.items():
        assert np.array_equal(lesion.blood == 1, lesion.share >= 0.5), kind
        assert set(np.unique(lesion.label)) <= {0, 1, UNKNOWN}
        assert not (lesion.label[lesion.blood == 0] == 1).any(), kind
        assert lesion.volume_ml == pytest.approx(lesion.blood.sum() * 5 * 0.9 * 0.9 / 1000, rel=1e-6)


def test_hu_inside_lie_where_those_of_real_hemorrhage_lie(lesions: dict[str, SimulatedLesion]) -> None:
    draw = np.random.default_rng(0)
    inside = [  # each lesion weighs the same
        draw.choice(lesion.hu[lesion.blood == 1], 400) for lesion in lesions.values()
    ]
    found = np.percentile(np.concatenate(inside), [5, 25, 50, 75, 95])
    reach = np.array([9, 9, 9, 9, 14])  # dense blood is drawn more often than these patients had it
    assert (np.abs(found - REAL_HU) <= reach).all(), found


def test_calcification_is_unknown(patient: Patient) -> None:
    dense = Volume.from_array(patient.volume.hu.copy(), patient.volume.spacing)
    plain = simulate_lesion(patient, Lesion(3, "intraparenchymal", 20.0))
    z, y, x = (int(np.median(axis)) for axis in np.nonzero(plain.blood))
    dense.hu[z, y - 3 : y + 4, x - 3 : x + 4] = 200
    calcified = Patient(dense, patient.box, patient.acquisition, patient.spaces)
    assert (
        simulate_lesion(calcified, Lesion(3, "intraparenchymal", 20.0)).label[z, y - 1 : y + 2, x - 1 : x + 2]
        == UNKNOWN
    ).all()


def test_blood_that_cannot_be_seen_is_unknown(patient: Patient) -> None:
    faint = simulate_lesion(patient, Lesion(3, "intraparenchymal", 20.0, density_hu=36))
    dense = simulate_lesion(patient, Lesion(3, "intraparenchymal", 20.0, density_hu=70))
    shares = [float((one.label[one.blood == 1] == UNKNOWN).mean()) for one in (faint, dense)]
    assert shares[0] > 0.3 and shares[1] < 0.05


def test_settled_blood_lies_lowest(lesions: dict[str, SimulatedLesion], patient: Patient) -> None:
    lesion = lesions["layering"]
    inside = patient.acquisition.sample(
        (patient.spaces.ventricles < 0).astype(np.float32), patient.spaces.grid
    )
    rows = np.nonzero(inside > 0.5)[1]
    assert np.median(np.nonzero(lesion.blood[patient.box])[1]) > np.median(rows)


def test_extra_axial_blood_lies_under_the_skull(
    lesions: dict[str, SimulatedLesion], patient: Patient
) -> None:
    depth = patient.acquisition.sample(patient.spaces.depth, patient.spaces.grid)
    for kind in ("subdural", "epidural"):
        blood = lesions[kind].blood[patient.box] == 1
        assert np.percentile(depth[blood], 5) < 5, kind


def test_a_volume_asked_for_is_met(patient: Patient) -> None:
    lesion = simulate_lesion(patient, Lesion(4, "intraparenchymal", 12.0))
    assert lesion.volume_ml == pytest.approx(12, rel=0.15)


def test_equal_settings_give_equal_voxels(patient: Patient) -> None:
    first, second = (simulate_lesion(patient, Lesion.draw(9, "mixture")) for _ in range(2))
    assert np.array_equal(first.hu, second.hu) and np.array_equal(first.label, second.label)


def test_a_cohort_has_every_kind() -> None:
    assert set(COHORT_KINDS) == {*KINDS, MIXTURE}
    assert {Lesion.draw(seed, ANY).kind for seed in range(20)} == set(COHORT_KINDS)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"kind": "chronic"}, "unknown-kind"),
        ({"density_hu": 20.0}, "bad-density"),
        ({"blood_ml": 0.0}, "bad-volume"),
        ({"seed": -1}, "bad-seed"),
    ],
)
def test_bad_settings_are_refused(settings: dict, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        Lesion(**settings)
    assert caught.value.code == code
