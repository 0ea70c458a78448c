"""Lists of choices in the panels: words in the user's language, an explanation each, all devices found."""

from __future__ import annotations

import json

import pytest
from test_segmenter import ct, logic, model, open_panel  # noqa: F401 - fixtures
from test_settings import settings  # noqa: F401 - fixtures
from test_trainer_cases import open_trainer  # noqa: F401 - fixture


@pytest.fixture
def find(slicer):
    """Remember devices as a search does."""
    import qt

    from SAHLoRACoreLib.devices import FOUND

    def find(*names):
        rows = [{"name": n, "description": f"Card {n}, 8 GiB", "secondsPerSlice": 0.01} for n in names]
        qt.QSettings().setValue(FOUND, json.dumps(rows))

    yield find
    qt.QSettings().remove(FOUND)


def values(selector):
    return [selector.itemData(index) for index in range(selector.count)]


def test_every_choice_is_in_words_and_explained(open_panel, open_trainer, ct, monkeypatch):  # noqa: F811
    """In the language of the application: here one that writes everything in capitals."""
    import qt
    from SAHLoRASegmenterLib.settings import PRECISIONS
    from SAHLoRATrainerLib.settings import METHODS, PRESETS, SCOPES, TARGETS

    from SAHLoRACoreLib import choices
    from SAHLoRACoreLib.settings import DEVICES

    monkeypatch.setattr(choices, "_", str.upper)
    segmenter, trainer = open_panel().ui, open_trainer().ui
    lists = [
        (segmenter.deviceSelector, DEVICES),
        (segmenter.precisionSelector, PRECISIONS),
        (trainer.deviceSelector, DEVICES),
        (trainer.methodSelector, METHODS),
        (trainer.presetSelector, PRESETS),
        (trainer.scopeSelector, SCOPES),
        (trainer.targetSelector, TARGETS),
    ]
    names = {"float32", "bf16", "CP-LoRA", "LoRA-C", "convLoRA", "CP-DoRA", "DoRA-C", "convDoRA", "LoCon"}
    for selector, expected in lists:
        assert values(selector) == list(expected)
        for index in range(selector.count):
            title, tip = selector.itemText(index), selector.itemData(index, qt.Qt.ToolTipRole)
            assert title == title.upper() or title in names
            assert len(tip) > 10
            assert tip == tip.upper()
            assert tip in selector.toolTip


def test_choice_by_the_mouse_is_the_value_and_the_words_stay(slicer, open_trainer):  # noqa: F811
    panel = open_trainer()
    panel.ui.presetSelector.setCurrentIndex(2)
    panel.ui.targetSelector.setCurrentIndex(2)
    assert (panel.parameters.preset, panel.parameters.target) == ("paper", "sah")
    panel.exit()
    panel.enter()

    assert panel.ui.presetSelector.currentText == "As published"
    assert panel.ui.targetSelector.currentText == "Subarachnoid hemorrhage"


def test_each_of_several_graphics_cards_can_be_chosen(find, open_panel, open_trainer, ct, settings):  # noqa: F811
    import ctk
    from SAHLoRATrainerLib.parameters import settingsOf

    from SAHLoRACoreLib.settingspanel import SettingsPanel

    page = SettingsPanel(ctk.ctkSettingsPanel())
    panel, trainer = open_panel(), open_trainer()
    selectors = (panel.ui.deviceSelector, trainer.ui.deviceSelector, page.deviceSelector)
    find("cuda:0", "cpu")
    for refresh in (panel._devicePanel.refresh, trainer.refresh, page._showDevices):
        refresh()
    assert all(values(selector) == ["auto", "cpu", "cuda", "mps"] for selector in selectors)
    find("cuda:0", "cuda:1", "cpu")
    for refresh in (panel._devicePanel.refresh, trainer.refresh, page._showDevices):
        refresh()
    for selector in selectors:
        selector.setCurrentIndex(selector.findData("cuda:1"))
        assert selector.currentText == "Graphics card 1: Card cuda:1, 8 GiB"

    assert panel.logic.getParameterNode().device == "cuda:1"
    assert panel.ui.deviceNoteLabel.text.startswith("Card cuda:1, 8 GiB; about")
    assert settingsOf(trainer.parameters).device == "cuda:1"
    assert settings.load().device == "cuda:1"
    assert panel.parent.minimumSizeHint.width() <= 350


def test_device_of_a_scene_from_another_computer_stays_until_another_is_chosen(open_panel, ct):  # noqa: F811
    panel = open_panel()
    panel.logic.getParameterNode().device = "cuda:5"
    selector = panel.ui.deviceSelector
    assert (selector.currentText, panel.ui.deviceNoteLabel.text) == ("cuda:5", "Not looked for yet.")
    selector.setCurrentIndex(selector.findData("cpu"))

    assert values(selector) == ["auto", "cpu", "cuda", "mps"]
    assert panel.logic.getParameterNode().device == "cpu"


def test_device_kept_in_the_settings_is_shown_on_their_page(slicer, settings):  # noqa: F811
    import ctk

    from SAHLoRACoreLib.settingspanel import SettingsPanel

    settings(device="cuda:1").save()
    page = SettingsPanel(ctk.ctkSettingsPanel())

    assert page.deviceSelector.currentData == "cuda:1"
    assert settings.load().device == "cuda:1"


def test_every_method_of_a_comparison_is_in_words(open_trainer):  # noqa: F811
    methods = open_trainer().parts.crossval.ui.crossvalMethodsList
    items = [methods.item(row) for row in range(methods.count)]

    assert items[0].text() == "CP-LoRA"
    assert all(item.toolTip() for item in items)
