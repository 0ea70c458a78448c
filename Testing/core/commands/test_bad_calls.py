"""What the commands that train or evaluate say to cases, outputs and options that can't work, and when."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import events, random_card, random_network, write_head, write_manifest
from sahlora.cli import main
from sahlora.errors import ResourceError
from sahlora.models.base_model import save_model
from sahlora.runtime.files import require_writable

A = "anna-image.nii.gz,anna-label.nii.gz"
HEADER = "case,image,label\n"
MANIFESTS = {
    "no manifest": None,
    "wrong manifest": "case,image\n",
    "missing file": HEADER + "a,no.nii.gz,no.nii.gz\n",
    "no positive case": HEADER + "d,dora-image.nii.gz,dora-label.nii.gz\n",
    "one case only": HEADER + f"a,{A}\n",
    "label is the image": HEADER + "a,anna-image.nii.gz,anna-image.nii.gz\n",
    "label is another CT": HEADER + "a,anna-image.nii.gz,dora-image.nii.gz\n",
    "label is no image": HEADER + "a,anna-image.nii.gz,site.csv\n",
    "image is no image": HEADER + "a,site.csv,anna-label.nii.gz\n",
}
TRAINS, EVALUATES, CHECKS = ("finetune", "pretrain"), ("evaluate",), ("cases check",)
# Exit status and code for each command; 0 where there is nothing wrong: one case can be evaluated, one
# without blood too (its false positives count), and a base can be trained on one.
EXPECTED: dict[str, dict[str, tuple[int, str]]] = {
    "no manifest": dict.fromkeys((*TRAINS, *EVALUATES, *CHECKS), (3, "not-found")),
    "wrong manifest": dict.fromkeys((*TRAINS, *EVALUATES, *CHECKS), (3, "bad-manifest")),
    "missing file": {
        **dict.fromkeys(TRAINS, (3, "missing-file")),
        "evaluate": (3, "nothing-evaluated"),
        "cases check": (3, "bad-cases"),
    },
    "no positive case": {
        **dict.fromkeys(TRAINS, (3, "no-blood")),
        **dict.fromkeys((*EVALUATES, *CHECKS), (0, "")),
    },
    "one case only": {
        "finetune": (3, "one-case"),
        **dict.fromkeys(("pretrain", *EVALUATES, *CHECKS), (0, "")),
    },
    "label is the image": {
        **dict.fromkeys(TRAINS, (3, "label-is-image")),
        "evaluate": (3, "nothing-evaluated"),
        "cases check": (3, "bad-cases"),
    },
    "label is another CT": {
        **dict.fromkeys(TRAINS, (3, "label-is-image")),
        "evaluate": (3, "nothing-evaluated"),
        "cases check": (3, "bad-cases"),
    },
    "label is no image": {
        **dict.fromkeys(TRAINS, (3, "unreadable-label")),
        "evaluate": (3, "nothing-evaluated"),
        "cases check": (3, "bad-cases"),
    },
    "image is no image": {
        "finetune": (3, "one-case"),
        "pretrain": (3, "unsupported-format"),
        "evaluate": (3, "nothing-evaluated"),
        "cases check": (3, "bad-cases"),
    },
}
OPTIONS = {
    "finetune": ("--epochs", "1", "--device", "cpu", "--model"),
    "pretrain": ("--epochs", "1", "--device", "cpu", "--level", "1", "--width", "4", "--spacing", "2"),
    "evaluate": ("--device", "cpu", "--model"),
    "cases check": (),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases, one of them without blood, their manifest, and a small base."""
    folder = tmp_path_factory.mktemp("site")
    write_manifest(folder / "site.csv", [write_head(folder, "anna"), write_head(folder, "dora", blood=False)])
    save_model(folder / "base.safetensors", random_network(0, 1, 4), random_card(1, 4, spacing=2.0))
    return folder


def outcome(
    command: str, manifest: Path, site: Path, output: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str]:
    """Return exit status and code, and check that an error comes with a hint and before any training."""
    call = [*command.split(), str(manifest), *OPTIONS[command]]
    if "--model" in call:
        call.append(str(site / "base.safetensors"))
    if command != "cases check":
        call += ["-o", str(output)]
    status = main([*call, *more, "--progress", "json"])
    seen = events(capsys.readouterr().out)
    if status == 0:
        return 0, ""
    assert not any("training" in event.get("stage", "") for event in seen)
    assert seen[-1]["hint"]
    return status, seen[-1]["code"]


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("fault", MANIFESTS)
def test_cases_that_cannot_be_used_are_named_before_training(
    fault: str, command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = site / "bad.csv"
    manifest.unlink(missing_ok=True)
    text = MANIFESTS[fault]
    if text is not None:
        manifest.write_text(text)
    output = tmp_path / ("out" if command == "evaluate" else "out.safetensors")
    expected = EXPECTED[fault][command]
    assert outcome(command, manifest, site, output, capsys) == expected
    if expected[0]:
        assert not output.exists()


@pytest.mark.parametrize("command", ["finetune", "pretrain", "evaluate"])
def test_an_output_that_cannot_be_written_is_refused_before_training(
    command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    output = tmp_path / "a file" / "out.safetensors"
    manifest = site / "one.csv"
    manifest.write_text(HEADER + f"a,{A}\n")
    more = ("--held-out", "0") if command == "finetune" else ()
    assert outcome(command, manifest, site, output, capsys, *more) == (4, "unwritable")


def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    for path in (tmp_path / "a file" / "cases.csv", tmp_path / "a file" / "deep" / "cases.csv"):
        with pytest.raises(ResourceError, match=re.escape("a file is a file, not a folder.")):
            require_writable(path)


def test_checking_that_results_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    require_writable(*(tmp_path / folder / "a.csv" for folder in ("", "kept", "new", "new/and/deep")))
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]


@pytest.mark.parametrize(
    ("command", "options", "status", "code"),
    [
        ("finetune", ("--rank", "0"), 2, "bad-adapter-config"),
        ("finetune", ("--scope", "nothing.*"), 2, "unknown-scope"),
        ("finetune", ("--resume",), 3, "nothing-to-resume"),
        ("pretrain", ("--resume",), 3, "nothing-to-resume"),
        ("pretrain", ("--level", "0"), 2, "bad-network"),
        ("pretrain", ("--width", "0"), 2, "bad-network"),
        ("pretrain", ("--window", "80", "0"), 2, "bad-network"),
        ("pretrain", ("--spacing", "-1"), 2, "bad-network"),
        ("pretrain", ("--preset", "turbo"), 2, "unknown-preset"),
        ("pretrain", ("--preset", "quick"), 2, "unknown-preset"),
        ("pretrain", ("--batch-size", "3"), 2, "bad-batch-size"),
        ("pretrain", ("--threads", "0"), 2, "bad-threads"),
        ("pretrain", ("--held-out", "1"), 2, "bad-held-out"),
        ("pretrain", ("--description", "no.json"), 3, "not-found"),
        ("evaluate", ("--adapter", "no-such"), 3, "unknown-model"),
        ("evaluate", ("--views", "oblique"), 2, "unknown-view"),
        ("evaluate", ("--threshold", "2"), 2, "bad-threshold"),
        ("evaluate", ("--held-out",), 3, "nothing-held-out"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused_before_anything_is_written(
    command: str,
    options: tuple[str, ...],
    status: int,
    code: str,
    site: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.safetensors"
    assert outcome(command, site / "site.csv", site, output, capsys, *options) == (status, code)
    assert not output.is_file()
    assert not (tmp_path / "out.run").exists()
