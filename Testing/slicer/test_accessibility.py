"""Panels without a mouse and without a screen: Tab leaves every table, every control has a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PANELS = sorted(ROOT.glob("SAHLoRA*/Resources/UI/*.ui"))
COMPOSITE = ("qMRMLNodeComboBox", "ctkSliderWidget")
BUTTONS = ("QCheckBox", "QPushButton")
INPUTS = (
    *COMPOSITE,
    *BUTTONS,
    "QComboBox",
    "QAbstractSpinBox",
    "QLineEdit",
    "QPlainTextEdit",
    "QProgressBar",
)
INPUTS += ("QListWidget", "QTableWidget")
BRITISH = r"cancell(ed|ing)|judgement|colour|centre|grey|behaviour|licence|labelled"


@pytest.fixture(params=[*PANELS, "settings"], ids=lambda panel: Path(panel).stem)
def panel(slicer, request):
    """Every panel as it is loaded, and the page of the Application Settings, shown in an active window."""
    import ctk
    from PySide6.QtTest import QTest
    from PySide6.QtWidgets import QWidget

    from SAHLoRACoreLib.settingspanel import SettingsPanel

    if request.param == "settings":
        widget = ctk.ctkSettingsPanel()
        widget._page = SettingsPanel(widget)
    else:
        widget = slicer.util.loadUI(str(request.param))
    widget.resize(400, 2400)
    widget.show()
    QWidget.activateWindow(widget)
    assert QTest.qWaitForWindowActive(widget)
    yield widget
    widget.hide()


def is_of(widget, kinds) -> bool:
    from PySide6.QtCore import QObject

    return any(QObject.inherits(widget, kind) for kind in kinds)


def children(panel, *kinds):
    """Return the widgets of these classes, without what composite widgets are made of."""
    from PySide6.QtWidgets import QWidget

    return [
        child
        for child in panel.findChildren(QWidget)
        if is_of(child, kinds) and not any(is_of(parent, INPUTS) for parent in parents(child))
    ]


def parents(widget):
    from PySide6.QtCore import QObject

    while (widget := QObject.parent(widget)) is not None:
        yield widget


def test_tab_key_leaves_every_table_in_both_directions(panel):
    """With real key presses: Qt's tables keep the key for their cells unless told otherwise."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest
    from PySide6.QtWidgets import QApplication, QTableWidget, QTableWidgetItem, QWidget

    for table in children(panel, "QTableWidget"):
        for press in (Qt.Key_Tab, Qt.Key_Backtab):
            QTableWidget.setRowCount(table, 2)
            for row in range(2):
                for column in range(QTableWidget.columnCount(table)):
                    QTableWidget.setItem(table, row, column, QTableWidgetItem("cell"))
            QTableWidget.setCurrentCell(table, 0, 0)
            QWidget.setFocus(table)
            assert QApplication.focusWidget() is table
            QTest.keyClick(table, press)
            assert QApplication.focusWidget() is not table, table.name


def test_every_control_has_a_name_for_a_screen_reader(panel):
    """Its own text, an accessible name, or the label whose buddy it is; composite widgets need the second."""
    from PySide6.QtWidgets import QLabel, QWidget

    buddies = [QLabel.buddy(label) for label in panel.findChildren(QLabel) if label.text]
    controls = children(panel, *INPUTS)
    assert len(controls) > 5
    for control in controls:
        named = bool(QWidget.accessibleName(control))
        if not is_of(control, COMPOSITE):
            named = named or control in buddies or (is_of(control, BUTTONS) and bool(control.text))
        assert named, control.name


def test_every_check_box_has_its_text_to_click_on(panel):
    for box in children(panel, "QCheckBox"):
        assert box.text, box.name


def test_panels_spell_alike():
    """US spelling, and one character for what goes on."""
    sources = [path.read_text(encoding="utf-8") for path in PANELS]
    sources = [words for source in sources for words in re.findall(r"<string>([^<]+)</string>", source)]
    for folder in ("SAHLoRACore/SAHLoRACoreLib", "SAHLoRASegmenter", "SAHLoRATrainer"):
        for path in (ROOT / folder).rglob("*.py"):
            sources += re.findall(r'\b_\(\s*((?:"[^"]*"\s*)+)', path.read_text(encoding="utf-8"))

    assert len(sources) > 300
    for words in sources:
        assert "..." not in words
        assert not re.search(BRITISH, words, re.IGNORECASE), words
