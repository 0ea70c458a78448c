"""Blood simulated into a given CT: what the mask and the voxels promise. The CT is a blood-free phantom."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from sahlora import cli
from sahlora.cases.bleed_targets import list_scans
from sahlora.errors import InputError, UsageError
from sahlora.imaging.volume import Volume, read_volume
from sahlora.runtime.progress import Progress
from sahlora.simulation.head import ROOM, SITES, HeadPhantom, SimulatedHead, simulate_head
from sahlora.simulation.in_ct import (
    SUSPICIOUS_ML,
    Bleed,
    Patient,
    SimulatedBleed,
    dense_volume,
    prepare,
    simulate_bleed,
)
from sahlora.simulation.phantom import HEAD
from sahlora.simulation.scanner import gantry_grid, place

BLEED = Bleed(seed=1, sah_volume_ml=20, site="acom")


@pytest.fixture(scope="module")
def healthy() -> SimulatedHead:
    return simulate_head(HeadPhantom(seed=1, sah_volume_ml=0, spacing=(5.0, 0.9, 0.9)))


@pytest.fixture(scope="module")
def patient(healthy: SimulatedHead) -> Patient:
    return prepare(Volume.from_array(healthy.hu, healthy.settings.spacing))


@pytest.fixture(scope="module")
def bled(patient: Patient) -> SimulatedBleed:
    return simulate_bleed(patient, BLEED)


def center(patient: Patient, blood: np.ndarray) -> np.ndarray:
    """x, y, z of the middle of blood, mm."""
    return np.mean(np.argwhere(blood), axis=0)[::-1] * patient.volume.spacing[::-1]


@pytest.mark.parametrize("volume", [3.0, 20.0, 60.0])
def test_mask_holds_the_volume_asked_for(patient: Patient, volume: float) -> None:
    made = simulate_bleed(patient, replace(BLEED, sah_volume_ml=volume))
    counted = made.blood.sum() * np.prod(patient.volume.spacing) / 1000
    assert counted == pytest.approx(volume, rel=0.02)
    assert made.volume_ml == pytest.approx(counted, rel=1e-9)


def test_equal_settings_give_equal_voxels(patient: Patient, bled: SimulatedBleed) -> None:
    again = simulate_bleed(patient, BLEED)
    assert np.array_equal(again.hu, bled.hu)
    assert np.array_equal(again.blood, bled.blood)
    other = simulate_bleed(patient, replace(BLEED, seed=2))
    assert not np.array_equal(other.blood, bled.blood)


def test_voxels_without_blood_are_those_of_the_scan(patient: Patient, bled: SimulatedBleed) -> None:
    without = bled.share == 0
    assert np.mean(without) > 0.9
    assert np.array_equal(bled.hu[without], patient.volume.hu[without])
    assert np.array_equal(bled.blood > 0, bled.share >= 0.5)


def test_blood_is_bright_and_keeps_the_noise(patient: Patient, bled: SimulatedBleed) -> None:
    blood = bled.blood > 0
    assert 50 <= np.median(bled.hu[blood]) <= 66
    noise_before, noise_after = (
        np.std(np.diff(hu.astype(float), axis=2)[blood[:, :, 1:] & blood[:, :, :-1]])
        for hu in (patient.volume.hu, bled.hu)
    )
    assert noise_after == pytest.approx(noise_before, rel=0.15)


def test_blood_lies_where_fluid_was(healthy: SimulatedHead, patient: Patient, bled: SimulatedBleed) -> None:
    """Within 1.5 mm, the distension and half a voxel, of what the CT shows as less dense than tissue."""
    smooth = ndimage.gaussian_filter(healthy.hu.astype(float), (0, 1, 1))
    fluid = (smooth < 28) & (smooth > -50)
    distance = np.stack([ndimage.distance_transform_edt(~plane, sampling=0.9) for plane in fluid])
    assert np.mean(distance[bled.blood > 0] <= 2.0) > 0.9
    assert np.mean(healthy.hu[bled.blood > 0]) < 28


def test_site_decides_where_the_blood_is(patient: Patient) -> None:
    centers = {
        site: center(patient, simulate_bleed(patient, replace(BLEED, sah_volume_ml=3, site=site)).blood)
        for site in ("acom", "mca-left", "mca-right", "basilar")
    }
    assert centers["mca-left"][0] > centers["acom"][0] + 8 > centers["mca-right"][0] + 16
    assert centers["acom"][1] < centers["basilar"][1], "in front of the basilar tip"


def test_reflux_takes_blood_into_the_ventricles(patient: Patient, bled: SimulatedBleed) -> None:
    assert bled.ventricular_ml < 0.2
    refluxed = simulate_bleed(patient, replace(BLEED, reflux=True))
    assert refluxed.ventricular_ml > 0.5
    assert refluxed.volume_ml == pytest.approx(20, rel=0.02)


def test_head_frame_is_found_in_a_turned_and_warped_head(healthy: SimulatedHead, patient: Patient) -> None:
    """Rupture sites within 6 mm, in slices of 5 mm, of where the phantom was placed."""
    acquisition = healthy.acquisition
    grid = gantry_grid(acquisition, *ROOM)
    own = np.stack(np.broadcast_arrays(*HEAD.coordinates), axis=-1) + 1000.0
    rng = np.random.default_rng([healthy.settings.seed, 3])
    placed = place(own.astype(np.float32), HEAD, grid, acquisition, rng)
    found = np.stack([acquisition.sample(placed[..., i], grid) for i in range(3)], axis=-1) - 1000
    _, rows, columns = patient.box
    for site in SITES.values():
        k, j, i = np.unravel_index(np.abs(found - site).sum(axis=-1).argmin(), found.shape[:3])
        height, width = patient.acquisition.size
        true = (
            (i - columns.start - (width - 1) / 2) * 0.9,
            (j - rows.start - (height - 1) / 2) * 0.9,
            patient.acquisition.heights[k],
        )
        assert np.linalg.norm(np.subtract(patient.spaces.frame.to_patient(site), true)) < 6


def test_density_sets_the_hu_of_blood(patient: Patient) -> None:
    faint, dense = (simulate_bleed(patient, replace(BLEED, density_hu=hu)) for hu in (52.0, 76.0))
    difference = np.median(dense.hu[dense.blood > 0]) - np.median(faint.hu[faint.blood > 0])
    assert 15 <= difference <= 26


def test_more_blood_than_the_space_holds_is_refused(patient: Patient) -> None:
    with pytest.raises(UsageError) as caught:
        simulate_bleed(patient, replace(BLEED, sah_volume_ml=900))
    assert caught.value.code == "volume-too-large"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"sah_volume_ml": 0.0}, "bad-volume"),
        ({"sah_volume_ml": float("nan")}, "bad-volume"),
        ({"site": "aorta"}, "unknown-site"),
        ({"density_hu": 20.0}, "bad-density"),
        ({"seed": -1}, "bad-seed"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(BLEED, **settings)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_upside_down_head_is_refused(healthy: SimulatedHead) -> None:
    with pytest.raises(InputError) as caught:
        prepare(Volume.from_array(healthy.hu[::-1], healthy.settings.spacing))
    assert caught.value.code == "no-fit"


@pytest.mark.proof
def test_blood_in_the_scan_is_warned_of(patient: Patient, bled: SimulatedBleed) -> None:
    assert dense_volume(patient.spaces) < SUSPICIOUS_ML / 2
    events: list[dict[str, Any]] = []
    prepare(replace(patient.volume, hu=bled.hu), Progress(events.append))
    assert "dense-brain" in [event.get("code") for event in events]


def test_what_is_no_head_is_refused() -> None:
    z, y, x = np.mgrid[-12:12, -60:60, -60:60]
    ball = np.where((z * 5) ** 2 + y**2 + x**2 < 50**2, 40, -1000).astype(np.int16)
    with pytest.raises(InputError) as caught:
        prepare(Volume.from_array(ball, (5.0, 1.0, 1.0)))
    assert caught.value.code in ("no-head", "no-fit", "no-brain")


# ---------------------------------------------------------------------------------------------- command


def simulate(*arguments: object) -> int:
    return cli.main(["simulate", *map(str, arguments), "--progress", "none"])


def test_command_bleeds_into_any_orientation_alike_and_keeps_the_grid(
    healthy: SimulatedHead, patient: Patient, tmp_path: Path
) -> None:
    turned = sitk.DICOMOrient(healthy.ct, "PIR")
    angle = np.deg2rad(12)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    turned.SetDirection((tilt @ np.reshape(turned.GetDirection(), (3, 3))).ravel())
    sitk.WriteImage(turned, str(tmp_path / "b.mha"), True)
    given = ("--sah-ml", 15, "--site", "pcom", "--density", 60, "--no-reflux", "--count", 2)
    assert simulate(tmp_path / "out", "--into", tmp_path / "b.mha", *given) == 0
    with (tmp_path / "out" / "manifest.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["patient"]) for row in rows] == [("b-0001", "b"), ("b-0002", "b")]
    for seed, row in enumerate(rows, 1):
        ct, mask = (sitk.ReadImage(str(tmp_path / "out" / row[key])) for key in ("image", "label"))
        for image in (ct, mask):
            assert image.GetSize() == turned.GetSize()
            for getter in ("GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(image, getter)() == pytest.approx(getattr(turned, getter)(), abs=1e-4)
        upright = simulate_bleed(patient, Bleed(seed, 15, "pcom", 60))
        read = read_volume(tmp_path / "out" / row["image"])
        assert np.array_equal(read.hu, upright.hu)
        truth = json.loads((tmp_path / "out" / f"{row['case']}.json").read_text(encoding="utf-8"))
        counted = sitk.GetArrayFromImage(mask).sum() * np.prod(mask.GetSpacing()) / 1000
        assert truth["volume_ml"] == pytest.approx(counted, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--into", "nowhere.nii.gz"], 3),
        (["--into", "SCAN", "--spacing", "5,1,1"], 2),
        (["--into", "SCAN", "--site", "aorta"], 2),
        (["--into", "SCAN", "--density", "200"], 2),
        (["--into", "SCAN", "--sah-ml", "0"], 2),
        (["--density", "60"], 2),
        (["--into", "TEXT"], 3),
    ],
)
def test_command_refuses_and_writes_nothing(arguments: list[str], status: int, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    (tmp_path / "text.txt").write_text("no CT", encoding="utf-8")
    places = {"SCAN": tmp_path / "scan.nii.gz", "TEXT": tmp_path / "text.txt"}
    assert simulate(tmp_path / "out", *(places.get(word, word) for word in arguments)) == status
    assert not list((tmp_path / "out").glob("*"))


def test_scans_with_known_hemorrhage_are_passed_over(tmp_path: Path) -> None:
    for name in ("free", "bled", "unknown"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    (tmp_path / "free.csv").write_text("slice,hemorrhage\n0,0\n1,0\n", encoding="utf-8")
    (tmp_path / "bled.csv").write_text("slice,hemorrhage\n0,0\n1,1\n", encoding="utf-8")
    (tmp_path / "cases.csv").write_text(
        "case,image,label,patient,slices\n"
        "free,free.nii.gz,x,P1,free.csv\nbled,bled.nii.gz,x,P2,bled.csv\nunknown,unknown.nii.gz,x,P3,\n",
        encoding="utf-8",
    )
    assert [(s.name, s.patient) for s in list_scans(tmp_path / "cases.csv")] == [
        ("free", "P1"),
        ("unknown", "P3"),
    ]


@pytest.mark.proof
def test_real_ct_bleeds() -> None:
    """On the real GE head: tilted, uneven DICOM slices."""
    if "SAHLORA_DATA" not in os.environ:
        pytest.skip("SAHLORA_DATA names no folder with real CT.")
    patient = prepare(read_volume(Path(os.environ["SAHLORA_DATA"]) / "ge_head_dicom"))
    made = simulate_bleed(patient, replace(BLEED, sah_volume_ml=25))
    assert made.volume_ml == pytest.approx(25, rel=0.02)
    assert 45 <= np.median(made.hu[made.blood > 0]) <= 68
    assert np.median(patient.volume.hu[made.blood > 0]) < 30
