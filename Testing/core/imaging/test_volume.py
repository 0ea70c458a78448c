"""Volumes from files: canonical order, the exact way back, and every kind of bad input."""

from __future__ import annotations

import gzip
import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sahlora.errors import InputError
from sahlora.imaging.geometry import SliceStack
from sahlora.imaging.plausibility import CONTRAST_FRACTION, contrast_fraction
from sahlora.imaging.volume import Volume, read_volume
from sahlora.runtime.progress import Progress

SIGNED_PERMUTATIONS = [
    np.eye(3)[:, order] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians(degrees))
    return np.reshape(transform.GetMatrix(), (3, 3))


OBLIQUE = rotation((9.0, -14.0, 6.0))


def head_hu(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Draw an ellipsoid of brain with a bone shell in air; noise makes every orientation differ."""
    z, y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    hu = np.where(radius < 0.9, 35 + noise, np.where(radius < 1.0, 1200, -1000))
    return np.rint(hu).astype(np.int16)


def head_image(direction: np.ndarray, shape: tuple[int, int, int] = (12, 20, 28)) -> sitk.Image:
    image = sitk.GetImageFromArray(head_hu(shape))
    image.SetSpacing((0.45, 0.75, 5.0))
    image.SetOrigin((-31.7, 12.3, 401.9))
    image.SetDirection(direction.ravel().tolist())
    return image


def write(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def code_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.hint
    return caught.value.code


# ------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("tilt", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
def test_label_comes_back_on_the_input_grid_for_all_48_orientations(tmp_path, tilt, ending):
    for signed in SIGNED_PERMUTATIONS:
        path = write(head_image(tilt @ signed), tmp_path / f"ct{ending}")
        source = sitk.ReadImage(str(path))
        volume = read_volume(path)
        label = volume.to_grid(volume.hu > 50, label=True)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(label), (sitk.GetArrayFromImage(source) > 50).astype(np.uint8)
        )
        assert label.GetPixelID() == sitk.sitkUInt8
        assert label.GetOrigin() == source.GetOrigin()
        assert label.GetSpacing() == source.GetSpacing()
        np.testing.assert_allclose(label.GetDirection(), source.GetDirection(), rtol=0, atol=3e-7)


@pytest.mark.parametrize("tilt", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
def test_canonical_axes_point_superior_posterior_left(tmp_path, tilt):
    for signed in SIGNED_PERMUTATIONS:
        path = write(head_image(tilt @ signed), tmp_path / "ct.nrrd")
        image = sitk.ReadImage(str(path))
        volume = read_volume(path)
        index = volume.to_grid(np.arange(volume.hu.size).reshape(volume.hu.shape), label=False)
        places = sitk.GetArrayFromImage(index)

        def point(zyx, volume=volume, places=places, image=image):
            k, j, i = np.argwhere(places == np.ravel_multi_index(zyx, volume.hu.shape))[0]
            return np.array(image.TransformIndexToPhysicalPoint((int(i), int(j), int(k))))

        start = point((0, 0, 0))
        for axis, patient_axis in enumerate((2, 1, 0)):
            step = point(tuple(int(a == axis) for a in range(3))) - start
            assert step.argmax() == np.abs(step).argmax() == patient_axis
            assert np.linalg.norm(step) == pytest.approx(volume.spacing[axis], rel=1e-6)


def test_a_lesion_at_a_physical_point_is_found_at_the_canonical_voxel_there(tmp_path):
    image = head_image(OBLIQUE @ SIGNED_PERMUTATIONS[29])
    image[9, 13, 4] = 77
    image[3, 5, 8] = 78
    volume = read_volume(write(image, tmp_path / "ct.nii.gz"))
    for value, index in ((77, (9, 13, 4)), (78, (3, 5, 8))):
        marked = volume.to_grid(volume.hu == value, label=True)
        assert marked[index] == 1


def test_hu_is_contiguous_int16_so_that_torch_can_take_it(tmp_path):
    volume = read_volume(write(head_image(SIGNED_PERMUTATIONS[17]), tmp_path / "ct.nrrd"))
    assert volume.hu.dtype == np.int16
    assert volume.hu.flags.c_contiguous


def test_probability_keeps_its_type_and_values_on_the_input_grid(tmp_path):
    volume = read_volume(write(head_image(OBLIQUE), tmp_path / "ct.nrrd"))
    probability = np.random.default_rng(1).random(volume.hu.shape, np.float32)
    image = volume.to_grid(probability, label=False)
    np.testing.assert_array_equal(volume.axes.to_canonical(sitk.GetArrayFromImage(image)), probability)


def test_voxel_ml_is_spacing_product(tmp_path):
    volume = read_volume(write(head_image(np.eye(3)), tmp_path / "ct.nrrd"))
    np.testing.assert_allclose(volume.voxel_ml, np.full(12, 0.45 * 0.75 * 5.0 / 1000), rtol=1e-12)
    assert volume.is_regular
    assert volume.rectified() is volume


def test_an_array_makes_a_volume():
    volume = Volume.from_array(head_hu((6, 10, 12)), (5.0, 0.5, 0.4), "phantom")
    assert volume.spacing == (5.0, 0.5, 0.4)
    assert volume.to_grid(volume.hu > 0, label=True).GetSize() == (12, 10, 6)


# --------------------------------------------------------------------------------------------- tilted stack


def tilted_stack(steps: np.ndarray, degrees: float, shape: tuple[int, int] = (96, 80)) -> SliceStack:
    """Slices that follow each other along z while their plane leans by the gantry's tilt."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    z = np.concatenate([[0], np.cumsum(steps / cosine)])
    origins = np.stack([np.full_like(z, -40), np.full_like(z, -50), z - 60], axis=1)
    return SliceStack(origins, np.array([1.0, 0, 0]), np.array([0, cosine, -sine]), (1.1, 1.0), shape)


def points_of(stack: SliceStack) -> np.ndarray:
    """LPS of every voxel of the acquired slices: (N, rows, columns, 3)."""
    rows, columns = (np.arange(n) for n in stack.shape)
    return (
        stack.origins[:, None, None]
        + rows[None, :, None, None] * stack.pixel[0] * stack.column
        + columns[None, None, :, None] * stack.pixel[1] * stack.row
    )


UNEVEN = np.array([4.0] * 12 + [1.1] + [7.0] * 10)


def tilted_volume(values) -> Volume:
    stack = tilted_stack(UNEVEN, 18.5)
    hu = np.rint(values(points_of(stack))).astype(np.int16)
    return Volume(hu, stack.even_grid, stack, name="tilted")


def test_rectified_ct_of_a_linear_field_is_that_field_at_the_true_points():
    def field(p):
        return 3 * p[..., 0] + 5 * p[..., 1] - 4 * p[..., 2]

    volume = tilted_volume(field)
    image = volume.rectified().to_grid(volume.rectified().hu, label=False)
    checked = 0
    for index in np.random.default_rng(0).integers(0, image.GetSize(), (400, 3)).tolist():
        if image[index] > -1024:
            point = np.array(image.TransformIndexToPhysicalPoint(index))
            inside = abs(point[0]) < 35 and np.abs(image[index]) < 1000
            if inside and _surrounded(volume, point):
                assert image[index] == pytest.approx(field(point), abs=1.01)
                checked += 1
    assert checked > 100


def _surrounded(volume: Volume, point: np.ndarray) -> bool:
    """Whether a point lies between two acquired slices and within both."""
    stack = volume.stack
    above = int(np.searchsorted(stack.positions, point @ stack.normal))
    if not 0 < above < len(stack.positions):
        return False
    rows = [(point - stack.origins[k]) @ stack.column / stack.pixel[0] for k in (above - 1, above)]
    return all(0 <= row <= stack.shape[0] - 1 for row in rows)


def test_a_ball_in_tilted_uneven_slices_keeps_place_and_volume_on_the_even_grid():
    center = np.array([0.0, -5.0, -5.0])
    volume = tilted_volume(lambda p: np.where(np.linalg.norm(p - center, axis=-1) < 22, 60, 30))
    image = volume.to_grid(volume.hu == 60, label=True)
    inside = np.argwhere(sitk.GetArrayFromImage(image) == 1)[:, ::-1]
    points = np.array([image.TransformIndexToPhysicalPoint(i) for i in inside.tolist()])
    np.testing.assert_allclose(points.mean(axis=0), center, atol=0.6)
    ball_ml = 4 / 3 * np.pi * 22**3 / 1000
    assert len(points) * np.prod(image.GetSpacing()) / 1000 == pytest.approx(ball_ml, rel=0.03)
    assert ((volume.hu == 60).sum(axis=(1, 2)) * volume.voxel_ml).sum() == pytest.approx(ball_ml, rel=0.03)


def test_slice_thickness_reaches_to_the_midpoints():
    stack = tilted_stack(np.array([4.0, 4.0, 7.0, 7.0]), 18.5)
    np.testing.assert_allclose(stack.thickness, [4, 4, 5.5, 7, 7], rtol=1e-9)


def test_even_step_is_that_of_the_finer_part_and_ignores_one_short_step():
    assert tilted_stack(UNEVEN, 18.5).even_grid.spacing[2] == pytest.approx(4.0)


def test_outside_the_acquired_region_is_air():
    volume = tilted_volume(lambda p: np.full(p.shape[:-1], 40.0))
    hu = volume.rectified().hu
    assert set(np.unique(hu[:, 1:-1])) >= {-1024, 40}
    assert hu[0, 0].max() == -1024 or hu[-1, 0].max() == -1024


def test_from_rectified_gives_a_linear_field_back_on_the_acquired_slices():
    def field(p):
        return 3 * p[..., 0] + 5 * p[..., 1] - 4 * p[..., 2] + 300

    volume = tilted_volume(field)
    even = volume.rectified()
    grid = even.to_grid(even.hu, label=False)
    k, j, i = np.meshgrid(*(np.arange(n) for n in even.hu.shape), indexing="ij")
    direction = np.reshape(grid.GetDirection(), (3, 3)) * np.array(grid.GetSpacing())
    points = np.stack([i, j, k], axis=-1) @ direction.T + np.array(grid.GetOrigin())
    back = volume.from_rectified(field(points).astype(np.float32))
    assert back.shape == volume.hu.shape
    np.testing.assert_allclose(back, field(points_of(volume.stack)), atol=0.02)


def test_label_of_uneven_slices_stays_binary():
    volume = tilted_volume(lambda p: np.random.default_rng(0).integers(0, 2, p.shape[:-1]) * 30.0)
    label = sitk.GetArrayFromImage(volume.to_grid(volume.hu > 0, label=True))
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1}


# ------------------------------------------------------------------------------------------ accepted values


def test_slope_and_intercept_are_honored(tmp_path):
    image = sitk.GetImageFromArray((head_hu((8, 40, 40)).astype(int) + 1024).astype(np.int16))
    path = write(image, tmp_path / "ct.nii")
    header = bytearray(path.read_bytes())
    header[112:120] = np.array([1.0, -1024.0], "<f4").tobytes()
    path.write_bytes(header)
    np.testing.assert_array_equal(
        read_volume(path).hu[:, ::-1, ::-1], _flipped_to_lps(head_hu((8, 40, 40)), path)
    )


def _flipped_to_lps(array: np.ndarray, path: Path) -> np.ndarray:
    direction = np.reshape(sitk.ReadImage(str(path)).GetDirection(), (3, 3))
    return array[:, :: -int(direction[1, 1]), :: -int(direction[0, 0])]


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_other_pixel_types_become_the_same_int16(tmp_path, dtype):
    expected = head_hu((8, 40, 40))
    path = write(sitk.GetImageFromArray((expected + 0.25).astype(dtype)), tmp_path / "ct.nrrd")
    np.testing.assert_array_equal(
        read_volume(path).hu, expected if dtype != np.int32 else _truncated(expected)
    )


def _truncated(hu: np.ndarray) -> np.ndarray:
    return (hu + 0.25).astype(np.int32)


def test_padding_below_air_becomes_air(tmp_path):
    hu = head_hu((8, 40, 40))
    hu[:, :4] = -3024
    volume = read_volume(write(sitk.GetImageFromArray(hu), tmp_path / "ct.mha"))
    assert volume.hu.min() == -1024


def test_a_fourth_dimension_of_one_is_dropped(tmp_path):
    hu = head_hu((8, 40, 40))
    path = write(sitk.JoinSeries(sitk.GetImageFromArray(hu)), tmp_path / "ct.nrrd")
    np.testing.assert_array_equal(read_volume(path).hu, hu)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".NII.GZ"])
def test_every_format_is_read(tmp_path, ending):
    image = head_image(np.eye(3))
    path = write(image, tmp_path / f"åßぁ ct{ending.lower()}").rename(tmp_path / f"åßぁ ct{ending}")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, head_hu((12, 20, 28)))
    assert volume.name == "åßぁ ct"


def test_a_brain_cut_out_of_its_skull_is_accepted(tmp_path):
    hu = head_hu((12, 60, 60))
    brain = np.where((hu > -10) & (hu < 90), hu, 0).astype(np.int16)
    assert read_volume(write(sitk.GetImageFromArray(brain), tmp_path / "brain.nrrd")).hu.max() < 90


def test_a_crop_without_bone_or_much_air_is_accepted(tmp_path):
    hu = head_hu((12, 60, 60))
    hu[:, 30:, :] = 34
    hu[0, :5, :5] = -900
    read_volume(write(sitk.GetImageFromArray(hu[:, 20:, 10:50]), tmp_path / "crop.nrrd"))


# ------------------------------------------------------------------------------------------------ bad input


def test_a_missing_file_is_named(tmp_path):
    assert code_of(tmp_path / "none.nii.gz") == "not-found"


def test_an_empty_folder_is_named(tmp_path):
    assert code_of(tmp_path) == "empty-folder"


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "ct.txt"
    path.write_text("hello")
    assert code_of(path) == "unsupported-format"


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_truncated_file_fails_and_does_not_read_as_zeros(tmp_path, ending, compressed, kept):
    path = tmp_path / f"ct{ending}"
    sitk.WriteImage(head_image(np.eye(3)), str(path), compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert code_of(path) == "unreadable"


def test_a_whole_gzip_stream_of_a_truncated_volume_fails(tmp_path):
    path = write(head_image(np.eye(3)), tmp_path / "ct.nii")
    short = tmp_path / "short.nii.gz"
    short.write_bytes(gzip.compress(path.read_bytes()[:-100]))
    assert code_of(short) == "unreadable"


def test_a_flipped_bit_in_a_gzip_stream_fails(tmp_path):
    path = write(head_image(np.eye(3)), tmp_path / "ct.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    assert code_of(path) == "unreadable"


def test_a_header_without_its_data_file_fails(tmp_path):
    path = write(head_image(np.eye(3)), tmp_path / "ct.mhd")
    (tmp_path / "ct.raw").unlink()
    assert code_of(path) == "unreadable"


def bad_arrays() -> dict[str, tuple[str, sitk.Image]]:
    rng = np.random.default_rng(0)
    hu = head_hu((8, 40, 40))
    mr = np.where(hu > -500, np.abs(rng.normal(900, 300, hu.shape)), rng.integers(0, 30, hu.shape))
    holes = hu.astype(np.float32)
    holes[3, 5, 7] = np.nan
    infinite = hu.astype(np.float32)
    infinite[3, 5, 7] = np.inf
    image = sitk.GetImageFromArray
    return {
        "mr": ("not-ct", image(mr.astype(np.int16))),
        "without intercept": ("not-ct", image((hu.astype(int) + 1024).astype(np.int16))),
        "intercept twice": ("not-ct", image((hu - 1024).astype(np.int16))),
        "eight bit window": ("not-ct", image(np.clip((hu + 40) * 2, 0, 255).astype(np.uint8))),
        "normalized": ("not-ct", image(((hu - hu.mean()) / hu.std()).astype(np.float32))),
        "label map": ("not-ct", image((hu > 50).astype(np.uint8))),
        "air": ("not-ct", image((-1000 + rng.integers(0, 9, hu.shape)).astype(np.int16))),
        "constant": ("constant", image(np.full_like(hu, 40))),
        "nan": ("not-finite", image(holes)),
        "infinite": ("not-finite", image(infinite)),
        "color": ("not-3d", image(np.stack([hu] * 3, axis=-1), isVector=True)),
        "two slices": ("too-few-slices", image(hu[:2])),
        "flat": ("not-3d", image(hu[4])),
        "two frames": ("not-3d", sitk.JoinSeries([image(hu), image(hu)])),
    }


@pytest.mark.parametrize("case", bad_arrays())
def test_what_is_no_head_ct_is_refused(tmp_path, case):
    code, image = bad_arrays()[case]
    assert code_of(write(image, tmp_path / "ct.nrrd")) == code


@pytest.mark.parametrize("spacing", ["0.0005", "200", "nan"])
def test_absurd_spacing_is_refused(tmp_path, spacing):
    path = raw_nrrd(tmp_path, f"(1,0,0) (0,1,0) (0,0,{spacing})")
    assert code_of(path) in ("bad-geometry", "unreadable")


@pytest.mark.parametrize("directions", ["(1,0,0) (0,1,0) (0,1.5,5)", "(1,0,0) (1,0,0) (0,0,5)"])
def test_axes_that_are_not_perpendicular_are_refused(tmp_path, directions):
    assert code_of(raw_nrrd(tmp_path, directions)) in ("bad-geometry", "unreadable")


def test_a_sheared_grid_points_to_the_dicom_series(tmp_path):
    with pytest.raises(InputError, match="DICOM") as caught:
        read_volume(raw_nrrd(tmp_path, "(1,0,0) (0,1,0) (0,1.5,5)"))
    assert caught.value.code == "bad-geometry"


def raw_nrrd(folder: Path, directions: str) -> Path:
    hu = head_hu((8, 40, 40))
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 40 40 8\n"
        f"space directions: {directions}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    path = folder / "ct.nrrd"
    path.write_bytes(header.encode() + hu.astype("<i2").tobytes())
    return path


# ------------------------------------------------------------------------------------------------- contrast


def brain_with_vessels(fraction: float) -> np.ndarray:
    hu = head_hu((24, 96, 96))
    inside = np.argwhere((hu > 0) & (hu < 80))
    center = np.abs(inside - np.array([12, 48, 48])).max(axis=1) < 20
    chosen = inside[center & (inside[:, 0] % 2 == 0)]
    count = int(fraction * ((hu > 0) & (hu < 80)).sum())
    hu[tuple(np.random.default_rng(0).permutation(chosen)[:count].T)] = 280
    return hu


def test_enhanced_vessels_are_warned_about_and_read_all_the_same(tmp_path):
    image = sitk.GetImageFromArray(brain_with_vessels(0.03))
    image.SetSpacing((2.0, 2.0, 5.0))
    events: list[dict] = []
    volume = read_volume(write(image, tmp_path / "cta.nrrd"), progress=Progress(events.append))
    assert [e["code"] for e in events if e["event"] == "warning"] == ["contrast"]
    assert any("contrast" in note for note in volume.notes)


def test_plain_ct_is_not_warned_about(tmp_path):
    image = sitk.GetImageFromArray(brain_with_vessels(0.0))
    image.SetSpacing((2.0, 2.0, 5.0))
    events: list[dict] = []
    read_volume(write(image, tmp_path / "ct.nrrd"), progress=Progress(events.append))
    assert not [e for e in events if e["event"] == "warning"]


# ------------------------------------------------------------------------------------------------ real CT


@pytest.fixture
def data() -> Path:
    if "SAHLORA_DATA" not in os.environ:
        pytest.skip("SAHLORA_DATA names no folder with real CT")
    return Path(os.environ["SAHLORA_DATA"])


@pytest.mark.data
def test_the_head_phantom_is_accepted_without_a_contrast_warning(data):
    volume = read_volume(data / "head_phantom_ct" / "imagex_phantom_head_crop.nii.gz")
    assert contrast_fraction(volume.hu, volume.spacing) < CONTRAST_FRACTION
    assert volume.notes == ()


@pytest.mark.data
@pytest.mark.parametrize("name", ["scct.nii", "scct_stripped.nii"])
def test_a_template_in_other_units_is_refused(data, name):
    assert code_of(data / "scct_template" / name) == "not-ct"


def test_a_volume_can_be_given_other_voxels():
    volume = Volume.from_array(head_hu((6, 10, 12)), (5.0, 0.5, 0.4))
    assert replace(volume, hu=volume.hu + 1).spacing == volume.spacing
