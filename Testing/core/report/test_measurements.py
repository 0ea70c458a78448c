"""Volumes, components and areas are those of the voxels' true sizes; the files hold what was measured."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sahlora.errors import InputError, ResourceError, UsageError
from sahlora.imaging.geometry import SliceStack
from sahlora.imaging.volume import Volume, read_volume
from sahlora.report.measurements import bounding_box, measure, remove_small_components, write_csv, write_json

SHAPE, SPACING = (10, 40, 30), (5.0, 0.5, 0.8)
VOXEL_ML = 5.0 * 0.5 * 0.8 / 1000


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    hu = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    return read_volume(tmp_path / "ct.nii.gz")


def uneven_volume() -> Volume:
    """Slices at 0, 4, 8 and 15 mm: slabs of 4, 4, 5.5 and 7 mm."""
    origins = np.array([[0.0, 0.0, z] for z in (0, 4, 8, 15)])
    stack = SliceStack(origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (0.5, 0.8), (40, 30))
    return Volume(np.full((4, 40, 30), 60, np.int16), stack.even_grid, stack)


def box(*bounds: tuple[int, int], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


def test_volume_and_extent_are_those_of_the_voxels(volume: Volume) -> None:
    measured = measure(box((2, 5), (10, 20), (0, 6)), volume)
    assert measured.volume_ml == pytest.approx(180 * VOXEL_ML, rel=1e-6)
    assert measured.extent is not None
    extent = measured.extent
    sizes = (extent.inferior_superior_mm, extent.anterior_posterior_mm, extent.right_left_mm)
    assert sizes == pytest.approx((15.0, 5.0, 4.8), rel=1e-6)


def test_uneven_slices_count_with_their_true_thickness() -> None:
    measured = measure(box((1, 4), (0, 10), (0, 10), shape=(4, 40, 30)), uneven_volume())
    assert measured.volume_ml == pytest.approx(100 * 0.4 * (4 + 5.5 + 7) / 1000)
    assert [row.thickness_mm for row in measured.slices] == pytest.approx([4, 4, 5.5, 7])
    assert measured.extent is not None
    assert measured.extent.inferior_superior_mm == pytest.approx(16.5)


def test_slabs_of_the_profile_adjoin() -> None:
    rows = measure(box(shape=(4, 40, 30)), uneven_volume()).slices
    for below, above in pairwise(rows):
        assert below.position_mm + below.thickness_mm / 2 == pytest.approx(
            above.position_mm - above.thickness_mm / 2
        )
    assert rows[0].position_mm == 0


def test_areas_and_largest_slice_follow_the_mask(volume: Volume) -> None:
    label = box((2, 5), (10, 20), (0, 6)) | box((4, 5), (0, 40), (0, 30))
    measured = measure(label, volume)
    areas = [row.area_mm2 for row in measured.slices]
    assert areas == pytest.approx([0, 0, 24, 24, 480, 0, 0, 0, 0, 0], rel=1e-6)
    assert measured.largest_slice == 4
    assert sum(row.volume_ml for row in measured.slices) == pytest.approx(measured.volume_ml)


def test_a_slices_score_is_the_volume_expected_in_it_and_half_as_much_in_its_neighbors(
    volume: Volume,
) -> None:
    probability = np.zeros(SHAPE, dtype=np.float32)
    probability[3, 10:20, :6] = 0.25
    probability[-1, :2, :5] = 1
    rows = measure(probability >= 0.5, volume, probability=probability).slices
    unit = VOXEL_ML * 60 * 0.25
    scores = [row.expected_ml for row in rows]
    assert scores[2:5] == pytest.approx([unit / 4, unit / 2, unit / 4], rel=1e-5)
    assert scores[-1] == pytest.approx(10 * VOXEL_ML * 0.75, rel=1e-5)
    assert all(row.expected_ml is None for row in measure(probability >= 0.5, volume).slices)


def test_mean_density_weights_voxels_with_their_volume(volume: Volume) -> None:
    label = box((2, 5), (10, 20), (0, 6))
    assert measure(label, volume).mean_hu == pytest.approx(volume.hu[label].mean(), abs=1e-9)
    uneven = uneven_volume()
    uneven.hu[3] = 30
    measured = measure(box((2, 4), (0, 5), (0, 5), shape=(4, 40, 30)), uneven)
    assert measured.mean_hu == pytest.approx((60 * 5.5 + 30 * 7) / 12.5)


def test_voxels_that_share_only_a_corner_are_one_component(volume: Volume) -> None:
    label = box((2, 3), (3, 4), (3, 4)) | box((3, 4), (4, 5), (4, 5)) | box((8, 9), (30, 31), (20, 21))
    measured = measure(label, volume, minimum_component_ml=0)
    assert measured.components_ml == pytest.approx((2 * VOXEL_ML, VOXEL_ML), rel=1e-6)


def test_components_equal_simpleitks(volume: Volume) -> None:
    label = np.random.default_rng(1).random(SHAPE) > 0.96
    image = sitk.GetImageFromArray(label.astype(np.uint8))
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.ConnectedComponent(image, True))
    expected = sorted(
        (statistics.GetNumberOfPixels(i) * VOXEL_ML for i in statistics.GetLabels()), reverse=True
    )
    assert len(expected) > 20
    assert measure(label, volume, minimum_component_ml=0).components_ml == pytest.approx(expected, rel=1e-6)


def test_small_components_are_not_listed_but_measured(volume: Volume) -> None:
    label = box((2, 5), (10, 20), (0, 6)) | box((8, 9), (30, 31), (20, 21))
    measured = measure(label, volume, minimum_component_ml=0.1)
    assert len(measured.components_ml) == 1
    assert measured.volume_ml == pytest.approx(181 * VOXEL_ML, rel=1e-6)


def test_removing_keeps_components_of_the_minimum_and_more(volume: Volume) -> None:
    large, small = box((2, 5), (10, 20), (0, 6)), box((8, 9), (30, 32), (20, 21))
    label = large | small
    minimum_ml = measure(small, volume).volume_ml
    assert np.array_equal(remove_small_components(label, volume, minimum_ml), label)
    assert np.array_equal(remove_small_components(label, volume, minimum_ml * 1.001), large)
    assert np.array_equal(label, large | small)


def test_an_empty_segmentation_is_a_normal_result(volume: Volume, tmp_path: Path) -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    measured = measure(empty, volume)
    assert (measured.volume_ml, measured.components_ml) == (0.0, ())
    assert (measured.mean_hu, measured.extent, measured.largest_slice) == (None, None, None)
    assert len(measured.slices) == SHAPE[0]
    assert not remove_small_components(empty, volume, 1.0).any()
    write_json(tmp_path / "empty.json", measured)
    assert json.loads((tmp_path / "empty.json").read_text("utf-8"))["measurements"]["volume_ml"] == 0


def test_a_label_of_another_grid_is_refused(volume: Volume) -> None:
    with pytest.raises(InputError) as caught:
        measure(np.zeros((9, 40, 30), dtype=bool), volume)
    assert caught.value.code == "label-shape"


@pytest.mark.parametrize("minimum_ml", [-0.1, float("nan")])
def test_an_impossible_minimum_is_refused(volume: Volume, minimum_ml: float) -> None:
    with pytest.raises(UsageError) as caught:
        remove_small_components(np.ones(SHAPE, dtype=bool), volume, minimum_ml)
    assert caught.value.code == "minimum-component"


def test_bounding_box_is_the_smallest_around_the_mask() -> None:
    assert bounding_box(box((2, 5), (0, 20), (29, 30))) == (slice(2, 5), slice(0, 20), slice(29, 30))


# --------------------------------------------------------------------------------------------- files


def test_json_has_the_documented_keys_with_units(volume: Volume, tmp_path: Path) -> None:
    measured = measure(box((2, 5), (10, 20), (0, 6)), volume)
    write_json(tmp_path / "m.json", measured, {"segment": {"name": "Blutung ü"}})
    content = json.loads((tmp_path / "m.json").read_text("utf-8"))
    assert list(content) == ["format", "version", "note", "segment", "measurements"]
    assert content["segment"]["name"] == "Blutung ü"
    assert list(content["measurements"]) == [
        "volume_ml", "components_ml", "minimum_component_ml", "mean_hu", "extent", "largest_slice", "slices",
    ]  # fmt: skip
    assert list(content["measurements"]["slices"][0]) == [
        "index", "position_mm", "thickness_mm", "area_mm2", "volume_ml", "expected_ml",
    ]  # fmt: skip
    assert content["measurements"]["volume_ml"] == measured.volume_ml


def test_csv_has_one_row_a_slice_and_adds_up_to_the_volume(volume: Volume, tmp_path: Path) -> None:
    measured = measure(box((2, 5), (10, 20), (0, 6)), volume)
    write_csv(tmp_path / "m.csv", measured)
    with (tmp_path / "m.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == SHAPE[0]
    assert sum(float(row["volume_ml"]) for row in rows) == pytest.approx(measured.volume_ml, rel=1e-8)


@pytest.mark.parametrize("write", [write_json, write_csv])
def test_a_place_that_cannot_be_written_is_an_error_with_a_way_out(
    volume: Volume, tmp_path: Path, write
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ResourceError) as caught:
        write(tmp_path / "file" / "m", measure(np.zeros(SHAPE, dtype=bool), volume))
    assert caught.value.code == "unwritable"
    assert (tmp_path / "file").read_text() == "kept"
