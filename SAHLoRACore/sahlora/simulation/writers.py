"""Writing simulated CT: image files, DICOM series and what is true about them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from sahlora.about import __version__
from sahlora.errors import InputError
from sahlora.imaging.writers import write_image
from sahlora.runtime.files import replacing, write_json
from sahlora.simulation.head import SimulatedHead
from sahlora.simulation.in_ct import SimulatedBleed
from sahlora.simulation.lesions import SimulatedLesion

SLICE_NAME = "slice-{:04d}.dcm"
NO_PATIENT = "simulated, there is no patient"


def write_images(head: SimulatedHead, ct: Path, mask: Path) -> None:
    """Write CT and mask as image files (NIfTI, NRRD or MetaImage, by the ending).

    Raises
    ------
    UsageError
        ``irregular-slices`` if the slices are tilted or uneven; ``unsupported-output`` for an unknown ending.
    ResourceError
        ``disk-full`` or ``unwritable``.
    """
    images = head.ct, head.mask
    for image, path in zip(images, (ct, mask), strict=True):
        write_image(image, path)


def write_truth(simulated: SimulatedHead | SimulatedBleed | SimulatedLesion, path: Path) -> None:
    """Write what is true of a simulated CT as JSON: settings, mL, slices with blood (0 the lowest)."""
    slices = np.flatnonzero(simulated.blood.any(axis=(1, 2)))
    truth: dict[str, Any] = {
        "made_by": f"sahlora {__version__} simulate",
        "simulated": True,
        "volume_ml": round(simulated.volume_ml, 3),
        "slices_with_blood": slices.tolist(),
        "settings": asdict(simulated.settings),
    }
    if isinstance(simulated, SimulatedBleed):
        truth["ventricular_ml"] = round(simulated.ventricular_ml, 3)
    write_json(path, truth)


def is_simulated_series(folder: Path) -> bool:
    """Whether a folder holds nothing but slices that `write_dicom_series` wrote."""
    try:
        slices = [dcmread(path, specific_tags=["DeidentificationMethod"]) for path in folder.iterdir()]
    except (OSError, InvalidDicomError):
        return False
    return all(str(slice_.get("DeidentificationMethod", "")) == NO_PATIENT for slice_ in slices)


def write_dicom_series(head: SimulatedHead, folder: Path, *, mask: bool = False) -> list[Path]:
    """Write a head, or its mask, as a DICOM CT series, one file a slice; equal heads give equal bytes.

    Parameters
    ----------
    head : SimulatedHead
        Its slices may be tilted and uneven; the settings' orientation is for image files only.
    folder : Path
        New or empty.
    mask : bool
        Write 1 for blood and 0 elsewhere instead of HU, at the same positions.

    Returns
    -------
    list of Path
        The files, bottom up.

    Raises
    ------
    InputError
        ``folder-not-empty``.
    ResourceError
        ``disk-full`` or ``unwritable``.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("folder-not-empty", f"{folder} exists and is not empty.", "Choose a new folder.")
    array = head.blood.astype(np.int16) if mask else head.hu
    paths = []
    for index, pixels in enumerate(array):
        path = folder / SLICE_NAME.format(index + 1)
        dataset = _slice(head, index, pixels, mask)
        with replacing(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
        paths.append(path)
    return paths


def _slice(head: SimulatedHead, index: int, pixels: np.ndarray, mask: bool) -> FileDataset:
    """Return one slice with all type 1 and 2 attributes of the CT image object (DICOM PS3.3 A.3)."""
    acquisition, identity = head.acquisition, repr(head.settings)

    def uid(*parts: object) -> str:
        return str(generate_uid(entropy_srcs=["sahlora simulate", identity, *map(str, parts)]))

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid("slice", mask, index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = str(generate_uid(entropy_srcs=["sahlora"]))
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.ImageType = ["DERIVED" if mask else "ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = "CT", "SAHLoRA", "head phantom"
    dataset.PatientName, dataset.PatientID = "SIMULATED^SAH", f"SIM{head.settings.seed:06d}"
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", NO_PATIENT
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid("study"), uid("frame")
    dataset.SeriesInstanceUID = uid("series", mask)
    dataset.StudyDate, dataset.StudyTime = "20000101", "000000"
    dataset.AccessionNumber, dataset.StudyID = "", "1"
    dataset.ReferringPhysicianName = dataset.PositionReferenceIndicator = ""
    dataset.SeriesDescription = "simulated SAH mask" if mask else "simulated head CT"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = (2 if mask else 1), index + 1, 1
    dataset.PatientPosition, dataset.BodyPartExamined, dataset.KVP = "HFS", "HEAD", "120"
    dataset.ConvolutionKernel = "SOFT"
    dataset.GantryDetectorTilt = f"{acquisition.tilt:g}"
    dataset.ImageOrientationPatient = [1, 0, 0, *(f"{d:.9f}" for d in acquisition.down)]
    dataset.ImagePositionPatient = [f"{p:.6f}" for p in acquisition.positions[index]]
    dataset.SliceLocation = f"{acquisition.heights[index]:.6f}"
    dataset.SliceThickness = f"{acquisition.thickness[index]:.6g}"
    dataset.PixelSpacing = [f"{p:.6g}" for p in acquisition.pixel]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "0", "HU"
    dataset.WindowCenter, dataset.WindowWidth = ("0.5", "1") if mask else ("40", "80")
    dataset.PixelData = pixels.astype("<i2").tobytes()
    return dataset
