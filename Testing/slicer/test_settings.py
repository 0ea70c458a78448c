"""What is set in the Application Settings is kept, and honored by every child process."""

from __future__ import annotations

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
