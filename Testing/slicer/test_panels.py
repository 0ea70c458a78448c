"""The parts of the Segmenter's panel from the user's side: models and adapters, result, batch, its size."""

from __future__ import annotations

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


def test_report_page_can_be_kept_and_goes_with_the_scene(slicer, segmented, tmp_path, monkeypatch):
    import qt

    page = segmented._resultPanel._result.page
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "kept.html"))
    segmented.ui.savePageButton.click()
    slicer.mrmlScene.Clear(0)

    assert (tmp_path / "kept.html").read_text(encoding="utf-8") == "<p>A made-up report</p>"
    assert not page.exists()
    assert not segmented.ui.openPageButton.enabled


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


# ------------------------------------------------------------------------------------------------------ size


def test_panel_needs_no_more_than_400_pixels_of_width(open_panel):  # noqa: F811
    panel = open_panel()
    for name in ("advanced", "result", "batch", "log"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False
    panel.ui.cardButton.checked = True

    assert panel.parent.minimumSizeHint.width() <= 400


def test_tab_key_goes_from_top_to_bottom(slicer, open_panel):  # noqa: F811
    from PySide6.QtWidgets import QWidget

    panel = open_panel()
    for name in ("advanced", "result", "batch"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = False
    panel.parent.resize(400, 1600)
    panel.parent.show()
    slicer.app.processEvents()
    names = ("modelSelector", "adapterSelector", "addModelButton", "removeModelButton", "cardButton")
    names += ("deviceSelector", "keepProbabilityCheckBox", "makePageCheckBox", "applyButton", "cancelButton")
    names += ("measurementsTable", "showSlicesButton", "editButton", "savePageButton", "batchVolumesButton")
    order, widget = [], panel.ui.modelSelector
    for _step in range(300):
        order.append(QWidget.objectName(widget))
        widget = QWidget.nextInFocusChain(widget)
    positions = [order.index(name) for name in names]
    panel.parent.hide()

    assert positions == sorted(positions)
