"""What the page for scripts says is so: its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def examples() -> list[str]:
    """Return the examples for scripts."""
    page = (ROOT / "Docs" / "slicer-integration.md").read_text(encoding="utf-8")
    section = page[page.index("## From Python") : page.index("## Children")]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def test_examples_for_scripts_run_as_they_stand(slicer, monkeypatch, tmp_path, capsys):
    """One after another, as in Slicer's Python console, with the fake command."""
    import SimpleITK as sitk

    from SAHLoRACoreLib import childprocess
    from SAHLoRACoreLib.testdoubles import fakechild

    command = [childprocess.pythonExecutable(), fakechild.__file__]
    monkeypatch.setattr(childprocess, "commandPrefix", lambda: command)
    hu = np.full((4, 20, 20), 30, np.int16)
    hu[1:3, 5:15, 5:15] = 70
    slicer.util.addVolumeFromArray(hu, ijkToRAS=np.diag([-1.0, -1.0, 5.0, 1.0]), name="Head CT")
    for name in ("scans", "results"):
        (tmp_path / name).mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "scans" / "a.nrrd"))
    console = {"slicer": slicer}
    for text in examples():
        exec(text.replace("/data", str(tmp_path)), console)
        if "cancel" in text:
            with pytest.raises(childprocess.ChildFailedError, match="Canceled"):
                console["run"].wait()
    while console["batch"].isRunning():
        slicer.app.processEvents()

    assert len(examples()) == 3
    assert "1.0 mL on made up" in capsys.readouterr().out
    assert console["segmentId"] == "hemorrhage"
    assert (tmp_path / "results" / "table.csv").is_file()
