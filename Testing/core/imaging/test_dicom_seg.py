"""DICOM SEG of series whose headers are not as DICOM wants them: valid, with what can be kept, or refused."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from helpers import write_series
from sahlora.errors import InputError
from sahlora.imaging.dicom_seg import write_dicom_seg
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import Volume, read_volume

HEIGHTS = np.arange(6) * 5.0


def stored(folder: Path, name: str, vr: str, content: bytes, only: str = "*") -> None:
    """Write the bytes of one element into files as they are."""
    for file in folder.glob(only):
        data = pydicom.dcmread(file)
        tag = Tag(name)
        data[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)
        with pydicom.config.disable_value_validation():
            data.save_as(file)


def segmentation(volume: Volume, path: Path) -> hd.seg.Segmentation:
    mask = np.zeros(volume.hu.shape, bool)
    mask[2, 10:20, 10:20] = True
    write_dicom_seg(volume, mask, path, INTRACRANIAL_HEMORRHAGE, algorithm="x")
    written = hd.seg.segread(path)
    assert written.pixel_array.sum() == 100
    return written


@pytest.fixture
def ct(tmp_path) -> Path:
    write_series(tmp_path / "ct", HEIGHTS)
    return tmp_path / "ct"


KOREAN = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf "


@pytest.mark.parametrize(
    ("charset", "name", "content"),
    [
        (b"\\ISO 2022 IR 87 ", "Sim^Sah=山田^太郎", b"Sim^Sah=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (b"\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동", KOREAN),
        (b"GB18030 ", "Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小东 ".encode("gb18030")),
        (b"ISO_IR 192", "Müller^Jörg", "Müller^Jörg ".encode()),
    ],
)
def test_names_of_every_character_set_are_kept(ct, tmp_path, charset, name, content):
    stored(ct, "SpecificCharacterSet", "CS", charset)
    stored(ct, "PatientName", "PN", content + b" " * (len(content) % 2))
    written = segmentation(read_volume(ct), tmp_path / "seg.dcm")
    assert str(written.PatientName) == name
    assert written.SpecificCharacterSet == "ISO_IR 192"


def test_an_unknown_character_set_ends_in_no_traceback(ct, tmp_path):
    stored(ct, "SpecificCharacterSet", "CS", b"ISO_IR 9999 ")
    stored(ct, "PatientName", "PN", b"M\xfcller\xff ")
    assert segmentation(read_volume(ct), tmp_path / "seg.dcm").PatientID == "4711"


@pytest.mark.parametrize(
    ("name", "vr", "content", "kept"),
    [
        ("PatientSex", "CS", b"male", ""),
        ("PatientSex", "CS", b"f ", "F"),
        ("PatientBirthDate", "DA", b"00000000", ""),
        ("PatientBirthDate", "DA", b"1950-01-02", "19500102"),
        ("StudyDate", "DA", b"yesterday ", ""),
        ("StudyTime", "TM", b"25:99 ", ""),
        ("StudyTime", "TM", b"10:11:12", "101112"),
        ("PatientAge", "AS", b"70", None),
    ],
)
def test_values_that_are_not_dicoms_are_mended_or_left_empty(ct, tmp_path, name, vr, content, kept):
    stored(ct, name, vr, content)
    written = segmentation(read_volume(ct), tmp_path / "seg.dcm")
    found = written.get(name)
    assert (None if found is None else str(found)) == kept or (kept == "" and not found)


@pytest.mark.parametrize(
    ("content", "millimeters"), [(b"5mm ", 5.0), (b"", 5.0), (b"2.5 ", 2.5), (b"-1", 5.0)]
)
def test_a_thickness_that_is_no_number_is_the_slices_own(ct, tmp_path, content, millimeters):
    stored(ct, "SliceThickness", "DS", content)
    written = segmentation(read_volume(ct), tmp_path / "seg.dcm")
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == millimeters


def test_without_a_frame_of_reference_one_follows_from_the_series(tmp_path):
    write_series(tmp_path / "ct", HEIGHTS, FrameOfReferenceUID=None)
    volume = read_volume(tmp_path / "ct")
    first = segmentation(volume, tmp_path / "a.dcm").FrameOfReferenceUID
    assert first == segmentation(volume, tmp_path / "b.dcm").FrameOfReferenceUID


def test_a_slice_of_another_study_or_orientation_does_not_stop_it(ct, tmp_path):
    stored(ct, "StudyInstanceUID", "UI", b"1.9.9\0", "004.dcm")
    stored(ct, "ImageOrientationPatient", "DS", b"1\\0.0005\\0\\-0.0005\\1\\0 ", "003.dcm")
    assert segmentation(read_volume(ct), tmp_path / "seg.dcm").StudyInstanceUID == "1.2.3.1"


def test_an_image_without_uid_is_named_and_nothing_is_written(ct, tmp_path):
    data = pydicom.dcmread(ct / "003.dcm")
    del data.SOPInstanceUID
    data.save_as(ct / "003.dcm", enforce_file_format=False)
    with pytest.raises(InputError, match=r"003\.dcm has no valid SOPInstanceUID") as caught:
        segmentation(read_volume(ct), tmp_path / "seg.dcm")
    assert caught.value.code == "incomplete-dicom"
    assert not (tmp_path / "seg.dcm").exists()
