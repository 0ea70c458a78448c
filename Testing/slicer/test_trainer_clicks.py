"""What clicks and keys do in the Trainer: events as Qt delivers them, real children of a fake command."""

from __future__ import annotations

import time

import numpy as np
import pytest
from test_segmenter import Installed, wait_for
from test_trainer_training import data, open_panel, panel  # noqa: F401 - fixtures
from test_trainer_troubles import logic, models, no_dialogs  # noqa: F401 - fixtures


class SlowToProbe(Installed):
    """Finds everything in place after a while, in which events go on as with a real probe."""

    def __init__(self, slicer):
        super().__init__()
        self._slicer, self.whileProbing = slicer, lambda: None
        self.probes = 0

    def probe(self):
        self.probes += 1
        for _time in range(3):
            self._slicer.app.processEvents()
            self.whileProbing()
        return self.findings


@pytest.fixture
def slow(slicer, panel):  # noqa: F811
    """The panel's installer, slow."""
    panel._installer = SlowToProbe(slicer)
    return panel._installer


@pytest.fixture
def shown(monkeypatch):
    """What was shown in the views."""
    shown = []
    monkeypatch.setattr("SAHLoRATrainerLib.caseviews.showVolume", lambda *what: shown.append(what))
    return shown


def show(panel):  # noqa: F811
    """Lay the panel out, as events need it."""
    panel.parent.resize(500, 1600)
    panel.parent.show()


def click(table, row, column, fromLeft=None):  # noqa: N803 - Slicer's style
    """Click a cell in the middle, or a few pixels from its left edge, where a tick is."""
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    cell = table.visualItemRect(table.item(row, column))
    place = cell.center() if fromLeft is None else QPoint(cell.left() + fromLeft, cell.center().y())
    QTest.mouseClick(table.viewport(), Qt.LeftButton, Qt.NoModifier, place)


def press(table, key):
    from PySide6.QtTest import QTest

    QTest.keyClick(table, key)


# ---------------------------------------------------------------------------------- clicks while it is probed


def test_second_click_while_the_packages_are_checked_starts_nothing(slicer, panel, slow):  # noqa: F811
    from SAHLoRATrainerLib.runs import allRuns

    slow.whileProbing = lambda: (panel.ui.trainButton.click(), panel.parts.training.onTrain())
    panel.ui.trainButton.click()
    assert slow.probes == 1
    assert [run.folder.name for run in allRuns()] == ["run-001"]
    wait_for(slicer, lambda: not panel.occupation)

    assert [run.state for run in allRuns()] == ["done"]


def test_nothing_else_can_be_started_while_the_packages_are_checked(slicer, panel, slow):  # noqa: F811
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: not panel.occupation)
    ui, share, suggest, crossval = (
        panel.ui,
        *(getattr(panel.parts, name).ui for name in ("share", "suggest", "crossval")),
    )
    buttons = {
        "train": ui.trainButton,
        "resume": ui.resumeButton,
        "judge": ui.judgeButton,
        "check": ui.checkCasesButton,
        "estimate": ui.estimateButton,
        "rank": suggest.rankButton,
        "compare": crossval.compareButton,
        "continue": crossval.continueButton,
        "keep": share.keepButton,
        "import": share.importAdapterButton,
    }
    enabled = []
    slow.whileProbing = lambda: enabled.extend(name for name, one in buttons.items() if one.enabled)
    ui.checkCasesButton.click()
    wait_for(slicer, lambda: not panel.occupation)

    assert enabled == []
    assert ui.trainButton.enabled
    assert ui.judgeButton.enabled


def test_training_has_the_settings_of_the_click(slicer, panel, slow):  # noqa: F811
    slow.whileProbing = lambda: setattr(panel.ui.rankSpinBox, "value", 9)
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: not panel.occupation)

    assert panel.parts.training.selectedRun().settings.rank == 4


def test_refused_installation_leaves_the_panel_free(slicer, panel, slow, monkeypatch):  # noqa: F811
    from SAHLoRACoreLib.installation import Findings

    slow.findings = Findings(missing=("torch",))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_, **__: False)
    panel.ui.trainButton.click()

    assert panel.occupation == ""
    assert panel.ui.trainButton.enabled


# -------------------------------------------------------------------------------------------- rows of tables


@pytest.mark.parametrize("column", range(5))
def test_click_on_any_column_shows_the_case(slicer, panel, shown, column):  # noqa: F811
    show(panel)
    click(panel.ui.casesTable, 1, column)
    volume, _ = panel.cases.nodes("2")

    assert [what[0] for what in shown] == [volume]
    assert np.all(np.isfinite(shown[0][1]))


@pytest.mark.parametrize(("column", "name"), [(0, "enabled"), (3, "heldOut")])
def test_tick_shows_no_case(slicer, panel, shown, column, name):  # noqa: F811
    show(panel)
    before = getattr(panel.cases.rows()[1], name)
    click(panel.ui.casesTable, 1, column, fromLeft=10)
    assert getattr(panel.cases.rows()[1], name) is not before
    wait_a_while(slicer)
    assert shown == []
    click(panel.ui.casesTable, 1, 1)

    assert len(shown) == 1


def test_case_reached_by_keys_is_shown_once_they_rest(slicer, panel, shown):  # noqa: F811
    from PySide6.QtCore import Qt

    show(panel)
    panel.ui.casesTable.setFocus()
    click(panel.ui.casesTable, 0, 1)
    for _time in range(2):
        press(panel.ui.casesTable, Qt.Key_Down)
    wait_a_while(slicer)

    assert [what[0] for what in shown] == [panel.cases.nodes(key)[0] for key in ("1", "3")]


def test_click_on_any_column_of_the_judgment_shows_both_outlines(slicer, panel, monkeypatch):  # noqa: F811
    from PySide6.QtCore import Qt

    shown = []
    monkeypatch.setattr("SAHLoRATrainerLib.judgementpanel.showJudged", lambda run, name: shown.append(name))
    panel.cases.change(panel.cases.rows()[1].key, heldOut=True)
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: not panel.occupation)
    panel.ui.judgeButton.click()
    wait_for(slicer, lambda: not panel.occupation)
    panel.ui.judgementCollapsibleButton.collapsed = False
    show(panel)
    wait_a_while(slicer)
    assert shown == []
    for column in range(6):
        click(panel.ui.judgementTable, 0, column)
    assert shown == ["case-002"] * 6
    press(panel.ui.judgementTable, Qt.Key_Down)
    wait_a_while(slicer)

    assert shown[6:] == ["case-003"]


def wait_a_while(slicer):
    """Longer than keys take to settle."""
    from SAHLoRATrainerLib.rowpicking import SETTLE_MS

    end = time.monotonic() + 2 * SETTLE_MS / 1000
    wait_for(slicer, lambda: time.monotonic() > end)
