"""DICOM series: which one is chosen, where its slices lie, and DICOM SEG exact on every slice."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from helpers import SLICE_SHAPE, plane, write_series, write_slice
from sahlora.errors import InputError
from sahlora.imaging.dicom_seg import write_dicom_seg
from sahlora.imaging.dicom_series import list_series
from sahlora.imaging.series_choice import choose_series
from sahlora.imaging.terminology import Code, Segment
from sahlora.imaging.volume import read_volume
from sahlora.runtime.progress import Progress

SEGMENT = Segment(
    "Subarachnoid hemorrhage",
    (188, 65, 28),
    Code("49755003", "SCT", "Morphologically Altered Structure"),
    Code("50960005", "SCT", "Hemorrhage"),
    Code("35951006", "SCT", "Subarachnoid space"),
)


def marker_order(volume) -> list[int]:
    return volume.hu[:, 0, 0].tolist()


def code_of(path: Path, series: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path, series=series)
    assert caught.value.hint
    return caught.value.code


EVEN = np.arange(20) * 5.0
UNEVEN = np.concatenate([np.arange(8) * 4.0, 28 + 1.1 + np.arange(8) * 7.0])

# ------------------------------------------------------------------------------------------------ geometry


def test_an_even_series_is_read_as_sitk_reads_it(tmp_path):
    files = write_series(tmp_path, EVEN)
    volume = read_volume(tmp_path)
    reference = sitk.ReadImage([str(f) for f in files])
    np.testing.assert_array_equal(volume.hu, sitk.GetArrayFromImage(reference))
    label = volume.to_grid(volume.hu > 500, label=True)
    assert volume.is_regular
    np.testing.assert_allclose(label.GetSpacing(), reference.GetSpacing(), rtol=1e-9)
    np.testing.assert_allclose(label.GetOrigin(), reference.GetOrigin(), rtol=1e-9)
    np.testing.assert_allclose(label.GetDirection(), reference.GetDirection(), atol=1e-9)


def test_slices_are_sorted_by_position_whatever_their_file_names(tmp_path):
    order = np.random.default_rng(0).permutation(20)
    for k, place in enumerate(order):
        write_slice(tmp_path / f"{k:03}", plane(int(place)), (-20, -18, 5.0 * place), InstanceNumber=k)
    assert marker_order(read_volume(tmp_path)) == list(range(20))


def test_feet_first_slices_come_out_towards_superior(tmp_path):
    write_series(tmp_path, EVEN[::-1], ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    assert marker_order_of_corner(read_volume(tmp_path)) == list(range(20))[::-1]


def marker_order_of_corner(volume) -> list[int]:
    return volume.hu[:, 0, -1].tolist()


def test_a_coronal_series_comes_to_canonical_order(tmp_path):
    for k in range(20):
        write_slice(
            tmp_path / f"{k}", plane(k), (-20, 5.0 * k, 18), ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
        )
    volume = read_volume(tmp_path)
    assert volume.hu.shape == (SLICE_SHAPE[0], 20, SLICE_SHAPE[1])
    assert volume.hu[-1, :, 0].tolist() == list(range(20))
    assert volume.spacing == pytest.approx((0.9, 5.0, 0.8))


def test_a_tilted_uneven_series_keeps_its_slices_and_true_slabs(tmp_path):
    write_series(tmp_path, UNEVEN / np.cos(np.radians(18.5)), tilt=18.5)
    volume = read_volume(tmp_path)
    steps = np.diff(UNEVEN)
    middle = (steps[1:] + steps[:-1]) / 2
    assert not volume.is_regular
    assert marker_order(volume) == list(range(16))
    np.testing.assert_allclose(volume.slice_thickness, [steps[0], *middle, steps[-1]], atol=1e-5)
    np.testing.assert_allclose(volume.voxel_ml, volume.slice_thickness * 0.9 * 0.8 / 1000, rtol=1e-12)
    assert any("18.5 degrees" in note for note in volume.notes)
    assert any("1.10 to 7.00 mm" in note for note in volume.notes)


def test_a_step_that_drifts_by_a_tenth_is_uneven_and_not_averaged(tmp_path):
    write_series(tmp_path, np.concatenate([np.arange(10) * 5.0, 50 + np.arange(10) * 5.1]))
    assert not read_volume(tmp_path).is_regular


def test_a_missing_slice_is_named(tmp_path):
    for file in write_series(tmp_path, EVEN)[7:8]:
        file.unlink()
    volume = read_volume(tmp_path)
    assert [n for n in volume.notes if "From slice 7 to 8" in n and "1 slice may be missing" in n]
    assert volume.slice_thickness[6:8] == pytest.approx([7.5, 7.5])


def test_a_change_of_step_is_not_taken_for_missing_slices(tmp_path):
    write_series(tmp_path, np.concatenate([np.arange(10) * 5.0, 45 + np.arange(1, 8) * 10.0]))
    assert not [n for n in read_volume(tmp_path).notes if "missing" in n]


def test_a_copied_slice_is_left_out_and_named(tmp_path):
    files = write_series(tmp_path, EVEN)
    shutil.copy(files[4], tmp_path / "004-copy.dcm")
    volume = read_volume(tmp_path)
    assert marker_order(volume) == list(range(20))
    assert "Slice 5 is there twice; the copy was left out." in volume.notes


def test_notes_hold_no_name_that_somebody_typed(hospital):
    """Notes go into reports: file names and descriptions may name the patient, so they stay out."""
    notes = " ".join(read_volume(hospital).notes)
    assert "HEAD" not in notes
    assert ".dcm" not in notes


def test_two_different_images_of_one_position_are_refused(tmp_path):
    write_series(tmp_path, EVEN)
    write_slice(tmp_path / "other.dcm", plane(4, seed=1), (-20, -18, 20.0))
    assert code_of(tmp_path) == "conflicting-slices"


def test_even_tilted_slices_of_another_direction_are_refused(tmp_path):
    for k in range(20):
        write_slice(
            tmp_path / f"{k}", plane(k), (-20, 5.0 * k, 18 + k), ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
        )
    assert code_of(tmp_path) == "unsupported-slices"


# -------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda s: s.name)
def test_compressed_slices_are_read_without_loss(tmp_path, syntax):
    try:
        write_series(tmp_path, EVEN[:8], syntax=syntax)
    except RuntimeError as error:
        pytest.skip(f"no encoder here: {error}")
    np.testing.assert_array_equal(read_volume(tmp_path).hu, np.stack([plane(k) for k in range(8)]))


def test_slope_and_intercept_are_taken_from_each_slice(tmp_path):
    for k in range(8):
        write_slice(
            tmp_path / f"{k}",
            plane(k),
            (-20, -18, 5.0 * k),
            RescaleIntercept=-1024 - k,
            RescaleSlope=1 / (1 + k % 2),
        )
    np.testing.assert_array_equal(read_volume(tmp_path).hu, np.stack([plane(k) for k in range(8)]))


def test_padding_becomes_air_and_a_padding_value_within_tissue_is_ignored(tmp_path):
    padded = plane(3)
    padded[:2] = 8000
    for k in range(8):
        padding = 8000 + 1024 if k == 3 else 40 + 1024
        write_slice(
            tmp_path / f"{k}", padded if k == 3 else plane(k), (-20, -18, 5.0 * k), PixelPaddingValue=padding
        )
    volume = read_volume(tmp_path)
    assert (volume.hu[3, :2] == -1024).all()
    np.testing.assert_array_equal(volume.hu[4], plane(4))


def test_a_truncated_slice_is_named(tmp_path):
    file = write_series(tmp_path, EVEN)[3]
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"003\.dcm") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "unreadable"


def test_identifiers_are_kept_apart_from_name_and_notes(tmp_path):
    write_series(tmp_path / "scan", EVEN)
    volume = read_volume(tmp_path / "scan")
    assert volume.identifiers["PatientName"] == "Doe^Jane"
    assert volume.identifiers["PatientID"] == "4711"
    assert "Doe" not in " ".join([volume.name, *volume.notes])


# -------------------------------------------------------------------------------------------------- choice


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """Write a folder as a PACS exports it: nine series of one study, in subfolders, with other files."""
    folder = tmp_path_factory.mktemp("hospital")

    def series(number: int, description: str, z, **changes) -> None:
        changes = {"SeriesInstanceUID": f"1.2.3.1.{number}", "SeriesNumber": number, **changes}
        write_series(folder / f"S{number}", z, SeriesDescription=description, **changes)

    series(1, "Topogram", [0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(2, "HEAD thin", np.arange(100) * 1.0)
    series(3, "HEAD 5mm", EVEN)
    series(4, "HEAD bone 5mm", EVEN, ConvolutionKernel="H60s")
    series(5, "CTA head", EVEN, ContrastBolusAgent="iodine")
    series(6, "MIP axial", EVEN, ImageType=["DERIVED", "SECONDARY", "MIP"])
    series(7, "Slab", EVEN[:5])
    series(8, "T1", EVEN, Modality="MR")
    series(9, "MPR 5mm", EVEN, ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    (folder / "DICOMDIR").write_bytes(b"not of interest")
    (folder / "readme.txt").write_text("hello")
    return folder


def test_the_plain_soft_tissue_series_is_chosen_and_every_other_has_its_reason(hospital):
    chosen, *others = choose_series(list_series(hospital))
    assert chosen.description == "HEAD 5mm"
    assert chosen.chosen
    reasons = {s.description: s.reason for s in others}
    assert reasons == {
        "Topogram": "it is a localizer",
        "HEAD thin": "series 3 is preferred for its slices",
        "HEAD bone 5mm": "series 3 is of a soft-tissue kernel",
        "CTA head": "series 3 is without contrast agent",
        "MIP axial": "it is a projection, localizer or report",
        "Slab": "series 3 is longer than 40 mm",
        "T1": "it is MR, not CT",
        "MPR 5mm": "series 3 is original",
    }


def test_the_choice_is_reported_in_the_notes(hospital):
    notes = read_volume(hospital).notes
    assert notes[0].startswith("Chosen of 9 series: number 3 (CT, axial, 20 slices of 5 mm, kernel H31s)")
    assert len([n for n in notes if n.startswith("Not chosen: ")]) == 8


@pytest.mark.parametrize("request_", ["2", "1.2.3.1.2", "head THIN"])
def test_a_series_is_taken_by_number_uid_or_description(hospital, request_):
    assert read_volume(hospital, series=request_).hu.shape[0] == 100


def test_a_unique_beginning_of_a_uid_is_enough(tmp_path):
    write_series(tmp_path / "a", EVEN, SeriesInstanceUID="1.9.41")
    write_series(tmp_path / "b", EVEN[:8], SeriesInstanceUID="1.9.52", SeriesNumber=3)
    assert read_volume(tmp_path, series="1.9.5").hu.shape[0] == 8
    assert code_of(tmp_path, series="1.9.") == "ambiguous-series"


def test_an_unknown_series_lists_what_is_there(hospital):
    with pytest.raises(InputError) as caught:
        read_volume(hospital, series="nonsense")
    assert caught.value.code == "unknown-series"
    assert "3: HEAD 5mm" in caught.value.hint


def test_a_series_that_is_no_volume_cannot_be_asked_for(hospital):
    assert code_of(hospital, series="Topogram") == "unusable-series"
    assert code_of(hospital, series="T1") == "unusable-series"


def test_one_file_stands_for_its_series(hospital):
    assert read_volume(hospital / "S2" / "005.dcm").hu.shape[0] == 100


def test_an_asked_for_contrast_series_is_warned_about(hospital):
    events: list[dict] = []
    read_volume(hospital, series="CTA head", progress=Progress(events.append))
    codes = [event["code"] for event in events if event["event"] == "warning"]
    assert codes == ["contrast", "doubtful-size"]  # these heads are drawn small


@pytest.mark.parametrize(
    ("description", "contrast"),
    [
        ("HEAD W/O CONTRAST", False),
        ("Kopf nativ ohne KM", False),
        ("non-contrast head", False),
        ("POST OP", False),
        ("Head with contrast", True),
        ("CTA COW", True),
        ("HEAD +C", True),
    ],
)
def test_contrast_is_recognized_by_description(tmp_path, description, contrast):
    write_series(tmp_path, EVEN, SeriesDescription=description)
    assert list_series(tmp_path)[0].contrast is contrast


def test_a_localizer_within_the_series_is_left_out(tmp_path):
    write_series(tmp_path, EVEN)
    write_slice(
        tmp_path / "scout.dcm", plane(0), (0, 0, 0), ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )  # fmt: skip
    volume = read_volume(tmp_path)
    assert marker_order(volume) == list(range(20))
    assert any("1 image" in note for note in volume.notes)


def test_perfusion_is_no_volume(tmp_path):
    for phase in range(3):
        write_series(tmp_path, EVEN, name="{k}" + f"-{phase}.dcm")
    assert code_of(tmp_path) == "no-ct-series"


def test_only_a_localizer_is_refused(tmp_path):
    write_series(tmp_path, [0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert code_of(tmp_path) == "no-ct-series"


def test_multi_frame_is_refused_by_name(tmp_path):
    write_series(tmp_path, [0], NumberOfFrames=30)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert "Enhanced CT" in caught.value.hint


def test_two_patients_in_one_folder_are_refused_unless_one_is_asked_for(tmp_path):
    write_series(tmp_path / "a", EVEN)
    write_series(
        tmp_path / "b", EVEN[:8], StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1", PatientID="0815"
    )
    assert code_of(tmp_path) == "several-studies"
    assert read_volume(tmp_path, series="1.9.1").hu.shape[0] == 8


def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert code_of(tmp_path) == "no-dicom"


def test_dicom_without_hounsfield_units_is_refused(tmp_path):
    for k in range(8):
        image = pydicom.dcmread(write_slice(tmp_path / f"{k}.dcm", plane(k), (-20, -18, 5.0 * k)))
        del image.RescaleIntercept
        image.save_as(tmp_path / f"{k}.dcm")
    assert code_of(tmp_path) == "not-ct"


# ------------------------------------------------------------------------------------------------ DICOM SEG


def check_segmentation(volume, label: np.ndarray, path: Path) -> None:
    segmentation = hd.seg.segread(path)
    stored = volume.axes.to_stored(label)
    uids = [pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in volume.sources]
    frames = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)[..., 0]
    np.testing.assert_array_equal(frames, stored.astype(frames.dtype))
    positions = {tuple(pydicom.dcmread(f).ImagePositionPatient): k for k, f in enumerate(volume.sources)}
    for frame, groups in zip(
        segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True
    ):
        k = positions[tuple(groups.PlanePositionSequence[0].ImagePositionPatient)]
        np.testing.assert_array_equal(frame, stored[k])


@pytest.mark.parametrize("feet_first", [False, True], ids=["head-first", "feet-first"])
def test_segmentation_holds_the_mask_of_every_tilted_slice(tmp_path, feet_first):
    orientation = [-1, 0, 0, 0, 0.9483237, -0.3173047] if feet_first else [1, 0, 0, 0, 0.9483237, -0.3173047]
    write_series(tmp_path / "ct", UNEVEN, ImageOrientationPatient=orientation)
    volume = read_volume(tmp_path / "ct")
    label = np.random.default_rng(0).random(volume.hu.shape) < 0.3
    label[5] = False
    write_dicom_seg(volume, label, tmp_path / "seg.dcm", SEGMENT, algorithm="tbi")
    check_segmentation(volume, label, tmp_path / "seg.dcm")


def test_segmentation_carries_name_codes_color_and_the_study(tmp_path):
    write_series(tmp_path / "ct", EVEN)
    volume = read_volume(tmp_path / "ct")
    write_dicom_seg(volume, volume.hu > 500, tmp_path / "seg.dcm", SEGMENT, algorithm="tbi")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    described = segmentation.get_segment_description(1)
    assert described.segment_label == "Subarachnoid hemorrhage"
    assert described.segmented_property_category.value == "49755003"
    assert described.segmented_property_type.value == "50960005"
    assert described.anatomic_regions[0].value == "35951006"
    assert described.RecommendedDisplayCIELabValue
    assert segmentation.StudyInstanceUID == "1.2.3.1"
    assert segmentation.ContentDate == "20200304"


def test_an_empty_mask_is_a_valid_segmentation(tmp_path):
    write_series(tmp_path / "ct", EVEN)
    volume = read_volume(tmp_path / "ct")
    write_dicom_seg(volume, np.zeros(volume.hu.shape), tmp_path / "seg.dcm", SEGMENT, algorithm="tbi")
    assert not hd.seg.segread(tmp_path / "seg.dcm").pixel_array.any()


def test_the_same_mask_gives_the_same_bytes_and_another_gives_another_uid(tmp_path):
    write_series(tmp_path / "ct", EVEN)
    volume = read_volume(tmp_path / "ct")
    paths = [tmp_path / f"{k}.dcm" for k in range(3)]
    for path, threshold in zip(paths, (500, 500, 40), strict=True):
        write_dicom_seg(volume, volume.hu > threshold, path, SEGMENT, algorithm="tbi")
    first, second, third = (hashlib.sha256(path.read_bytes()).digest() for path in paths)
    assert first == second != third
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    assert len(uids) == 2


def test_a_volume_that_is_not_of_dicom_has_no_segmentation(tmp_path):
    image = sitk.GetImageFromArray(np.stack([plane(k) for k in range(8)]))
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    volume = read_volume(tmp_path / "ct.nrrd")
    with pytest.raises(InputError) as caught:
        write_dicom_seg(volume, volume.hu > 40, tmp_path / "seg.dcm", SEGMENT, algorithm="tbi")
    assert caught.value.code == "not-dicom"
    assert not (tmp_path / "seg.dcm").exists()


def test_moved_source_files_are_named(tmp_path):
    write_series(tmp_path / "ct", EVEN)
    volume = read_volume(tmp_path / "ct")
    volume.sources[3].unlink()
    with pytest.raises(InputError, match=r"003\.dcm"):
        write_dicom_seg(volume, volume.hu > 40, tmp_path / "seg.dcm", SEGMENT, algorithm="tbi")


# ------------------------------------------------------------------------------------------------- real CT


@pytest.mark.data
def test_the_ge_head_keeps_tilt_uneven_steps_and_exact_segmentation(tmp_path):
    if "SAHLORA_DATA" not in os.environ:
        pytest.skip("SAHLORA_DATA names no folder with real CT")
    volume = read_volume(Path(os.environ["SAHLORA_DATA"]) / "ge_head_dicom")
    assert volume.hu.shape == (28, 512, 512)
    assert volume.hu.min() == -1024
    assert any("18.5 degrees" in note for note in volume.notes)
    cosine = 0.9483237
    np.testing.assert_allclose(volume.slice_thickness[:13], 4.22 * cosine, atol=1e-5)
    np.testing.assert_allclose(
        volume.slice_thickness[13:15], [(4.22 + 1.14) / 2 * cosine, (1.14 + 7.38) / 2 * cosine], atol=1e-5
    )
    np.testing.assert_allclose(volume.slice_thickness[15:], 7.38 * cosine, atol=1e-5)
    bone = volume.hu > 300
    even = volume.to_grid(bone, label=True)
    acquired_ml = (bone.sum(axis=(1, 2)) * volume.voxel_ml).sum()
    even_ml = sitk.GetArrayViewFromImage(even).sum() * np.prod(even.GetSpacing()) / 1000
    assert even_ml == pytest.approx(acquired_ml, rel=0.01)
    write_dicom_seg(volume, bone, tmp_path / "seg.dcm", SEGMENT, algorithm="tbi")
    check_segmentation(volume, bone, tmp_path / "seg.dcm")
