"""Annotations in all their forms, each with the voxels and mL that it must give."""

from __future__ import annotations

import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, generate_uid

from helpers import SLICE_SHAPE, write_series
from sahlora.errors import InputError
from sahlora.imaging.contents import content_digest
from sahlora.imaging.dicom_seg import write_dicom_seg
from sahlora.imaging.labels import UNKNOWN, read_label, read_label_map
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import Volume, read_volume

HEIGHTS = np.arange(12) * 5.0
TILTED = np.concatenate([np.arange(6) * 4.0, 27.0 + np.arange(5) * 7.0])


def mask_of(volume: Volume) -> np.ndarray:
    """Outline a box in some slices, with a gap between them."""
    mask = np.zeros(volume.hu.shape, bool)
    mask[2:4, 12:20, 15:30] = True
    mask[7, 10:24, 20:26] = True
    return mask


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A folder with an even series, our own DICOM SEG of it, and the CT as NIfTI."""
    folder = tmp_path_factory.mktemp("scan")
    write_series(folder / "ct", HEIGHTS)
    volume = read_volume(folder / "ct")
    write_dicom_seg(volume, mask_of(volume), folder / "own.dcm", INTRACRANIAL_HEMORRHAGE, algorithm="x")
    sitk.WriteImage(volume.to_grid(volume.hu, label=False), str(folder / "ct.nii.gz"))
    return folder


@pytest.fixture
def volume(scan) -> Volume:
    return read_volume(scan / "ct")


def error_of(path: Path, segment: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_label_map(path, segment)
    assert caught.value.hint
    return caught.value


# --------------------------------------------------------------------------------------------- DICOM SEG


def test_our_own_dicom_seg_is_the_label_it_was_written_from(scan, volume):
    np.testing.assert_array_equal(read_label(scan / "own.dcm", volume), mask_of(volume))


def test_a_folder_with_one_dicom_seg_stands_for_it(scan, volume, tmp_path):
    shutil.copy(scan / "own.dcm", tmp_path)
    np.testing.assert_array_equal(read_label(tmp_path, volume), mask_of(volume))
    shutil.copy(scan / "own.dcm", tmp_path / "again.dcm")
    assert error_of(tmp_path).code == "several-labels"


def test_a_dicom_seg_lies_where_it_belongs_on_the_ct_as_nifti(scan):
    nifti = read_volume(scan / "ct.nii.gz")
    np.testing.assert_array_equal(read_label(scan / "own.dcm", nifti), mask_of(nifti))


def test_frames_left_out_are_empty_even_if_the_file_does_not_name_their_step(scan, volume, tmp_path):
    data = pydicom.dcmread(scan / "own.dcm")
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SpacingBetweenSlices
    data.save_as(tmp_path / "l.dcm")
    np.testing.assert_array_equal(read_label(tmp_path / "l.dcm", volume), mask_of(volume))


def test_a_dicom_seg_of_tilted_uneven_slices_is_exact(tmp_path):
    write_series(tmp_path / "ct", TILTED, tilt=15.0)
    volume = read_volume(tmp_path / "ct")
    assert not volume.is_regular
    write_dicom_seg(volume, mask_of(volume), tmp_path / "l.dcm", INTRACRANIAL_HEMORRHAGE, algorithm="x")
    np.testing.assert_array_equal(read_label(tmp_path / "l.dcm", volume), mask_of(volume))
    write_series(tmp_path / "other", TILTED + 2, tilt=15.0, SeriesInstanceUID="1.2.3.1.7")
    with pytest.raises(InputError) as caught:
        read_label(tmp_path / "l.dcm", read_volume(tmp_path / "other"))
    assert caught.value.code == "other-slices"


@pytest.fixture(scope="module")
def two_segments(scan) -> Path:
    """A DICOM SEG of another program: two overlapping segments, fractional."""
    volume = read_volume(scan / "ct")
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in volume.sources]
    for image in images:
        image.SliceThickness = 5
    masks = np.zeros((*volume.hu.shape, 2), np.float32)
    masks[3:5, 5:15, 5:15, 0] = 1.0
    masks[4:6, 8:12, 8:20, 1] = 0.75
    masks[6, 8:12, 8:20, 1] = 0.25

    def described(number: int, name: str) -> hd.seg.SegmentDescription:
        return hd.seg.SegmentDescription(
            number, name, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Hemorrhage,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )  # fmt: skip

    seg = hd.seg.Segmentation(
        images, masks, "FRACTIONAL", [described(1, "brain"), described(2, "blood")], generate_uid(), 9,
        generate_uid(), 1, "m", "m", "1", "1", max_fractional_value=200,
    )  # fmt: skip
    seg.save_as(scan / "two.dcm")
    return scan / "two.dcm"


@pytest.mark.parametrize("segment", ["blood", "2"])
def test_a_segment_is_chosen_by_name_or_number_and_fractions_count_from_a_half_on(
    two_segments, volume, segment
):
    label = read_label(two_segments, volume, segment)
    expected = np.zeros(label.shape, bool)
    expected[4:6, 8:12, 8:20] = True
    np.testing.assert_array_equal(label, expected)


def test_several_segments_ask_for_one(two_segments):
    assert error_of(two_segments).code == "several-segments"
    assert "blood" in error_of(two_segments, "bleed").hint
    assert error_of(two_segments, "bleed").code == "unknown-segment"


def test_two_segments_of_one_name_both_count(two_segments, volume, tmp_path):
    data = pydicom.dcmread(two_segments)
    data.SegmentSequence[0].SegmentLabel = "blood"
    data.save_as(tmp_path / "l.dcm")
    label_map = read_label_map(tmp_path / "l.dcm")
    assert label_map.on(volume).sum() == 2 * 100 + 2 * 48 - 28
    assert "2 segments" in label_map.joined


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_dicom_seg_cut_short_is_refused(scan, tmp_path, kept):
    content = (scan / "own.dcm").read_bytes()
    (tmp_path / "l.dcm").write_bytes(content[: int(len(content) * kept)])
    assert error_of(tmp_path / "l.dcm").code == "unreadable-label"


@pytest.mark.parametrize(
    ("sop_class", "modality", "words"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "RT structure set"),
        ("1.2.840.10008.5.1.4.1.1.88.33", "SR", "structured report"),
        ("1.2.840.10008.5.1.4.1.1.66.5", "SEG", "surface segmentation"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(tmp_path, sop_class, modality, words):
    write_series(tmp_path, [0.0], SOPClassUID=sop_class, Modality=modality)
    for path in (tmp_path, tmp_path / "000.dcm"):
        assert error_of(path).code == "unsupported-label"
        assert words in str(error_of(path))


def test_a_ct_as_label_is_still_an_image(scan):
    assert pydicom.dcmread(scan / "ct" / "000.dcm").SOPClassUID == CTImageStorage
    assert error_of(scan / "ct").code == "label-is-image"
    assert error_of(scan / "ct" / "000.dcm").code == "label-is-image"


def test_what_is_in_no_format_is_refused(tmp_path):
    (tmp_path / "label.txt").write_text("hello")
    assert error_of(tmp_path / "label.txt").code == "unreadable-label"


# ------------------------------------------------------------------------------------------------- files


def write(path: Path, array: np.ndarray, **fields: str) -> Path:
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


BOX = np.zeros((6, *SLICE_SHAPE), np.uint8)
BOX[2:4, 10:20, 10:20] = 1


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_label_cut_short_is_refused(tmp_path, ending, kept):
    noisy = BOX * np.random.default_rng(0).integers(1, 9, BOX.shape, np.uint8)
    path = write(tmp_path / f"l{ending}", noisy)
    content = path.read_bytes()
    header = 352 if ending == ".nii" else 300 if ending == ".mha" else 200
    path.write_bytes(content[: header + int((len(content) - header) * kept)])
    assert error_of(path).code == "unreadable-label"


def test_floats_that_were_whole_numbers_are(tmp_path):
    path = write(tmp_path / "l.nii.gz", BOX * np.float32(0.9999999))
    np.testing.assert_array_equal(read_label_map(path).values, BOX)
    assert error_of(write(path, BOX * np.float32(0.99))).code == "bad-label"


def test_255_alone_is_a_question_and_naming_it_is_the_answer(tmp_path):
    path = write(tmp_path / "l.nii.gz", BOX * UNKNOWN)
    assert error_of(path).code == "is-255-blood"
    np.testing.assert_array_equal(read_label_map(path, "255").values, BOX)
    unknown = BOX.copy()
    unknown[0] = UNKNOWN
    write(path, unknown)
    np.testing.assert_array_equal(read_label_map(path).values, unknown)
    np.testing.assert_array_equal(read_label_map(path, "1").values, unknown)


HALVES = BOX.copy()
HALVES[:, :, 15:] *= 2


def named(number: int, name: str, **fields: str) -> dict[str, str]:
    return {
        f"Segment{number}_{key}": value for key, value in {"ID": f"S{number}", "Name": name, **fields}.items()
    }


def test_two_segments_of_one_name_in_a_file_both_count(tmp_path):
    fields = {**named(0, "SAH", LabelValue="1", Layer="0"), **named(1, "SAH", LabelValue="2", Layer="0")}
    label_map = read_label_map(write(tmp_path / "l.seg.nrrd", HALVES, **fields))
    np.testing.assert_array_equal(label_map.values, BOX)
    assert label_map.joined


def test_segmentations_of_before_slicer_4_11_are_read(tmp_path):
    path = write(tmp_path / "one.seg.nrrd", BOX, **named(0, "SAH", Extent="0 47 0 39 0 5"))
    np.testing.assert_array_equal(read_label_map(path).values, BOX)
    layers = np.stack([BOX, 1 - BOX], axis=-1)
    path = write(tmp_path / "two.seg.nrrd", layers, **named(0, "rest"), **named(1, "SAH"))
    np.testing.assert_array_equal(read_label_map(path, "SAH").values, 1 - BOX)
    np.testing.assert_array_equal(read_label_map(path, "rest").values, BOX)


def test_a_segmentation_without_seg_in_its_name_is_one(tmp_path):
    fields = {**named(0, "SAH", LabelValue="2", Layer="0"), **named(1, "rest", LabelValue="1", Layer="0")}
    path = write(tmp_path / "l.nrrd", HALVES, **fields)
    np.testing.assert_array_equal(read_label_map(path, "SAH").values, HALVES == 2)


@pytest.mark.parametrize(
    "fields", [{"LabelValue": "x"}, {"Layer": "7"}, {"LabelValue": "-1"}, {"LabelValue": "9"}]
)
def test_segments_that_are_not_there_are_refused(tmp_path, fields):
    path = write(
        tmp_path / "l.seg.nrrd", BOX, **named(0, "SAH", **{"LabelValue": "1", "Layer": "0", **fields})
    )
    assert error_of(path).code == "bad-label"


# ---------------------------------------------------------------------------------------------- contents


def test_a_digest_follows_contents_not_dates(tmp_path):
    path = write(tmp_path / "l.mhd", BOX)
    before = content_digest(path)
    (tmp_path / "l.raw").touch()
    assert content_digest(path) == before
    write(path, BOX[:, ::-1])
    assert content_digest(path) != before
    write_series(tmp_path / "ct", HEIGHTS[:4])
    folder, file = content_digest(tmp_path / "ct"), content_digest(tmp_path / "ct" / "000.dcm")
    content = bytearray((tmp_path / "ct" / "002.dcm").read_bytes())
    content[-1] ^= 1
    (tmp_path / "ct" / "002.dcm").write_bytes(content)
    assert content_digest(tmp_path / "ct") != folder
    assert content_digest(tmp_path / "ct" / "000.dcm") != file
