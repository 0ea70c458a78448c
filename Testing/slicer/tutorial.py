"""Follow Docs/tutorial.md in the harness with the real commands, time every step and draw its pictures.

    python Testing/slicer/tutorial.py Docs/images
    python Testing/slicer/tutorial.py Docs/images --further Resources/Screenshots

Nothing is stood in for but Slicer's own widgets (see Testing/harness.md): heads are simulated, the shipped
model is adapted, judged and used in real child processes. Needs no network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

WIDTH = 420
PATIENCE_S = 3600
DARK = {
    "Window": "#323232",
    "Base": "#232323",
    "Button": "#454545",
    "Text": "#f0f0f0",
    "Highlight": "#2a82da",
}
SECTIONS = (
    "casesCollapsibleButton",
    "adapterCollapsibleButton",
    "trainingCollapsibleButton",
    "judgementCollapsibleButton",
    "shareSection",
    "suggestSection",
    "crossvalSection",
)


def main() -> int:
    """Follow the tutorial and print what it took and found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--epochs", type=int, default=0, help="of the training (default: as the tutorial)")
    parser.add_argument("--further", type=Path, help="also try the other sections; where their pictures go")
    args = parser.parse_args()
    reason = harness.unavailable()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        tutorial = Tutorial(args.folder, Path(data))
        print(json.dumps(tutorial.follow(args.epochs), indent=2, ensure_ascii=False))
        if args.further is not None:
            args.further.mkdir(parents=True, exist_ok=True)
            tutorial.go_further(args.further)
        tutorial.close()
    return 0


class Tutorial:
    """The steps of the tutorial.

    Parameters
    ----------
    pictures : Path
        Where the pictures go.
    data : Path
        Empty folder for models and runs, so that those of the user are left alone.
    """

    def __init__(self, pictures: Path, data: Path) -> None:
        from harness.application import MODULES, load_module, start

        self.slicer = start()
        self._pictures = pictures
        self.found: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        for name in MODULES:
            load_module(name)
        self._use(data)

    def follow(self, epochs: int = 0) -> dict[str, Any]:
        """Do all steps; return their seconds and what was found."""
        from harness.application import show_module
        from test_segmenter import Installed

        self._step("load the patients", self.load)
        self.trainer = show_module("SAHLoRATrainer", installer=Installed())
        self.trainer.parameters.epochs = epochs
        self._step("list the cases", self.list_cases)
        self._step("train", self.train)
        self._step("judge", self.judge)
        self._step("keep", self.keep)
        self.segmenter = show_module("SAHLoRASegmenter", installer=Installed())
        self._step("segment without the adapter", self.segment)
        self.segmenter.ui.adapterSelector.setCurrentIndex(
            self.segmenter.ui.adapterSelector.findText("Simulated scanner")
        )
        self._step("segment with the adapter", self.segment)
        self._picture(self.segmenter, "tutorial-segment")
        return {
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "minutes": round(sum(self.seconds.values()) / 60, 1),
            "found": self.found,
        }

    def load(self) -> None:
        """Take the simulated patients from Sample Data."""
        from SAHLoRACoreLib import sampledata

        methods = dict.fromkeys(("connect", "show", "close"), lambda *_: None)
        dialog = type("Dialog", (), methods)
        self.slicer.util.createProgressDialog = lambda **_: dialog()
        self.nodes = sampledata.downloadCohort(None)
        assert len(self.nodes) == 7

    def list_cases(self) -> None:
        """Add the three annotated patients and hold one out."""
        ui = self.trainer.ui
        for volume, segmentation in zip(self.nodes[0:6:2], self.nodes[1:6:2], strict=True):
            ui.caseVolumeSelector.setCurrentNode(volume)
            ui.caseSegmentationSelector.setCurrentNode(segmentation)
            ui.addCaseButton.click()
        ui.holdOutButton.click()
        self._picture(self.trainer, "tutorial-cases", "casesCollapsibleButton")

    def train(self) -> None:
        """Train with the quick preset."""
        self.trainer.parameters.preset, self.trainer.parameters.runName = "quick", "Simulated scanner"
        self._picture(self.trainer, "tutorial-adapter", "adapterCollapsibleButton")
        self.trainer.ui.trainButton.click()
        wait(self.slicer, lambda: self.trainer.ui.bestLabel.text or not self.trainer.occupation)
        self._picture(self.trainer, "tutorial-training", "trainingCollapsibleButton")
        wait(self.slicer, lambda: not self.trainer.occupation)
        self.found["training"] = self.trainer.ui.statusLabel.text

    def judge(self) -> None:
        """Compare base and adapter on the patient that was held out."""
        self.trainer.ui.runsTable.selectRow(0)
        self.trainer.ui.judgeButton.click()
        wait(self.slicer, lambda: not self.trainer.occupation)
        self._picture(self.trainer, "tutorial-judgement", "judgementCollapsibleButton")
        self.found["judgement"] = self.trainer.ui.verdictLabel.text

    def keep(self) -> None:
        """Keep the adapter with words on its card."""
        part = self.trainer.parts.share
        part.ui.keepSummaryEdit.text = "Tried out on three simulated patients."
        part.ui.keepLicenseSelector.setEditText("CC0-1.0")
        part.ui.keepButton.click()
        wait(self.slicer, lambda: not self.trainer.occupation)
        self._picture(self.trainer, "tutorial-share", "shareSection")
        self.found["kept"] = part.ui.shareStatusLabel.text
        adapter = part._adapter()
        self.found["bytes of the adapter's file"] = adapter.path.stat().st_size

    def segment(self) -> None:
        """Segment the new patient with what is chosen."""
        ui = self.segmenter.ui
        ui.inputSelector.setCurrentNode(self.nodes[6])
        ui.applyButton.click()
        wait(self.slicer, lambda: ui.applyButton.enabled)
        self.found[f"segmented, {ui.adapterSelector.currentText}"] = ui.resultLabel.text

    def go_further(self, pictures: Path) -> None:
        """Rank new patients; draw the sections that the tutorial leaves out."""
        import qt

        with tempfile.TemporaryDirectory() as folder:
            command = [*self.trainer.logic.command, "simulate", f"{folder}/scans", "--count", "3"]
            options = ["--seed", "11", "--spacing", "5,1,1", "--progress", "none"]
            subprocess.run([*command, *options], check=True)
            for mask in Path(folder, "scans").glob("*_mask.nii.gz"):
                mask.unlink()
            part = self.trainer.parts.suggest
            part.chooseFolder(Path(folder, "scans"))
            names = [adapter.title for adapter in part._adapters]
            part.ui.suggestAdaptersList.item(names.index("Simulated scanner")).setCheckState(qt.Qt.Checked)
            part.ui.rankButton.click()
            wait(self.slicer, lambda: not self.trainer.occupation)
            part.ui.suggestTable.selectRow(0)
            part.ui.openSuggestionButton.click()
            part.ui.suggestFolderEdit.text = "/data/new scans"
            self._both(pictures / "SAHLoRATrainer-suggest", "suggestSection")
        self.draw_sections(pictures)

    def draw_sections(self, pictures: Path) -> None:
        """Draw the sections for sharing and, with made-up figures, for comparing."""
        from test_trainer_crossval import CONFIGURATIONS, write_comparison

        write_comparison(CONFIGURATIONS)
        self.trainer.enter()
        self._both(pictures / "SAHLoRATrainer-crossval", "crossvalSection")
        self._both(pictures / "SAHLoRATrainer-share", "shareSection")

    def close(self) -> None:
        """End the panels."""
        self.trainer.cleanup()
        self.segmenter.cleanup()

    # ------------------------------------------------------------------------------------------- parts

    def _use(self, data: Path) -> None:
        """Keep models and runs of this run apart from the user's."""
        import qt

        from SAHLoRACoreLib.settings import settingKey

        for name in ("modelsFolder", "dataFolder"):
            (data / name).mkdir()
            qt.QSettings().setValue(settingKey(name), str(data / name))

    def _step(self, name: str, do: Any) -> None:
        started = time.monotonic()
        do()
        self.seconds[name] = time.monotonic() - started
        print(f"{name}: {self.seconds[name]:.0f} s", file=sys.stderr, flush=True)

    def _picture(self, panel: Any, name: str, opened: str = "") -> None:
        """Save a picture of a panel, of whose sections one is open."""
        if opened:
            for section in SECTIONS:
                getattr(panel.ui, section).collapsed = section != opened
        self._grab(panel).save(str(self._pictures / f"{name}.png"))

    def _both(self, stem: Path, section: str) -> None:
        """Save a section of the Trainer in light and dark."""
        from PySide6.QtGui import QColor, QPalette
        from PySide6.QtWidgets import QApplication

        for name in SECTIONS:
            getattr(self.trainer.ui, name).collapsed = name != section
        light, dark = QApplication.palette(), QPalette()
        for role, color in {**DARK, "WindowText": DARK["Text"], "ButtonText": DARK["Text"]}.items():
            dark.setColor(getattr(QPalette.ColorRole, role), QColor(color))
        for role in ("WindowText", "ButtonText", "Text"):
            dark.setColor(QPalette.ColorGroup.Disabled, getattr(QPalette.ColorRole, role), QColor("#909090"))
        for ending, palette in (("-dark", dark), ("", light)):
            QApplication.setPalette(palette)
            self._grab(self.trainer).save(str(stem.with_name(f"{stem.name}{ending}.png")))

    def _grab(self, panel: Any) -> Any:
        from PySide6.QtWidgets import QWidget

        panel.parent.show()
        self.slicer.app.processEvents()
        panel.parent.resize(WIDTH, QWidget.sizeHint(panel.parent).height() + 30)  # room for wrapped lines
        for _repaint in range(3):
            self.slicer.app.processEvents()
        return panel.parent.grab()


def wait(slicer: Any, until: Any) -> None:
    """Process events until something holds."""
    started = time.monotonic()
    while not until():
        if time.monotonic() - started > PATIENCE_S:
            raise TimeoutError("waited in vain")
        slicer.app.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
