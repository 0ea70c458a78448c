#!/usr/bin/env python3
"""Say how a base, an adapter and an HU threshold do on simulated heads, as a Markdown table.

    python Utilities/evaluate_phantoms.py [--adapter sah-phantom] [--heads 8]

Heads have seeds from 1, volumes of 20, 40, 80 and 10 mL in turn, and all five rupture sites in turn.
"""

from __future__ import annotations

import argparse

import numpy as np

from sahlora.evaluation.baseline import brain_threshold
from sahlora.evaluation.metrics import dice
from sahlora.evaluation.statistics import summarize
from sahlora.imaging.volume import Volume
from sahlora.inference.predictor import predict
from sahlora.models.adapter_file import find_base, load_adapter, merged_model
from sahlora.models.base_model import Model
from sahlora.simulation.head import SITES, HeadPhantom, simulate_head

VOLUMES_ML = (20.0, 40.0, 80.0, 10.0)


def score(model: Model, volume: Volume, truth: np.ndarray) -> tuple[float, float]:
    """Return Dice and found mL of a model on one head."""
    found = predict(volume, {"axial": model.for_inference()}).probability >= model.card.target.threshold
    return dice(found, truth), float(found.sum(axis=(1, 2)) @ volume.voxel_ml)


def main() -> None:
    """Simulate, segment and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", default="sah-phantom")
    parser.add_argument("--heads", type=int, default=8)
    args = parser.parse_args()
    adapter = load_adapter(args.adapter)
    base = find_base(adapter.card)
    adapted = merged_model(adapter, base, "axial")
    print("| seed | site | true mL | threshold Dice | base Dice | adapted Dice | adapted mL |")
    print("|---|---|---|---|---|---|---|")
    scores = []
    for index in range(args.heads):
        settings = HeadPhantom(
            seed=index + 1, sah_volume_ml=VOLUMES_ML[index % 4], site=list(SITES)[index % len(SITES)]
        )
        head = simulate_head(settings)
        volume, truth = Volume.from_array(head.hu, settings.spacing), head.blood.astype(bool)
        threshold = dice(brain_threshold(volume.hu, volume.spacing), truth)
        (alone, _), (dice_adapted, found_ml) = (score(model, volume, truth) for model in (base, adapted))
        scores.append((threshold, alone, dice_adapted))
        print(
            f"| {settings.seed} | {settings.site} | {head.volume_ml:.1f} | {threshold:.2f} | {alone:.2f} "
            f"| {dice_adapted:.2f} | {found_ml:.1f} |",
            flush=True,
        )
    means = [summarize(column) for column in zip(*scores, strict=True)]
    print("| mean ± sd | | | " + " | ".join(f"{m.mean:.2f} ± {m.sd:.2f}" for m in means) + " | |")


if __name__ == "__main__":
    main()
