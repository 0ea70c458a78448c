#!/usr/bin/env python3
"""Say what the fusion of views brings over axial slices alone, for slices of each thickness.

    python Utilities/compare_views.py ADAPTER RESULTS.json MANIFEST [MANIFEST …] [--model BASE]

ADAPTER holds an adapter for each view. Every case is segmented along each view once; all views together are
the mean of their probabilities, which is what `sahlora segment --views axial,coronal,sagittal` computes. The
table is printed as Markdown: Dice at the adapter's threshold, mean and standard deviation over patients, and
the paired difference from axial slices alone. Cases of one patient are averaged first.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sahlora.cases.manifest import read_manifest
from sahlora.evaluation.metrics import dice
from sahlora.evaluation.statistics import paired_test, summarize
from sahlora.imaging.labels import read_label
from sahlora.imaging.planes import View
from sahlora.imaging.volume import Volume, read_volume
from sahlora.inference.predictor import InferenceSettings, predict
from sahlora.models.base_model import Model
from sahlora.models.selection import select_models

FUSED = "all"


def scores(volume: Volume, truth: np.ndarray, models: dict[View, Model]) -> dict[str, float]:
    """Return the Dice of each view and of all views together."""
    threshold = next(iter(models.values())).card.target.threshold
    found = {
        view: predict(volume, {view: model.for_inference()}, InferenceSettings((view,))).probability
        for view, model in models.items()
    }
    fused = {FUSED: np.mean(list(found.values()), axis=0)}
    return {name: dice(probability >= threshold, truth) for name, probability in (found | fused).items()}


def main() -> None:
    """Segment all cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", metavar="ADAPTER")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
    parser.add_argument("--model", metavar="BASE", help="base of the adapter (default: the installed one)")
    args = parser.parse_args()
    models = select_models(args.model, args.adapter)
    by_thickness: dict[float, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for case in (case for manifest in args.manifests for case in read_manifest(manifest)):
        volume = read_volume(case.image)
        found = scores(volume, read_label(case.label, volume, case.segment) == 1, models)
        by_thickness[round(volume.spacing[0], 2)][case.patient].append(found)
        told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"{case.name}, {volume.spacing[0]:g} mm: {told}", flush=True)
    names = [*models, FUSED]
    table, lines = {}, []
    for thickness, patients in sorted(by_thickness.items()):
        mean = {name: [np.mean([s[name] for s in cases]) for cases in patients.values()] for name in names}
        test = paired_test(mean[FUSED], mean["axial"])
        summaries = {name: summarize(values) for name, values in mean.items()}
        table[thickness] = {name: asdict(summary) for name, summary in summaries.items()} | {
            "fused_against_axial": asdict(test)
        }
        cells = [f"{summary.mean:.3f} ± {summary.sd:.3f}" for summary in summaries.values()]
        cells.append(f"{test.mean_difference:+.3f}, {test.p_value:.2g}")
        lines.append(f"| {thickness:g} mm (n = {len(patients)}) | " + " | ".join(cells) + " |")
    args.results.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print("| slices | " + " | ".join([*models, "all together", "gain over axial, p"]) + " |")
    print("|" + "---|" * (len(names) + 2))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
