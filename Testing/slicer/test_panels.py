"""The parts of the Segmenter's panel from the user's side: models and adapters, result, batch, its size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from test_models import write_model
from test_segmenter import ct, logic, model, open_panel, wait_for  # noqa: F401 - fixtures


def write_adapter(path, base, title="Our scanner") -> None:
    """Write an adapter file that belongs to the base model in a file."""
    from SAHLoRACoreLib.models import _sha256

    adapters = {"axial": {"method": "lora", "rank": 4, "scope": "all"}}
    sha256 = _sha256(base, base.stat().st_mtime_ns)
    write_model(path, "adapter", title, base_sha256=sha256, base_title="Our site", adapters=adapters)


@pytest.fixture
def models(model, tmp_path):  # noqa: F811 - the fixture
    return tmp_path / "models"


@pytest.fixture
def segmented(slicer, open_panel, ct):  # noqa: F811 - the fixtures
    """The panel after a click on Segment with the probability map kept."""
    panel = open_panel()
    panel.ui.keepProbabilityCheckBox.checked = True
    panel.ui.applyButton.click()
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    return panel


def cells(table):
    return [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]


# -------------------------------------------------------------------------------------- models and adapters


def test_adapters_of_the_chosen_model_are_offered_and_no_others(models, open_panel, ct):  # noqa: F811
    from SAHLoRASegmenterLib.parameters import settingsOf

    write_adapter(models / "scanner.safetensors", models / "site.safetensors")
    write_model(models / "foreign.safetensors", "adapter", "Foreign", base_sha256="0" * 64)
    panel = open_panel()
    selector = panel.ui.adapterSelector
    titles = [selector.itemText(index) for index in range(selector.count)]
    assert titles == ["None: the model as it is", "Our scanner"]
    selector.setCurrentIndex(1)

    settings = settingsOf(panel.logic.getParameterNode())
    assert (settings.model, settings.adapter) == ("site", "scanner")
    assert "method: lora" not in panel.ui.cardText.plainText
    assert "axial: lora, rank 4, scope all" in panel.ui.cardText.plainText
    assert not panel.ui.viewsWidget.enabled


def test_license_of_the_chosen_model_is_shown(models, open_panel, ct):  # noqa: F811
    write_model(models / "ours.safetensors", title="Ours")
    panel = open_panel()
    shown = panel.ui.modelDescriptionLabel
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText("Ours"))
    assert "License: Apache-2.0." in shown.text
    panel.ui.modelSelector.setCurrentIndex(panel.ui.modelSelector.findText("hemorrhage-base"))
    assert "License: not stated" not in shown.text


def test_adapter_file_is_added_and_removed_again(
    slicer,
    models,
    open_panel,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda question: True)
    write_adapter(tmp_path / "scanner.safetensors", models / "site.safetensors")
    panel = open_panel()
    panel._modelPanel.add(tmp_path / "scanner.safetensors")
    assert (models / "scanner.safetensors").is_file()
    assert panel.logic.getParameterNode().adapter == "scanner"
    panel.ui.removeModelButton.click()

    assert not (models / "scanner.safetensors").exists()
    assert panel.logic.getParameterNode().adapter == ""
    assert panel.ui.adapterSelector.count == 1


def test_file_that_is_no_model_or_whose_name_is_taken_is_not_added(slicer, models, tmp_path):
    from SAHLoRACoreLib.models import addModel

    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    write_model(tmp_path / "site.safetensors")
    before = sorted(models.iterdir())

    for name, reason in (("junk", "is no model"), ("site", "installed already")):
        with pytest.raises(ValueError, match=reason):
            addModel(tmp_path / f"{name}.safetensors")
    assert sorted(models.iterdir()) == before


# --------------------------------------------------------------------------------------------------- result


def test_result_appears_with_its_table_and_buttons(segmented):
    ui = segmented.ui

    assert ui.resultSelector.currentNode().GetName() == "CT segmentation"
    assert cells(ui.measurementsTable)[0] == ["Volume", "1.00", "mL"]
    buttons = (ui.showSlicesButton, ui.show3DButton, ui.showChartButton, ui.editButton, ui.openPageButton)
    assert all(button.enabled for button in buttons)
    assert ui.show3DButton.checked  # slices and surface are shown without a further click
    assert ui.resultThresholdSlider.enabled


def test_threshold_slider_changes_outline_and_table_without_a_child(slicer, segmented, monkeypatch):
    monkeypatch.setenv("SAHLORA_FAKE", "crash")
    segmented.ui.resultThresholdSlider.value = 0.9

    assert cells(segmented.ui.measurementsTable)[0] == ["Volume", "0.00", "mL"]
    segmented.ui.resultThresholdSlider.value = 0.4
    assert cells(segmented.ui.measurementsTable)[0] == ["Volume", "1.00", "mL"]
    assert segmented.ui.resultThresholdSlider.enabled


def test_outline_corrected_by_hand_is_kept_from_the_slider(slicer, segmented):
    import numpy as np

    node = segmented.ui.resultSelector.currentNode()
    ct = segmented.ui.inputSelector.currentNode()  # noqa: F811
    mask = np.ones(slicer.util.arrayFromVolume(ct).shape, np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "hemorrhage", ct)
    segmented.exit()
    segmented.enter()

    assert not segmented.ui.resultThresholdSlider.enabled
    assert "corrected by hand" in segmented.ui.resultNoteLabel.text


@pytest.mark.parametrize("role", ["measurements", "areas", "chart", "probability", "volume"])
def test_panel_goes_on_with_what_is_left_of_a_result(slicer, segmented, role):
    """Whichever of its nodes the user removes: what can no longer be done is disabled, the rest works."""
    ui, node = segmented.ui, segmented.ui.resultSelector.currentNode()
    slicer.mrmlScene.RemoveNode(node.GetNodeReference(f"SAHLoRA.{role}"))
    usable = {
        "slices": ui.showSlicesButton.enabled,
        "chart": ui.showChartButton.enabled,
        "threshold": ui.resultThresholdSlider.enabled,
        "table": ui.measurementsTable.rowCount > 0,
    }
    missing = {
        "measurements": {"table"},
        "areas": {"chart"},
        "chart": {"chart"},
        "probability": {"threshold"},
        "volume": {"slices", "chart", "threshold", "table"},
    }[role]
    assert {name for name, works in usable.items() if not works} == missing
    if usable["threshold"]:
        segmented._resultPanel.onThresholdMoving(0.9)
        ui.resultThresholdSlider.value = 0.9
        ct = ui.inputSelector.currentNode()
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, "hemorrhage", ct)
        assert (mask.sum(), ui.resultThresholdSlider.value) == (0, 0.9)
    if usable["slices"]:
        ui.showSlicesButton.click()


def test_threshold_that_cannot_be_changed_says_why_and_goes_back(slicer, segmented, monkeypatch):
    import numpy as np

    shown, slider = [], segmented.ui.resultThresholdSlider
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *_, **__: shown.append(text))
    ct = segmented.ui.inputSelector.currentNode()  # noqa: F811
    slicer.util.updateVolumeFromArray(ct, np.zeros((2, 3, 4), np.int16))
    for move in (segmented._resultPanel.onThresholdMoving, segmented._resultPanel.onThreshold):
        slider.blockSignals(True)
        slider.value = 0.9
        slider.blockSignals(False)
        with pytest.raises(ValueError, match="CT was changed"):
            move(0.9)
        assert slider.value == 0.5

    assert len(shown) == 2


def test_report_page_can_be_kept_and_goes_with_the_scene(slicer, segmented, tmp_path, monkeypatch):
    import qt

    page = segmented._resultPanel._result.page
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "kept.html"))
    segmented.ui.savePageButton.click()
    slicer.mrmlScene.Clear(0)

    assert (tmp_path / "kept.html").read_text(encoding="utf-8") == "<p>A made-up report</p>"
    assert not page.exists()
    assert not segmented.ui.openPageButton.enabled


def test_scene_bundle_brings_the_panel_back(slicer, segmented, tmp_path):
    """A real .mrb, loaded into another scene while the panel is open."""
    segmented.ui.flipCheckBox.checked = True
    segmented.ui.minimumComponentSpinBox.value = 0.5
    segmented.ui.resultThresholdSlider.value = 0.4
    measured = cells(segmented.ui.measurementsTable)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    slicer.mrmlScene.Clear(0)
    assert not segmented.ui.flipCheckBox.checked
    assert cells(segmented.ui.measurementsTable) == []
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"), False)
    ui = segmented.ui

    assert (ui.flipCheckBox.checked, ui.minimumComponentSpinBox.value) == (True, 0.5)
    assert ui.modelSelector.currentText == "Our site"
    assert ui.inputSelector.currentNode().GetName() == "CT"
    assert ui.resultSelector.currentNode().GetName() == "CT segmentation"
    assert (ui.resultThresholdSlider.value, ui.resultThresholdSlider.enabled) == (0.4, True)
    assert cells(ui.measurementsTable) == measured


# ---------------------------------------------------------------------------------------------------- batch


def test_ticked_volumes_are_segmented_from_the_panel(slicer, open_panel, ct):  # noqa: F811
    import qt

    panel = open_panel()
    assert not panel.ui.batchVolumesButton.enabled
    panel.ui.batchList.item(0).setCheckState(qt.Qt.Checked)
    panel.ui.batchVolumesButton.click()
    assert not panel.ui.applyButton.enabled
    wait_for(slicer, lambda: panel.ui.applyButton.enabled)
    table = panel.ui.batchTable

    assert [table.item(0, column).text() for column in range(3)] == ["CT", "done", "1.0"]


# -------------------------------------------------------------------------------------------------- devices


@pytest.fixture
def found(slicer, open_panel, ct):  # noqa: F811
    """The panel after a click on Find."""
    import qt

    from SAHLoRACoreLib.devices import FOUND

    panel = open_panel()
    assert panel.ui.deviceNoteLabel.text == "Not looked for yet."
    panel.ui.findDevicesButton.click()
    assert not panel.ui.findDevicesButton.enabled
    wait_for(slicer, lambda: panel.ui.findDevicesButton.enabled)
    yield panel
    qt.QSettings().remove(FOUND)


def test_device_is_shown_with_what_was_found_and_the_expected_time(found):
    ui = found.ui
    # 4 slices of 5 mm, axial alone: 0.01 s each on the card and 0.1 s on the processor, 1 s at least
    assert ui.deviceNoteLabel.text == "Made-up card, 8 GiB; about 1 s for this CT"
    ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("cpu"))
    ui.automaticViewsCheckBox.checked = False
    for box in (ui.axialCheckBox, ui.coronalCheckBox, ui.sagittalCheckBox, ui.flipCheckBox):
        box.checked = True
    assert ui.deviceNoteLabel.text == "CPU, 2 threads; about 7 s for this CT"  # (4 + 20) * 2 + 20 slices
    ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData("mps"))
    assert ui.deviceNoteLabel.text == "No such device was found here."


def test_long_computation_is_told_in_minutes(slicer, found):
    import numpy as np

    grid = np.diag([-0.5, -0.5, 0.5, 1.0])
    thin = slicer.util.addVolumeFromArray(np.full((400, 4, 4), 30, np.int16), ijkToRAS=grid)
    found.ui.inputSelector.setCurrentNode(thin)
    found.ui.deviceSelector.setCurrentIndex(found.ui.deviceSelector.findData("cpu"))
    found.ui.automaticViewsCheckBox.checked = False
    found.ui.flipCheckBox.checked = True

    assert found.ui.deviceNoteLabel.text == "CPU, 2 threads; about 2 min for this CT"


# ------------------------------------------------------------------------------------- size, keyboard, units


def open_everything(panel):
    for name in ("input", "advanced", "result", "batch", "log"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False
    panel.ui.cardButton.checked = True


def test_panel_needs_no_more_than_350_pixels_of_width(open_panel, ct, slicer):  # noqa: F811
    panel = open_panel()
    open_everything(panel)
    panel._warn("This volume does not look like a head CT: its values are 0 to 4000. Export the CT in HU.")
    panel.ui.statusLabel.text = "Stage: axial, about 75 s left"

    assert panel.parent.minimumSizeHint.width() <= 350


def test_every_control_is_reached_by_the_tab_key_from_top_to_bottom(slicer, segmented):
    """With everything unfolded and enabled, as far as it ever is."""
    from PySide6 import QtCore, QtWidgets

    panel = segmented
    open_everything(panel)
    panel.ui.automaticViewsCheckBox.checked = panel.ui.modelThresholdCheckBox.checked = False
    panel.parent.resize(400, 2400)
    panel.parent.show()
    slicer.app.processEvents()
    controls = [
        widget
        for kind in (QtWidgets.QAbstractButton, QtWidgets.QComboBox, QtWidgets.QAbstractSpinBox,
                     QtWidgets.QPlainTextEdit, QtWidgets.QAbstractItemView)
        for widget in QtCore.QObject.findChildren(panel.parent, kind)
        if QtWidgets.QWidget.isVisible(widget) and QtWidgets.QWidget.isEnabled(widget)
        and QtWidgets.QWidget.focusPolicy(widget) != QtCore.Qt.NoFocus
    ]  # fmt: skip
    chain, widget = [], controls[0]
    for _step in range(2000):
        chain.append(widget)
        widget = QtWidgets.QWidget.nextInFocusChain(widget)
        if widget is controls[0]:
            break
    reached = [w for w in chain if w in controls and QtWidgets.QWidget.focusPolicy(w) & QtCore.Qt.TabFocus]
    heights = {id(w): QtWidgets.QWidget.mapTo(w, panel.parent, QtCore.QPoint(0, 0)).y() for w in controls}
    panel.parent.hide()

    assert len(controls) > 25
    missing = [w.objectName for w in controls if w not in reached]
    assert missing == []
    top = min(heights[id(w)] for w in reached) + 30  # the first row
    is_top = [heights[id(w)] <= top for w in reached]
    first = next(index for index, now in enumerate(is_top) if now and not is_top[index - 1])
    order = [heights[id(w)] for w in reached[first:] + reached[:first]]
    assert all(later >= earlier - 30 for earlier, later in pairwise(order))  # one row


def test_every_number_box_shows_its_unit(open_panel):  # noqa: F811
    """Probabilities have none and live in sliders."""
    ui = open_panel().ui
    boxes = [widget for widget in vars(ui).values() if "SpinBox" in widget.className()]

    assert len(boxes) >= 2
    assert all(box.suffix.strip() for box in boxes)


def test_tables_name_the_unit_of_every_number(segmented):
    batch = [segmented.ui.batchTable.horizontalHeaderItem(column).text() for column in range(4)]

    assert batch == ["Scan", "State", "Volume (mL)", "Time (s)"]
    dimensionless = {"Largest slice, from below"}
    assert all(unit or name in dimensionless for name, _value, unit in cells(segmented.ui.measurementsTable))
