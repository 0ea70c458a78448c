"""Simulate hemorrhage of a known volume: subarachnoid in simulated heads, of every kind in real CT.

Writes into the folder OUT, for each case, the CT, the exact mask of the blood and a JSON file with the true
volume, and a manifest.csv that training commands read. Without --into the heads are simulated too.

With --into, blood goes into real head CT without hemorrhage: one CT, a folder of CT files, or a list of cases
(CSV or JSON, see Docs/cases.md), from which cases are passed over whose slice labels know of hemorrhage. The
CT must be free of blood, as the mask holds simulated blood alone. All else in the CT stays as it is. With
--kind, blood lies where that kind of hemorrhage does: in ventricles, brain, or under the skull; the mask is
then 255 (unknown) where nobody could see it, in calcifications and where clot is no denser than what it
replaces.

With --count, or several CTs, what is not given is drawn from the seed: volumes (50 % of cases from 2-25 mL,
25 % from 25-50 mL, 20 % from 50-100 mL, 5 % from 100-120 mL, evenly within; halved where the head is too
small for it), rupture sites, and in real CT density (62 ± 5 HU) and reflux (40 %); with --kind, volumes as
the kind has them and density (61 ± 10 HU).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.cases.bleed_targets import Scan
    from sahlora.imaging.volume import Volume
    from sahlora.simulation.head import HeadPhantom, SimulatedHead
    from sahlora.simulation.in_ct import Bleed, Patient, SimulatedBleed
    from sahlora.simulation.lesions import Lesion, SimulatedLesion

SUMMARY = "simulate hemorrhage of a known volume, in phantoms or real head CT"
CT_ENDING, MASK_ENDING = "_ct.nii.gz", "_mask.nii.gz"
EXAMPLE = "sahlora simulate phantoms --sah-ml 20 --site acom --seed 1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write to, new or empty")
    parser.add_argument(
        "--sah-ml", "--ml", type=float, metavar="ML", help="volume of blood (default: 20; drawn with --kind)"
    )
    parser.add_argument(
        "--site", metavar="SITE", help="acom, mca-left, mca-right, pcom or basilar (default: acom)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="first seed; it decides everything random (default: 1)"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="N cases, or N for each CT, with seeds from --seed on"
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    heads = parser.add_argument_group("simulated heads")
    heads.add_argument(
        "--format", choices=("nifti", "dicom"), default="nifti", help="format of the CT (default: nifti)"
    )
    heads.add_argument("--spacing", type=_spacing, metavar="Z,Y,X", help="mm (default: 5,0.45,0.45)")
    heads.add_argument(
        "--tilt", type=float, default=0.0, metavar="DEG", help="gantry tilt; needs --format dicom"
    )
    real = parser.add_argument_group("real CT")
    real.add_argument("--into", type=Path, metavar="CT", help="CT, folder of CT files, or list of cases")
    real.add_argument(
        "--kind",
        metavar="KIND",
        help="subarachnoid, sulcal, cerebellar, layering or cast (in the ventricles), intraparenchymal, "
        "contusion, subdural, interhemispheric, tentorial, epidural, mixture, or any of them in turn "
        "(default: subarachnoid from --site)",
    )
    real.add_argument(
        "--density",
        type=float,
        metavar="HU",
        help="mean HU of clot, 50 to 80, with --kind 35 to 95 (default: 64; 60 with --kind)",
    )
    real.add_argument(
        "--reflux",
        action=argparse.BooleanOptionalAction,
        help="blood also in the ventricles (default: no)",
    )


def _spacing(text: str) -> tuple[float, float, float]:
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 5,0.45,0.45") from None
    return z, y, x


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Simulate and write each case."""
    from sahlora.cases.manifest import MANIFEST_NAME
    from sahlora.errors import InputError, UsageError
    from sahlora.runtime.files import require_own, require_writable, write_table

    folder: Path = args.output
    if args.count is not None and args.count < 1:
        raise UsageError("bad-count", f"A count of {args.count} is not possible.", "Give 1 or more.")
    _require_options_that_fit(args)
    cases = _heads(args, progress) if args.into is None else _bleeds(args, progress)
    if folder.is_dir() and any(folder.iterdir()) and not args.overwrite:
        raise InputError(
            "folder-not-empty", f"{folder} is not empty.", "Choose a new folder or add --overwrite."
        )
    require_writable(folder / MANIFEST_NAME)
    require_own([folder / MANIFEST_NAME], lambda: _is_simulated(folder / MANIFEST_NAME))
    rows, volumes = [], []
    for row, volume_ml in cases:
        rows.append(row)
        volumes.append(round(volume_ml, 3))
        write_table(folder / MANIFEST_NAME, rows)
    progress.result(
        folder=str(folder), cases=len(rows), volume_ml=volumes[0] if len(volumes) == 1 else volumes
    )
    if args.progress != "json":
        several = f"{len(rows)} cases, {min(volumes):.1f} to {max(volumes):.1f} mL"
        print(f"Wrote {folder}: {several if len(rows) > 1 else f'{volumes[0]:.1f} mL'} of blood.")


def _is_simulated(manifest: Path) -> bool:
    """Whether a manifest lists simulated cases alone, each with its truth beside it."""
    from sahlora.cases.manifest import read_list
    from sahlora.errors import InputError

    try:
        names = [row["case"] for row in read_list(manifest, ("case",))]
        truths = [json.loads((manifest.parent / f"{name}.json").read_text("utf-8")) for name in names]
        return bool(truths) and all(truth["simulated"] is True for truth in truths)
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _require_options_that_fit(args: argparse.Namespace) -> None:
    from sahlora.errors import UsageError

    phantom_only = args.format != "nifti" or args.spacing is not None or args.tilt
    if args.into is not None and phantom_only:
        raise UsageError(
            "phantom-option",
            "--format, --spacing and --tilt are for simulated heads.",
            "Leave them out: with --into, the result has the CT's own grid.",
        )
    real_only = (args.density, args.reflux, args.kind)
    if args.into is None and any(value is not None for value in real_only):
        raise UsageError("needs-into", "--density, --reflux and --kind are for real CT.", "Add --into CT.")
    if args.kind is not None and (args.site is not None or args.reflux is not None):
        raise UsageError(
            "kind-or-site", "--kind draws the place itself.", "Leave --site and --reflux out, or --kind."
        )
    if args.tilt and args.format == "nifti":
        raise UsageError(
            "irregular-slices", "Tilted slices have no grid that NIfTI can hold.", "Add --format dicom."
        )


# -------------------------------------------------------------------------------------- simulated heads

Written = tuple[dict[str, str], float]
"""A row of the manifest, and mL."""


def _heads(args: argparse.Namespace, progress: Progress) -> Iterable[Written]:
    """Simulate and write heads, one at each step; all settings are checked before the first."""
    settings = _head_settings(args)
    drawn = args.count is not None and args.sah_ml is None

    def each() -> Iterable[Written]:
        for head_settings in settings:
            head = _simulate(head_settings, drawn, progress)
            progress.stage("writing")
            yield _write_head(head, args.output, args.format), head.volume_ml

    return each()


def _head_settings(args: argparse.Namespace) -> list[HeadPhantom]:
    """Return the settings of every head, volumes and sites drawn where the user leaves them open."""
    from sahlora.simulation.head import HeadPhantom, draw_volume_and_site

    cases = []
    for seed in range(args.seed, args.seed + (args.count or 1)):
        volume, site = (20.0, "acom") if args.count is None else draw_volume_and_site(seed)
        volume, site = args.sah_ml if args.sah_ml is not None else volume, args.site or site
        spacing = args.spacing or (5.0, 0.45, 0.45)
        cases.append(HeadPhantom(seed, volume, site, spacing=spacing, tilt=args.tilt))
    return cases


def _simulate(settings: HeadPhantom, drawn: bool, progress: Progress) -> SimulatedHead:
    from dataclasses import replace

    from sahlora.errors import UsageError
    from sahlora.simulation.head import simulate_head

    try:
        return simulate_head(settings, progress)
    except UsageError as error:
        if error.code != "volume-too-large" or not drawn:
            raise
        return simulate_head(replace(settings, sah_volume_ml=settings.sah_volume_ml / 2), progress)


def _write_head(head: SimulatedHead, folder: Path, file_format: str) -> dict[str, str]:
    """Write one head and return its row of the manifest."""
    from sahlora.imaging.writers import write_image
    from sahlora.simulation.writers import SLICE_NAME, write_dicom_series, write_images, write_truth

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
    return {"case": name, "image": image, "label": label}


# ---------------------------------------------------------------------------------------------- real CT


def _bleeds(args: argparse.Namespace, progress: Progress) -> Iterable[Written]:
    """Simulate and write bleeds into real CT, one at each step; all settings are checked before the first.

    In a cohort, a scan that can't be used is passed over with a warning.
    """
    from sahlora.cases.bleed_targets import list_scans
    from sahlora.cases.manifest import MANIFEST_NAME, manifest_files
    from sahlora.errors import InputError
    from sahlora.imaging.volume import read_volume
    from sahlora.runtime.files import require_apart
    from sahlora.simulation.in_ct import prepare

    scans = list_scans(args.into)
    cohort = args.count is not None or len(scans) > 1
    count = args.count or 1
    make = _bleed_settings if args.kind is None else _lesion_settings
    settings = [make(args, args.seed + index, cohort) for index in range(count * len(scans))]
    written = [
        args.output / f"{_bleed_name(scans[index // count], bleed)}{ending}"
        for index, bleed in enumerate(settings)
        for ending in (CT_ENDING, MASK_ENDING, ".json")
    ]
    inputs = [*(scan.path for scan in scans), *manifest_files(args.into)]
    require_apart([*written, args.output / MANIFEST_NAME], inputs)

    def each() -> Iterable[Written]:
        made = 0
        for number, scan in enumerate(scans):
            try:
                patient = prepare(read_volume(scan.path, progress=progress), progress)
            except InputError as error:
                if len(scans) == 1:
                    raise
                progress.warning(error.code, f"{scan.name} is passed over: {error.message}", error.hint)
                continue
            for wanted in settings[number * count : (number + 1) * count]:
                simulated = _simulated(patient, wanted, args, cohort, progress)
                if simulated is None:
                    continue
                progress.stage("writing")
                made += 1
                yield _write_bleed(simulated, patient.volume, scan, args.output), simulated.volume_ml
        if not made:
            raise InputError("no-scans", "No scan could be used.", "See the warnings.")

    return each()


def _simulated(
    patient: Patient, wanted: Bleed | Lesion, args: argparse.Namespace, cohort: bool, progress: Progress
) -> SimulatedBleed | SimulatedLesion | None:
    """Simulate one hemorrhage; one of a cohort that the head has no room for is passed over."""
    from sahlora.errors import UsageError
    from sahlora.simulation.in_ct import Bleed, bleed_that_fits, simulate_bleed
    from sahlora.simulation.lesions import simulate_lesion

    if isinstance(wanted, Bleed):
        simulate = bleed_that_fits if cohort and args.sah_ml is None else simulate_bleed
        return simulate(patient, wanted, progress)
    try:
        return simulate_lesion(patient, wanted, progress)
    except UsageError as error:
        if not cohort:
            raise
        progress.warning(error.code, f"Seed {wanted.seed}, {wanted.kind}: {error.message}", error.hint)
        return None


def _lesion_settings(args: argparse.Namespace, seed: int, cohort: bool) -> Lesion:
    """Return one lesion's settings, its density drawn in a cohort where the user leaves it open."""
    from dataclasses import replace

    from sahlora.simulation.lesions import Lesion

    lesion = Lesion.draw(seed, args.kind)
    given = {"blood_ml": args.sah_ml, "density_hu": args.density if cohort else args.density or 60.0}
    return replace(lesion, **{key: value for key, value in given.items() if value is not None})


def _bleed_settings(args: argparse.Namespace, seed: int, cohort: bool) -> Bleed:
    """Return one bleed's settings, drawn in a cohort where the user leaves them open."""
    from dataclasses import replace

    from sahlora.simulation.in_ct import Bleed

    given = {
        "sah_volume_ml": args.sah_ml,
        "site": args.site,
        "density_hu": args.density,
        "reflux": args.reflux,
    }
    bleed = Bleed.draw(seed) if cohort else Bleed(seed)
    return replace(bleed, **{key: value for key, value in given.items() if value is not None})


def _bleed_name(scan: Scan, bleed: Bleed | Lesion) -> str:
    return f"{scan.name}-{bleed.seed:04d}"


def _write_bleed(
    simulated: SimulatedBleed | SimulatedLesion, volume: Volume, scan: Scan, folder: Path
) -> dict[str, str]:
    """Write one hemorrhage and return its row of the manifest."""
    from sahlora.imaging.writers import write_image
    from sahlora.simulation.writers import write_truth

    name = _bleed_name(scan, simulated.settings)
    image, label = f"{name}{CT_ENDING}", f"{name}{MASK_ENDING}"
    write_image(volume.to_grid(simulated.hu, label=False), folder / image)
    write_image(volume.to_grid(simulated.label, label=True), folder / label)
    write_truth(simulated, folder / f"{name}.json")
    kind = getattr(simulated.settings, "kind", "subarachnoid")
    return {"case": name, "image": image, "label": label, "patient": scan.patient, "kind": kind}
