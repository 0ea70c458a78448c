"""What the user set once for all modules, under *Application Settings → SAHLoRA*."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import slicer

MODELS_VARIABLE = "SAHLORA_MODELS"  # where the command looks for models
AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Settings:
    """The settings of this user of Slicer; an empty text or 0 leaves the choice to the program.

    Parameters
    ----------
    modelsFolder : str
        Where models and adapters are kept and looked for.
    device : str
        What "auto" in a panel stands for: auto, cpu, cuda, cuda:N or mps.
    threads : int
        Threads of the processor that a child computes on; 0: all cores.
    temporaryFolder : str
        Where a running child keeps the CT and its results.
    wheelsFolder : str
        Folder with wheels, to install packages from without a network.
    dataFolder : str
        Where runs of training are kept, with the cases exported for them.
    """

    modelsFolder: str = ""
    device: str = AUTO
    threads: int = 0
    temporaryFolder: str = ""
    wheelsFolder: str = ""
    dataFolder: str = ""

    @classmethod
    def load(cls) -> Settings:
        """Read the settings; what is not set or unreadable is the default."""
        import qt

        stored = qt.QSettings()
        values = {field.name: stored.value(settingKey(field.name), field.default) for field in fields(cls)}
        texts = {name: str(value or "") for name, value in values.items() if name != "threads"}
        return cls(**{**texts, "device": texts["device"] or AUTO}, threads=_count(values["threads"]))

    def save(self) -> None:
        """Keep these settings from now on."""
        import qt

        stored = qt.QSettings()
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                stored.remove(settingKey(field.name))
            else:
                stored.setValue(settingKey(field.name), value)


def settingKey(name: str) -> str:
    """Return the key under which Slicer keeps a field of `Settings`."""
    return f"SAHLoRA/{name[0].upper()}{name[1:]}"


def modelsFolder() -> Path:
    """Return the user's folder of models: the setting, else the environment's, else the platform's place."""
    chosen = Settings.load().modelsFolder or os.environ.get(MODELS_VARIABLE, "")
    return Path(chosen).expanduser() if chosen else _platformFolder() / "models"


def dataFolder() -> Path:
    """Return the folder of training runs: the setting, else the platform's place."""
    chosen = Settings.load().dataFolder
    return Path(chosen).expanduser() if chosen else _platformFolder() / "training"


def temporaryFolder() -> Path:
    """Return the folder for the folders of children, which exists: the setting, else Slicer's own."""
    chosen = Settings.load().temporaryFolder
    if not chosen:
        return Path(slicer.app.temporaryPath)
    folder = Path(chosen).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def deviceFor(chosen: str) -> str:
    """Return the device a command is given for what a panel shows: the setting decides what "auto" is."""
    return Settings.load().device if chosen == AUTO else chosen


def settingsEnvironment() -> dict[str, str]:
    """Return the environment by which a child honors models folder, threads and temporary folder."""
    environment = {MODELS_VARIABLE: str(modelsFolder())}
    threads = Settings.load().threads
    if threads > 0:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporaryFolder()))


def _platformFolder() -> Path:
    import qt

    data = qt.QStandardPaths.writableLocation(qt.QStandardPaths.GenericDataLocation)
    return Path(data) / "sahlora"


def _count(value: object) -> int:
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0
