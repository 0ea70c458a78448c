"""Which series is taken: what scanners wrote before what people typed, in the languages they type in."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import generate_uid

from helpers import plane, write_series, write_slice
from sahlora.errors import InputError
from sahlora.imaging.dicom_series import list_series
from sahlora.imaging.series_choice import choose_series
from sahlora.imaging.series_words import has_agent, is_projection, is_sharp, says_contrast
from sahlora.imaging.volume import Volume, read_volume
from sahlora.runtime.progress import Progress

HEIGHTS = np.arange(20) * 5.0

WITHOUT = (
    "CRANIO SEM CONTRASTE", "CRANIO S/ CONTRASTE", "Cranio senza contrasto", "Encefalo senza mdc",
    "cranio basale", "Schedel zonder contrast", "hersenen blanco", "Hode uten kontrast", "Hode før kontrast",
    "Kopf ohne KM", "Schädel nativ", "KM-frei", "Kopf vor KM", "cráneo sin contraste", "cabeza s/contraste",
    "antes de contraste",
    "tête sans injection de produit de contraste", "avant injection", "Huvud utan kontrast",
    "kontrastfri hjärna",
    "Hoved uden kontrast", "Głowa bez kontrastu", "Glava bez kontrasta", "pää ilman varjoainetta",
    "koponya kontraszt nélkül", "голова без контраста", "頭部単純", "头部平扫", "BRAIN WO/CONTRAST",
    "HEAD W/O CONTRAST", "HEAD_WO_CONTRAST", "non-contrast head", "HEAD NON CON", "NCCT", "Head PRE CONTRAST",
    "contrast-free", "Head C-", "Head+C-spine 5mm", "POST OP", "HEAD NO IV CONTRAST", "",
)  # fmt: skip
WITH = (
    "Head with contrast", "head w/ contrast", "CTA COW", "HEAD +C", "C+", "Kopf mit KM",
    "CRANIO C/ CONTRASTE",
    "cranio con mdc", "Cranio com contraste", "POST CONTRAST", "Hode med kontrast", "Schedel met contrast",
    "tête avec injection", "głowa z kontrastem", "HEAD W/O AND WITH CONTRAST", "CT_ANGIO", "Angio Schädel",
    "venous phase", "造影", "增强",
)  # fmt: skip


@pytest.mark.parametrize("description", WITHOUT)
def test_descriptions_without_contrast(description):
    assert not says_contrast(description)


@pytest.mark.parametrize("description", WITH)
def test_descriptions_with_contrast(description):
    assert says_contrast(description)


def test_an_agent_called_none_is_none():
    none = ["NONE", "no", "Without", "NO CONTRAST", "kein", "aucun", "ninguno", "nessuno", "geen", "ingen",
            "brak", "nenhum", "N/A", "-", "0", "ORAL", "none given", "無", ""]  # fmt: skip
    assert [agent for agent in none if has_agent(agent)] == []
    some = ["Omnipaque 350", "APPLIED", "CE", "100 ml ULTRAVIST", "IV", "Yes", "C", "IV & ORAL"]
    assert [agent for agent in some if not has_agent(agent)] == []


def test_kernels_are_known_by_name_and_words_count_where_the_name_says_nothing():
    soft = ["H30s", "J30s\\3", "Br40f", "Hr38h", "FC21", "STANDARD", "SOFT", "UB", "C"]
    sharp = ["H60s", "Hr64h", "FC30", "FC51", "BONEPLUS", "LUNG", "YA", "D"]
    assert [is_sharp(kernel, "HEAD BONE") for kernel in soft] == [False] * len(soft)
    assert [is_sharp(kernel, "HEAD") for kernel in sharp] == [True] * len(sharp)
    words = ["OSSO", "Ossos", "bot", "bein", "Knochenfenster", "kosti", "óseo", "os", "骨"]
    assert [is_sharp("", word) for word in words] == [True] * len(words)
    assert not is_sharp("", "Head")


def test_a_full_series_for_mips_is_no_mip():
    assert not is_projection("thin for MIP", "ORIGINAL\\PRIMARY\\AXIAL")
    assert not is_projection("dünn für MIP", "DERIVED\\PRIMARY\\AXIAL")
    assert is_projection("MIP axial", "DERIVED\\SECONDARY\\AXIAL")
    assert is_projection("axial", "DERIVED\\SECONDARY\\MIP")


# ------------------------------------------------------------------------------------------------ choice


def series(folder: Path, number: int, z=HEIGHTS, **changes) -> None:
    changes = {"SeriesInstanceUID": f"1.2.3.1.{number}", "SeriesNumber": number, **changes}
    write_series(folder / f"{number}", z, **changes)


def chosen(folder: Path) -> int:
    return choose_series(list_series(folder))[0].headers[0].number


@pytest.mark.parametrize(
    ("soft", "bone"),
    [
        ({"SeriesDescription": "CTA?"}, {"SeriesDescription": "sans contraste"}),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, {"z": np.arange(60) * 1.5}),
        ({"ContrastBolusAgent": "NONE"}, {}),
        ({"z": HEIGHTS[:14]}, {}),
    ],
    ids=["words", "derived", "agent", "short"],
)
def test_a_soft_kernel_is_taken_before_a_bone_kernel_whatever_else_speaks(tmp_path, soft, bone):
    series(tmp_path, 5, **{"ConvolutionKernel": "H30s", **soft})
    series(tmp_path, 3, **{"ConvolutionKernel": "H60s", **bone})
    assert chosen(tmp_path) == 5


def test_words_break_ties(tmp_path):
    series(tmp_path, 3, SeriesDescription="CTA", z=HEIGHTS)
    series(tmp_path, 5, SeriesDescription="senza contrasto")
    assert chosen(tmp_path) == 5


# ------------------------------------------------------------------------------------------------- told


def read_and_listen(path: Path, series: str | None = None) -> tuple[Volume, list[dict]]:
    told: list[dict] = []
    volume = read_volume(path, series=series, progress=Progress(told.append))
    return volume, told


def warnings(told: list[dict]) -> dict[str, str]:
    """Return the hints of warnings by code, but for the size of these heads, which are drawn small."""
    found = {event["code"]: event["hint"] for event in told if event["event"] == "warning"}
    return {code: hint for code, hint in found.items() if code != "doubtful-size"}


def test_the_series_taken_is_always_told_even_if_it_is_the_only_one(tmp_path):
    write_series(tmp_path, HEIGHTS)
    _, told = read_and_listen(tmp_path)
    (event,) = [event for event in told if event["event"] == "series"]
    assert event["chosen"].startswith("1: HEAD 5mm (CT, axial, 20 slices of 5 mm, kernel H31s")
    assert event["others"] == []


def test_two_kernels_under_one_uid_are_two_series_and_the_command_says_so(tmp_path):
    write_series(tmp_path, HEIGHTS, name="a{k}.dcm", ConvolutionKernel="H60s")
    write_series(tmp_path, HEIGHTS, name="b{k}.dcm", ConvolutionKernel="H30s")
    volume, told = read_and_listen(tmp_path)
    assert pydicom.dcmread(volume.sources[0]).ConvolutionKernel == "H30s"
    assert "--series 1" in warnings(told)["several-volumes"]
    volume, told = read_and_listen(tmp_path, "1")
    assert pydicom.dcmread(volume.sources[0]).ConvolutionKernel == "H60s"
    assert set(warnings(told)) == {"several-volumes", "bone-kernel"}


def test_two_phases_under_one_uid_are_told(tmp_path):
    for phase in (1, 2):
        for k, z in enumerate(HEIGHTS):
            write_slice(tmp_path / f"{phase}-{k}.dcm", plane(k, phase), (0, 0, z), AcquisitionNumber=phase)
    volume, told = read_and_listen(tmp_path)
    assert volume.hu.shape[0] == 20
    assert {int(pydicom.dcmread(file).AcquisitionNumber) for file in volume.sources} == {1}
    assert "--series 2" in warnings(told)["several-volumes"]


def test_a_kernel_for_the_base_of_the_skull_does_not_cut_the_head_in_two(tmp_path):
    for k, z in enumerate(HEIGHTS):
        write_slice(tmp_path / f"{k}.dcm", plane(k), (0, 0, z), ConvolutionKernel="H30s" if k < 8 else "H31s")
    volume, told = read_and_listen(tmp_path)
    assert volume.hu.shape[0] == 20
    assert "mixed-kernels" in warnings(told)


def test_an_acquisition_a_slice_is_one_volume(tmp_path):
    for k, z in enumerate(HEIGHTS):
        write_slice(tmp_path / f"{k}.dcm", plane(k), (0, 0, z), AcquisitionNumber=k + 1)
    volume, told = read_and_listen(tmp_path)
    assert volume.hu.shape[0] == 20
    assert warnings(told) == {}


def test_a_head_split_over_two_series_is_told(tmp_path):
    series(tmp_path, 2, z=HEIGHTS[:12])
    series(tmp_path, 3, z=55 + np.arange(1, 13) * 5.0)
    _, told = read_and_listen(tmp_path)
    assert "--series 2" in warnings(told)["split-head"] or "--series 1" in warnings(told)["split-head"]
    shutil.rmtree(tmp_path / "3")
    series(tmp_path, 3, z=HEIGHTS[:12], ConvolutionKernel="H31s")
    assert "split-head" not in warnings(read_and_listen(tmp_path)[1])


def test_a_localizer_as_first_file_does_not_refuse_the_series(tmp_path):
    write_series(tmp_path, HEIGHTS)
    scout = {
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    }
    write_slice(tmp_path / "!.dcm", plane(0), (0, 0, 0), SeriesDescription="Topogram", **scout)
    assert read_volume(tmp_path).hu.shape[0] == 20


# ------------------------------------------------------------------------------------- damaged and odd


def rewrite(folder: Path, change) -> None:
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        change(data)
        data.save_as(file)


def test_files_without_preamble_and_meta_header_are_dicom(tmp_path):
    write_series(tmp_path, HEIGHTS)
    expected = read_volume(tmp_path).hu
    for k, file in enumerate(sorted(tmp_path.iterdir())):
        data = pydicom.dcmread(file)
        data.preamble, data.file_meta = None, FileMetaDataset()
        data.save_as(file, implicit_vr=bool(k % 2), little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, expected)
    assert read_volume(tmp_path / "003.dcm").hu.shape == expected.shape


def test_a_zip_archive_and_a_dicomdir_stand_for_what_they_hold(tmp_path):
    write_series(tmp_path / "cd" / "a", HEIGHTS)
    expected = read_volume(tmp_path / "cd").hu
    (tmp_path / "cd" / "DICOMDIR").write_bytes(b"index")
    np.testing.assert_array_equal(read_volume(tmp_path / "cd" / "DICOMDIR").hu, expected)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "cd" / "a").iterdir():
            archive.write(file, f"deep/er/{file.name}")
        archive.writestr("readme.txt", "hello")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.zip").hu, expected)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "scan.zip").read_bytes()[:-400])
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "cut.zip")
    assert caught.value.hint


@pytest.mark.parametrize("names", [("RescaleSlope",), ("SeriesNumber", "NumberOfFrames", "SamplesPerPixel")])
def test_an_empty_tag_is_an_absent_one(tmp_path, names):
    write_series(tmp_path, HEIGHTS)
    expected = read_volume(tmp_path).hu
    rewrite(tmp_path, lambda data: [setattr(data, name, None) for name in names if name != "SamplesPerPixel"])
    np.testing.assert_array_equal(read_volume(tmp_path).hu, expected)


@pytest.mark.parametrize("value", ["1,0", "abc", "nan", "0"])
def test_a_slope_that_is_no_number_is_named_with_its_file(tmp_path, value):
    write_series(tmp_path, HEIGHTS)
    data = pydicom.dcmread(tmp_path / "004.dcm")
    tag, written = pydicom.tag.Tag("RescaleSlope"), value.encode() + b" " * (len(value) % 2)
    data[tag] = RawDataElement(tag, "DS", len(written), written, 0, False, True)
    data.save_as(tmp_path / "004.dcm")
    with pytest.raises(InputError, match=r"004\.dcm: RescaleSlope") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "bad-dicom-value"


@pytest.mark.parametrize("name", ["Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "PixelData"])
def test_images_that_lack_what_places_them_are_refused_without_a_traceback(tmp_path, name):
    write_series(tmp_path, HEIGHTS[:5])
    rewrite(tmp_path, lambda data: delattr(data, name))
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == ("unreadable" if name == "PixelData" else "no-ct-series")


@pytest.mark.parametrize("name", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_images_without_uid_are_read(tmp_path, name):
    write_series(tmp_path, HEIGHTS)
    expected = read_volume(tmp_path).hu

    def without(data):
        delattr(data, name)
        data.file_meta.MediaStorageSOPInstanceUID = generate_uid()

    rewrite(tmp_path, without)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, expected)


def test_slices_of_two_patients_under_one_uid_are_refused_and_of_two_studies_told(tmp_path):
    write_series(tmp_path, HEIGHTS)
    data = pydicom.dcmread(tmp_path / "004.dcm")
    data.StudyInstanceUID = "1.9.9"
    data.save_as(tmp_path / "004.dcm")
    assert "mixed-studies" in warnings(read_and_listen(tmp_path)[1])
    data.PatientID = "other"
    data.save_as(tmp_path / "004.dcm")
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert "several patients" in str(caught.value)
