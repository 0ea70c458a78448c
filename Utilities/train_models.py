#!/usr/bin/env python3
"""Rebuild every shipped model, and the tables about them, from the data in the folder named by SAHLORA_DATA.

    python Utilities/train_models.py WORK [--only STEP …] [--threads N]

Each step is commands of this project, printed before they run. A step that is done is not done again, and one
that was stopped goes on where it was: the same command continues.

    ct-ich         volumes, labels and manifests of CT-ICH
    settings       short trainings without fold 1, each with one setting changed, judged on fold 1
    lesions        hemorrhage of every kind simulated into the blood-free patients
    start-K        the first part of base-K: slices alone, real labels; it may come from elsewhere
    wide-K, calm-K the second and third part: neighbors, simulated hemorrhages, robust augmentation
    base-K         a base that never saw fold K, for K from 0 to 4; base-0 is shipped as hemorrhage-base
    bleeds-K       what base-K outlines of real and simulated blood in fold K
    sah-density    SAH of 15 mL at three densities in the blood-free patients of fold 0
    real-ct        every real scan; folds that have their base are segmented by the one that never saw them
    phantoms       30 simulated heads: 20 to train on, 10 to test on
    phantom-study  every adapter, the decoder, an HU threshold and a control on them
    sah-phantom    the adapter that the demo uses
    views          simulated heads with slices of 1, 2.5 and 5 mm: an adapter for each view, and their fusion
    sah            SAH simulated into the blood-free patients; those of fold 0 are tested on
    sah-study      the same comparison on them
    sah-ct         the shipped adapter for SAH, trained on the base's own cases too
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ct_ich import read_folds

HERE = Path(__file__).parent
TEST_FOLD = 0
PHANTOMS, PHANTOMS_TRAINED_ON, FIRST_PHANTOM = 30, 20, 3000
BLEEDS_A_PATIENT, FIRST_BLEED = 2, 5000
LESIONS_A_PATIENT, FIRST_LESION = 13, 7000
SAH_KINDS = ("subarachnoid", "sulcal", "cerebellar", "mixture", "layering", "cast")
TESTED_SAH_KINDS = SAH_KINDS[:3]
CHOOSING_PATIENTS = 4
DENSITIES = {61: 68, 49: 56, 44: 50}
"""Clot's mean HU for the median of the mask."""
METHODS = "threshold,standard,cp-lora,lora-c,conv-lora,cp-dora,dora-c,conv-dora,shuffled-cp-lora"
QUICK = "--preset quick --epochs 3"

SETTINGS_FOLD = 1
SETTINGS = {
    "reference": "--epochs 12",
    "level-2": "--epochs 12 --level 2",
    "spacing-0.7": "--epochs 12 --spacing 0.7",
    "window-80": "--epochs 12 --window 0 80",
    "soft-dice": "--epochs 12 --loss soft-dice",
    "unmarked-0.1": "--epochs 9 --unmarked-weight 0.1",
    "unmarked-0.3": "--epochs 9 --unmarked-weight 0.3",
}
THICKNESSES_MM = (1.0, 2.5, 5.0)
VIEW_HEADS_TRAINED_ON, VIEW_HEADS, FIRST_VIEW_HEAD = 4, 10, 4000

Row = dict[str, str]


@dataclass(frozen=True)
class Trainer:
    """Runs the steps in a folder.

    Parameters
    ----------
    work : Path
        Folder for everything that is made.
    threads : int, optional
        Threads of the CPU for each command.
    """

    work: Path
    threads: int | None = None

    def steps(self) -> Iterator[tuple[str, Path, Callable[[], None]]]:
        """Yield each step's name, the file that is there once it is done, and what it does."""
        yield "ct-ich", self.work / "ct_ich" / "all.csv", partial(self.script, "ct_ich.py ct_ich")
        yield "settings", self.work / "settings" / list(SETTINGS)[-1] / "results.json", self.settings
        yield "lesions", self.work / "lesions" / "test-4.csv", self.lesions
        yield "sah-density", self.work / "sah-44" / "manifest.csv", self.sah_density
        for fold in sorted(set(read_folds().values())):
            yield f"start-{fold}", self.work / f"start-{fold}.safetensors", partial(self.start, fold)
            yield f"wide-{fold}", self.work / f"wide-{fold}.safetensors", partial(self.wide, fold)
            yield f"calm-{fold}", self.work / f"calm-{fold}.safetensors", partial(self.calm, fold)
            yield f"base-{fold}", self.work / f"base-{fold}.safetensors", partial(self.base, fold)
            yield f"bleeds-{fold}", self.work / f"bleeds-{fold}.json", partial(self.bleeds, fold)
        yield "real-ct", self.work / "real-ct" / "results.json", self.real_ct
        yield "phantoms", self.work / "phantoms" / "study.csv", self.phantoms
        yield (
            "phantom-study",
            self.work / "phantom-study" / "crossval.html",
            partial(self.study, "phantoms", "phantom-study"),
        )
        yield "sah-phantom", self.work / "sah-phantom.safetensors", self.sah_phantom
        yield "views", self.work / "views" / "results.json", self.views
        yield "sah", self.work / "sah" / "training-free.csv", self.sah
        yield "sah-study", self.work / "sah-study" / "crossval.html", partial(self.study, "sah", "sah-study")
        yield "sah-ct", self.work / "sah-ct-bleeds.json", self.sah_ct

    def lesions(self) -> None:
        """Simulate hemorrhage of every kind; each fold's patients train the bases of the other folds."""
        self.sahlora(
            f"simulate lesions --into ct_ich/blood-free.csv --kind any --count {LESIONS_A_PATIENT}"
            f" --seed {FIRST_LESION} --overwrite"
        )
        folds, rows = read_folds(), self.manifest("lesions")
        for fold in sorted(set(folds.values())):
            for name, inside in (("train", False), ("test", True)):
                chosen = [row for row in rows if (folds[row["patient"]] == fold) == inside]
                self.write_manifest(f"lesions/{name}-{fold}.csv", chosen)

    def sah_density(self) -> None:
        """Simulate one bleed at several densities into each blood-free patient of the tested fold."""
        for median, density in DENSITIES.items():
            self.sahlora(
                f"simulate sah-{median} --into ct_ich/test-{TEST_FOLD}.csv --kind subarachnoid --ml 15"
                f" --density {density} --count 1 --seed 9000 --overwrite"
            )

    def start(self, fold: int) -> None:
        """Train on single slices with real labels alone."""
        self.sahlora(
            f"pretrain ct_ich/train-{fold}.csv -o start-{fold}.safetensors --level 4 --epochs 24"
            " --average 0.995 --unmarked-weight 0.1",
            *self.threads_option(),
        )

    def wide(self, fold: int) -> None:
        """Go on with neighbors, simulated hemorrhages and robust augmentation."""
        self.go_on(fold, "start", "wide", "--average 0.995 --learning-rate 1.5e-3 --epochs 22")

    def calm(self, fold: int) -> None:
        """Go on against specks of false blood."""
        self.go_on(fold, "wide", "calm", "--average 0.99 --learning-rate 1e-3 --epochs 9 --empty-weight 0.2")

    def base(self, fold: int) -> None:
        """Go on against them with artifacts of other scanners.

        They are in the robust augmentation; when the shipped base was made, only in this last part.
        """
        options = "--average 0.98 --learning-rate 1e-3 --epochs 5 --empty-weight 0.3 --description"
        self.go_on(fold, "calm", "base", options, HERE / "hemorrhage-base.json")

    def go_on(self, fold: int, before: str, after: str, options: str, *more: Path) -> None:
        """Train a base further, without one fold."""
        self.sahlora(
            f"pretrain ct_ich/train-{fold}.csv -o {after}-{fold}.safetensors"
            f" --start {before}-{fold}.safetensors --level 4 --window 0 130 --neighbors 5"
            " --augmentation robust --vertex-draws 3"
            f" --simulated lesions/train-{fold}.csv --simulated-share 0.3 --unmarked-weight 0.1 {options}",
            *more,
            *self.threads_option(),
        )

    def bleeds(self, fold: int) -> None:
        """Say what the base outlines of known blood in patients that it never saw."""
        more = "".join(f" --lesions sah-{hu}" for hu in DENSITIES) if fold == TEST_FOLD else ""
        self.script(
            f"evaluate_bleeds.py ct_ich bleeds-{fold}.json --fold {fold}=base-{fold}.safetensors"
            f" --lesions lesions{more}"
        )

    def settings(self) -> None:
        """Try settings of the base in short trainings."""
        (self.work / "settings").mkdir(exist_ok=True)
        for name, options in SETTINGS.items():
            model = f"settings/{name}.safetensors"
            self.sahlora(
                f"pretrain ct_ich/train-{SETTINGS_FOLD}.csv -o {model} --level 4 --average 0.98 {options}",
                *self.threads_option(),
            )
            self.script(
                f"evaluate_real_ct.py ct_ich settings/{name} --model {model} --unseen"
                f" --fold {SETTINGS_FOLD}={model}"
            )

    def real_ct(self) -> None:
        """Segment the real scans, each fold by the base that never saw it if it is there, else by base-0."""
        bases = {fold: f"base-{fold}.safetensors" for fold in sorted(set(read_folds().values()))}
        left_out = [f"--fold={fold}={name}" for fold, name in bases.items() if (self.work / name).exists()]
        self.script("evaluate_real_ct.py ct_ich real-ct --model base-0.safetensors --record", *left_out)

    def phantoms(self) -> None:
        """Simulate heads; the last ones are held out."""
        self.sahlora(f"simulate phantoms --count {PHANTOMS} --seed {FIRST_PHANTOM} --overwrite")
        self.divide("phantoms", lambda row: int(row["case"][-4:]) - FIRST_PHANTOM >= PHANTOMS_TRAINED_ON)

    def sah_phantom(self) -> None:
        """Train the demo's adapter; 4 of the 20 heads decide when it is best."""
        self.sahlora(
            "finetune phantoms/training.csv -o sah-phantom.safetensors --model base-0.safetensors"
            " --target sah --method cp-lora --rank 16 --scope all --held-out 4 --preset quick --epochs 6"
            " --description",
            HERE / "sah-phantom.json",
            *self.threads_option(),
        )

    def views(self) -> None:
        """Train an adapter for each view on thin and thick slices and test it on other heads."""
        seed, tested = FIRST_VIEW_HEAD, []
        rows: list[Row] = []
        for thickness in THICKNESSES_MM:
            options = f"--spacing {thickness},0.45,0.45 --overwrite"
            folder = f"views/training-{thickness:g}"
            self.sahlora(f"simulate {folder} --count {VIEW_HEADS_TRAINED_ON} --seed {seed} {options}")
            rows += self.manifest(folder, f"training-{thickness:g}/")
            seed += VIEW_HEADS_TRAINED_ON
        for thickness in THICKNESSES_MM:  # the same heads, so that thicknesses can be compared
            options = f"--spacing {thickness},0.45,0.45 --overwrite"
            self.sahlora(f"simulate views/test-{thickness:g} --count {VIEW_HEADS} --seed {seed} {options}")
            tested.append(f"views/test-{thickness:g}/manifest.csv")
        self.write_manifest("views/training.csv", rows)
        self.sahlora(
            "finetune views/training.csv -o sah-phantom-views.safetensors --model base-0.safetensors"
            " --target sah --method cp-lora --rank 16 --scope all --views axial,coronal,sagittal"
            " --held-out 3 --preset quick --epochs 2 --description",
            HERE / "sah-phantom-views.json",
            *self.threads_option(),
        )
        self.script(
            f"compare_views.py sah-phantom-views.safetensors views/results.json {' '.join(tested)}"
            " --model base-0.safetensors"
        )

    def sah(self) -> None:
        """Simulate bleeds into blood-free patients; who is tested on bleeds twice, who is trained on once."""
        self.sahlora(
            f"simulate sah --into ct_ich/blood-free.csv --count {BLEEDS_A_PATIENT} --seed {FIRST_BLEED}"
            " --overwrite"
        )
        folds, first = read_folds(), set[str]()

        def is_held_out(row: Row) -> bool | None:
            if folds[row["patient"]] == TEST_FOLD:
                return True
            again = row["patient"] in first
            first.add(row["patient"])
            return None if again else False

        self.divide("sah", is_held_out)
        free = {row["case"]: row for row in self.manifest("ct_ich", name="blood-free.csv")}
        rows = [row | {"slices": ""} for row in self.manifest("sah", name="training.csv")]
        for row in tuple(rows):  # the same patients without the bleed
            before = {key: f"../ct_ich/{free[row['patient']][key]}" for key in ("image", "label", "slices")}
            rows.append(row | {"case": row["patient"]} | before)
        self.write_manifest("sah/training-free.csv", rows)

    def sah_ct(self) -> None:
        """Train the adapter that is shipped, on the base's own cases and on simulated SAH.

        Simulated SAH of 4 patients, who are left out of both, decides when it is best.
        """
        folds = read_folds()
        free = [row["case"] for row in self.manifest("ct_ich", name="blood-free.csv")]
        choosing = [name for name in free if folds[name] != TEST_FOLD][::8][:CHOOSING_PATIENTS]
        real = self.manifest("ct_ich", "../ct_ich/", f"train-{TEST_FOLD}.csv")
        rows = [row | {"slices": f"../ct_ich/{row['slices']}"} for row in real if row["case"] not in choosing]
        self.write_manifest("sah-ct/training.csv", rows)
        lesions = self.manifest("lesions", "../lesions/", f"train-{TEST_FOLD}.csv")
        for name, kinds, chosen in (("simulated", SAH_KINDS, False), ("choose", TESTED_SAH_KINDS, True)):
            rows = [r for r in lesions if r["kind"] in kinds and (r["patient"] in choosing) == chosen]
            self.write_manifest(f"sah-ct/{name}.csv", rows)
        self.sahlora(
            "finetune sah-ct/training.csv -o sah-ct.safetensors --model base-0.safetensors --target sah"
            " --method conv-dora --rank 16 --strength 0.5 --simulated sah-ct/simulated.csv"
            " --simulated-share 0.5 --held-out sah-ct/choose.csv --preset quick --epochs 3"
            " --learning-rate 3e-3 --average 0.99 --augmentation robust --vertex-draws 3"
            " --unmarked-weight 0.1 --description",
            HERE / "sah-ct.json",
            *self.threads_option(),
        )
        self.script(
            "evaluate_bleeds.py ct_ich sah-ct-bleeds.json --fold 0=base-0.safetensors"
            " --adapter sah-ct.safetensors --lesions lesions"
            + "".join(f" --lesions sah-{hu}" for hu in DENSITIES)
        )

    def study(self, cases: str, output: str) -> None:
        """Compare all methods on simulated SAH."""
        self.sahlora(
            f"crossval {cases}/study.csv -o {output} --model base-0.safetensors --held-out"
            f" --methods {METHODS} --ranks 16 --learning-rate 5e-3,standard=1e-3 {QUICK}",
            *self.threads_option(),
        )

    # ------------------------------------------------------------------------------------------- parts

    def divide(self, folder: str, is_held_out: Callable[[Row], bool | None]) -> None:
        """Write study.csv, which says who is held out (None: left out), and training.csv without them."""
        told = [(row, is_held_out(row)) for row in self.manifest(folder)]
        rows = [row | {"held_out": "yes" if out else "no"} for row, out in told if out is not None]
        self.write_manifest(f"{folder}/training.csv", [row for row in rows if row["held_out"] == "no"])
        self.write_manifest(f"{folder}/study.csv", rows)

    def manifest(self, folder: str, prefix: str = "", name: str = "manifest.csv") -> list[Row]:
        """Read a folder's list of cases; `prefix` leads to their files from elsewhere."""
        with (self.work / folder / name).open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [row | {key: prefix + row[key] for key in ("image", "label")} for row in rows]

    def write_manifest(self, name: str, rows: list[Row]) -> None:
        """Write a list of cases."""
        (self.work / name).parent.mkdir(exist_ok=True)
        with (self.work / name).open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)

    def threads_option(self) -> tuple[str, ...]:
        """Return the option that limits the threads."""
        return () if self.threads is None else ("--threads", str(self.threads))

    def sahlora(self, words: str, *more: str | Path) -> None:
        """Run a command of the package."""
        self.run("-m", "sahlora", *words.split(), *map(str, more))

    def script(self, words: str, *more: str) -> None:
        """Run a script beside this one."""
        name, *arguments = words.split()
        self.run(str(HERE / name), *arguments, *more)

    def run(self, *words: str) -> None:
        """Run Python in the folder of the work and stop at a failure."""
        print(f"$ python {shlex.join(words)}", flush=True)
        subprocess.run([sys.executable, *words], cwd=self.work, check=True)


def main() -> None:
    """Take all steps, or those asked for, that are not done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--only", action="append", metavar="STEP", help="take this step; can be repeated")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    steps = list(Trainer(args.work.resolve(), args.threads).steps())
    if unknown := set(args.only or ()) - {name for name, _, _ in steps}:
        parser.error(f"there is no step {min(unknown)}; steps are {', '.join(name for name, _, _ in steps)}")
    for name, result, take in steps:
        if (args.only is None or name in args.only) and not result.exists():
            print(f"{name}:", flush=True)
            take()


if __name__ == "__main__":
    main()
