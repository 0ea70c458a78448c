"""Keeping and sharing adapters, from the user's side: the real command, real files, both modules."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from test_childprocess import wait_for
from test_segmenter import Installed
from test_trainer_cases import open_trainer  # noqa: F401 - fixture
from test_trainer_suggest import CORE, models  # noqa: F401 - fixture

WORDS = {"title": "CT 2 é", "summary": "For slices of 5 mm", "author": "A group", "license": "CC-BY-4.0"}


@pytest.fixture
def folder(models, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    """A user's models folder with one base model, and a folder of runs."""
    folder = tmp_path / "models é"
    folder.mkdir()
    shutil.copy(models / "base.safetensors", folder)
    return folder


@pytest.fixture
def panel(slicer, open_trainer, folder, monkeypatch, tmp_path):  # noqa: F811
    """The Trainer with the real command."""
    import qt
    from SAHLoRATrainer import SAHLoRATrainerLogic

    from SAHLoRACoreLib.settings import settingKey

    qt.QSettings().setValue(settingKey("dataFolder"), str(tmp_path / "runs é"))
    panel = open_trainer(logic=SAHLoRATrainerLogic(command=[sys.executable, str(CORE / "sahlora")]))
    monkeypatch.setenv("SAHLORA_MODELS", str(folder))
    panel.enter()
    yield panel
    qt.QSettings().remove(settingKey("dataFolder"))


@pytest.fixture
def errors(slicer, monkeypatch):
    """What error messages said."""
    told = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *_, **__: told.append(str(text)))
    return told


@pytest.fixture
def finished_run(slicer, models):  # noqa: F811
    """Make a run that is done."""

    def finished_run(name="CT 2 é"):
        from SAHLoRATrainerLib.runs import DONE, newRun
        from SAHLoRATrainerLib.settings import TrainSettings

        run = newRun(TrainSettings(name=name, model="base"))
        shutil.copy(models / "fold-1.safetensors", run.adapter)
        return run.changed(state=DONE)

    return finished_run


def wait(slicer, panel) -> None:
    wait_for(slicer, lambda: not panel.occupation)


def listed(selector) -> list[str]:
    return [selector.itemText(index) for index in range(selector.count)]


def test_kept_adapter_has_its_words_and_the_segmenter_offers_it_without_a_restart(
    slicer, panel, folder, finished_run
):
    from harness.application import show_module

    from SAHLoRACoreLib.models import readModel

    segmenter = show_module("SAHLoRASegmenter", installer=Installed())
    segmenter.ui.modelSelector.setCurrentIndex(segmenter.ui.modelSelector.findText("Our base"))
    assert listed(segmenter.ui.adapterSelector) == ["None: the model as it is"]
    ui, run = panel.parts.share.ui, finished_run()
    panel.enter()
    assert (ui.keepNameEdit.text, ui.keepTitleEdit.text) == ("CT-2", "CT 2 é")
    ui.keepSummaryEdit.text, ui.keepAuthorEdit.text = WORDS["summary"], WORDS["author"]
    ui.keepLicenseSelector.setEditText(WORDS["license"])
    ui.keepStrengthSpinBox.value = 0.35
    ui.keepButton.click()
    wait(slicer, panel)
    segmenter.exit()
    segmenter.enter()

    kept, made = readModel(folder / "CT-2.safetensors"), readModel(run.adapter)
    assert {word: kept.card["description"][word] for word in WORDS} == WORDS
    assert (made.card["strength"], kept.card["strength"]) == (1, 0.35)
    assert "Strength: 0.35" in ui.shareCardText.plainText.splitlines()
    assert {**kept.card, "description": 0, "strength": 1} == {**made.card, "description": 0}
    assert "CT 2 é" in listed(segmenter.ui.adapterSelector)
    assert ui.shareAdapterSelector.currentText == "CT 2 é"
    assert ui.shareStatusLabel.text.startswith("CT 2 é is installed")
    assert ui.keepButton.toolTip.startswith("This name is taken")  # nothing is replaced
    segmenter.cleanup()


def test_exported_file_is_imported_on_another_computer(
    slicer,
    panel,
    folder,
    models,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    import qt

    shutil.copy(models / "fold-1.safetensors", folder)
    panel.enter()
    ui = panel.parts.share.ui
    ui.shareAdapterSelector.setCurrentIndex(listed(ui.shareAdapterSelector).index("Fold 1"))
    exported = tmp_path / "my adapter.safetensors"
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(exported))
    ui.exportAdapterButton.click()
    other = tmp_path / "other computer"
    other.mkdir()
    shutil.copy(models / "base.safetensors", other)
    monkeypatch.setenv("SAHLORA_MODELS", str(other))
    panel.enter()
    assert "Fold 1" not in listed(ui.shareAdapterSelector)
    panel.parts.share.importFile(exported)
    wait(slicer, panel)

    assert ui.shareAdapterSelector.currentText == "Fold 1"
    same = (models / "fold-1.safetensors").read_bytes()
    assert (other / "my-adapter.safetensors").read_bytes() == same
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_: True)
    ui.removeAdapterButton.click()
    assert "Fold 1" not in listed(ui.shareAdapterSelector)
    assert not (other / "my-adapter.safetensors").exists()


def test_adapter_of_a_model_that_is_not_here_is_refused_with_the_reason(panel, folder, models):  # noqa: F811
    (folder / "base.safetensors").unlink()
    with pytest.raises(ValueError, match='belongs to the model "Our base"'):  # a message in Slicer
        panel.parts.share.importFile(models / "fold-1.safetensors")

    assert list(folder.iterdir()) == []
    shutil.copy(models / "fold-1.safetensors", folder)  # came by another way
    panel.enter()
    ui = panel.parts.share.ui
    ui.shareAdapterSelector.setCurrentIndex(listed(ui.shareAdapterSelector).index("Fold 1"))
    assert "Can't be used here" in ui.shareBaseLabel.text


def test_damaged_file_is_refused_with_the_reason(slicer, panel, folder, models, errors, tmp_path):  # noqa: F811
    content = (models / "fold-1.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    panel.parts.share.importFile(tmp_path / "cut.safetensors")
    wait(slicer, panel)

    assert "cut.safetensors is no safetensors file, or a damaged one" in errors[0]
    assert [path.name for path in folder.iterdir()] == ["base.safetensors"]
    assert panel.parts.share.ui.importAdapterButton.enabled


def test_command_that_can_not_be_started_leaves_the_panel_free_and_no_folder(slicer, panel, models):  # noqa: F811
    from pathlib import Path

    def left():
        return list(Path(slicer.app.temporaryPath).glob("SAHLoRA-*"))

    before = left()
    panel.logic.command = ["no-such-python"]
    with pytest.raises(OSError, match="no-such-python"):
        panel.parts.share.importFile(models / "fold-1.safetensors")

    assert (left(), panel.occupation) == (before, "")


def test_all_that_is_in_the_file_can_be_read(panel, folder, models):  # noqa: F811
    path = folder / "fold-1.safetensors"
    shutil.copy(models / path.name, path)
    panel.enter()
    ui = panel.parts.share.ui
    ui.shareAdapterSelector.setCurrentIndex(listed(ui.shareAdapterSelector).index("Fold 1"))
    assert "axial: lora-c, rank 1" in ui.shareCardText.plainText
    ui.shareContentButton.checked = True
    text = ui.shareCardText.plainText
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    card = json.loads(header.pop("__metadata__")["sahlora"])

    assert json.loads(text[text.index("{") : text.index("tensors, all")]) == card
    assert all(f"  {name} " in text for name in header)
    assert f"{path.stat().st_size:,} bytes: nothing else is in it" in text


def test_button_says_why_nothing_can_be_kept(slicer, panel, folder, finished_run):
    ui = panel.parts.share.ui
    assert ui.keepButton.toolTip == "Train an adapter first."
    panel.occupy("A model is being trained.")
    assert ui.keepButton.toolTip == "A model is being trained."
    finished_run()
    panel.release()  # the list follows without leaving the panel
    assert ui.keepButton.enabled
    ui.keepNameEdit.text = "base"
    assert ui.keepButton.toolTip.startswith("This name is taken")
    ui.keepNameEdit.text = "../x"
    assert not ui.keepButton.enabled
    ui.keepNameEdit.text, ui.keepTitleEdit.text = "x", " "
    assert ui.keepButton.toolTip == "Give the adapter a title."


def test_words_and_strength_are_options_of_the_command(slicer):
    import argparse
    from pathlib import Path

    from SAHLoRATrainerLib.share import CardWords, importCommand

    command = pytest.importorskip("sahlora.commands.adapters")
    parser = argparse.ArgumentParser()
    parser.add_argument("--progress")
    command.configure("import", parser)
    line = importCommand(["sahlora"], Path("a.safetensors"), "site", CardWords(**WORDS), strength=0.4)
    args = parser.parse_args(line[3:])

    assert {word: getattr(args, word) for word in WORDS} == WORDS
    assert (args.adapter, args.name, args.strength) == ("a.safetensors", "site", 0.4)


def test_sections_fit_a_panel_of_400_pixels(panel, finished_run):
    finished_run("A run with a name that is far too long to be shown as a whole in any panel")
    panel.enter()
    margins = 44  # of the panel around a section
    for name in ("shareSection", "suggestSection", "crossvalSection"):
        section = getattr(panel.ui, name)
        section.collapsed = False
        assert section.minimumSizeHint.width() <= 350 - margins
