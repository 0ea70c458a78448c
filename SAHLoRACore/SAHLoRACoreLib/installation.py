"""Getting torch and the other packages into Slicer's Python: asked for once, repairable, possible without a
network.

Whether a package works is found out by importing it in a child: a half-installed torch looks installed and
may crash whoever imports it.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildProcess, pythonExecutable
from SAHLoRACoreLib.settings import Settings
from SAHLoRACoreLib.storage import notePackages

FOLDER = Path(__file__).resolve().parent
REQUIREMENTS = FOLDER / "requirements.txt"
IMPORT_NAMES = {
    "pylibjpeg-libjpeg": "libjpeg",
    "pylibjpeg-openjpeg": "openjpeg",
}


@dataclass(frozen=True)
class Findings:
    """What a probe found: packages that are not there, and packages that don't work, with the reason."""

    missing: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Tell whether everything works."""
        return not self.missing and not self.broken


class InstallationError(RuntimeError):
    """The packages are not there after all; the message says what to do."""


class Installer(Protocol):
    """What a panel needs of an installer."""

    def obstacle(self) -> str:
        """Return why models can't run on this computer at all, or an empty string."""

    def probe(self) -> Findings:
        """Find out what is missing or broken."""

    def forget(self) -> None:
        """Probe again next time: a package turned out to be gone."""

    def consentText(self, findings: Findings) -> str:
        """Return the question to ask before installing."""

    def install(self, findings: Findings) -> None:
        """Install what is missing and repair what is broken; raise `InstallationError` if that fails."""


class PackageInstaller:
    """Installs through Slicer's own means: the PyTorch extension for torch, slicer.packaging for the rest."""

    def __init__(self) -> None:
        self._foundComplete = False

    def obstacle(self) -> str:
        """Return why models can't run on this computer at all, or an empty string."""
        if sys.platform == "darwin" and platform.machine() == "x86_64":
            return _(
                "Models can't run inside this Slicer: it is built for Intel Macs, and PyTorch no longer is."
                ' Use the command "sahlora" in a Python of your own, or Slicer on Windows or Linux.'
            )
        return ""

    def probe(self) -> Findings:
        """Import every package in a child and return what failed; takes seconds until all was found once."""
        if self._foundComplete:
            return Findings()
        names = ["torch", *requirementNames()]
        modules = {importName(name): name for name in names}
        child = ChildProcess([pythonExecutable(), str(FOLDER / "probe.py"), *modules])
        try:
            child.start()
            result = child.wait()
        finally:
            child.close()
        findings = Findings(
            tuple(modules[module] for module in result["missing"]),
            {modules[module]: reason for module, reason in result["broken"].items()},
        )
        self._foundComplete = findings.complete
        return findings

    def forget(self) -> None:
        """Probe again next time: a package turned out to be gone."""
        self._foundComplete = False

    def consentText(self, findings: Findings) -> str:
        """Return the question to ask before installing."""
        names = ", ".join([*findings.missing, *findings.broken])
        text = _("SAHLoRA needs to install these packages into Slicer's Python: {names}.").format(names=names)
        if "torch" in findings.missing or "torch" in findings.broken:
            text += "\n\n" + _(
                "PyTorch is the large one: it takes about 0.8 GB on disk for the processor alone and"
                " several GB with support for NVIDIA graphics cards."
            )
        wheels = Settings.load().wheelsFolder
        if wheels:
            text += "\n\n" + _("They are taken from the folder {folder}; no network is needed.").format(
                folder=wheels
            )
        return text + "\n\n" + _("Install them now? This can take several minutes.")

    def install(self, findings: Findings) -> None:
        """Install what is missing and repair what is broken, then probe again.

        Raises
        ------
        InstallationError
            If something is still missing or broken.
        """
        wanted = [*findings.missing, *findings.broken]
        wheels = Settings.load().wheelsFolder
        try:
            if wheels:
                self._installOffline(wanted, Path(wheels))
            else:
                if "torch" in wanted:
                    self._installTorch(repair="torch" in findings.broken)
                self._installOthers(
                    [name for name in wanted if name != "torch"], repair=bool(findings.broken)
                )
        except InstallationError:
            raise
        except Exception as error:
            raise InstallationError(
                _(
                    "The installation failed: {error}. Check the network, or install from a folder of wheels."
                ).format(error=error)
            ) from error
        self._requireComplete(self.probe())
        notePackages(wanted)
        if (
            "torch" in wanted
        ):  # the PyTorch extension imports what it installs; Slicer itself should run without
            slicer.util.infoDisplay(
                _("PyTorch was installed. Please save your work and restart Slicer soon.")
            )

    def _installTorch(self, repair: bool) -> None:
        try:
            from PyTorchUtils import PyTorchUtilsLogic
        except ImportError as error:
            raise InstallationError(
                _("The extension PyTorch is missing. Install it in the Extensions Manager, then restart.")
            ) from error
        logic = PyTorchUtilsLogic()
        if repair:
            logic.uninstallTorch()
        if logic.installTorch(askConfirmation=False, torchVersionRequirement=torchRequirement()) is None:
            raise InstallationError(_("PyTorch was not installed."))

    def _installOthers(self, names: list[str], repair: bool) -> None:
        lines = [line for line in requirementLines() if requirementName(line) in names]
        if not lines:
            return
        if repair:
            slicer.util.pip_install(["--force-reinstall", "--no-deps", *lines])
            return
        packaging = slicerPackaging()
        if packaging is None:  # Slicer 5.10
            slicer.util.pip_install(lines)
            return
        wanted = [r for r in packaging.load_requirements(REQUIREMENTS) if r.name in names]
        packaging.pip_ensure(wanted, requester="SAHLoRA", prompt_install=False)

    def _installOffline(self, names: list[str], folder: Path) -> None:
        lines = [f"torch{torchRequirement()}", *requirementLines()]
        wanted = [line for line in lines if requirementName(line) in names]
        slicer.util.pip_install(["--no-index", "--find-links", str(folder), *wanted])

    def _requireComplete(self, findings: Findings) -> None:
        if findings.missing:
            names = ", ".join(findings.missing)
            raise InstallationError(
                _(
                    "Still missing after the installation: {names}. The Python console shows what pip said."
                ).format(names=names)
            )
        for name, reason in findings.broken.items():
            raise InstallationError(
                _(
                    "{name} is installed but doesn't work: {reason}. Restart Slicer, then choose"
                    " Check and repair in the Application Settings, page SAHLoRA."
                ).format(name=name, reason=reason)
            )


def ensureInstalled(installer: Installer, ask: Callable[[str], bool]) -> bool:
    """Make sure that models can run, asking once if something must be installed; return whether they can.

    Raises
    ------
    InstallationError
        If this computer can't run models, or the installation failed.
    """
    obstacle = installer.obstacle()
    if obstacle:
        raise InstallationError(obstacle)
    findings = installer.probe()
    if findings.complete:
        return True
    if not ask(installer.consentText(findings)):
        return False
    installer.install(findings)
    return True


def torchRequirement() -> str:
    """Return the version of torch this computer can have, as a requirement's condition."""
    # The path names in the Windows wheel of 2.13 are longer than Windows lets pip write.
    return ">=2.8,<2.13" if sys.platform == "win32" else ">=2.8"


def requirementLines() -> list[str]:
    """Return the lines of requirements.txt that name a package."""
    lines = (line.strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def requirementName(line: str) -> str:
    """Return the name of the package a requirement names."""
    return line.partition(">")[0].strip()


def requirementNames() -> list[str]:
    """Return the names of the packages of requirements.txt."""
    return [requirementName(line) for line in requirementLines()]


def importName(package: str) -> str:
    """Return the name to import a package by."""
    return IMPORT_NAMES.get(package, package)


def slicerPackaging() -> object | None:
    """Return slicer.packaging; None where Slicer has none yet."""
    try:
        import slicer.packaging
    except ImportError:
        return None
    return slicer.packaging if hasattr(slicer.packaging, "pip_ensure") else None
