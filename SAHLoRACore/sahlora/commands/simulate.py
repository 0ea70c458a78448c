"""Simulate head CT with subarachnoid blood of a known volume.

Writes into the folder OUT, for each case, the CT, the exact mask of the blood and a JSON file with the true
volume. With --count there are several cases with consecutive seeds and a manifest.csv that training commands
read; unless --sah-ml is given, each case's volume is drawn: 50 % from 2-25 mL, 25 % from 25-50 mL, 20 % from
50-100 mL, 5 % from 100-120 mL, evenly within; a head too small for its volume gets half of it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.progress import Progress

if TYPE_CHECKING:
    from sahlora.simulation import HeadPhantom, SimulatedHead

SUMMARY = "simulate head CT with subarachnoid blood of a known volume"
EXAMPLE = "sahlora simulate phantoms --sah-ml 20 --site acom --seed 1"

STRATA = ((0.50, 2.0, 25.0), (0.25, 25.0, 50.0), (0.20, 50.0, 100.0), (0.05, 100.0, 120.0))
"""Share of cases, least and greatest volume in mL."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write to, new or empty")
    parser.add_argument(
        "--format", choices=("nifti", "dicom"), default="nifti", help="format of the CT (default: nifti)"
    )
    parser.add_argument(
        "--sah-ml", type=float, metavar="ML", help="volume of blood; 0 for none (default: 20)"
    )
    parser.add_argument(
        "--site", metavar="SITE", help="acom, mca-left, mca-right, pcom or basilar (default: acom)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="decides the head and everything random (default: 1)"
    )
    parser.add_argument(
        "--spacing",
        type=_spacing,
        default=(5.0, 0.45, 0.45),
        metavar="Z,Y,X",
        help="mm (default: 5,0.45,0.45)",
    )
    parser.add_argument(
        "--tilt", type=float, default=0.0, metavar="DEG", help="gantry tilt; needs --format dicom"
    )
    parser.add_argument("--count", type=int, metavar="N", help="simulate N heads with seeds from --seed on")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")


def _spacing(text: str) -> tuple[float, float, float]:
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 5,0.45,0.45") from None
    return z, y, x


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Simulate and write each case."""
    from sahlora.errors import InputError, UsageError
    from sahlora.files import replacing, require_writable

    folder: Path = args.output
    if args.count is not None and args.count < 1:
        raise UsageError("bad-count", f"A count of {args.count} is not possible.", "Give 1 or more.")
    if args.tilt and args.format == "nifti":
        raise UsageError(
            "irregular-slices", "Tilted slices have no grid that NIfTI can hold.", "Add --format dicom."
        )
    cases = _cases(args)
    if folder.is_dir() and any(folder.iterdir()) and not args.overwrite:
        raise InputError(
            "folder-not-empty", f"{folder} is not empty.", "Choose a new folder or add --overwrite."
        )
    require_writable(folder / "manifest.csv")

    rows, volumes = [], []
    for settings in cases:
        head = _simulate(settings, drawn=args.count is not None and args.sah_ml is None, progress=progress)
        progress.stage("writing")
        rows.append(_write(head, folder, args.format))
        volumes.append(round(head.volume_ml, 3))
    with (
        replacing(folder / "manifest.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        table = csv.writer(stream)
        table.writerows([("case", "image", "label"), *rows])
    progress.result(
        folder=str(folder), cases=len(rows), volume_ml=volumes[0] if len(volumes) == 1 else volumes
    )


def _cases(args: argparse.Namespace) -> list[HeadPhantom]:
    """Return the settings of every case, volumes and sites drawn where the user leaves them open."""
    import numpy as np

    from sahlora.simulation import SITES, HeadPhantom

    cases = []
    for seed in range(args.seed, args.seed + (args.count or 1)):
        volume, site = args.sah_ml, args.site
        rng = np.random.default_rng([max(seed, 0), 5])
        _, low, high = STRATA[rng.choice(len(STRATA), p=[share for share, _, _ in STRATA])]
        drawn_volume, drawn_site = round(float(rng.uniform(low, high)), 1), str(rng.choice(list(SITES)))
        if volume is None:
            volume = 20.0 if args.count is None else drawn_volume
        if site is None:
            site = "acom" if args.count is None else drawn_site
        cases.append(HeadPhantom(seed, volume, site, spacing=args.spacing, tilt=args.tilt))
    return cases


def _simulate(settings: HeadPhantom, drawn: bool, progress: Progress) -> SimulatedHead:
    from dataclasses import replace

    from sahlora.errors import UsageError
    from sahlora.simulation import simulate_head

    try:
        return simulate_head(settings, progress)
    except UsageError as error:
        if error.code != "volume-too-large" or not drawn:
            raise
        return simulate_head(replace(settings, sah_volume_ml=settings.sah_volume_ml / 2), progress)


def _write(head: SimulatedHead, folder: Path, file_format: str) -> tuple[str, str, str]:
    """Write one case and return its row of the manifest."""
    from sahlora.outputs import write_image
    from sahlora.simulated_files import SLICE_NAME, write_dicom_series, write_images, write_truth

    name = f"sim-{head.settings.seed:04d}"
    image, label = f"{name}_ct", f"{name}_mask"
    if file_format == "nifti":
        image, label = f"{image}.nii.gz", f"{label}.nii.gz"
        write_images(head, folder / image, folder / label)
    else:
        for series in (image, label):
            for stale in (folder / series).glob(SLICE_NAME.replace("{:04d}", "*")):
                stale.unlink()
        write_dicom_series(head, folder / image)
        if head.is_regular:
            label = f"{label}.nii.gz"
            write_image(head.mask, folder / label)
        else:
            write_dicom_series(head, folder / label, mask=True)
    write_truth(head, folder / f"{name}.json")
    return name, image, label
