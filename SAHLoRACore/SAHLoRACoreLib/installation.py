"""Getting torch and the other packages into Slicer's Python: asked for once, repairable, possible without a
network.

Whether a package works is found out by importing it in a child: a half-installed torch looks installed and
may crash whoever imports it. What doesn't work is uninstalled and installed anew with its dependencies, what
is too old is upgraded.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import slicer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, ChildFailedError, ChildProcess, pythonExecutable
from SAHLoRACoreLib.settings import Settings
from SAHLoRACoreLib.storage import installedDistributions, notePackages

FOLDER = Path(__file__).resolve().parent
REQUIREMENTS = FOLDER / "requirements.txt"
OLDEST_TORCH = ">=2.8"
IMPORT_NAMES = {
    "pylibjpeg-libjpeg": "libjpeg",
    "pylibjpeg-openjpeg": "openjpeg",
}


@dataclass(frozen=True)
class Findings:
    """What a probe found.

    Parameters
    ----------
    missing : tuple of str
        Packages that are not there.
    broken : dict
        Packages that are there but don't work, with the reason.
    outdated : dict
        Packages that are too old, with their version.
    """

    missing: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    outdated: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Tell whether everything works."""
        return not self.names

    @property
    def names(self) -> tuple[str, ...]:
        """The packages that something must be done about."""
        return (*self.missing, *self.broken, *self.outdated)


class InstallationError(RuntimeError):
    """The packages are not there after all; the message says what to do."""


class Installer(Protocol):
    """What a panel needs of an installer."""

    def obstacle(self) -> str:
        """Return why models can't run on this computer at all, or an empty string."""

    def probe(self) -> Findings:
        """Find out what is missing, broken or too old."""

    def forget(self) -> None:
        """Probe again next time: a package turned out to be gone."""

    def installObstacle(self, findings: Findings) -> str:
        """Return why these can't be installed here, or an empty string; asked before the user is."""

    def consentText(self, findings: Findings) -> str:
        """Return the question to ask before installing."""

    def install(self, findings: Findings) -> None:
        """Install, repair and upgrade; raise `InstallationError` if that fails."""


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
        """Import every package in a child and return what failed; takes seconds until all was found once.

        Raises
        ------
        ChildFailedError
            If the child was cancelled or killed, or its Python doesn't even start.
        """
        if self._foundComplete:
            return Findings()
        requirements = oldestRequirements()
        findings = _judge(requirements, _tryOut([importName(each.name) for each in requirements]))
        self._foundComplete = findings.complete
        return findings

    def forget(self) -> None:
        """Probe again next time: a package turned out to be gone."""
        self._foundComplete = False

    def installObstacle(self, findings: Findings) -> str:
        """Return why these can't be installed here, or an empty string: torch needs the PyTorch extension."""
        needsExtension = "torch" in findings.names and not Settings.load().wheelsFolder
        if needsExtension and importlib.util.find_spec("PyTorchUtils") is None:
            return _(
                "SAHLoRA installs PyTorch through the extension PyTorch, which is missing. Install it in the"
                " Extensions Manager and restart Slicer, then try again."
            )
        return ""

    def consentText(self, findings: Findings) -> str:
        """Return the question to ask before installing."""
        texts = {
            _("SAHLoRA needs to install these packages into Slicer's Python: {names}."): findings.missing,
            _(
                "These are installed but don't work; they are removed and installed anew: {names}."
            ): findings.broken,
            _("These are too old and are upgraded: {names}. Other extensions may use them, too."): [
                f"{name} {version}" for name, version in findings.outdated.items()
            ],
        }
        text = "\n\n".join(each.format(names=", ".join(names)) for each, names in texts.items() if names)
        if "torch" in findings.names:
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
        """Install what is missing, install anew what is broken, upgrade what is too old, then probe again.

        Raises
        ------
        InstallationError
            If something is still missing, broken or too old.
        """
        try:
            self._installAll(findings, Settings.load().wheelsFolder)
        except InstallationError:
            raise
        except Exception as error:
            raise InstallationError(
                _(
                    "The installation failed: {error}. Check the network, or whether the folder of wheels is"
                    " complete. The Python console shows what pip said."
                ).format(error=error)
            ) from error
        self._requireComplete(self.probe())
        if "torch" in findings.names:
            # the PyTorch extension imports what it installs; Slicer itself should run without
            slicer.util.infoDisplay(
                _("PyTorch was installed. Please save your work and restart Slicer soon.")
            )

    def _installAll(self, findings: Findings, wheels: str) -> None:
        """Install from a folder of wheels, or from the network if none is given; note what came."""
        others = [line for line in requirementLines() if Requirement(line).name in findings.names]
        torch = [f"torch{torchRequirement()}"] if "torch" in findings.names else []
        pytorch = _pytorchExtension() if torch and not wheels else None
        broken = list(findings.broken)
        if pytorch and "torch" in broken:
            pytorch.uninstallTorch()
            broken.remove("torch")
        if broken:  # pip leaves alone what looks installed, and its dependencies, too
            slicer.util.pip_uninstall(broken)
        before = installedDistributions()
        try:
            if wheels:
                slicer.util.pip_install(["--no-index", "--find-links", wheels, *torch, *others])
                return
            if pytorch:
                _installTorch(pytorch)
            if others:
                self._installOthers(others)
        finally:  # also what came before the installation failed
            notePackages(installedDistributions() - before)

    def _installOthers(self, lines: list[str]) -> None:
        packaging = slicerPackaging()
        if packaging is None:  # Slicer 5.10
            slicer.util.pip_install(lines)
        else:
            requirements = [Requirement(line) for line in lines]
            packaging.pip_ensure(requirements, requester="SAHLoRA", prompt_install=False)

    def _requireComplete(self, findings: Findings) -> None:
        if findings.missing:
            names = ", ".join(findings.missing)
            raise InstallationError(
                _(
                    "Still missing after the installation: {names}. The Python console shows what pip said."
                ).format(names=names)
            )
        if findings.outdated:
            names = ", ".join(f"{name} {version}" for name, version in findings.outdated.items())
            raise InstallationError(
                _(
                    "Still too old after the installation: {names}. The Python console shows what pip said."
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
    if installer.installObstacle(findings):
        raise InstallationError(installer.installObstacle(findings))
    if not ask(installer.consentText(findings)):
        return False
    installer.install(findings)
    return True


def torchRequirement() -> str:
    """Return the version of torch to install on this computer, as a requirement's condition."""
    # The path names in the Windows wheel of 2.13 are longer than Windows lets pip write.
    return f"{OLDEST_TORCH},<2.13" if sys.platform == "win32" else OLDEST_TORCH


def requirementLines() -> list[str]:
    """Return the lines of requirements.txt that name a package."""
    lines = (line.strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def oldestRequirements() -> list[Requirement]:
    """Return all needed packages with the oldest versions that will do; torch comes first."""
    return [Requirement(line) for line in (f"torch{OLDEST_TORCH}", *requirementLines())]


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


def _pytorchExtension() -> Any:
    from PyTorchUtils import PyTorchUtilsLogic

    return PyTorchUtilsLogic()


def _installTorch(pytorch: Any) -> None:
    torch = pytorch.installTorch(askConfirmation=False, torchVersionRequirement=torchRequirement())
    if torch is None:
        raise InstallationError(_("PyTorch was not installed."))


# ----------------------------------------------------------------------------------------------- probing


def _tryOut(modules: Sequence[str]) -> dict[str, dict[str, str]]:
    """Import modules in a child and return what it says of each.

    If the child dies, each module is tried in a child of its own, and whose child dies is broken.
    """
    try:
        return _runProbe(modules)
    except ChildFailedError as failure:
        if failure.error.code in ("cancelled", "killed"):
            raise
        if len(modules) == 1:
            return {modules[0]: {"state": "broken", "reason": failure.error.message.rstrip(".")}}
    _runProbe(())  # a Python that doesn't start says nothing about the packages
    return {module: verdict for each in modules for module, verdict in _tryOut([each]).items()}


def _runProbe(modules: Sequence[str]) -> dict[str, dict[str, str]]:
    child = ChildProcess([pythonExecutable(), str(FOLDER / "probe.py"), *modules])
    try:
        child.start()
        verdicts = child.wait().get("modules")
    finally:
        child.close()
    if verdicts is None:  # what was imported ended the process
        raise ChildFailedError(ChildError("failed", _("It ended without a word.")))
    return verdicts


def _judge(requirements: Sequence[Requirement], verdicts: dict[str, dict[str, str]]) -> Findings:
    """Compare what happened to the modules, torch first, with what pip's records say of the packages."""
    importlib.invalidate_caches()
    missing: list[str] = []
    broken: dict[str, str] = {}
    outdated: dict[str, str] = {}
    for each in requirements:
        verdict = verdicts[importName(each.name)]
        recorded = _recordedVersion(each.name)
        version = verdict.get("version") or recorded
        if verdict["state"] == "missing" and not recorded:
            missing.append(each.name)
        elif verdict["state"] == "missing":
            broken[each.name] = _("its files are gone")
        elif verdict["state"] == "broken" and not _dependencies(each.name) & {*missing, *broken, *outdated}:
            broken[each.name] = verdict["reason"]
        elif _isTooOld(version, each):
            if recorded and not _isTooOld(recorded, each):  # pip would find nothing to do
                broken[each.name] = _("it is version {version}, though {recorded} is recorded").format(
                    version=version, recorded=recorded
                )
            else:
                outdated[each.name] = version
    return Findings(tuple(missing), broken, outdated)


def _recordedVersion(name: str) -> str:
    """Return the version that pip installed; an empty string if it installed none."""
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _dependencies(name: str) -> set[str]:
    """Return what a package can't be imported without, and so can't be judged before that works."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    needed = [Requirement(line) for line in lines]
    always = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    return {canonicalize_name(each.name) for each in always}


def _isTooOld(version: str, requirement: Requirement) -> bool:
    """Compare a version with the oldest that will do; one that is no version's number is not too old."""
    try:
        return not requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
