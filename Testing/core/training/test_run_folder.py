"""The folder of a run: its split is written once, others' files stay, one process works in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sahlora.cases.manifest import Case, list_cases
from sahlora.cases.split import Cohort
from sahlora.errors import ResourceError, SAHLoRAError
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.run_folder import RECORD, SPLIT, STATE, opened_run, require_run

A, B, C = (Case(name, Path(f"/{name}.nii"), Path(f"/{name}-label.nii")) for name in "abc")
FIRST, OTHER = Cohort((A, B), (C,)), Cohort((A, C), (B,))


def begin(run: Path, cohort: Cohort = FIRST, progress: Progress = SILENT) -> None:
    with opened_run(run, cohort, progress):
        pass


def content(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def code(run: Path, cohort: Cohort = FIRST) -> str:
    before = content(run)
    with pytest.raises(SAHLoRAError) as raised:
        begin(run, cohort)
    assert content(run) == before
    return raised.value.code


def test_the_split_of_a_run_that_trained_never_changes(tmp_path: Path) -> None:
    begin(tmp_path)
    assert {case.name for case in list_cases(tmp_path / SPLIT) if case.held_out} == {"c"}
    begin(tmp_path, Cohort((B, A), (C,)))
    begin(tmp_path, OTHER)  # nothing was trained yet: the cases may still be mended
    (tmp_path / "axial").mkdir()
    (tmp_path / "axial" / STATE).touch()
    assert code(tmp_path, FIRST) == "other-run"
    assert code(tmp_path, Cohort((A, C), (replace(B, label=Path("/other.nii")),))) == "other-run"
    begin(tmp_path, OTHER)


@pytest.mark.parametrize("name", [SPLIT, RECORD, "result.json"])
def test_a_folder_with_files_of_others_is_no_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("case,image,label\nmine,a,b\n")
    assert code(tmp_path) == "foreign-file"
    with pytest.raises(SAHLoRAError) as raised:
        require_run(tmp_path)
    assert raised.value.code == "nothing-to-resume"


def test_a_split_that_somebody_changed_is_not_replaced(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / SPLIT).write_text("case,image,label\nmine,a,b\n")
    assert code(tmp_path) == "other-run"


def test_one_process_works_in_a_run(tmp_path: Path) -> None:
    with opened_run(tmp_path, FIRST), pytest.raises(ResourceError) as raised:
        begin(tmp_path)
    assert raised.value.code == "in-use"
    begin(tmp_path)


def test_a_run_begun_by_other_code_says_so(tmp_path: Path) -> None:
    events: list[dict] = []
    begin(tmp_path, progress=Progress(events.append))
    assert events == []
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "code": "0" * 64}))
    begin(tmp_path, progress=Progress(events.append))
    assert [event["code"] for event in events] == ["other-version"]
    assert "(code 00000000) and goes on" in events[0]["message"]
