"""The installer repairs and upgrades with the real pip, from a folder of wheels, in its own environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

REQUIREMENTS = ["zzfirst>=2.8", "zzsecond>=1.5"]


def write_wheel(folder, name, version, code="", needs=""):
    """Write a wheel of one module."""
    information = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}/__init__.py": code or f"__version__ = '{version}'",
        f"{information}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{information}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{information}/RECORD"))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture
def environment(slicer, tmp_path, monkeypatch):
    """The packages' folder of a new environment that the installer works on, with its wheels and pip."""
    import qt
    from packaging.requirements import Requirement

    from SAHLoRACoreLib import installation
    from SAHLoRACoreLib.settings import Settings
    from SAHLoRACoreLib.storage import INSTALLED_PACKAGES

    venv.create(tmp_path / "environment", with_pip=True)
    (python,) = (*tmp_path.glob("environment/bin/python"), *tmp_path.glob("environment/Scripts/python.exe"))
    packages = next(path for path in tmp_path.rglob("site-packages"))
    wheels = tmp_path / "whe els"
    wheels.mkdir()

    def pip(command, arguments):
        options = ["--quiet", "--disable-pip-version-check", *arguments]
        subprocess.run([str(python), "-m", "pip", command, *options], check=True)

    monkeypatch.setattr(slicer.util, "pip_install", lambda arguments: pip("install", arguments))
    monkeypatch.setattr(slicer.util, "pip_uninstall", lambda names: pip("uninstall", ["--yes", *names]))
    monkeypatch.setattr(installation, "pythonExecutable", lambda: str(python))
    monkeypatch.setattr(installation, "requirementLines", lambda: REQUIREMENTS)
    monkeypatch.setattr(installation, "oldestRequirements", lambda: [Requirement(r) for r in REQUIREMENTS])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [str(packages), *sys.path])
    qt.QSettings().remove(INSTALLED_PACKAGES)
    Settings(wheelsFolder=str(wheels)).save()
    yield packages, wheels
    Settings().save()
    qt.QSettings().remove(INSTALLED_PACKAGES)


@pytest.mark.proof
def test_packages_are_installed_repaired_and_upgraded_from_wheels_and_noted_with_dependencies(
    slicer, environment
):
    from SAHLoRACoreLib.installation import Findings, PackageInstaller
    from SAHLoRACoreLib.storage import notedPackages

    packages, wheels = environment
    write_wheel(wheels, "zzfirst", "2.9", needs="zzalong")
    write_wheel(wheels, "zzalong", "1.0")
    write_wheel(wheels, "zzsecond", "1.6", "import zzfirst", needs="zzfirst>=2")
    installer = PackageInstaller()

    def repair():
        """Return what was found; install must leave nothing to be found."""
        installer.forget()
        findings = installer.probe()
        installer.install(findings)
        assert installer.probe().complete
        return findings

    assert repair() == Findings(missing=("zzfirst", "zzsecond"))
    assert notedPackages() == ["zzalong", "zzfirst", "zzsecond"]

    (packages / "zzfirst" / "__init__.py").write_text("import os; os.abort()")
    assert list(repair().broken) == ["zzfirst"]

    (packages / "zzfirst" / "__init__.py").write_text("import zzfirst_native")
    shutil.rmtree(packages / "zzsecond")
    assert list(repair().broken) == ["zzfirst", "zzsecond"]

    old = write_wheel(wheels, "zzfirst", "2.2")
    slicer.util.pip_install(["--no-index", "--no-deps", str(old)])
    assert repair() == Findings(outdated={"zzfirst": "2.2"})
