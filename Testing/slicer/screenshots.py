"""Draw the pictures of the panels that README and extension page show.

    python Testing/slicer/screenshots.py Resources/Screenshots

The panels run in the harness (see Testing/harness.md), so their style is Qt's and not Slicer's. The
Segmenter's result is real: the command segments a simulated head with the shipped model and adapter. Beside
the panel stand the CT with the outline, its surface and the chart, drawn from the nodes of the scene.
The Trainer's figures are made up by a fake command.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing" / "slicer"), str(ROOT / "SAHLoRACore")]

import harness  # noqa: E402 - found where this file lies
import sceneviews  # noqa: E402

WIDTH = 420
PATIENCE_S = 600
DARK = {
    "Window": "#323232",
    "Base": "#232323",
    "AlternateBase": "#2b2b2b",
    "Button": "#454545",
    "Text": "#f0f0f0",
    "WindowText": "#f0f0f0",
    "ButtonText": "#f0f0f0",
    "PlaceholderText": "#a0a0a0",
    "Highlight": "#2a82da",
    "HighlightedText": "#ffffff",
    "Light": "#5a5a5a",
    "Mid": "#2b2b2b",
    "Dark": "#202020",
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
    """Draw both panels and the settings."""
    from harness.application import MODULES, load_module, start
    from trainer_screenshots import draw_trainer

    slicer = start()
    for name in MODULES:
        load_module(name)
    slicer.util.errorDisplay = lambda *_, **__: None  # what it says stands in the panel, too
    draw_segmenter(slicer, folder)
    save_both(slicer, settings_page(), folder / "SAHLoRA-settings")
    draw_trainer(slicer, folder, models / "runs", save, darken)


def draw_segmenter(slicer: Any, folder: Path) -> None:
    """Draw the panel idle, running, done and after an error, each light and dark."""
    from harness.application import show_module
    from SAHLoRASegmenter import SAHLoRASegmenterLogic
    from test_segmenter import Installed

    panel = show_module("SAHLoRASegmenter", logic=SAHLoRASegmenterLogic(), installer=Installed())
    ui = panel.ui
    ui.inputSelector.setCurrentNode(add_head(slicer))
    ui.adapterSelector.setCurrentIndex(ui.adapterSelector.findText("sah-phantom"))
    ui.advancedCollapsibleButton.collapsed = False
    ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))
    ui.findDevicesButton.click()
    wait(slicer, lambda: ui.findDevicesButton.enabled)
    for box in (ui.flipCheckBox, ui.keepProbabilityCheckBox, ui.keepDisagreementCheckBox):
        box.checked = True
    ui.resultCollapsibleButton.collapsed = True
    save_both(slicer, panel.parent, folder / "SAHLoRASegmenter")
    ui.advancedCollapsibleButton.collapsed = True

    ui.applyButton.click()
    wait(slicer, lambda: "axial" in ui.statusLabel.text and 300 < ui.progressBar.value < 1000)
    save_both(slicer, panel.parent, folder / "SAHLoRASegmenter-running")
    wait(slicer, lambda: ui.applyButton.enabled)

    ui.resultCollapsibleButton.collapsed = False
    views = sceneviews.views(slicer, panel.logic.getParameterNode().result)
    save_both(slicer, panel.parent, folder / "SAHLoRASegmenter-done", views)
    ui.resultCollapsibleButton.collapsed = True

    ui.inputSelector.setCurrentNode(add_mr(slicer))
    ui.applyButton.click()
    wait(slicer, lambda: ui.applyButton.enabled)
    ui.logCollapsibleButton.collapsed = False
    save_both(slicer, panel.parent, folder / "SAHLoRASegmenter-error")
    panel.cleanup()


def settings_page() -> Any:
    """Return the page of the Application Settings, with an adapter in the user's folder."""
    import shutil

    import ctk

    from SAHLoRACoreLib.models import SHIPPED_FOLDER
    from SAHLoRACoreLib.settings import modelsFolder
    from SAHLoRACoreLib.settingspanel import SettingsPanel

    shutil.copy(SHIPPED_FOLDER / "sah-phantom.safetensors", modelsFolder() / "our-scanner.safetensors")
    page = ctk.ctkSettingsPanel()
    panel = SettingsPanel(page)
    panel.fill()
    PAGES.append(panel)
    return page


PAGES: list[Any] = []  # Qt keeps the widgets, Python must keep what answers them


def add_head(slicer: Any) -> Any:
    """Simulate a head with 30 mL of subarachnoid blood and add its CT to the scene."""
    import numpy as np

    from sahlora.simulation.head import HeadPhantom, simulate_head

    head = simulate_head(HeadPhantom(seed=1, sah_volume_ml=30))
    z, y, x = head.settings.spacing
    grid = np.diag([-x, -y, z, 1.0])
    grid[:3, 3] = np.multiply(head.hu.shape[::-1], (x, y, -z)) / 2
    return slicer.util.addVolumeFromArray(head.hu, ijkToRAS=grid, name="Simulated head CT")


def add_mr(slicer: Any) -> Any:
    """Add a volume whose values can't be HU."""
    import numpy as np

    values = np.random.default_rng(0).integers(0, 4000, (20, 64, 64), dtype=np.int16)
    return slicer.util.addVolumeFromArray(values, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="Head MR")


def wait(slicer: Any, until: Callable[[], bool]) -> None:
    """Process events until something holds."""
    started = time.monotonic()
    while not until():
        if time.monotonic() - started > PATIENCE_S:
            raise TimeoutError("waited in vain")
        slicer.app.processEvents()
        time.sleep(0.01)


def save(slicer: Any, panel: Any, path: Path) -> None:
    """Save a picture of a panel as it is."""
    picture(slicer, panel.parent).save(str(path))


def save_both(slicer: Any, widget: Any, stem: Path, views: Any = None) -> None:
    """Save pictures of a widget, with views beside it, in light and in dark colors."""
    for ending in ("", "-dark"):
        lighten = darken() if ending else lambda: None
        drawn = picture(slicer, widget)
        if views is not None:
            drawn = sceneviews.beside(drawn, views)
        drawn.save(str(stem.with_name(f"{stem.name}{ending}.png")))
        lighten()


def picture(slicer: Any, widget: Any) -> Any:
    """Return a picture of a widget as high as it needs to be."""
    from PySide6.QtWidgets import QWidget

    widget.show()
    slicer.app.processEvents()
    widget.resize(WIDTH, QWidget.sizeHint(widget).height() + 60)  # room for wrapped lines
    for _repaint in range(3):
        slicer.app.processEvents()
    return widget.grab()


def darken() -> Callable[[], None]:
    """Give the application dark colors, and return a function that gives it its own again."""
    from PySide6.QtGui import QColor, QPalette
    from PySide6.QtWidgets import QApplication

    before, palette = QApplication.palette(), QPalette()
    for role, color in DARK.items():
        palette.setColor(getattr(QPalette.ColorRole, role), QColor(color))
    for role in ("WindowText", "ButtonText", "Text"):
        palette.setColor(QPalette.ColorGroup.Disabled, getattr(QPalette.ColorRole, role), QColor("#8a8a8a"))
    QApplication.setPalette(palette)
    return lambda: QApplication.setPalette(before)


if __name__ == "__main__":
    sys.exit(main())
