"""What several tests share: heads, networks, files of cases and DICOM slices, the command as a child."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch import Tensor, nn

from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.models.card import BaseCard, Description, NetworkSpec, Preprocessing, Target
from sahlora.models.network import MultiViewUNet

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "SAHLoRACore"
HEAD_SPACING = (4.0, 2.0, 2.0)
FAINTER_HU = 25  # lesions of 45 HU in brain of 30 HU: too faint for the shipped base
SLICE_SHAPE = (40, 48)
Spacing = tuple[float, float, float]


def simple_head(shape: tuple[int, int, int], spacing: Spacing) -> np.ndarray:
    """Return HU int16 (Z, Y, X): air, a shell of bone, brain, and two lesions of 70 HU."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    reach = [n * mm / 2 for n, mm in zip(shape, spacing, strict=True)]
    radius = np.sqrt((z / (reach[0] * 1.1)) ** 2 + (y / (reach[1] * 0.8)) ** 2 + (x / (reach[2] * 0.75)) ** 2)
    hu = np.full(shape, -1000, dtype=np.int16)
    hu[radius < 1] = 1000
    hu[radius < 0.88] = 30
    for center, size in (((0.1, -0.2, 0.25), 0.18), ((-0.2, 0.25, -0.1), 0.11)):
        distance = sum(
            ((a - c * r) / (size * r)) ** 2 for a, c, r in zip((z, y, x), center, reach, strict=True)
        )
        hu[distance < 1] = 70
    noise = np.random.default_rng(0).normal(0, 3, shape)
    return np.where(hu > -1000, hu + noise, hu).round().astype(np.int16)


class HUThreshold(nn.Module):
    """The golden network: a logit that is certain above 50 and below 90 HU. Input must be in HU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x > 50) & (x < 90), 20.0, -20.0).to(x.dtype)


HU_PREPROCESSING = Preprocessing(
    window=(-1024.0, 3000.0),
    intensity_range=(-1024.0, 3000.0),
    spacing=None,
    views=("axial", "coronal", "sagittal"),
)


def random_network(seed: int = 0, level: int = 2, width: int = 8) -> MultiViewUNet:
    """Return a network whose output varies over the image, with lively BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MultiViewUNet(level, width)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def overflowing_network(level: int = 1, width: int = 4) -> MultiViewUNet:
    """Return a network of finite weights whose logits are no numbers: everything that trains diverges."""
    network = random_network(0, level, width)
    nn.init.constant_(network.head[-1].weight, 3e38)
    return network


def random_card(level: int = 2, width: int = 8, **preprocessing: Any) -> BaseCard:
    return BaseCard(
        Description("random network", data=("nothing",)),
        Target(INTRACRANIAL_HEMORRHAGE),
        NetworkSpec(level=level, width=width),
        Preprocessing(**preprocessing),
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CORE), "PYTHONUTF8": "1"}


def sahlora(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a child process and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "sahlora", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", env=environment(), timeout=300, **options,
    )  # fmt: skip


def start_sahlora(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command in a child process with JSON events on standard output."""
    return subprocess.Popen(
        [sys.executable, "-m", "sahlora", *map(str, arguments), "--progress", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment(),
    )  # fmt: skip


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def real_data(*parts: str) -> Path:
    """Return a path in the folder named by SAHLORA_DATA, or skip the test, saying so."""
    root = os.environ.get("SAHLORA_DATA")
    if not root:
        pytest.skip("needs real CT: SAHLORA_DATA names no folder")
    path = Path(root).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs real CT: {Path(*parts)} is not in the folder that SAHLORA_DATA names")
    return path


def write_head(folder: Path, name: str, *, blood: bool = True) -> dict[str, str]:
    """Write a simple head with faint lesions and their label; return its row of the manifest."""
    hu = simple_head((8, 40, 36), HEAD_SPACING)
    hu[3:5, 18:22, 16:20] += np.int16(zlib.crc32(name.encode()) % 40 - 20)  # no two patients are alike
    lesions = (hu > 50) & (hu < 90)
    hu[lesions] -= FAINTER_HU if blood else 40
    for kind, array in (("image", hu), ("label", (lesions & blood).astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(HEAD_SPACING[::-1])
        sitk.WriteImage(image, str(folder / f"{name}-{kind}.nii.gz"))
    return {"case": name, "image": f"{name}-image.nii.gz", "label": f"{name}-label.nii.gz"}


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return path


def plane(k: int, seed: int = 0) -> np.ndarray:
    """Draw slice k of a head: brain, bone shell, air, with noise that makes every slice unlike the others."""
    y, x = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SLICE_SHAPE), indexing="ij")
    radius = np.hypot(x, y)
    noise = np.random.default_rng((seed, k)).normal(0, 8, SLICE_SHAPE)
    hu = np.where(radius < 0.9, 35 + noise, np.where(radius < 1.0, 1200, -1000))
    hu[0, 0] = k
    return np.rint(hu).astype(np.int16)


def tags(**changes) -> dict:
    return {
        "SOPClassUID": CTImageStorage,
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.1.2",
        "FrameOfReferenceUID": "1.2.3.1.9",
        "Modality": "CT",
        "SeriesNumber": 2,
        "SeriesDescription": "HEAD 5mm",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ConvolutionKernel": "H31s",
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "StudyDate": "20200304",
        "StudyTime": "101112",
        "StudyID": "1",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.9, 0.8],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        **changes,
    }


def write_slice(path: Path, hu: np.ndarray, position, syntax=ExplicitVRLittleEndian, **changes) -> Path:
    values = tags(**changes)
    image = pydicom.Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(image, name, value)
    image.SOPInstanceUID = changes.get("SOPInstanceUID", generate_uid(entropy_srcs=[str(path)]))
    image.ImagePositionPatient = [round(float(p), 6) for p in position]
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    stored = np.rint((hu.astype(float) - values["RescaleIntercept"]) / values["RescaleSlope"])
    image.PixelData = np.clip(stored, 0, 65535).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax != ExplicitVRLittleEndian:
        image.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, z, tilt: float = 0.0, name="{k:03}.dcm", **changes) -> list[Path]:
    """Write slices at positions z along the table, leaning by the gantry's tilt in degrees."""
    cosine, sine = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    changes.setdefault("ImageOrientationPatient", [1, 0, 0, 0, round(cosine, 7), round(-sine, 7)])
    return [
        write_slice(folder / name.format(k=k), plane(k), (-20, -18, position), **changes)
        for k, position in enumerate(z)
    ]
