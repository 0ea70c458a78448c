#!/usr/bin/env python3
"""Compare SAH simulated into real CT with real hemorrhage: HU under the masks, pictures side by side.

    python Utilities/compare_simulated_sah.py COHORT RESULTS [--patients 12]

COHORT is what ct_ich.py made, of the folder named by SAHLORA_DATA. Written into RESULTS: hu.png, the
histograms; hu.json, the figures; and pictures.png, slices of patients, which must not enter the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk

from ct_ich import read_slice_labels
from sahlora.imaging.volume import read_volume
from sahlora.simulation.in_ct import Bleed, Patient, SimulatedBleed, bleed_that_fits, prepare

SAH_PATIENTS = ("076", "082", "093", "094")
INTRAPARENCHYMAL, EXTRA_AXIAL = 1, 2
BINS = np.arange(-10, 101, 2)
COLORS = ("tab:red", "tab:blue", "tab:green", "0.6")
HEIGHTS = (-13.0, -3, 4, 10, 20, 40)
"""z in the head frame, mm, of the simulated slices shown."""


def machine_labelled(
    data: Path, cohort: Path, value: int, subtype: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the HU under a machine label's class on slices of a subtype, and the slices, by patient."""
    hu, slices = {}, {}
    for patient, labels in read_slice_labels(data / "ct_ich").items():
        path = data / "ct_ich" / "machine_labels" / f"{patient}_class.nii.gz"
        chosen = [i for i, row in enumerate(labels) if row[subtype]]
        if not chosen or not path.exists():
            continue
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[chosen] == value
        if mask.any():
            hu[patient] = read_volume(cohort / "volumes" / f"{patient}.nii.gz").hu[chosen][mask]
            slices[patient] = len(chosen)
    return hu, slices


def noise(hu: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the difference of neighbors in a row, both in the mask, over √2."""
    pairs = mask[..., 1:] & mask[..., :-1]
    return float(np.diff(hu.astype(float), axis=-1)[pairs].std() / np.sqrt(2))


def figures(parts: dict[str, np.ndarray]) -> dict[str, float | int]:
    """Return n and quartiles of HU pooled over patients."""
    pooled = np.concatenate(list(parts.values()))
    low, median, high = np.percentile(pooled, [25, 50, 75])
    return {
        "patients": len(parts), "voxels": len(pooled),
        "quartile": float(low), "median": float(median), "upper_quartile": float(high),
    }  # fmt: skip


def draw_histograms(groups: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draw the share of voxels by HU; every patient weighs the same."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, parts), color in zip(groups.items(), COLORS, strict=False):
        shares = [np.histogram(hu, BINS)[0] / len(hu) for hu in parts.values()]
        axes.stairs(np.mean(shares, axis=0), BINS, color=color, label=f"{name} (n = {len(parts)})", lw=1.6)
    axes.set(xlabel="HU", ylabel="share of voxels in 2 HU")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_pictures(
    made: list[tuple[str, Patient, SimulatedBleed]], data: Path, cohort: Path, path: Path
) -> None:
    """Draw simulated slices, a row a patient, above the real SAH slices of the development patients."""
    real = []
    for patient in SAH_PATIENTS:
        hu = read_volume(cohort / "volumes" / f"{patient}.nii.gz").hu
        labels = read_slice_labels(data / "ct_ich")[patient]
        real += [(f"real {patient}", hu[i]) for i, row in enumerate(labels) if row["Subarachnoid"]]
    rows = []
    for name, patient, bleed in made:
        heights = np.array(patient.acquisition.heights)
        where = [patient.spaces.frame.to_patient((0, 0, z))[2] for z in HEIGHTS]
        title = f"simulated {name}, {bleed.settings.site}, {bleed.volume_ml:.0f} mL"
        rows.append([(title, bleed.hu[np.abs(heights - z).argmin()]) for z in where])
    rows += [real[i : i + len(HEIGHTS)] for i in range(0, len(real), len(HEIGHTS))]
    figure, axes = plt.subplots(len(rows), len(HEIGHTS), figsize=(4 * len(HEIGHTS), 4.2 * len(rows)))
    for ax in axes.ravel():
        ax.axis("off")
    for row, slices in zip(axes, rows, strict=True):
        for ax, (title, plane) in zip(row, slices, strict=False):
            ax.imshow(plane, vmin=0, vmax=80, cmap="gray")
            ax.set_title(title, fontsize=9)
    figure.subplots_adjust(0, 0, 1, 0.98, 0.01, 0.08)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main() -> None:
    """Simulate, compare, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path, metavar="COHORT")
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument(
        "--patients", type=int, default=12, metavar="N", help="blood-free patients (default: 12)"
    )
    args = parser.parse_args()
    if "SAHLORA_DATA" not in os.environ:
        sys.exit("Set SAHLORA_DATA to the folder that holds ct_ich.")
    data = Path(os.environ["SAHLORA_DATA"])
    args.results.mkdir(parents=True, exist_ok=True)
    experts = read_slice_labels(data / "ct_ich")
    free = [p for p, labels in sorted(experts.items()) if not any(any(row.values()) for row in labels)]
    chosen = [free[round(i)] for i in np.linspace(0, len(free) - 1, min(args.patients, len(free)))]

    made, cases = [], {}
    simulated, before = {}, {}
    for seed, name in enumerate(chosen, 1):
        start = time.process_time()
        patient = prepare(read_volume(args.cohort / "volumes" / f"{name}.nii.gz"))
        bleed = bleed_that_fits(patient, Bleed.draw(seed))
        seconds = time.process_time() - start
        mask = bleed.blood > 0
        simulated[name], before[name] = bleed.hu[mask], patient.volume.hu[mask]
        cases[name] = {
            "site": bleed.settings.site, "drawn_ml": Bleed.draw(seed).sah_volume_ml, "ml": bleed.volume_ml,
            "ventricular_ml": bleed.ventricular_ml, "density_hu": bleed.settings.density_hu,
            "median_hu": float(np.median(bleed.hu[mask])), "correlation": patient.spaces.frame.correlation,
            "noise_before": noise(patient.volume.hu, mask), "noise_after": noise(bleed.hu, mask),
            "cpu_seconds": seconds,
        }  # fmt: skip
        print(name, json.dumps(cases[name]), flush=True)
        made.append((name, patient, bleed))
    sah, sah_slices = machine_labelled(data, args.cohort, EXTRA_AXIAL, "Subarachnoid")
    clot, _ = machine_labelled(data, args.cohort, INTRAPARENCHYMAL, "Intraparenchymal")
    groups = {
        "simulated SAH": simulated,
        "real, extra-axial by machine on experts' SAH slices": sah,
        "real, intraparenchymal by machine": clot,
        "same voxels before the simulation": before,
    }
    draw_histograms(groups, args.results / "hu.png")
    content = {
        "groups": {name: figures(parts) for name, parts in groups.items()},
        "sah_slices": sah_slices,
        "cases": cases,
    }
    (args.results / "hu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["groups"], indent=1))
    draw_pictures(made[:: max(1, len(made) // 6)], data, args.cohort, args.results / "pictures.png")


if __name__ == "__main__":
    main()
