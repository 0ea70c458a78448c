"""A label map holds the mL of the report: uneven and tilted slices to the even grid and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sahlora.imaging.geometry import SliceStack
from sahlora.imaging.volume import Volume
from sahlora.report.measurements import measure

SHAPE = (40, 44)


def volume_of(steps: list[float], tilt: float, down: bool) -> Volume:
    cosine, sine = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    z = np.concatenate([[0], np.cumsum(steps)]) / cosine
    row, column = np.array([-1.0 if down else 1.0, 0, 0]), np.array([0, cosine, -sine])
    origins = np.stack([np.zeros_like(z), np.zeros_like(z), -z if down else z], axis=1)
    stack = SliceStack(origins, row, column, (0.9, 0.8), SHAPE)
    return Volume(np.zeros((len(z), *SHAPE), np.int16), stack.even_grid, stack)


def label_ml(image) -> float:
    import SimpleITK as sitk

    return float(np.count_nonzero(sitk.GetArrayViewFromImage(image)) * np.prod(image.GetSpacing()) / 1000)


def blobs(count: int, seed: int) -> np.ndarray:
    """Draw a few ellipses that come and go from slice to slice, away from the frame's border."""
    random = np.random.default_rng(seed)
    y, x = np.indices(SHAPE)
    label = np.zeros((count, *SHAPE), bool)
    for _ in range(3):
        first, last = np.sort(random.integers(0, count, 2))
        cy, cx, ry, rx = *random.uniform(12, 28, 2), *random.uniform(3, 8, 2)
        label[first : last + 1] |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return label


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(st.floats(0.6, 12.0), min_size=3, max_size=14),
    tilt=st.sampled_from([0.0, 0.0, 11.0, 22.0]),
    down=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_label_map_and_report_hold_the_same_volume_whatever_the_spacings(steps, tilt, down, seed):
    volume = volume_of(steps, tilt, down)
    label = blobs(len(steps) + 1, seed)
    measured = measure(label, volume).volume_ml
    image = volume.to_grid(label, label=True)
    voxel = np.prod(image.GetSpacing()) / 1000
    assert label_ml(image) == pytest.approx(measured, rel=0.01, abs=voxel)
    back = volume.mask_from_rectified(volume.axes.to_canonical(_array(image)).astype(bool))
    assert measure(back, volume).volume_ml == pytest.approx(measured, rel=0.02, abs=volume.voxel_ml.max())


def _array(image) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(image)


def test_five_then_ten_mm_hold_a_ball_in_the_coarse_part():
    volume = volume_of([5.0] * 15 + [10.0] * 7, 0.0, False)
    z = volume.stack.positions
    y, x = (np.arange(n) - 20 for n in SHAPE)
    distance = np.sqrt((z - 95)[:, None, None] ** 2 + (y * 0.9)[:, None] ** 2 + (x * 0.8) ** 2)
    label = distance < 14
    measured = measure(label, volume).volume_ml
    assert label_ml(volume.to_grid(label, label=True)) == pytest.approx(measured, rel=0.002)


@pytest.mark.parametrize("steps", [[5.0, 5, 5, 10, 10, 10], [10.0, 10, 10, 5, 5, 5], [2.0, 9, 2, 9, 2]])
def test_a_label_in_one_slice_keeps_its_volume_and_its_place(steps):
    for k in range(len(steps) + 1):
        volume = volume_of(steps, 0.0, False)
        label = np.zeros((len(steps) + 1, *SHAPE), bool)
        label[k, 10:20, 10:20] = True
        image = volume.to_grid(label, label=True)
        assert label_ml(image) == pytest.approx(measure(label, volume).volume_ml, rel=0.02)
        assert not np.any(_array(image)[:, ~label[k]])


def test_pixels_that_more_of_the_slab_holds_come_first_then_the_deepest():
    volume = volume_of([5.0, 5, 5, 7.5, 10, 10], 0.0, False)
    label = np.zeros((7, *SHAPE), bool)
    label[4, 10:21, 10:21] = True  # its slab of 8.75 mm takes 1.75 planes of the even grid
    planes = _array(volume.to_grid(label, label=True))
    partial = [plane for plane in planes if 0 < plane.sum() < 121]
    assert partial
    assert all(plane[15, 15] for plane in partial)
