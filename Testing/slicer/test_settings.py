"""The page of the Application Settings: what is set there is kept, and honored by every child process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture
def settings(slicer):
    """The class of the settings; they are the defaults again afterwards."""
    from SAHLoRACoreLib.settings import Settings

    yield Settings
    Settings().save()


def test_settings_come_back_as_they_were_saved(settings):
    chosen = settings("/models é", "cuda:1", 3, "/big disk/tmp", "/wheels")
    chosen.save()
    assert settings.load() == chosen
    settings().save()
    assert settings.load() == settings()


@pytest.mark.parametrize(("stored", "threads"), [("4", 4), ("many", 0), (-2, 0), ("", 0)])
def test_unreadable_number_of_threads_leaves_the_choice_to_the_program(settings, stored, threads):
    import qt

    from SAHLoRACoreLib.settings import settingKey

    qt.QSettings().setValue(settingKey("threads"), stored)
    assert settings.load().threads == threads


def test_child_is_given_models_folder_threads_and_temporary_folder(slicer, settings, tmp_path):
    """Asked of a real child, from its own Python."""
    from SAHLoRACoreLib.childprocess import ChildProcess

    settings(str(tmp_path / "models"), "auto", 3, str(tmp_path / "temporary é")).save()
    program = (
        "import json, os, tempfile; print(json.dumps({'event': 'result', 'tmp': tempfile.gettempdir(),"
        " 'models': os.environ['SAHLORA_MODELS'], 'threads': os.environ['OMP_NUM_THREADS']}))"
    )
    child = ChildProcess([sys.executable, "-c", program])
    child.start()
    result = child.wait()
    assert child.folder.parent == tmp_path / "temporary é"
    child.close()

    assert result["tmp"] == str(tmp_path / "temporary é")
    assert (result["models"], result["threads"]) == (str(tmp_path / "models"), "3")
    assert list((tmp_path / "temporary é").iterdir()) == []


def test_threads_are_left_to_the_child_by_default(slicer, settings, monkeypatch):
    from SAHLoRACoreLib.childprocess import childEnvironment

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in childEnvironment()


def test_device_of_the_settings_is_what_auto_stands_for(settings):
    from SAHLoRASegmenterLib.settings import SegmentSettings

    settings(device="cuda:1").save()
    assert "--device cuda:1" in " ".join(SegmentSettings(device="auto").arguments())
    assert "--device cpu" in " ".join(SegmentSettings(device="cpu").arguments())


def test_temporary_folder_that_does_not_exist_yet_is_made(settings, tmp_path):
    from SAHLoRACoreLib.settings import temporaryFolder

    settings(temporaryFolder=str(tmp_path / "a" / "b")).save()
    assert temporaryFolder() == tmp_path / "a" / "b"
    assert Path(temporaryFolder()).is_dir()


# ------------------------------------------------------------------------------------------------------ page


@pytest.fixture
def page(slicer, settings, monkeypatch, tmp_path):
    """The page, with the fake command and an empty folder of models."""
    import ctk

    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.devices import FOUND
    from SAHLoRACoreLib.settingspanel import SettingsPanel
    from SAHLoRACoreLib.testdoubles import fakechild

    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    widget = ctk.ctkSettingsPanel()
    yield SettingsPanel(widget, [pythonExecutable(), fakechild.__file__])
    forget(FOUND)


def forget(key):
    import qt

    qt.QSettings().remove(key)


def wait_for(slicer, condition):
    import time

    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < 60, "waited in vain"
        slicer.app.processEvents()
        time.sleep(0.01)


def test_page_is_added_to_the_application_settings(slicer):
    slicer.app.completeStartup()

    assert "SAHLoRA" in slicer.app.settingsDialog().panels


def test_what_is_changed_on_the_page_is_what_children_get(page, settings, tmp_path):
    page.modelsEdit.text = str(tmp_path / "models é")
    page.deviceSelector.setCurrentIndex(page.deviceSelector.findData("cpu"))
    page.threadsSpinBox.value = 2
    page.temporaryEdit.text = str(tmp_path / "temporary")
    page.wheelsEdit.text = str(tmp_path / "wheels")

    assert settings.load() == settings(
        str(tmp_path / "models é"), "cpu", 2, str(tmp_path / "temporary"), str(tmp_path / "wheels")
    )


def test_page_shows_what_was_set_before(slicer, settings):
    import ctk

    from SAHLoRACoreLib.settingspanel import SettingsPanel

    settings("/models", "cpu", 3, "/tmp/t", "/wheels").save()
    page = SettingsPanel(ctk.ctkSettingsPanel())

    assert (page.modelsEdit.text, page.temporaryEdit.text, page.wheelsEdit.text) == (
        "/models",
        "/tmp/t",
        "/wheels",
    )
    assert (page.deviceSelector.currentData, page.threadsSpinBox.value) == ("cpu", 3)


def test_page_fits_400_pixels_of_width(page):
    page.fill()
    assert page._page.minimumSizeHint.width() <= 400


def test_devices_are_looked_for_in_a_child_and_remembered(slicer, page, settings):
    from SAHLoRACoreLib.devices import rememberedDevice

    assert page.devicesLabel.text == "Not looked for yet."
    page.findButton.click()
    assert not page.findButton.enabled
    wait_for(slicer, lambda: page.findButton.enabled)

    assert "cuda:0: Made-up card, 8 GiB, 0.01 s a slice" in page.devicesLabel.text
    assert rememberedDevice("auto").name == "cuda:0"
    assert rememberedDevice("cuda").name == "cuda:0"
    assert rememberedDevice("cpu").secondsPerSlice == 0.1
    assert rememberedDevice("mps") is None
    settings(device="cpu").save()
    assert rememberedDevice("auto").name == "cpu"


def test_failed_search_for_devices_is_told(slicer, page, monkeypatch):
    monkeypatch.setenv("SAHLORA_FAKE", "error")
    page.findButton.click()
    wait_for(slicer, lambda: page.findButton.enabled)

    assert page.devicesLabel.text == "This is no CT. Choose a CT."


def test_packages_are_checked_and_repaired_from_the_page(slicer, settings, monkeypatch):
    import ctk
    from test_segmenter import Installed

    from SAHLoRACoreLib.installation import Findings
    from SAHLoRACoreLib.settingspanel import SettingsPanel

    whole, half = Installed(), Installed(Findings(broken={"torch": "DLL load failed"}))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: text == "Install?")
    for installer in (whole, half):
        page = SettingsPanel(ctk.ctkSettingsPanel(), installer=installer)
        page.repairButton.click()
        assert installer.forgotten
        assert page.packagesLabel.text == "All packages work."
        assert page.repairButton.enabled

    assert (whole.installed, half.installed) == ([], [half.findings])


# --------------------------------------------------------------------------------------------------- storage


@pytest.fixture
def stored(slicer, page, tmp_path):
    """A model of the user, and what a Slicer left behind that was killed while it segmented."""
    from test_models import write_model

    write_model(tmp_path / "models" / "site.safetensors", title="Our site")
    left = Path(slicer.app.temporaryPath) / f"SAHLoRA-{dead_process()}-abc"
    left.mkdir()
    (left / "ct.nrrd").write_bytes(b"x" * 3_000_000)
    run = tmp_path / "training" / "runs" / "run-first"
    run.mkdir(parents=True)
    (run / "checkpoint").write_bytes(b"x" * 1_000_000)
    page.dataEdit.text = str(tmp_path / "training")
    return left


def dead_process() -> int:
    import subprocess

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def rows(page):
    return [
        [page.table.item(row, column).text() for column in range(3)] for row in range(page.table.rowCount)
    ]


def test_all_that_is_stored_is_listed_and_what_came_with_the_extension_is_not(page, stored):
    page.fill()

    assert rows(page) == [
        ["Model", "Our site", "0.0"],
        ["Training run", "run-first", "1.0"],
        ["Left behind", stored.name, "3.0"],
    ]


def test_chosen_rows_are_removed_after_a_question(slicer, page, stored, tmp_path, monkeypatch):
    asked = []
    page.fill()
    assert not page.removeButton.enabled
    page.table.selectAll()
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: asked.append(text))
    page.removeButton.click()
    assert stored.exists()
    assert "Our site" in asked[0]
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    page.table.selectAll()
    page.removeButton.click()

    assert not stored.exists()
    assert list((tmp_path / "models").iterdir()) == []
    assert rows(page) == []


def test_packages_that_sahlora_installed_are_listed_and_no_others(slicer, page, monkeypatch):
    import slicer.packaging

    from SAHLoRACoreLib.storage import INSTALLED_PACKAGES, notedPackages, notePackages

    removed = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    monkeypatch.setattr(slicer.util, "pip_uninstall", removed.append)
    notePackages(["pytest", "never-there"])
    page.fill()
    try:
        ((kind, name, size),) = rows(page)
        assert (kind, name.split()[0], float(size) > 0) == ("Package", "pytest", True)
        page.table.selectAll()
        page.removeButton.click()
        assert removed == ["pytest"]
        assert notedPackages() == ["never-there"]
    finally:
        forget(INSTALLED_PACKAGES)


def test_what_a_killed_slicer_left_behind_goes_at_the_next_start(slicer, stored):
    own = Path(slicer.app.temporaryPath) / f"SAHLoRA-{os.getpid()}-running"
    own.mkdir()
    slicer.app.completeStartup()

    assert not stored.exists()
    assert own.exists()
    own.rmdir()
