"""The devices that models can run on, found once by a child and remembered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.settings import deviceFor, settingKey

FOUND = settingKey("devices")


@dataclass(frozen=True)
class Device:
    """A processor or graphics card.

    Parameters
    ----------
    name : str
        What the commands call it: cpu, cuda:0 or mps.
    description : str
        For people: name and memory, or number of threads.
    secondsPerSlice : float
        What the shipped model took for one axial slice of a head.
    """

    name: str
    description: str
    secondsPerSlice: float


def rememberedDevices() -> list[Device]:
    """Return the devices found last, the one that "auto" means first; none before the first search."""
    import qt

    try:
        return [Device(**found) for found in json.loads(str(qt.QSettings().value(FOUND, "[]")))]
    except (ValueError, TypeError):
        return []


def rememberedDevice(chosen: str) -> Device | None:
    """Return the device that a choice in a panel stands for; None if it was not found."""
    name, devices = deviceFor(chosen), rememberedDevices()
    if name == "auto":
        return devices[0] if devices else None
    return next(
        (device for device in devices if device.name.partition(":")[0] == name or device.name == name), None
    )


class DeviceSearch(ChildWork):
    """Looks for devices in a child; they are remembered once it is finished.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    """

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__([*command, "devices"])

    def _receive(self, result: Event) -> None:
        import qt

        devices = [
            Device(str(row["name"]), str(row["description"]), float(row["seconds_per_slice"]))
            for row in result["devices"]
        ]
        qt.QSettings().setValue(FOUND, json.dumps([asdict(device) for device in devices]))
