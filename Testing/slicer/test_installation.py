"""Packages are asked for once, installed by Slicer's own means, repaired, and named if they fail."""

from __future__ import annotations

import sys
import types

import pytest


@pytest.fixture
def installer(slicer, monkeypatch):
    """A PackageInstaller whose tools note what they would install, in `installer.calls`."""
    import slicer.packaging

    from SAHLoRACoreLib.installation import Findings, PackageInstaller

    installer = PackageInstaller()
    installer.calls = []

    class Logic:
        def uninstallTorch(self):  # noqa: N802 - the PyTorch extension's name
            installer.calls.append("uninstall torch")

        def installTorch(self, askConfirmation, torchVersionRequirement):  # noqa: N802, N803
            installer.calls.append(f"torch{torchVersionRequirement}")
            return object()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    monkeypatch.setattr(slicer.packaging, "installed", installer.calls)
    monkeypatch.setattr(installer, "probe", lambda: Findings())
    return installer


@pytest.fixture
def wheels(slicer):
    from SAHLoRACoreLib.settings import Settings

    yield lambda folder: Settings(wheelsFolder=str(folder)).save()
    Settings().save()


def test_probe_in_a_child_tells_missing_from_broken_from_working(slicer, tmp_path, monkeypatch):
    from SAHLoRACoreLib.childprocess import ChildProcess, pythonExecutable
    from SAHLoRACoreLib.installation import FOLDER

    (tmp_path / "half_installed.py").write_text("import a_part_that_is_gone")
    (tmp_path / "refuses.py").write_text("raise OSError('DLL load failed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = ChildProcess(
        [pythonExecutable(), str(FOLDER / "probe.py"), "json", "not_there", "half_installed", "refuses"]
    )
    child.start()
    result = child.wait()
    child.close()

    assert result["missing"] == ["not_there"]
    assert set(result["broken"]) == {"half_installed", "refuses"}
    assert "DLL load failed" in result["broken"]["refuses"]


@pytest.mark.proof
def test_probe_finds_this_environment_complete_without_importing_torch_here(slicer):
    from SAHLoRACoreLib.installation import PackageInstaller

    pytest.importorskip("monai")
    before = "torch" in sys.modules

    assert PackageInstaller().probe().complete
    assert ("torch" in sys.modules) == before


def test_probe_starts_no_child_once_everything_was_found(slicer, monkeypatch, tmp_path):
    from SAHLoRACoreLib import installation

    started = []

    class Found:
        """A child that finds everything."""

        def __init__(self, command):
            started.append(command)

        def start(self):
            pass

        def wait(self):
            return {"missing": [], "broken": {}}

        def close(self):
            pass

    monkeypatch.setattr(installation, "ChildProcess", Found)
    installer = installation.PackageInstaller()

    assert installer.probe().complete
    assert installer.probe().complete
    assert len(started) == 1


def test_nothing_is_asked_or_installed_when_all_is_there(installer):
    from SAHLoRACoreLib.installation import ensureInstalled

    assert ensureInstalled(installer, ask=lambda text: pytest.fail("asked"))
    assert installer.calls == []


def test_declining_installs_nothing(installer, monkeypatch):
    from SAHLoRACoreLib.installation import Findings, ensureInstalled

    monkeypatch.setattr(installer, "probe", lambda: Findings(missing=("torch",)))

    assert not ensureInstalled(installer, ask=lambda text: False)
    assert installer.calls == []


def test_question_names_packages_and_size_before_torch_is_installed(installer):
    from SAHLoRACoreLib.installation import Findings

    text = installer.consentText(Findings(missing=("torch", "monai")))

    assert "torch, monai" in text
    assert "GB" in text
    assert "GB" not in installer.consentText(Findings(missing=("monai",)))


def test_torch_comes_through_the_pytorch_extension_and_the_rest_through_slicer(installer):
    from SAHLoRACoreLib.installation import Findings

    installer.install(Findings(missing=("torch", "monai", "tqdm")))

    assert installer.calls[0].startswith("torch>=2.8")
    assert [requirement.partition(">")[0] for requirement in installer.calls[1]] == ["monai", "tqdm"]


def test_broken_torch_is_removed_before_it_is_installed(installer):
    from SAHLoRACoreLib.installation import Findings

    installer.install(Findings(broken={"torch": "OSError('DLL load failed')"}))

    assert installer.calls[0] == "uninstall torch"
    assert installer.calls[1].startswith("torch>=2.8")


def test_broken_package_is_reinstalled(installer):
    from SAHLoRACoreLib.installation import Findings

    installer.install(Findings(broken={"monai": "ImportError()"}))

    assert installer.calls == [["--force-reinstall", "--no-deps", "monai>=1.5"]]


def test_wheels_folder_installs_everything_without_network(installer, wheels, tmp_path):
    from SAHLoRACoreLib.installation import Findings

    wheels(tmp_path / "whe els")
    installer.install(Findings(missing=("torch", "monai")))
    (arguments,) = installer.calls

    assert arguments[:3] == ["--no-index", "--find-links", str(tmp_path / "whe els")]
    assert [argument.partition(">")[0] for argument in arguments[3:]] == ["torch", "monai"]


def test_missing_pytorch_extension_is_named(installer, monkeypatch):
    from SAHLoRACoreLib.installation import Findings, InstallationError

    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)

    with pytest.raises(InstallationError, match="extension PyTorch"):
        installer.install(Findings(missing=("torch",)))


def test_package_that_is_missing_after_the_installation_is_named(installer, monkeypatch):
    from SAHLoRACoreLib.installation import Findings, InstallationError

    monkeypatch.setattr(installer, "probe", lambda: Findings(missing=("monai",)))

    with pytest.raises(InstallationError, match="monai"):
        installer.install(Findings(missing=("monai",)))


def test_slicer_without_packaging_falls_back_to_pip_install(installer, monkeypatch):
    import slicer

    from SAHLoRACoreLib.installation import Findings

    calls = []
    monkeypatch.delattr(slicer.packaging, "pip_ensure")
    monkeypatch.setattr(slicer.util, "pip_install", calls.append)
    installer.install(Findings(missing=("tqdm",)))

    assert calls == [["tqdm>=4.66"]]


def test_intel_mac_is_told_that_models_can_not_run(installer, monkeypatch):
    from SAHLoRACoreLib.installation import InstallationError, ensureInstalled

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    with pytest.raises(InstallationError, match="Intel"):
        ensureInstalled(installer, ask=lambda text: True)


@pytest.mark.parametrize(("system", "allowed"), [("win32", False), ("linux", True)])
def test_torch_2_13_is_kept_from_windows_only(slicer, monkeypatch, system, allowed):
    from packaging.specifiers import SpecifierSet

    from SAHLoRACoreLib.installation import torchRequirement

    monkeypatch.setattr("sys.platform", system)

    assert ("2.13.0" in SpecifierSet(torchRequirement())) is allowed
    assert "2.8.0" in SpecifierSet(torchRequirement())
