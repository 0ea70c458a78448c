from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import simple_head
from sahlora.errors import InputError, UsageError
from sahlora.imaging.head import head_box
from sahlora.imaging.planes import VIEWS, default_views, parse_views
from sahlora.inference.slicing import Fusion, WorkingGrid, pad_to_multiple, resize, window

SPACING = (3.0, 1.5, 1.2)
HU = simple_head((24, 60, 70), SPACING)


def test_head_box_holds_every_voxel_of_bone() -> None:
    box = head_box(HU, SPACING)
    outside = np.ones(HU.shape, dtype=bool)
    outside[box] = False
    assert not (HU[outside] > 300).any()


def test_head_box_leaves_the_table_outside() -> None:
    hu = np.pad(HU, ((0, 0), (0, 40), (30, 30)), constant_values=-1000)
    hu[:, -1, 40:-40] = 500
    _, y, x = head_box(hu, SPACING)
    assert y.stop < hu.shape[1] - 1
    assert x.start > 10


def test_head_box_of_a_head_without_skull_holds_the_tissue() -> None:
    hu = np.where(HU > 300, -1000, HU)
    box = head_box(hu, SPACING)
    assert (hu[box] > 0).sum() == (hu > 0).sum()


@pytest.mark.parametrize("spacing", [(4.0, 0.5, 0.5), (5.0, 2.0, 0.8), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("rounding", [1e-9, -1e-9])
def test_spacing_rounded_by_a_file_changes_no_box_and_no_grid(
    spacing: tuple[float, float, float], rounding: float
) -> None:
    rounded = tuple(mm * (1 + rounding) for mm in spacing)
    for in_plane in (None, 1.0):
        assert WorkingGrid.of(HU, spacing, in_plane) == WorkingGrid.of(HU, rounded, in_plane)


def test_air_has_no_head() -> None:
    with pytest.raises(InputError) as error:
        head_box(np.full((10, 50, 50), -1000, dtype=np.int16), SPACING)
    assert error.value.code == "no-head"


def test_grid_at_native_spacing_moves_nothing() -> None:
    grid = WorkingGrid.of(HU, SPACING, None)
    working = grid.resample(HU)
    assert np.array_equal(working.numpy(), HU[grid.box].astype(np.float32))
    probability = torch.rand(grid.shape)
    restored = grid.restore(probability, HU.shape, 0.25)
    expected = np.zeros(HU.shape, dtype=np.float32)
    expected[grid.box] = np.where(probability >= 0.25, probability, 0)
    assert np.array_equal(restored, expected)


def test_resampled_slices_cover_the_same_millimeters() -> None:
    """The center of mass of a lesion, in mm, is the same on the grid and in the volume."""
    grid = WorkingGrid.of(HU, SPACING, 1.0)
    lesion = ((HU > 55) & (HU < 85)).astype(np.float32)
    working = grid.resample(lesion)
    size = [(s.stop - s.start) * mm for s, mm in zip(grid.box, SPACING, strict=True)]
    on_grid = [
        (np.average(np.arange(n), weights=working.sum(tuple({0, 1, 2} - {axis})).numpy()) + 0.5) * mm / n
        for axis, (n, mm) in enumerate(zip(grid.shape, size, strict=True))
    ]
    cropped = lesion[grid.box]
    in_volume = [
        (np.average(np.arange(n), weights=cropped.sum(tuple({0, 1, 2} - {axis}))) + 0.5) * mm
        for axis, (n, mm) in enumerate(zip(cropped.shape, SPACING, strict=True))
    ]
    assert np.allclose(on_grid, in_volume, atol=0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 3.0), st.floats(0.02, 0.9))
def test_label_from_the_foreground_box_equals_label_from_the_whole_grid(
    seed: int, spacing: float, threshold: float
) -> None:
    grid = WorkingGrid.of(HU, SPACING, spacing)
    sparse = torch.rand(grid.shape, generator=torch.Generator().manual_seed(seed)) ** 8
    native = tuple(s.stop - s.start for s in grid.box[1:])
    whole = np.zeros(HU.shape, dtype=bool)
    whole[grid.box] = resize(sparse, native).numpy() >= threshold
    restored = grid.restore(sparse, HU.shape, 0.02) >= threshold
    # Sums in another order differ in the last digits: voxels within 1e-5 of the threshold may go either way.
    close = np.zeros(HU.shape, dtype=bool)
    close[grid.box] = abs(resize(sparse, native).numpy() - threshold) < 1e-5
    assert np.array_equal(restored | close, whole | close)


@pytest.mark.parametrize("view", VIEWS)
def test_slices_of_a_view_put_back_give_the_volume(view: str) -> None:
    grid = WorkingGrid.of(HU, SPACING, None)
    grid = WorkingGrid(grid.box, grid.shape, grid.shape[0])  # as many rows along z as slices: no resampling
    volume = torch.rand(grid.shape)
    fusion = Fusion(grid)
    for start in range(0, grid.count(view), 7):
        stop = min(start + 7, grid.count(view))
        fusion.add(grid.slices_of(volume, view, start, stop), view, start, weight=0.5, before=0.0)
    assert torch.equal(fusion.total, volume * 0.5)


@given(st.integers(0, 10**6), st.lists(st.floats(0, 10), min_size=1, max_size=6).filter(any))
@settings(max_examples=50, deadline=None)
def test_fusion_is_the_weighted_mean_and_variance(seed: int, weights: list[float]) -> None:
    grid = WorkingGrid((slice(0, 4), slice(0, 5), slice(0, 6)), (4, 5, 6), 4)
    volumes = np.random.default_rng(seed).random((len(weights), *grid.shape), dtype=np.float32)
    share = np.array(weights) / sum(weights)
    fusion = Fusion(grid, with_variance=True)
    for number, volume in enumerate(volumes):
        view = VIEWS[number % 3]
        for start, stop in ((0, 2), (2, grid.count(view))):
            part = grid.slices_of(torch.from_numpy(volume), view, start, stop)
            fusion.add(part, view, start, share[number], share[:number].sum())
    mean = np.average(volumes, axis=0, weights=share)
    assert np.abs(fusion.total.numpy() - mean).max() < 1e-6
    assert np.abs(fusion.variance.numpy() - np.average((volumes - mean) ** 2, 0, share)).max() < 1e-6


def test_coronal_and_sagittal_slices_have_square_pixels() -> None:
    grid = WorkingGrid.of(HU, SPACING, 1.0)
    working = grid.resample(HU)
    height = (grid.box[0].stop - grid.box[0].start) * SPACING[0]
    assert grid.slices_of(working, "coronal", 0, 1).shape == (1, round(height), grid.shape[2])
    assert grid.slices_of(working, "sagittal", 0, 1).shape == (1, round(height), grid.shape[1])


def test_window_maps_its_ends_to_the_input_range() -> None:
    assert window(torch.tensor([-500.0, 0.0, 70.0, 140.0, 900.0]), (0, 140), (0, 255)).tolist() == [
        0, 0, 127.5, 255, 255,
    ]  # fmt: skip


def test_padding_adds_at_the_end_only() -> None:
    padded = pad_to_multiple(torch.ones(1, 1, 5, 8), 4, -2.0)
    assert padded.shape == (1, 1, 8, 8)
    assert (padded[..., :5, :] == 1).all()
    assert (padded[..., 5:, :] == -2).all()


def test_views_are_read_in_any_order() -> None:
    assert parse_views("sagittal, AXIAL") == ("axial", "sagittal")


@pytest.mark.parametrize("text", ["", "frontal", "axial,frontal"])
def test_unknown_views_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="axial, coronal, sagittal"):
        parse_views(text)


def test_thick_slices_are_read_axially_alone() -> None:
    assert default_views(VIEWS, 5.0) == ("axial",)
    assert default_views(VIEWS, 1.0) == VIEWS
    assert default_views(("coronal",), 5.0) == ("coronal",)
