"""Results replace no input and nobody else's file, whatever a path is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sahlora.errors import UsageError
from sahlora.runtime.files import require_own, require_writable, says_format, write_json


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "ct.nii"
    path.parent.mkdir()
    path.write_bytes(b"ct")
    return path


def code(*outputs: Path, inputs: list[Path]) -> str | None:
    try:
        require_writable(*outputs, inputs=inputs)
    except UsageError as error:
        assert error.hint
        return error.code
    return None


def test_an_input_is_found_under_every_name(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hard.nii").hardlink_to(ct)
    (tmp_path / "soft.nii").symlink_to(ct)
    (tmp_path / "folder").symlink_to(ct.parent)
    monkeypatch.chdir(ct.parent)
    names = [
        ct, tmp_path / "hard.nii", tmp_path / "soft.nii", tmp_path / "folder" / "ct.nii",
        ct.with_name("CT.NII"), ct.parent / ".." / "in" / "ct.nii", Path("ct.nii"),
    ]  # fmt: skip
    assert [code(name, inputs=[ct]) for name in names] == ["same-file"] * len(names)
    assert code(ct.with_name("label.nii"), inputs=[ct]) is None


def test_nothing_is_written_into_a_folder_that_is_read(ct: Path, tmp_path: Path) -> None:
    (tmp_path / "hard.nii").hardlink_to(ct)
    assert code(ct.parent / "sub" / "label.nii", inputs=[ct.parent]) == "inside-input"
    assert code(tmp_path / "hard.nii", inputs=[ct.parent]) == "same-file"
    assert code(ct, inputs=[ct.parent]) == "same-file"
    assert code(tmp_path / "label.nii", inputs=[ct.parent]) is None


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    assert code(tmp_path / "a.json", tmp_path / "A.json", inputs=[]) == "same-file"
    assert code(tmp_path / "a.json", tmp_path / "x" / ".." / "a.json", inputs=[]) == "same-file"


@pytest.mark.parametrize("name", ["a\0b.nii", "loop/label.nii", "x" * 300 + "/label.nii"])
def test_a_path_that_can_not_be_is_refused_in_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(Exception) as raised:
        require_writable(tmp_path / name)
    assert raised.value.code in ("bad-path", "unwritable")


def test_files_of_others_stay_and_own_ones_are_replaced(tmp_path: Path) -> None:
    table, marker = tmp_path / "cases.csv", tmp_path / "evaluation.json"
    require_own([table, marker], lambda: False)
    table.write_text("mine")
    with pytest.raises(UsageError) as raised:
        require_own([table, marker], lambda: says_format(marker, "sahlora-evaluation"))
    assert raised.value.code == "foreign-file"
    write_json(marker, {"format": "sahlora-evaluation"})
    require_own([table, marker], lambda: says_format(marker, "sahlora-evaluation"))
    assert {path.name for path in tmp_path.iterdir()} == {"cases.csv", "evaluation.json"}
