"""Headers of image files, judged by their formats' rules; nibabel is the reference for NIfTI."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from sahlora.errors import InputError
from sahlora.imaging.files import open_image
from sahlora.imaging.volume import read_volume
from sahlora.runtime.progress import Progress

SHAPE = (9, 12, 10)  # x, y, z
STEPS = (0.9, 0.8, 5.0)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
Patches = dict[int, tuple[str, float | bytes]]
QFORM_CODE, SFORM_CODE, ROW_X, ROW_Y, ROW_Z = 252, 254, 280, 296, 312


def values(dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)


def rotation(degrees: tuple[float, float, float] = (9.0, -14.0, 6.0)) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians(degrees))
    return np.reshape(transform.GetMatrix(), (3, 3))


def nifti(path: Path, *, oblique: bool = False, kind=nibabel.Nifti1Image, dtype="<i2", **patches) -> Path:
    """Write a NIfTI with nibabel, then change bytes of the header: name=(offset, format, value)."""
    affine = np.eye(4)
    affine[:3, :3] = (rotation() if oblique else LPS_TO_RAS) * STEPS
    affine[:3, 3] = (-31.7, 12.3, 401.9)
    header = kind.header_class(endianness=np.dtype(dtype).byteorder.replace("=", "<"))
    image = kind(values(dtype), affine, header, dtype=np.dtype(dtype))
    image.set_qform(affine, code=1)
    content = bytearray(image.to_bytes())
    for offset, form, value in patches.values():
        struct.pack_into(form, content, offset, value)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def error_of(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        open_image(path).array()
    assert caught.value.hint
    return caught.value


def affine_of(path: Path) -> np.ndarray:
    """(4, 4) RAS affine of what was read."""
    grid = open_image(path).grid
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing
    affine[:3, 3] = grid.origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


# ---------------------------------------------------------------------------------------- NIfTI: accepted


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u2", "<f4", ">f8", "<u1", "<i4"])
def test_voxels_and_affine_are_those_of_the_reference(tmp_path, dtype, kind, oblique):
    path = nifti(tmp_path / "ct.nii", kind=kind, dtype=dtype, oblique=oblique)
    reference = nibabel.load(path)
    np.testing.assert_array_equal(open_image(path).array().T, np.asarray(reference.dataobj))
    np.testing.assert_allclose(affine_of(path), reference.affine, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [(0, -1024), (np.nan, 5), (2, -1024), (0.5, 0), (1, -1024)])
def test_scaling_is_that_of_the_standard(tmp_path, slope, intercept):
    path = nifti(tmp_path / "ct.nii", slope=(112, "<f", slope), intercept=(116, "<f", intercept))
    reference = nibabel.load(path).get_fdata()
    np.testing.assert_array_equal(open_image(path).array().T, reference)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)])
def test_sform_comes_before_qform(tmp_path, codes):
    qform, sform = codes
    path = nifti(
        tmp_path / "ct.nii", q=(QFORM_CODE, "<h", qform), s=(SFORM_CODE, "<h", sform), x=(292, "<f", 77.0)
    )
    assert affine_of(path)[0, 3] == pytest.approx(77.0 if sform else -31.7, abs=1e-4)
    np.testing.assert_allclose(affine_of(path), nibabel.load(path).affine, rtol=0, atol=1e-4)


def test_lengths_in_other_units_become_millimeters(tmp_path):
    affine = np.column_stack([np.diag([-0.9, -0.8, 5.0]), [0, 0, 0]]).ravel() / 1000
    scaled = {f"r{k}": (ROW_X + 4 * k, "<f", value) for k, value in enumerate(affine)}
    steps = {f"p{k}": (80 + 4 * k, "<f", step / 1000) for k, step in enumerate(STEPS)}
    path = nifti(tmp_path / "ct.nii", units=(123, "<B", 1), q=(QFORM_CODE, "<h", 0), **scaled, **steps)
    np.testing.assert_allclose(open_image(path).grid.spacing, STEPS, rtol=1e-6)


@pytest.mark.parametrize("name", ["plain.nii.gz", "packed.nii"])
def test_packed_or_not_is_seen_in_the_file_not_in_its_name(tmp_path, name):
    source = nifti(tmp_path / ("ct.nii" if name.endswith(".gz") else "ct.nii.gz"))
    path = source.rename(tmp_path / name)
    np.testing.assert_array_equal(open_image(path).array().T, values())


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("trailing", [b"\0" * 7, b"\n", b"x" * 5000])
def test_bytes_after_the_last_voxel_are_left_alone(tmp_path, name, trailing):
    path = nifti(tmp_path / name)
    path.write_bytes(path.read_bytes() + trailing)
    np.testing.assert_array_equal(open_image(path).array().T, values())


def test_a_gzip_file_in_several_members_is_one(tmp_path):
    content = nifti(tmp_path / "ct.nii").read_bytes()
    path = tmp_path / "members.nii.gz"
    path.write_bytes(b"".join(gzip.compress(content[k : k + 300]) for k in range(0, len(content), 300)))
    np.testing.assert_array_equal(open_image(path).array().T, values())


def test_a_shear_from_rounding_gives_the_nearest_rotation(tmp_path):
    path = nifti(tmp_path / "ct.nii", q=(QFORM_CODE, "<h", 0), shear=(ROW_Y + 8, "<f", 0.005))
    image = open_image(path)
    direction = np.reshape(image.grid.direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), rtol=0, atol=1e-12)
    np.testing.assert_allclose(affine_of(path), nibabel.load(path).affine, rtol=0, atol=0.005)
    assert [remark.code for remark in image.remarks] == ["sheared"]


# -------------------------------------------------------------------------------- NIfTI: doubted and refused


def test_codes_of_0_leave_the_orientation_unknown(tmp_path):
    path = nifti(tmp_path / "ct.nii", q=(QFORM_CODE, "<h", 0), s=(SFORM_CODE, "<h", 0))
    assert [remark.code for remark in open_image(path).remarks] == ["orientation-unknown"]


def test_sform_and_qform_that_name_other_axes_are_told(tmp_path):
    path = nifti(tmp_path / "ct.nii", x=(ROW_X, "<f", 0.9))
    assert [remark.code for remark in open_image(path).remarks] == ["orientation-conflict"]


@pytest.mark.parametrize("steps", [(1, 1, 1), (0.9, 0.8, 2.5), (0.9, 0.8, -10), (0.9, 0.85, 5)])
def test_steps_that_contradict_the_sform_are_refused_and_both_are_named(tmp_path, steps):
    path = nifti(tmp_path / "ct.nii", **{f"p{k}": (80 + 4 * k, "<f", step) for k, step in enumerate(steps)})
    error = error_of(path)
    assert error.code == "bad-geometry"
    assert "0.9 x 0.8 x 5 mm" in error.message


def test_gantry_tilt_in_an_sform_points_to_the_dicom_series(tmp_path):
    error = error_of(nifti(tmp_path / "ct.nii", shear=(ROW_Y + 8, "<f", 1.5)))
    assert error.code == "bad-geometry"
    assert "gantry tilt" in error.hint


NUMBERS = (0.0, 1e-30, -1e30, float("inf"), float("nan"))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", [ROW_X, ROW_Y + 4, ROW_Z + 8, ROW_X + 12, ROW_X + 4])
def test_no_number_in_the_sform_crashes_or_hangs(tmp_path, place, number):
    path = nifti(tmp_path / "ct.nii", q=(QFORM_CODE, "<h", 0), n=(place, "<f", number))
    try:
        volume = read_volume(path)
    except InputError as error:
        assert error.code in ("bad-geometry", "not-ct")
    else:
        assert np.isfinite([*volume.grid.origin, *volume.grid.direction]).all()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", [80, 84, 256, 264, 268])
def test_no_number_in_the_qform_crashes_or_hangs(tmp_path, place, number):
    path = nifti(tmp_path / "ct.nii", s=(SFORM_CODE, "<h", 0), n=(place, "<f", number))
    try:
        volume = read_volume(path)
    except InputError as error:
        assert error.code in ("bad-geometry", "not-ct")
    else:
        assert np.isfinite([*volume.grid.origin, *volume.grid.direction]).all()


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ((40, "<h", 9), "unreadable"),
        ((40, "<h", -1), "unreadable"),
        ((40, "<h", 2), "not-3d"),
        ((42, "<h", -9), "unreadable"),
        ((42, "<h", 0), "unreadable"),
        ((42, "<h", 30000), "too-large"),
        ((70, "<h", 128), "not-3d"),
        ((70, "<h", 32), "not-3d"),
        ((70, "<h", 77), "unreadable"),
        ((72, "<h", 8), "unreadable"),
        ((108, "<f", 100.0), "unreadable"),
        ((108, "<f", 1e9), "unreadable"),
        ((108, "<f", float("nan")), "unreadable"),
        ((116, "<f", float("inf")), "unreadable"),
        ((344, "4s", b"ni1\0"), "unsupported-format"),
        ((344, "4s", b"abcd"), "unreadable"),
    ],
)
def test_fields_that_cannot_be_are_refused(tmp_path, patch, code):
    assert error_of(nifti(tmp_path / "ct.nii", one=patch, slope=(112, "<f", 1.0))).code == code


# --------------------------------------------------------------------------------------------- bombs


def peak_of(path: Path) -> tuple[str, int]:
    tracemalloc.start()
    try:
        code = error_of(path).code
        return code, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_packed_bomb_is_known_before_it_is_opened(tmp_path):
    header = bytearray(nifti(tmp_path / "ct.nii").read_bytes()[:352])
    struct.pack_into("<3h", header, 42, 1024, 1024, 1000)
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + bytes(1 << 24)))
    code, peak = peak_of(path)
    assert code == "too-large"
    assert peak < 8 << 20


def test_more_than_is_announced_is_not_unpacked(tmp_path):
    path = tmp_path / "long.nii.gz"
    path.write_bytes(gzip.compress(nifti(tmp_path / "ct.nii").read_bytes() + bytes(1 << 26)))
    tracemalloc.start()
    open_image(path).array()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# ---------------------------------------------------------------------------------- NRRD and MetaImage


def image(dtype: str = "i2") -> sitk.Image:
    result = sitk.GetImageFromArray(np.ascontiguousarray(values(dtype).T))
    result.SetSpacing(STEPS)
    result.SetOrigin((-31.7, 12.3, 401.9))
    result.SetDirection(rotation().ravel().tolist())
    return result


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz"])
def test_voxels_and_grid_are_those_that_itk_wrote(tmp_path, ending, dtype, compressed):
    path = tmp_path / f"ct{ending}"
    sitk.WriteImage(image(dtype), str(path), compressed)
    found = open_image(path)
    np.testing.assert_array_equal(found.array().T, values(dtype))
    np.testing.assert_allclose(found.grid.spacing, STEPS, rtol=1e-6)
    np.testing.assert_allclose(found.grid.origin, image().GetOrigin(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.grid.direction, image().GetDirection(), rtol=0, atol=1e-6)
    assert found.remarks == ()


def test_layers_of_a_segmentation_are_components(tmp_path):
    layers = np.stack([values().T, values().T + 1], axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(layers, isVector=True), str(tmp_path / "a.nrrd"))
    found = open_image(tmp_path / "a.nrrd")
    assert found.components == 2
    np.testing.assert_array_equal(found.array(), layers)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (1, 1)), ("right-anterior-superior", (-1, -1)), ("LAS", (1, -1))],
)
def test_spaces_of_nrrd_become_left_posterior_superior(tmp_path, space, signs):
    path = nrrd(tmp_path, space=space)
    np.testing.assert_allclose(np.diag(np.reshape(open_image(path).grid.direction, (3, 3))), (*signs, 1))


def nrrd(folder: Path, name: str = "ct.nrrd", content: bytes | None = None, **changes: str | None) -> Path:
    fields: dict[str, str | None] = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "9 12 10",
        "space directions": "(0.9,0,0) (0,0.8,0) (0,0,5)", "kinds": "domain domain domain",
        "endian": "little", "encoding": "raw", "space origin": "(0,0,0)",
        **{key.replace("_", " "): value for key, value in changes.items()},
    }  # fmt: skip
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    data = np.ascontiguousarray(values().T).tobytes() if content is None else content
    path = folder / name
    path.write_bytes(f"NRRD0004\n{lines}\n".encode() + data)
    return path


def meta(folder: Path, name: str = "ct.mha", content: bytes | None = None, **changes: str | None) -> Path:
    fields: dict[str, str | None] = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": "0.9 0.8 5", "DimSize": "9 12 10", "ElementType": "MET_SHORT", **changes,
    }  # fmt: skip
    fields["ElementDataFile"] = fields.pop("ElementDataFile", "LOCAL")
    lines = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    data = np.ascontiguousarray(values().T).tobytes() if content is None else content
    path = folder / name
    path.write_bytes(lines.encode() + data)
    return path


def test_a_header_alone_is_complete_with_text_bzip2_and_skipped_bytes(tmp_path):
    import bz2

    stored = np.ascontiguousarray(values().T)
    text = " ".join(map(str, stored.ravel())).encode()
    for path in (
        nrrd(tmp_path, content=text, encoding="ascii"),
        nrrd(tmp_path, "b.nrrd", bz2.compress(stored.tobytes()), encoding="bzip2"),
        nrrd(tmp_path, "c.nrrd", b"line\nxyz" + stored.tobytes(), line_skip="1", byte_skip="3"),
        nrrd(tmp_path, "d.nrrd", b"whatever" + stored.tobytes(), byte_skip="-1"),
        meta(tmp_path, content=text, BinaryData="False"),
        meta(tmp_path, "d.mha", b"whatever" + stored.tobytes(), HeaderSize="-1"),
    ):
        np.testing.assert_array_equal(open_image(path).array(), stored)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"encoding": "ascii"}, "unreadable"),
        ({"encoding": "hex"}, "unsupported-format"),
        ({"encoding": "gzip"}, "unreadable"),
        ({"encoding": None}, "unreadable"),
        ({"type": "block"}, "unreadable"),
        ({"endian": None}, "unreadable"),
        ({"sizes": "9 12"}, "unreadable"),
        ({"sizes": "9 12 -10"}, "unreadable"),
        ({"sizes": "9 12 1000"}, "unreadable"),
        ({"sizes": "9 12 1000000000"}, "too-large"),
        ({"dimension": "1000000000"}, "unreadable"),
        ({"byte_skip": "-5"}, "unreadable"),
        ({"line_skip": "1000000000"}, "unreadable"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, "unreadable"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,inf)"}, "bad-geometry"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,x,1)"}, "unreadable"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,1.5,5)"}, "bad-geometry"),
        ({"data_file": "/etc/passwd"}, "foreign-data-file"),
        ({"data_file": "../ct.raw"}, "foreign-data-file"),
        ({"data_file": "LIST"}, "unsupported-format"),
        ({"data_file": "none.raw"}, "unreadable"),
    ],
)
def test_an_nrrd_header_that_cannot_be_is_refused(tmp_path, changes, code):
    assert error_of(nrrd(tmp_path, **changes)).code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"NDims": "1000000000"}, "unreadable"),
        ({"NDims": "2", "DimSize": "9 12"}, "not-3d"),
        ({"NDims": "x"}, "unreadable"),
        ({"DimSize": "9 12"}, "unreadable"),
        ({"DimSize": "9 12 1000"}, "unreadable"),
        ({"DimSize": "9 12 100000000"}, "too-large"),
        ({"DimSize": None}, "unreadable"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "unreadable"),
        ({"ElementNumberOfChannels": "1000"}, "unreadable"),
        ({"CompressedData": "True"}, "unreadable"),
        ({"BinaryData": "False"}, "unreadable"),
        ({"HeaderSize": "-7"}, "unreadable"),
        ({"TransformMatrix": "1 0 0 0 1 0"}, "unreadable"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}, "bad-geometry"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 3"}, "bad-geometry"),
        ({"ElementDataFile": "/etc/passwd"}, "foreign-data-file"),
        ({"ElementDataFile": "..\\ct.raw"}, "foreign-data-file"),
        ({"ElementDataFile": "ct%03d.raw 1 9 1"}, "unsupported-format"),
    ],
)
def test_a_metaimage_header_that_cannot_be_is_refused(tmp_path, changes, code):
    assert error_of(meta(tmp_path, **changes)).code == code


def test_a_data_file_behind_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere.raw").write_bytes(values().tobytes())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ct.raw").symlink_to(tmp_path / "elsewhere.raw")
    assert error_of(meta(tmp_path / "a", "ct.mhd", b"", ElementDataFile="ct.raw")).code == "foreign-data-file"


@pytest.mark.parametrize("write", [nrrd, meta])
def test_no_orientation_in_a_text_header_is_told(tmp_path, write):
    path = write(tmp_path, **{"space": None, "space_directions": None, "spacings": "0.9 0.8 5"})
    path = meta(tmp_path, TransformMatrix=None) if write is meta else path
    image = open_image(path)
    assert [remark.code for remark in image.remarks] == ["orientation-unknown"]
    assert image.grid.spacing == STEPS


def test_remarks_reach_progress_and_notes(tmp_path):
    hu = np.full((12, 40, 40), -1000, np.int16)
    hu[:, 5:35, 5:35], hu[:, 8:32, 8:32] = 1000, 35
    header = nrrd(tmp_path, content=hu.tobytes(), sizes="40 40 12", space=None)
    events: list[dict] = []
    volume = read_volume(header, progress=Progress(events.append))
    assert "orientation-unknown" in [e["code"] for e in events if e["event"] == "warning"]
    assert any("how the head lies" in note for note in volume.notes)
