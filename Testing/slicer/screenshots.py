"""Draw the picture of the Segmenter's panel that README and extension page show.

    python Testing/slicer/screenshots.py Resources/Screenshots

The panel runs in the harness (see Docs/harness.md), so its style is Qt's, not Slicer's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

WIDTH = 460


def main() -> int:
    """Open the panel and save its picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    os.environ.pop("SAHLORA_MODELS", None)
    reason = harness.unavailable()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    from harness.application import MODULES, load_module, show_module, start

    slicer = start()
    for name in MODULES:
        load_module(name)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Head CT 5 mm")
    folder.mkdir(parents=True, exist_ok=True)
    panel = show_module("SAHLoRASegmenter")
    panel.ui.advancedCollapsibleButton.collapsed = False
    panel.parent.resize(WIDTH, 100)  # grows to the height it needs
    panel.parent.show()
    slicer.app.processEvents()
    panel.parent.grab().save(str(folder / "SAHLoRASegmenter.png"))
    panel.cleanup()
    return 0


if __name__ == "__main__":
    sys.exit(main())
