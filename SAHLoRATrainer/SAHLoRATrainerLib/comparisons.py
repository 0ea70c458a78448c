"""Comparisons of methods on disk, and the child that works on one: cross-validation of the Trainer's cases.

DATA/comparisons/comparison-001/   comparison.json, cases.csv, study/ (of ``sahlora crossval``)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.settings import dataFolder, deviceFor
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.casework import CaseWork
from SAHLoRATrainerLib.runs import RunCase, readManifest, removeUnusedCases, writeManifest, writeText
from SAHLoRATrainerLib.settings import MAX_RANK, TrainSettings

FORMAT, VERSION = "sahlora-comparison", 1
RANKED = ("cp-lora", "lora-c", "conv-lora", "cp-dora", "dora-c", "conv-dora", "locon")
METHODS = (*RANKED, "standard", "threshold", "shuffled-cp-lora")
ALL, KEPT, HELD_OUT = "all", "kept", "held-out"
SPLITS = (ALL, KEPT, HELD_OUT)


@dataclass(frozen=True)
class CrossvalSettings:
    """What is compared, and on which cases.

    Parameters
    ----------
    methods : tuple of str
        Of `METHODS`; the base as it is always takes part.
    ranks : tuple of int
        Every adapter is trained at each.
    split : str
        ``all``: folds of all cases. ``kept``: folds of the cases that are not held out, which are kept for a
        last test. ``held-out``: no folds, trained on those not held out and tested on the others.
    folds : int
    training : TrainSettings
        Model, scope, views, preset, epochs, learning rate, seed and device of every training.
    """

    methods: tuple[str, ...] = ("cp-lora", "standard", "threshold")
    ranks: tuple[int, ...] = (4,)
    split: str = ALL
    folds: int = 3
    training: TrainSettings = field(default_factory=TrainSettings)

    def isValid(self) -> tuple[bool, str]:
        """Return whether these settings can be run, and if not, what to do about it."""
        rules = {
            _("Tick at least one method."): bool(self.methods) and set(self.methods) <= set(METHODS),
            _("Give ranks from 1 to {most}, separated by commas.").format(most=MAX_RANK): (
                bool(self.ranks) and all(1 <= rank <= MAX_RANK for rank in self.ranks)
            ),
            _("Choose how the cases are divided."): self.split in SPLITS,
            _("Choose 2 folds or more."): self.split == HELD_OUT or self.folds >= 2,
        }
        reason = next((reason for reason, holds in rules.items() if not holds), "")
        return (False, reason) if reason else self.training.isValid()

    def trainings(self) -> int:
        """Return how many trainings it takes."""
        adapters = sum(method.removeprefix("shuffled-") in RANKED for method in self.methods)
        folds = 1 if self.split == HELD_OUT else self.folds
        return folds * (adapters * len(set(self.ranks)) + ("standard" in self.methods))

    def arguments(self) -> list[str]:
        """Return the options of ``sahlora crossval`` for these settings."""
        training = self.training
        options = ["--methods", ",".join(self.methods), "--ranks", ",".join(map(str, self.ranks))]
        options += [
            "--scopes",
            training.scope,
            "--model",
            training.model,
            "--views",
            ",".join(training.views),
        ]
        options += ["--preset", training.preset, "--seed", str(training.seed)]
        options += ["--device", deviceFor(training.device)]
        options += ["--held-out"] if self.split == HELD_OUT else ["--folds", str(self.folds)]
        if training.epochs:
            options += ["--epochs", str(training.epochs)]
        if training.learningRate:
            options += ["--learning-rate", f"{training.learningRate:g}"]
        return options


def parseRanks(text: str) -> tuple[int, ...]:
    """Read e.g. "4, 16"; empty if that is no list of numbers."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        return ()


@dataclass(frozen=True)
class Comparison:
    """What is known of a comparison.

    Parameters
    ----------
    folder : Path
    settings : CrossvalSettings
    cases : tuple of RunCase
        Empty until they are exported.
    created : str
        Date and time; it stays in the folder.
    """

    folder: Path
    settings: CrossvalSettings
    cases: tuple[RunCase, ...] = ()
    created: str = ""

    @property
    def manifest(self) -> Path:
        """The list of cases that the command reads."""
        return self.folder / "cases.csv"

    @property
    def study(self) -> Path:
        """What the command writes."""
        return self.folder / "study"

    @property
    def page(self) -> Path:
        """The page with all results; there once it is done."""
        return self.study / "crossval.html"

    def configurations(self) -> list[dict[str, Any]]:
        """Return what came out for each method, rank and scope, as in results.json; empty before."""
        try:
            results = json.loads((self.study / "results.json").read_text(encoding="utf-8"))
            return list(results["configurations"])
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def changed(self, **changes: Any) -> Comparison:
        """Return the comparison with other values, written to its folder; raise OSError if that fails."""
        comparison = replace(self, **changes)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "created": comparison.created,
            "settings": asdict(comparison.settings),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        writeText(comparison.folder / "comparison.json", text)
        return comparison


def deleteComparison(comparison: Comparison) -> None:
    """Delete a comparison, and exported cases that nothing else uses; raise OSError if that fails."""
    shutil.rmtree(comparison.folder)
    removeUnusedCases()


def newComparison(settings: CrossvalSettings) -> Comparison:
    """Make the folder of a new comparison; raise OSError if that fails."""
    parent = dataFolder() / "comparisons"
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while (parent / f"comparison-{number:03d}").exists():
        number += 1
    folder = parent / f"comparison-{number:03d}"
    folder.mkdir()
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Comparison(folder, settings, created=now).changed()


def allComparisons() -> list[Comparison]:
    """Return the comparisons on this computer, newest first; a folder that can't be read is left out."""
    folders = sorted((dataFolder() / "comparisons").glob("comparison-*"), reverse=True)
    return [comparison for comparison in map(readComparison, folders) if comparison is not None]


def readComparison(folder: Path) -> Comparison | None:
    """Return the comparison in a folder, or None if there is none that can be read."""
    try:
        record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["version"] > VERSION:
            return None
        settings = record["settings"]
        training = settings["training"] | {"views": tuple(settings["training"]["views"])}
        changes = {
            "methods": tuple(settings["methods"]),
            "ranks": tuple(settings["ranks"]),
            "training": TrainSettings(**training),
        }
        return Comparison(
            folder,
            CrossvalSettings(**(settings | changes)),
            readManifest(folder / "cases.csv"),
            record["created"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class CrossValidation(CaseWork):
    """A comparison that runs: cases are written to files, a child trains and tests.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    comparison : Comparison
        New, or one to go on with: what has finished is not computed again.
    cases : sequence of SceneCase or FileCase, optional
        Of a new one.

    Attributes
    ----------
    comparison : Comparison
        As its folder has it now.
    """

    def __init__(
        self, command: Sequence[str], comparison: Comparison, cases: Sequence[SceneCase | FileCase] = ()
    ) -> None:
        arguments = ["crossval", str(comparison.manifest), "-o", str(comparison.study)]
        super().__init__([*command, *arguments, *comparison.settings.arguments()], cases)
        self.comparison = comparison

    def _keepCases(self, cases: tuple[RunCase, ...]) -> None:
        if self.comparison.settings.split == ALL:
            cases = tuple(replace(case, heldOut=False) for case in cases)
        self.comparison = self.comparison.changed(cases=cases)
        writeManifest(self.comparison.manifest, cases)

    def _fail(self, error: ChildError) -> None:
        if not self.comparison.cases:  # there is nothing to go on with
            shutil.rmtree(self.comparison.folder, ignore_errors=True)
        super()._fail(error)
