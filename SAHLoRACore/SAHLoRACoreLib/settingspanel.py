"""The page *SAHLoRA* of Slicer's Application Settings."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, commandPrefix
from SAHLoRACoreLib.choices import DeviceSelector
from SAHLoRACoreLib.devices import DeviceSearch, rememberedDevices
from SAHLoRACoreLib.installation import Installer, PackageInstaller, ensureInstalled
from SAHLoRACoreLib.settings import AUTO, dataFolder, modelsFolder, settingKey
from SAHLoRACoreLib.storage import StoredItem, storedItems
from SAHLoRACoreLib.tableviews import setUpTable

MOST_THREADS = 1024
MB = 1e6


def register() -> None:
    """Add the page; without a main window there is no settings dialog."""
    import ctk

    dialog = slicer.app.settingsDialog()
    if dialog is None:
        return
    page = ctk.ctkSettingsPanel()
    slicer.modules.SAHLoRASettings = SettingsPanel(page)  # else Python would forget it
    dialog.addPanel("SAHLoRA", page)


class SettingsPanel:
    """Fills a page with the settings, and the list of all that is stored.

    Parameters
    ----------
    page : ctkSettingsPanel
        An empty page. It keeps what is set under the keys that `SAHLoRACoreLib.settings` reads.
    command : list of str, optional
        Beginning of the command line.
    installer : Installer, optional
        Checks and repairs the packages.
    """

    def __init__(
        self, page: Any, command: list[str] | None = None, installer: Installer | None = None
    ) -> None:
        import qt

        self._page, self._command = page, command or commandPrefix()
        self._installer = installer or PackageInstaller()
        self._search: DeviceSearch | None = None
        self._items: list[StoredItem] = []
        layout = qt.QVBoxLayout(page)
        layout.addWidget(self._settingsGroup())
        layout.addWidget(self._storageGroup())
        layout.addStretch(1)
        self._showDevices()

    # ------------------------------------------------------------------------------------------- settings

    def _settingsGroup(self) -> Any:
        import qt

        group = qt.QGroupBox(_("Computing"))
        form = qt.QFormLayout(group)
        self.modelsEdit = self._folderRow(
            form,
            "modelsFolder",
            _("Models folder:"),
            _("Where models and adapters are kept. Empty: {folder}").format(folder=modelsFolder()),
        )
        self.deviceSelector = qt.QComboBox()
        self.deviceSelector.toolTip = _('What "Automatic" stands for in the panels.')
        form.addRow(_("Device:"), self.deviceSelector)
        self._deviceName = qt.QLineEdit()  # never shown: the page keeps names, the selector shows words
        self._deviceName.text = AUTO
        self._devices = DeviceSelector(self.deviceSelector, self._deviceName.setText)
        self._deviceName.connect("textChanged(QString)", self._showDevice)
        self._register("device", self._deviceName, "text", "textChanged(QString)")
        self.devicesLabel = qt.QLabel()
        self.devicesLabel.wordWrap = True
        self.findButton = qt.QPushButton(_("Find devices"))
        self.findButton.toolTip = _("Look for graphics cards and measure how fast this computer is.")
        self.findButton.connect("clicked(bool)", self.onFind)
        form.addRow(_("Found:"), self.devicesLabel)
        form.addRow("", self.findButton)
        self.threadsSpinBox = qt.QSpinBox()
        self.threadsSpinBox.setRange(0, MOST_THREADS)
        self.threadsSpinBox.specialValueText = _("all cores")
        self.threadsSpinBox.suffix = _(" threads")
        self.threadsSpinBox.toolTip = _("How much of the processor a computation may take.")
        form.addRow(_("Processor:"), self.threadsSpinBox)
        self._register("threads", self.threadsSpinBox, "value", "valueChanged(int)")
        self.dataEdit = self._folderRow(
            form,
            "dataFolder",
            _("Training folder:"),
            _("Where SAHLoRA Trainer keeps its runs. Empty: {folder}").format(folder=dataFolder()),
        )
        self.temporaryEdit = self._folderRow(
            form,
            "temporaryFolder",
            _("Temporary folder:"),
            _("Where the CT and its results lie while they are computed. Empty: Slicer's own."),
        )
        self.wheelsEdit = self._folderRow(
            form,
            "wheelsFolder",
            _("Folder of wheels:"),
            _("Packages are installed from here, without a network. Empty: from the network."),
        )
        self.packagesLabel = qt.QLabel(_("Not checked yet."))
        self.packagesLabel.wordWrap = True
        self.repairButton = qt.QPushButton(_("Check and repair"))
        self.repairButton.toolTip = _(
            "Try out PyTorch and the other packages, and after a question install what is missing, broken or"
            " too old."
        )
        self.repairButton.connect("clicked(bool)", self.onRepair)
        form.addRow(_("Packages:"), self.packagesLabel)
        form.addRow("", self.repairButton)
        return group

    def onRepair(self) -> None:
        """Try out the packages, and install what doesn't work if the user agrees."""
        self.packagesLabel.text = _("Checking…")
        self.repairButton.enabled = False
        try:
            with slicer.util.tryWithErrorDisplay(_("The packages could not be repaired.")):
                self._installer.forget()
                complete = ensureInstalled(self._installer, slicer.util.confirmOkCancelDisplay)
                self.packagesLabel.text = _("All packages work.") if complete else _("Nothing was installed.")
        except Exception as error:
            self.packagesLabel.text = str(error)
            raise
        finally:
            self.repairButton.enabled = True

    def _folderRow(self, form: Any, name: str, title: str, toolTip: str) -> Any:
        import qt

        edit, row = qt.QLineEdit(), qt.QWidget()
        edit.toolTip = toolTip
        edit.accessibleName = title.rstrip(":")
        edit.placeholderText = _("default")
        button = qt.QPushButton(_("Choose…"))
        button.toolTip = toolTip
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(edit)
        layout.addWidget(button)

        def choose() -> None:
            folder = qt.QFileDialog.getExistingDirectory(self._page, title, edit.text)
            if folder:
                edit.text = folder

        button.connect("clicked(bool)", choose)
        form.addRow(title, row)
        self._register(name, edit, "text", "textChanged(QString)")
        return edit

    def _register(self, name: str, widget: Any, prop: str, signal: str) -> None:
        """Let the page keep a widget's property under the key of a setting."""
        import qt

        self._page.registerProperty(settingKey(name), widget, prop, str(qt.SIGNAL(signal)))

    # -------------------------------------------------------------------------------------------- devices

    def onFind(self) -> None:
        """Look for devices in a child."""
        self._search = DeviceSearch(self._command)
        self._search.finished.connect(lambda _search: self._onSearched(""))
        self._search.error.connect(self._onError)
        self.devicesLabel.text = _("Looking…")
        self.findButton.enabled = False
        with slicer.util.tryWithErrorDisplay(_("The devices could not be looked for.")):
            self._search.start()

    def _onError(self, error: ChildError) -> None:
        self._onSearched(str(error))

    def _onSearched(self, problem: str) -> None:
        self._search = None
        self._showDevices()
        if problem:
            self.devicesLabel.text = problem

    def _showDevice(self, name: str) -> None:
        self._devices.show(name or AUTO)

    def _showDevices(self) -> None:
        lines = [
            _("{device}: {description}, {seconds:.2f} s a slice").format(
                device=device.name, description=device.description, seconds=device.secondsPerSlice
            )
            for device in rememberedDevices()
        ]
        self._showDevice(self._deviceName.text)
        self.devicesLabel.text = "\n".join(lines) or _("Not looked for yet.")
        self.findButton.enabled = True

    # -------------------------------------------------------------------------------------------- storage

    def _storageGroup(self) -> Any:
        import qt

        group = qt.QGroupBox(_("Stored on this computer"))
        layout = qt.QVBoxLayout(group)
        note = qt.QLabel(
            _(
                "Models and adapters you added, packages SAHLoRA installed, training runs, and what a killed"
                " Slicer left behind. The sample head is made anew each time and not kept."
            )
        )
        note.wordWrap = True
        layout.addWidget(note)
        self.table = qt.QTableWidget(0, 4)
        self.table.tabKeyNavigation = False  # Tab goes on to the buttons
        setUpTable(self.table, [_("What"), _("Name"), _("Size (MB)"), _("Where")], stretched=3)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.setTextElideMode(qt.Qt.ElideMiddle)
        self.table.setWordWrap(False)
        self.table.toolTip = _("Choose rows to remove.")
        self.table.accessibleName = _("Stored on this computer")
        self.table.connect("itemSelectionChanged()", self._onSelection)
        layout.addWidget(self.table)
        buttons = qt.QHBoxLayout()
        self.showButton = qt.QPushButton(_("List"))
        self.showButton.toolTip = _("Look again at what is stored; summing up sizes can take some seconds.")
        self.showButton.connect("clicked(bool)", self.fill)
        self.removeButton = qt.QPushButton(_("Remove chosen"))
        self.removeButton.toolTip = _("Delete the chosen rows from this computer, after a question.")
        self.removeButton.enabled = False
        self.removeButton.connect("clicked(bool)", self.onRemove)
        buttons.addWidget(self.showButton)
        buttons.addWidget(self.removeButton)
        layout.addLayout(buttons)
        return group

    def fill(self) -> None:
        """List what is stored now."""
        import qt

        self._items = storedItems()
        self.table.setRowCount(len(self._items))
        for row, item in enumerate(self._items):
            for column, text in enumerate((item.kind, item.name, f"{item.size / MB:.1f}", item.place)):
                cell = qt.QTableWidgetItem(text)
                cell.setToolTip(text)
                self.table.setItem(row, column, cell)
        self._onSelection()

    def onRemove(self) -> None:
        """Delete the chosen items if the user agrees."""
        chosen = [self._items[row] for row in self._chosenRows()]
        names = "\n".join(f"{item.kind}: {item.name}" for item in chosen)
        if not slicer.util.confirmOkCancelDisplay(
            _("Remove these from the computer? Other extensions may use the packages, too.") + f"\n\n{names}"
        ):
            return
        try:
            with slicer.util.tryWithErrorDisplay(_("Not everything could be removed.")):
                for item in chosen:
                    item.remove()
        finally:
            self.fill()

    def _chosenRows(self) -> list[int]:
        return sorted(index.row() for index in self.table.selectionModel().selectedRows())

    def _onSelection(self) -> None:
        self.removeButton.enabled = bool(self._chosenRows())
