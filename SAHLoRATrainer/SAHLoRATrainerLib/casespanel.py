"""The part of the panel with the table of cases: filled, shown, checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRATrainerLib.casejobs import Checking
from SAHLoRATrainerLib.cases import DOUBTFUL, FINE, UNCHECKED, WRONG, CaseRow, obstacle
from SAHLoRATrainerLib.caseviews import showCase
from SAHLoRATrainerLib.judgement import OUTLINE
from SAHLoRATrainerLib.rowpicking import RowPicking

NAME, SEGMENT, ML, HELD_OUT, STATUS = range(5)
SEGMENT_WIDTH = 60  # pixels: most segments are called alike, cases are not


class CasesPanel:
    """Shows and changes the table of cases.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        import qt

        self._ui, self._panel = ui, panel
        self._shown: list[CaseRow] = []
        self._segmentIDs: list[str] = []
        self._checking: Checking | None = None
        ui.caseVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onVolume)
        ui.caseSegmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._fillSegments)
        ui.addCaseButton.connect("clicked(bool)", self.onAdd)
        ui.addFolderButton.connect("clicked(bool)", self.onAddFolder)
        ui.addListButton.connect("clicked(bool)", self.onAddList)
        ui.removeCaseButton.connect("clicked(bool)", self.onRemove)
        ui.holdOutButton.connect("clicked(bool)", self.onHoldOut)
        ui.casesTable.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        ui.casesTable.connect("itemSelectionChanged()", self.refresh)
        self._picking = RowPicking(ui.casesTable, self.onShow)
        ui.checkCasesButton.connect("clicked(bool)", self.onCheck)
        titles = [_("Case"), _("Segment"), _("mL"), _("Held out"), _("Status")]
        setUpTable(ui.casesTable, titles)
        ui.casesTable.horizontalHeader().setSectionResizeMode(SEGMENT, qt.QHeaderView.Interactive)
        ui.casesTable.setColumnWidth(SEGMENT, SEGMENT_WIDTH)

    def use(self) -> None:
        """Show the table of the present scene."""
        self._shown = self._rows()
        self._showRows()
        self._fillSegments()

    def close(self) -> None:
        """End what runs."""
        self._picking.stop()
        if self._checking is not None:
            self._checking.close()
            self._endChecking()

    def obstacle(self) -> str:
        """Return why the cases can't be trained on, or an empty string."""
        table = self._panel.cases
        if table is None:
            return _("The scene is being closed.")
        return obstacle(table.enabledRows(), self._isPresent)

    def refresh(self) -> None:
        """Show the rows, and what can be done."""
        ui, rows = self._ui, self._rows()
        if rows != self._shown:
            self._shown = rows
            self._showRows()
        selected, free = self._selected(), not self._panel.occupation
        ui.addCaseButton.enabled = bool(self._segmentIDs) and ui.caseVolumeSelector.currentNode() is not None
        ui.removeCaseButton.enabled = selected is not None
        ui.holdOutButton.enabled = len(rows) > 1
        ui.checkCasesButton.enabled = free and bool(rows)
        ui.caseNoteLabel.text = selected.message if selected is not None else ""

    def onAdd(self) -> None:
        """Add the chosen nodes."""
        ui = self._ui
        with slicer.util.tryWithErrorDisplay(_("The case could not be added.")):
            self._panel.cases.addNodes(
                ui.caseVolumeSelector.currentNode(),
                ui.caseSegmentationSelector.currentNode(),
                self._segmentIDs[ui.caseSegmentSelector.currentIndex],
            )

    def onAddFolder(self) -> None:
        """Let the user choose a folder of cases."""
        import qt

        path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder with cases"))
        if path:
            self.addFiles(Path(path))

    def onAddList(self) -> None:
        """Let the user choose a list of cases."""
        import qt

        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("List of cases"), "", _("Lists of cases (*.csv *.json)")
        )
        if path:
            self.addFiles(Path(path))

    def addFiles(self, path: Path) -> None:
        """Add the cases of a list or folder."""
        with slicer.util.tryWithErrorDisplay(_("The cases could not be added.")):
            self._panel.cases.addFiles(path)

    def onRemove(self) -> None:
        """Take the selected case off."""
        self._panel.cases.remove(self._selected().key)

    def onHoldOut(self) -> None:
        """Hold out a fifth."""
        self._panel.cases.holdOutFifth()

    def onShow(self, index: int) -> None:
        """Show the case of a row; one in files is loaded now."""
        if index < len(self._shown):
            self.show(self._shown[index])

    def show(self, row: CaseRow) -> None:
        """Show a case in the slice views."""
        with slicer.util.tryWithErrorDisplay(_("The case could not be shown.")):
            table = self._panel.cases
            others = [
                segmentation for _volume, segmentation in map(table.nodes, table.keys()) if segmentation
            ]
            showCase(table.case(row), row.name, others)

    def onCheck(self) -> None:
        """Check all cases that are used."""
        with slicer.util.tryWithErrorDisplay(_("The cases could not be checked.")):
            if not self._panel.ensureInstalled() or self._panel.cases is None:
                return
            table = self._panel.cases
            rows = [row for row in table.enabledRows() if self._isPresent(row)]
            gone = {row.key for row in table.enabledRows()} - {row.key for row in rows}
            table.changeAll({key: {"status": WRONG, "message": _("Not in the scene.")} for key in gone})
            if rows:
                self._check(rows)

    # ------------------------------------------------------------------------------------------- parts

    def _check(self, rows: list[CaseRow]) -> None:
        cases = [self._panel.cases.case(row) for row in rows]
        self._checking = Checking(self._panel.logic.command, cases)
        self._checking.finished.connect(lambda _result: self._onChecked(rows))
        self._checking.error.connect(self._onNotChecked)
        self._checking.start()
        self._panel.occupy(_("The cases are being checked."))

    def _onChecked(self, rows: list[CaseRow]) -> None:
        findings = self._checking.findings
        self._endChecking()
        if self._panel.cases is None:
            return
        names = ("status", "message", "ml")
        found = {
            row.key: dict(zip(names, finding, strict=True))
            for row, finding in zip(rows, findings, strict=True)
        }
        self._panel.cases.changeAll(found)

    def _onNotChecked(self, error: Any) -> None:
        self._endChecking()
        self._ui.caseNoteLabel.text = str(error)
        slicer.util.errorDisplay(str(error), detailedText=error.details)

    def _endChecking(self) -> None:
        self._checking = None
        self._panel.release()

    def _onVolume(self) -> None:
        """Offer the segmentation that was made on the chosen CT."""
        volume = self._ui.caseVolumeSelector.currentNode()
        if self._panel.parameters is not None:
            # Before the other selector changes: that shows all parameters, and would bring the old CT back.
            self._panel.parameters.caseVolume = volume
        reference = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if volume is not None else ():
            if node.GetNodeReference(reference) is volume and not node.GetAttribute(OUTLINE):
                self._ui.caseSegmentationSelector.setCurrentNode(node)
                break
        self.refresh()

    def _fillSegments(self) -> None:
        """Offer the segments of the chosen segmentation."""
        node, selector = self._ui.caseSegmentationSelector.currentNode(), self._ui.caseSegmentSelector
        segmentation = node.GetSegmentation() if node is not None else None
        self._segmentIDs = list(segmentation.GetSegmentIDs()) if segmentation is not None else []
        selector.clear()
        selector.addItems([segmentation.GetSegment(ID).GetName() for ID in self._segmentIDs])
        self.refresh()

    def _rows(self) -> list[CaseRow]:
        return self._panel.cases.rows() if self._panel.cases is not None else []

    def _selected(self) -> CaseRow | None:
        index = self._ui.casesTable.currentRow()
        return self._shown[index] if 0 <= index < len(self._shown) else None

    def _isPresent(self, row: CaseRow) -> bool:
        try:
            self._panel.cases.case(row)
        except ValueError:
            return False
        return True

    def _showRows(self) -> None:
        import qt

        table = self._ui.casesTable
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._shown))
        for index, row in enumerate(self._shown):
            for column, text in enumerate(self._cells(row)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(row.message or text)
                flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
                if column in (NAME, HELD_OUT):
                    item.setFlags(flags | qt.Qt.ItemIsUserCheckable)
                    ticked = row.enabled if column == NAME else row.heldOut
                    item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
                else:
                    item.setFlags(flags)
                table.setItem(index, column, item)
        table.blockSignals(wasBlocked)

    def _cells(self, row: CaseRow) -> tuple[str, ...]:
        states = {UNCHECKED: _("not checked"), FINE: _("fine"), DOUBTFUL: _("look at it"), WRONG: _("error")}
        ml = "" if row.ml is None else f"{row.ml:.1f}"
        return row.name, self._segmentName(row), ml, "", states.get(row.status, row.status)

    def _segmentName(self, row: CaseRow) -> str:
        if row.isInFiles:
            return row.segment
        _volume, segmentation = self._panel.cases.nodes(row.key)
        segment = segmentation and segmentation.GetSegmentation().GetSegment(row.segment)
        return segment.GetName() if segment else _("removed")

    def _onItemChanged(self, item: Any) -> None:
        import qt

        name = {NAME: "enabled", HELD_OUT: "heldOut"}.get(item.column())
        if name is not None and item.row() < len(self._shown):
            changed = {name: item.checkState() == qt.Qt.Checked}
            row = self._shown[item.row()]
            # The table shows it already: making its rows anew would delete the item that tells of the change.
            self._shown[item.row()] = replace(row, **changed)
            self._panel.cases.change(row.key, **changed)
