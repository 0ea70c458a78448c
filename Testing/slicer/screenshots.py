"""Draw the pictures of the panels that README and extension page show.

    python Testing/slicer/screenshots.py Resources/Screenshots

The panels run in the harness (see Docs/harness.md), so their style is Qt's, and a fake child stands
in for the command: the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

WIDTH = 420
DARK = {
    "Window": "#323232",
    "Base": "#232323",
    "Button": "#454545",
    "Text": "#f0f0f0",
    "Highlight": "#2a82da",
}


def main() -> int:
    """Open the panel and save its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    reason = harness.unavailable()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as models:
        os.environ["SAHLORA_MODELS"] = models
        draw(folder, Path(models))
    return 0


def draw(folder: Path, models: Path) -> None:
    """Draw the panel idle, running, done (light and dark) and after an error."""
    from harness.application import MODULES, load_module, show_module, start
    from test_segmenter import Installed
    from trainer_screenshots import draw_trainer

    slicer = start()
    for name in MODULES:
        load_module(name)
    slicer.util.errorDisplay = lambda *_, **__: None  # what it says stands in the panel, too
    panel = show_module("SAHLoRASegmenter", logic=make_logic(models), installer=Installed())
    panel.ui.inputSelector.setCurrentNode(make_ct(slicer))
    panel.ui.modelSelector.setCurrentIndex(0)
    panel.ui.advancedCollapsibleButton.collapsed = False
    panel.ui.keepProbabilityCheckBox.checked = True
    save(slicer, panel, folder / "SAHLoRASegmenter.png")
    panel.ui.advancedCollapsibleButton.collapsed = True
    os.environ["SAHLORA_FAKE"] = "polite"
    run(slicer, panel, lambda: "Stage" in panel.ui.statusLabel.text)
    save(slicer, panel, folder / "SAHLoRASegmenter-running.png")
    panel.ui.cancelButton.click()
    wait(slicer, lambda: panel.ui.applyButton.enabled)
    os.environ["SAHLORA_FAKE"] = "error"
    run(slicer, panel, lambda: panel.ui.applyButton.enabled)
    save(slicer, panel, folder / "SAHLoRASegmenter-error.png")
    os.environ["SAHLORA_FAKE"] = "segment"
    run(slicer, panel, lambda: panel.ui.applyButton.enabled)
    panel.ui.batchCollapsibleButton.collapsed = False
    save(slicer, panel, folder / "SAHLoRASegmenter-done.png")
    lighten = darken()
    save(slicer, panel, folder / "SAHLoRASegmenter-dark.png")
    panel.cleanup()
    lighten()
    draw_trainer(slicer, folder, models / "runs", save, darken)


def make_logic(models: Path) -> Any:
    """Return a logic with the fake command, and put a made-up model into the user's folder."""
    from SAHLoRASegmenter import SAHLoRASegmenterLogic
    from test_models import write_model

    from SAHLoRACoreLib import fakechild

    write_model(models / "example.safetensors", title="Example model")
    return SAHLoRASegmenterLogic([sys.executable, fakechild.__file__])


def make_ct(slicer: Any) -> Any:
    """Add a CT of 30 HU with blood in two slices."""
    import numpy as np

    hu = np.full((8, 40, 40), 30, dtype=np.int16)
    hu[3:5, 10:24, 8:30] = 70
    return slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="Head CT 5 mm")


def run(slicer: Any, panel: Any, until: Any) -> None:
    """Click on Segment and wait."""
    panel.ui.applyButton.click()
    wait(slicer, until)


def wait(slicer: Any, until: Any) -> None:
    """Process events until something holds."""
    while not until():
        slicer.app.processEvents()


def save(slicer: Any, panel: Any, path: Path) -> None:
    """Save a picture of the panel, as high as it needs to be."""
    from PySide6.QtWidgets import QWidget

    panel.parent.show()
    slicer.app.processEvents()
    panel.parent.resize(WIDTH, QWidget.sizeHint(panel.parent).height() + 60)  # room for wrapped lines
    for _repaint in range(3):
        slicer.app.processEvents()
    panel.parent.grab().save(str(path))


def darken() -> Callable[[], None]:
    """Give the application dark colors, and return a function that gives it its own again."""
    from PySide6.QtGui import QColor, QPalette
    from PySide6.QtWidgets import QApplication

    before, palette = QApplication.palette(), QPalette()
    for role, color in {**DARK, "WindowText": DARK["Text"], "ButtonText": DARK["Text"]}.items():
        palette.setColor(getattr(QPalette.ColorRole, role), QColor(color))
    disabled = QPalette.ColorGroup.Disabled
    for role in ("WindowText", "ButtonText", "Text"):
        palette.setColor(disabled, getattr(QPalette.ColorRole, role), QColor("#909090"))
    QApplication.setPalette(palette)
    return lambda: QApplication.setPalette(before)


if __name__ == "__main__":
    sys.exit(main())
