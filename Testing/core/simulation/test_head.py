"""The simulated head: what it promises to those who test and train with it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage

from sahlora import cli
from sahlora.errors import InputError, UsageError
from sahlora.imaging.volume import read_volume
from sahlora.simulation import bleeding, phantom
from sahlora.simulation.fields import Ellipsoid, Grid, averaging, resample
from sahlora.simulation.head import SITES, HeadPhantom, SimulatedHead, plan, simulate_head
from sahlora.simulation.scanner import quantum_noise
from sahlora.simulation.writers import write_dicom_series, write_images

COARSE = HeadPhantom(seed=1, sah_volume_ml=20, spacing=(5.0, 1.8, 1.8))
"""All tests use head 1: building its anatomy once serves them all."""


@pytest.fixture(scope="module")
def head() -> SimulatedHead:
    return simulate_head(COARSE)


@pytest.fixture(scope="module")
def healthy() -> phantom.Anatomy:
    return phantom.build_head(np.random.default_rng([1, 1]))


@pytest.fixture(scope="module")
def tilted() -> SimulatedHead:
    return simulate_head(replace(COARSE, tilt=15, base_step=2.5, noise=0))


def test_equal_settings_give_equal_voxels(head: SimulatedHead) -> None:
    again = simulate_head(COARSE)
    assert np.array_equal(again.hu, head.hu)
    assert np.array_equal(again.blood, head.blood)


@pytest.mark.parametrize("volume", [3.0, pytest.param(60.0, marks=pytest.mark.proof)])
def test_mask_holds_the_volume_asked_for(volume: float) -> None:
    made = simulate_head(replace(COARSE, sah_volume_ml=volume))
    spacing = made.mask.GetSpacing()
    counted = sitk.GetArrayFromImage(made.mask).sum() * np.prod(spacing) / 1000
    assert counted == pytest.approx(volume, rel=0.02)
    assert made.volume_ml == pytest.approx(counted, rel=1e-9)


def test_volume_zero_is_a_healthy_head_and_blood_changes_only_where_it_bleeds(head: SimulatedHead) -> None:
    healthy = simulate_head(replace(COARSE, sah_volume_ml=0))
    assert not healthy.blood.any()
    change = head.hu.astype(int) - healthy.hu
    assert np.median(change[head.blood > 0]) > 20
    assert np.mean(np.abs(change[head.blood == 0]) <= 1) > 0.97


def test_blood_is_as_bright_as_acute_blood_on_ct(head: SimulatedHead) -> None:
    assert 48 <= np.median(head.hu[head.blood > 0]) <= 70


def test_blood_stays_in_the_distended_subarachnoid_space(healthy: phantom.Anatomy) -> None:
    spread = bleeding.spread_from(
        SITES["acom"], healthy.subarachnoid, healthy.grid, np.random.default_rng([1, 2])
    )
    blood = spread.blood(3.0) >= 0.5
    assert blood.any()
    assert healthy.subarachnoid[blood].max() <= bleeding.DISTENSION


def test_blood_layer_thins_along_the_space_and_not_through_walls() -> None:
    grid = Grid((0.0, 0.0, 0.0), (40, 60, 40))
    _, y, z = grid.coordinates
    canals = np.minimum(np.abs(z - 10), np.abs(z - 30)) - 3 + 0 * (y + grid.coordinates[0])
    spread = bleeding.spread_from((20, 5, 10), canals, grid, np.random.default_rng(0))
    first, second = spread.reach[10], spread.reach[30]
    assert np.median(first[45:55]) - np.median(first[5:15]) > 1
    assert second.min() > 20, "the other canal is behind a wall"


def test_healthy_tissues_have_the_hu_of_real_ones(healthy: phantom.Anatomy) -> None:
    ventricle = Ellipsoid((0, 2, 13), (1, 6, 5)).distance(healthy.grid) < 0
    white = Ellipsoid((26, 0, 42), (5, 12, 4)).distance(healthy.grid) < 0
    lens_shaped_nucleus = Ellipsoid((25, -6, 13), (3, 8, 5)).distance(healthy.grid) < 0
    assert 2 <= np.median(healthy.hu[ventricle]) <= 15
    assert 25 <= np.median(healthy.hu[white]) <= 34
    assert 35 <= np.median(healthy.hu[lens_shaped_nucleus]) <= 45


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "LAI", "SLP"])
def test_any_orientation_puts_the_same_voxels_at_the_same_place(
    head: SimulatedHead, orientation: str
) -> None:
    turned = SimulatedHead(replace(COARSE, orientation=orientation), head.acquisition, head.hu, head.blood)
    assert turned.ct.GetDirection() != head.ct.GetDirection()
    back = sitk.Resample(turned.ct, head.ct, sitk.Transform(), sitk.sitkNearestNeighbor, -2000)
    assert np.array_equal(sitk.GetArrayFromImage(back), head.hu)
    for getter in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(turned.ct, getter)() == getattr(turned.mask, getter)()


def test_orientation_letters_name_the_direction_of_the_axes(head: SimulatedHead) -> None:
    turned = SimulatedHead(replace(COARSE, orientation="PIR"), head.acquisition, head.hu, head.blood)
    found = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(turned.ct.GetDirection())
    assert found == "PIR"


@pytest.mark.proof
def test_tilt_leaves_the_anatomy_where_it_is(tilted: SimulatedHead) -> None:
    straight = simulate_head(replace(COARSE, spacing=(2.5, 1.8, 1.8), noise=0)).ct
    a = tilted.acquisition
    k, j, i = (n.ravel() for n in np.mgrid[8:40:2, 20:110:2, 20:110:2])
    points = (
        a.positions[k] + i[:, None] * a.pixel[1] * np.array([1.0, 0, 0]) + j[:, None] * a.pixel[0] * a.down
    )
    values = np.clip(tilted.hu[k, j, i], -200, 500).astype(float)
    hu = np.clip(sitk.GetArrayFromImage(straight), -200, 500).astype(float)

    def misfit(shift: tuple[float, float]) -> float:
        moved = points + np.array([0.0, *shift])
        index = ((moved - straight.GetOrigin()) / straight.GetSpacing())[:, ::-1].T
        return float(np.abs(ndimage.map_coordinates(hu, index, order=1, cval=-200) - values).mean())

    shifts = [(dy, dz) for dy in (-2.0, 0.0, 2.0) for dz in (-2.0, 0.0, 2.0)]
    assert min(shifts, key=misfit) == (0.0, 0.0)


def test_volume_of_uneven_slices_counts_each_slices_thickness(tilted: SimulatedHead) -> None:
    thickness = np.array(tilted.acquisition.thickness)
    assert set(np.round(thickness, 6)) == {2.5, 5.0}
    counted = (tilted.blood.sum(axis=(1, 2)) * thickness).sum() * 1.8 * 1.8 / 1000
    assert counted == pytest.approx(20, rel=0.02)


def test_tilted_slices_lie_on_no_image_grid(tilted: SimulatedHead) -> None:
    with pytest.raises(UsageError, match="Tilted or uneven") as caught:
        _ = tilted.ct
    assert caught.value.code == "irregular-slices"


def test_dicom_series_reads_back_as_written(head: SimulatedHead, tmp_path: Path) -> None:
    paths = write_dicom_series(head, tmp_path / "ct")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "ct"))
    assert [Path(name).name for name in names] == [path.name for path in paths]
    read = sitk.ReadImage(names)
    assert np.array_equal(sitk.GetArrayFromImage(read), head.hu)
    assert read.GetOrigin() == pytest.approx(head.ct.GetOrigin(), abs=1e-5)
    assert read.GetSpacing() == pytest.approx(head.ct.GetSpacing(), abs=1e-5)


def test_tilted_uneven_dicom_is_read_by_sahlora_with_its_volume(
    tilted: SimulatedHead, tmp_path: Path
) -> None:
    write_dicom_series(tilted, tmp_path / "ct")
    volume = read_volume(tmp_path / "ct")
    assert not volume.is_regular
    assert np.array_equal(volume.hu, tilted.hu)
    read_ml = float(tilted.blood.sum(axis=(1, 2)) @ volume.voxel_ml)
    assert read_ml == pytest.approx(tilted.volume_ml, rel=0.02)


def test_dicom_bytes_depend_on_the_settings_alone(head: SimulatedHead, tmp_path: Path) -> None:
    first, second = (write_dicom_series(head, tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_dicom_names_no_patient(head: SimulatedHead, tmp_path: Path) -> None:
    header = pydicom.dcmread(write_dicom_series(head, tmp_path / "ct")[0])
    assert (header.PatientName, header.PatientBirthDate) == ("SIMULATED^SAH", "")
    assert header.PatientIdentityRemoved == "YES"


def test_dicom_series_is_not_mixed_into_a_filled_folder(head: SimulatedHead, tmp_path: Path) -> None:
    (tmp_path / "other.dcm").write_bytes(b"")
    with pytest.raises(InputError, match="not empty"):
        write_dicom_series(head, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["other.dcm"]


def test_image_files_hold_ct_and_mask_on_one_grid(head: SimulatedHead, tmp_path: Path) -> None:
    write_images(head, tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz")
    ct, mask = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("ct", "mask"))
    assert np.array_equal(sitk.GetArrayFromImage(ct), head.hu)
    assert np.array_equal(sitk.GetArrayFromImage(mask), head.blood)
    assert (ct.GetOrigin(), ct.GetSpacing()) == (mask.GetOrigin(), mask.GetSpacing())


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"sah_volume_ml": -1.0}, "bad-volume"),
        ({"sah_volume_ml": float("nan")}, "bad-volume"),
        ({"sah_volume_ml": 3000.0}, "volume-too-large"),
        ({"site": "aorta"}, "unknown-site"),
        ({"spacing": (0.0, 1.0, 1.0)}, "bad-spacing"),
        ({"spacing": (float("nan"), 1.0, 1.0)}, "bad-spacing"),
        ({"size": (0, 10, 10)}, "bad-size"),
        ({"orientation": "LRS"}, "bad-orientation"),
        ({"orientation": "XYZ"}, "bad-orientation"),
        ({"tilt": 60.0}, "bad-tilt"),
        ({"base_step": 9.0}, "bad-step"),
        ({"noise": -1.0}, "bad-noise"),
        ({"seed": -1}, "bad-seed"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        simulate_head(replace(COARSE, **settings))
    assert caught.value.code == code
    assert caught.value.hint


def test_slices_abut_whatever_the_tilt() -> None:
    acquisition = plan(replace(COARSE, tilt=20, base_step=2.0))
    along_normal = np.array(acquisition.heights) * acquisition.normal[2]
    thickness = np.array(acquisition.thickness)
    assert np.diff(along_normal) == pytest.approx((thickness[1:] + thickness[:-1]) / 2)


def test_averaging_keeps_the_mean_of_a_linear_ramp() -> None:
    ramp = np.arange(40, dtype=np.float32)
    assert averaging(np.array([7.3, 20.0]), 5.0, 40) @ ramp == pytest.approx([7.3, 20.0], abs=1e-4)


def test_resampling_averages_along_each_axis() -> None:
    values = np.random.default_rng(0).random((6, 8, 10), dtype=np.float32)
    weights = [averaging(np.array([1.5, 3.5]), 2.0, n) for n in values.shape]
    expected = np.einsum("az,by,cx,zyx->abc", *weights, values)
    assert resample(values, *weights) == pytest.approx(expected, abs=1e-6)


def test_distance_to_an_ellipsoid_is_exact_on_a_sphere() -> None:
    grid = Grid((-20.0, -20.0, -20.0), (41, 41, 41))
    x, y, z = grid.coordinates
    exact = np.sqrt(x**2 + y**2 + z**2) - 12
    near = np.abs(exact) < 5
    assert Ellipsoid((0, 0, 0), (12, 12, 12)).distance(grid)[near] == pytest.approx(exact[near], abs=1e-4)


def test_noise_is_correlated_in_the_plane_and_not_between_slices() -> None:
    noise = quantum_noise(np.random.default_rng(0), (20, 128, 128), (0.45, 0.45))
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.mean(noise[:, :, 1:] * noise[:, :, :-1]) > 0.6
    assert abs(np.mean(noise[1:] * noise[:-1])) < 0.02


# ---------------------------------------------------------------------------------------------- command


def simulate(*arguments: object) -> int:
    return cli.main(["simulate", *map(str, arguments), "--spacing", "5,1.8,1.8", "--progress", "none"])


def test_command_writes_a_manifest_that_training_reads(tmp_path: Path) -> None:
    assert simulate(tmp_path / "out", "--count", 2, "--seed", 1) == 0
    with (tmp_path / "out" / "manifest.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["sim-0001", "sim-0002"]
    for row in rows:
        mask = sitk.ReadImage(str(tmp_path / "out" / row["label"]))
        truth = json.loads((tmp_path / "out" / f"{row['case']}.json").read_text(encoding="utf-8"))
        counted = sitk.GetArrayFromImage(mask).sum() * np.prod(mask.GetSpacing()) / 1000
        assert truth["volume_ml"] == pytest.approx(counted, abs=1e-3)
        assert truth["volume_ml"] == pytest.approx(truth["settings"]["sah_volume_ml"], rel=0.02)
        assert read_volume(tmp_path / "out" / row["image"]).hu.shape == sitk.GetArrayFromImage(mask).shape


@pytest.mark.proof
def test_command_writes_tilted_dicom_with_its_mask(tmp_path: Path) -> None:
    assert simulate(tmp_path / "out", "--format", "dicom", "--tilt", 12) == 0
    files = zip(
        *(sorted((tmp_path / "out" / f"sim-0001_{name}").iterdir()) for name in ("ct", "mask")), strict=True
    )
    pairs = [(pydicom.dcmread(ct), pydicom.dcmread(mask)) for ct, mask in files]
    assert all(ct.ImagePositionPatient == mask.ImagePositionPatient for ct, mask in pairs)
    hu, blood = (np.stack([pair[i].pixel_array for pair in pairs]) for i in (0, 1))
    assert set(np.unique(blood)) == {0, 1}
    assert np.median(hu[blood == 1]) > 45


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--sah-ml", "-5"], 2),
        (["--count", "0"], 2),
        (["--tilt", "10"], 2),
        (["--site", "aorta"], 2),
    ],
)
def test_command_refuses_and_writes_nothing(arguments: list[str], status: int, tmp_path: Path) -> None:
    assert simulate(tmp_path / "out", *arguments) == status
    assert not list((tmp_path / "out").glob("*"))


def test_command_keeps_a_filled_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert simulate(tmp_path) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
