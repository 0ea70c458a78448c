"""The list of models a panel offers is what the files' cards say, read without torch."""

from __future__ import annotations

import json
import struct

import pytest


@pytest.fixture
def folder(slicer, monkeypatch, tmp_path):
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path))
    return tmp_path


def write_model(path, kind="base", title="A model", **more) -> None:
    """Write a model file with a card and no tensor."""
    from sahlora.models.header import canonical_header

    target = {"segment": {"name": "Intracranial hemorrhage"}, "threshold": 0.4}
    card = {"kind": kind, "description": {"title": title, "license": "Apache-2.0"}, "target": target, **more}
    header = canonical_header(json.dumps(card), ())
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_models_of_the_users_folder_are_listed_with_what_their_cards_say(folder):
    from SAHLoRACoreLib.models import InstalledModel, installedModels, readModel

    write_model(folder / "site.safetensors", title="Our site")
    write_model(folder / "other.safetensors", kind="adapter")
    words = ("site", "base", "Our site", "", "Apache-2.0", "Intracranial hemorrhage", 0.4)
    path = folder / "site.safetensors"

    assert InstalledModel(*words, path, readModel(path).card) in installedModels("base")
    assert [model.name for model in installedModels("adapter") if model.path.parent == folder] == ["other"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"null", struct.pack("<Q", 2) + b"{}"]
)
def test_file_that_is_no_model_is_left_out(folder, content):
    from SAHLoRACoreLib.models import readModel

    (folder / "hostile.safetensors").write_bytes(content)

    assert readModel(folder / "hostile.safetensors") is None


def test_models_folder_is_the_commands_unless_a_setting_moves_it(slicer, monkeypatch, tmp_path):
    from sahlora.models import registry as core
    from SAHLoRACoreLib.settings import Settings, modelsFolder

    monkeypatch.delenv("SAHLORA_MODELS", raising=False)

    assert modelsFolder() == core.models_folder()
    Settings(modelsFolder=str(tmp_path)).save()
    assert modelsFolder() == tmp_path
    Settings().save()


def test_file_written_by_the_core_is_read(slicer, tmp_path):
    from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
    from SAHLoRACoreLib.models import readModel

    card = pytest.importorskip("sahlora.models.card")
    model = pytest.importorskip("sahlora.models.base_model")
    networks = pytest.importorskip("sahlora.models.network")
    path = tmp_path / "base.safetensors"
    target = card.Target(INTRACRANIAL_HEMORRHAGE, threshold=0.3)
    model.save_model(path, networks.MultiViewUNet(2, 32), card.BaseCard(card.Description("Base"), target))
    read = readModel(path)

    assert (read.title, read.target, read.threshold) == ("Base", "Intracranial hemorrhage", 0.3)


def test_adapter_finds_its_base_by_the_same_checksum_as_the_command(folder):
    from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
    from SAHLoRACoreLib.models import installedAdapters, readModel

    card = pytest.importorskip("sahlora.models.card")
    model = pytest.importorskip("sahlora.models.base_model")
    networks = pytest.importorskip("sahlora.models.network")
    target = card.Target(INTRACRANIAL_HEMORRHAGE)
    base = card.BaseCard(card.Description("Base"), target)
    model.save_model(folder / "base.safetensors", networks.MultiViewUNet(2, 32), base)
    sha256 = model.load_model(folder / "base.safetensors").sha256
    write_model(folder / "scanner.safetensors", "adapter", base_sha256=sha256)

    assert [a.name for a in installedAdapters(readModel(folder / "base.safetensors"))] == ["scanner"]


def test_card_tells_training_in_words(folder):
    from SAHLoRACoreLib.models import cardText, readModel

    training = {"cases": 56, "settings": {"crop": [192, 160], "learning_rate": 0.002}, "seed": None}
    write_model(folder / "site.safetensors", training=training)

    assert (
        "Training: cases 56, settings (crop 192 × 160, learning rate 0.002), seed None"
        in cardText(readModel(folder / "site.safetensors")).splitlines()
    )
