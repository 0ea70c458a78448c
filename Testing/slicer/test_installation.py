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

    monkeypatch.setitem(
        sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic, __spec__="made up")
    )
    monkeypatch.setattr(slicer.packaging, "installed", installer.calls)
    monkeypatch.setattr(installer, "probe", lambda: Findings())
    return installer


@pytest.fixture
def wheels(slicer):
    from SAHLoRACoreLib.settings import Settings

    yield lambda folder: Settings(wheelsFolder=str(folder)).save()
    Settings().save()


# ----------------------------------------------------------------------------------------------------- probe


@pytest.fixture
def packages(slicer, tmp_path, monkeypatch):
    """A function that adds a made-up package: its code, and its version and needs in pip's record.

    The names are those of the requirements, which are made up as well; nothing of the real ones is imported.
    """
    from packaging.requirements import Requirement

    from SAHLoRACoreLib import installation

    lines = ["first>=2.8", "second>=1.5", "third>=1.0"]
    monkeypatch.setattr(installation, "oldestRequirements", lambda: [Requirement(line) for line in lines])
    monkeypatch.setattr(installation, "requirementLines", lambda: lines)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    def add(name, code="", record="9.0", needs=""):
        if code is not None:
            (tmp_path / f"{name}.py").write_text(code)
        if record:
            information = tmp_path / f"{name}-{record}.dist-info"
            information.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {record}\n"
            (information / "METADATA").write_text(text + (f"Requires-Dist: {needs}\n" if needs else ""))

    return add


def probe():
    from SAHLoRACoreLib.installation import PackageInstaller

    return PackageInstaller().probe()


def test_probe_in_a_child_tells_missing_from_broken_from_working(packages):
    packages("second", "import a_part_that_is_gone")
    packages("third", "raise OSError('DLL load failed')")
    findings = probe()

    assert findings.missing == ("first",)
    assert set(findings.broken) == {"second", "third"}
    assert "DLL load failed" in findings.broken["third"]
    assert findings.outdated == {}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("death", "reason"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import atexit, os; atexit.register(os.abort)", "SIGABRT"),
        ("import os; os._exit(0)", "without a word"),
        ("import sys; sys.exit('no license')", "no license"),
    ],
    ids=["abort", "segmentation fault", "abort at exit", "silent end", "exit"],
)
def test_package_whose_import_ends_the_process_is_broken_and_the_others_are_judged(packages, death, reason):
    packages("first", death)
    packages("second", "__version__ = '1.6'", record="1.6")
    findings = probe()

    assert list(findings.broken) == ["first"]
    assert reason in findings.broken["first"]
    assert findings.missing == ("third",)


def test_package_that_needs_a_broken_one_is_not_blamed(packages):
    packages("first", "import os; os.abort()")
    packages("second", "import first", needs="first>=2")
    packages("third", "import first", needs='first; extra == "all"')

    assert list(probe().broken) == ["first", "third"]


def test_too_old_versions_are_found_and_new_ones_pass(packages):
    packages("first", "__version__ = '0.0.1'", record="0.0.1")
    packages("second", "", record="1.4.2")
    packages("third", "__version__ = '1.2.dev3+cpu'", record="1.2.dev3+cpu")
    findings = probe()

    assert findings.outdated == {"first": "0.0.1", "second": "1.4.2"}
    assert (findings.missing, findings.broken) == ((), {})


def test_what_pip_takes_for_installed_but_is_not_is_broken(packages, tmp_path):
    packages("first", "__version__ = '0.0.1'", record="2.9")
    packages("second", None)
    (tmp_path / "third").mkdir()
    packages("third", None)

    assert probe().broken == {
        "first": "it is version 0.0.1, though 2.9 is recorded",
        "second": "its files are gone",
        "third": "its files are gone",
    }


def test_python_that_does_not_start_is_no_fault_of_the_packages(packages, monkeypatch, tmp_path):
    from SAHLoRACoreLib import installation
    from SAHLoRACoreLib.childprocess import ChildFailedError

    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    monkeypatch.setattr(installation, "pythonExecutable", lambda: sys.executable)

    with pytest.raises(ChildFailedError, match="status 3"):
        probe()


@pytest.mark.proof
def test_probe_finds_this_environment_complete_without_importing_torch_here(slicer):
    pytest.importorskip("monai")
    before = "torch" in sys.modules

    assert probe().complete
    assert ("torch" in sys.modules) == before


def test_probe_starts_no_child_once_everything_was_found(packages, monkeypatch):
    from SAHLoRACoreLib import installation

    started = []
    run = installation._runProbe
    monkeypatch.setattr(installation, "_runProbe", lambda modules: started.append(modules) or run(modules))
    for name in ("first", "second", "third"):
        packages(name)
    installer = installation.PackageInstaller()

    assert installer.probe().complete
    assert installer.probe().complete
    assert started == [["first", "second", "third"]]
    installer.forget()
    assert installer.probe().complete
    assert len(started) == 2


# ---------------------------------------------------------------------------------------------- installation


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


def test_question_tells_what_is_removed_and_what_is_upgraded(installer):
    from SAHLoRACoreLib.installation import Findings

    text = installer.consentText(Findings(broken={"monai": "ImportError()"}, outdated={"torch": "2.2"}))

    assert "removed and installed anew: monai." in text
    assert "upgraded: torch 2.2." in text
    assert "needs to install" not in text
    assert "GB" in text


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


def test_broken_package_is_removed_and_installed_with_its_dependencies(installer):
    from SAHLoRACoreLib.installation import Findings

    installer.install(Findings(broken={"monai": "ImportError()"}))

    assert installer.calls == [["uninstall", "monai"], ["monai>=1.5"]]


def test_missing_packages_come_with_their_dependencies_though_another_is_broken(installer):
    from SAHLoRACoreLib.installation import Findings

    installer.install(Findings(missing=("monai",), broken={"tqdm": "ImportError()"}))

    assert installer.calls == [["uninstall", "tqdm"], ["monai>=1.5", "tqdm>=4.66"]]


def test_old_packages_are_upgraded_and_stay_if_that_fails(installer):
    from SAHLoRACoreLib.installation import Findings

    installer.install(Findings(outdated={"torch": "2.2", "monai": "1.3"}))

    assert installer.calls[0].startswith("torch>=2.8")
    assert installer.calls[1:] == [["monai>=1.5"]]


def test_offline_repair_removes_what_is_broken_first(installer, wheels, tmp_path):
    """Otherwise pip is content with the requirement that looks satisfied."""
    from SAHLoRACoreLib.installation import Findings

    wheels(tmp_path)
    installer.install(Findings(missing=("tqdm",), broken={"torch": "SIGABRT", "monai": "ImportError()"}))
    removed, installed = installer.calls

    assert removed == ["uninstall", "torch", "monai"]
    assert installed[:3] == ["--no-index", "--find-links", str(tmp_path)]
    assert [argument.partition(">")[0] for argument in installed[3:]] == ["torch", "monai", "tqdm"]


@pytest.fixture
def noted(slicer):
    """What is noted as installed by SAHLoRA; nothing afterwards."""
    import qt

    from SAHLoRACoreLib.storage import INSTALLED_PACKAGES, notedPackages

    qt.QSettings().remove(INSTALLED_PACKAGES)
    yield notedPackages
    qt.QSettings().remove(INSTALLED_PACKAGES)


def arriving(packages, *names):
    """Stand in for pip: these packages are there after it."""

    def install(*arguments, **options):
        for name in names:
            packages(name)

    return install


def test_what_comes_along_is_noted_and_what_was_there_is_not(installer, packages, noted, monkeypatch):
    import slicer.packaging

    from SAHLoRACoreLib.installation import Findings

    packages("third")
    monkeypatch.setattr(slicer.packaging, "pip_ensure", arriving(packages, "second", "Came_along"))
    installer.install(Findings(missing=("second",), outdated={"third": "0.1"}))

    assert noted() == ["came-along", "second"]


def test_what_came_before_the_installation_failed_is_noted(installer, packages, noted, monkeypatch):
    import slicer.packaging

    from SAHLoRACoreLib.installation import Findings, InstallationError

    def fail(*arguments, **options):
        arriving(packages, "second")()
        raise OSError("no space left")

    monkeypatch.setattr(slicer.packaging, "pip_ensure", fail)
    with pytest.raises(InstallationError, match="no space left"):
        installer.install(Findings(missing=("second", "third")))

    assert noted() == ["second"]


def test_wheels_folder_installs_everything_without_network(installer, wheels, tmp_path):
    from SAHLoRACoreLib.installation import Findings

    wheels(tmp_path / "whe els")
    installer.install(Findings(missing=("torch", "monai")))
    (arguments,) = installer.calls

    assert arguments[:3] == ["--no-index", "--find-links", str(tmp_path / "whe els")]
    assert [argument.partition(">")[0] for argument in arguments[3:]] == ["torch", "monai"]


def test_missing_pytorch_extension_is_named_before_the_user_is_asked(installer, monkeypatch):
    from SAHLoRACoreLib.installation import Findings, InstallationError, ensureInstalled

    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    monkeypatch.setattr(installer, "probe", lambda: Findings(missing=("torch",)))
    asked = []

    with pytest.raises(InstallationError, match="extension PyTorch"):
        ensureInstalled(installer, lambda text: bool(asked.append(text)))
    assert asked == []


def test_pytorch_extension_is_not_needed_for_other_packages_or_with_wheels(
    installer, monkeypatch, wheels, tmp_path
):
    from SAHLoRACoreLib.installation import Findings

    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    assert installer.installObstacle(Findings(missing=("monai",))) == ""
    wheels(tmp_path)
    assert installer.installObstacle(Findings(missing=("torch",))) == ""


def test_package_that_is_missing_after_the_installation_is_named(installer, monkeypatch):
    from SAHLoRACoreLib.installation import Findings, InstallationError

    monkeypatch.setattr(installer, "probe", lambda: Findings(missing=("monai",)))

    with pytest.raises(InstallationError, match="monai"):
        installer.install(Findings(missing=("monai",)))


def test_package_that_is_too_old_after_the_installation_is_named(installer, monkeypatch):
    from SAHLoRACoreLib.installation import Findings, InstallationError

    old = Findings(outdated={"monai": "1.3"})
    monkeypatch.setattr(installer, "probe", lambda: old)

    with pytest.raises(InstallationError, match=r"too old.*monai 1\.3"):
        installer.install(old)


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
