"""The tutorial can be followed as it stands, with the real commands and the shipped model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import harness
import pytest

HERE = Path(__file__).resolve().parent
TRUE_ML = 11.3  # of the new patient, as simulated and as Docs/tutorial.md says


@pytest.mark.proof
def test_tutorial_leads_from_three_patients_to_a_used_adapter(tmp_path):
    if harness.unavailable():
        pytest.skip(harness.unavailable())
    done = subprocess.run(
        [sys.executable, str(HERE / "tutorial.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)["found"]
    base, adapted = (
        float(re.search(r"([\d.]+) mL", words)[1])
        for name, words in found.items()
        if name.startswith("segmented")
    )

    assert found["judgement"].startswith("The adapter is better on 1 of 1 held-out cases")
    assert abs(adapted - TRUE_ML) < abs(base - TRUE_ML)
    pictures = {path.name for path in tmp_path.glob("*.png")}
    tutorial = (HERE.parents[1] / "Docs" / "tutorial.md").read_text(encoding="utf-8")
    assert pictures == set(re.findall(r"images/(tutorial-\w+\.png)", tutorial))
