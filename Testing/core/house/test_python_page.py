"""The examples of Docs/python.md and Docs/adapters.md run, one after another, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from helpers import HEAD_SPACING, ROOT, simple_head

PAGE = (ROOT / "Docs" / "python.md").read_text(encoding="utf-8")


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def run(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in examples(page):
        exec(code, names)
    return names


def test_examples_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On small heads instead of the simulated ones, which take longer than all the rest."""
    monkeypatch.chdir(tmp_path)
    for patient in (1, 2, 3):
        hu = simple_head((8, 72 + 4 * patient, 64), HEAD_SPACING)
        for name, array in (("ct", hu), ("label", ((hu > 55) & (hu < 90)).astype(np.uint8))):
            path = tmp_path / "cases" / str(patient) / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(HEAD_SPACING[::-1])
            sitk.WriteImage(image, str(path))
    start, end = PAGE.index("## Simulated patients"), PAGE.index("## Segmenting")
    assert len(examples(PAGE[start:end])) == 1

    names = run(PAGE[:start] + PAGE[end:])

    assert "not-found" in capsys.readouterr().out
    assert names["found"].model.card.target.segment.name == "Subarachnoid hemorrhage"
    np.testing.assert_array_equal(names["again"].label, names["again"].prediction.probability >= 0.4)
    assert [len(results) for results in names["evaluation"].results.values()] == [3, 3]
    assert "stage" in names["stages"]
    for written in ("found.seg.nrrd", "site.safetensors", "results/report.html", "results/overlay.png"):
        assert (tmp_path / written).is_file()


def test_example_of_adapters_runs_as_it_stands() -> None:
    page = (ROOT / "Docs" / "adapters.md").read_text(encoding="utf-8")
    names = run(page)
    assert len(examples(page)) == 1
    assert all(key.startswith(("ups.", "head.")) for key in names["state"])


@pytest.mark.proof
def test_examples_run_on_the_simulated_heads_they_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(PAGE)["found"].volume_ml == pytest.approx(20, abs=8)
