"""What panels offer to choose from: words for every value, and a line that explains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from slicer.i18n import tr as _

from SAHLoRACoreLib.devices import rememberedDevices
from SAHLoRACoreLib.settings import DEVICES


class Choice(NamedTuple):
    """One value in words: `title` in the list, `explanation` as its tool tip."""

    title: str
    explanation: str


def methods() -> dict[str, Choice]:
    """Return the methods of adaptation."""
    return {
        "cp-lora": Choice(
            "CP-LoRA", _("Four thin factors a layer, the fewest parameters. A good first choice.")
        ),
        "lora-c": Choice(
            "LoRA-C", _("Two factors a layer, about three times as many parameters as CP-LoRA.")
        ),
        "conv-lora": Choice(
            "convLoRA", _("Two wider factors a layer, about eight times as many as CP-LoRA.")
        ),
        "cp-dora": Choice("CP-DoRA", _("CP-LoRA for the direction of the weights, and their size apart.")),
        "dora-c": Choice("DoRA-C", _("LoRA-C for the direction of the weights, and their size apart.")),
        "conv-dora": Choice(
            "convDoRA", _("convLoRA for the direction of the weights, and their size apart.")
        ),
        "locon": Choice(
            "LoCon", _("A narrow convolution and one of a single voxel, as other tools have it.")
        ),
        "standard": Choice(
            _("Standard"), _("Trains the weights themselves. The largest file, and the rank has no part.")
        ),
    }


def comparedMethods() -> dict[str, Choice]:
    """Return the methods that a cross-validation compares, controls included."""
    return methods() | {
        "threshold": Choice(_("HU threshold"), _("Voxels between two HU values, without a network.")),
        "shuffled-cp-lora": Choice(
            _("Control: CP-LoRA, wrong labels"),
            _("Trained on labels of other scans. What gains as much as this has learned nothing."),
        ),
    }


def presets() -> dict[str, Choice]:
    """Return the presets of training."""
    return {
        "default": Choice(
            _("Default"),
            _("At most 20 epochs; stops early and keeps the epoch that is best on the held-out cases."),
        ),
        "quick": Choice(_("Quick"), _("5 epochs, for a first impression.")),
        "paper": Choice(
            _("As published"),
            _("20 epochs of the published protocol; the last one counts, whether best or not."),
        ),
    }


def scopes() -> dict[str, Choice]:
    """Return the parts of the network that can be adapted alone."""
    return {
        "decoding": Choice(_("Decoder"), _("The half that draws the outline. A good first choice.")),
        "encoding": Choice(_("Encoder"), _("The half that reads the image.")),
        "deep": Choice(_("Deep"), _("The layers of the coarsest resolution.")),
        "shallow": Choice(_("Shallow"), _("The first and the last layer.")),
        "all": Choice(_("All"), _("Every layer.")),
    }


def targets(asModel: str) -> dict[str, Choice]:
    """Return what segments may outline; `asModel` is the value that leaves it to the model."""
    return {
        asModel: Choice(_("As the model"), _("The same as the model outlines.")),
        "hemorrhage": Choice(_("Hemorrhage"), _("Any blood inside the skull.")),
        "sah": Choice(_("Subarachnoid hemorrhage"), _("Blood in the subarachnoid space alone.")),
    }


def precisions() -> dict[str, Choice]:
    """Return the number formats of the computation."""
    return {
        "auto": Choice(_("Automatic"), _("bf16 where the device computes in it, else float32.")),
        "float32": Choice("float32", _("32 bits: slower on graphics cards, the reference.")),
        "bf16": Choice("bf16", _("16 bits: less memory, and faster on newer graphics cards.")),
    }


def devices(chosen: str) -> dict[str, Choice]:
    """Return the devices to choose from: the kinds, each of several graphics cards found, and `chosen`."""
    kinds = {
        "auto": Choice(_("Automatic"), _("The graphics card if there is one that can, else the processor.")),
        "cpu": Choice(_("Processor (CPU)"), _("Works on every computer; slower than a graphics card.")),
        "cuda": Choice(_("Graphics card (CUDA)"), _("The first NVIDIA graphics card.")),
        "mps": Choice(_("Apple graphics (MPS)"), _("The graphics processor of a Mac.")),
    }
    offered = {name: kinds[name] for name in DEVICES}
    cards = [device for device in rememberedDevices() if device.name.startswith("cuda:")]
    if len(cards) > 1:
        title = _("Graphics card {number}: {description}")
        for card in cards:
            words = title.format(number=card.name.partition(":")[2], description=card.description)
            offered[card.name] = Choice(words, _("This one of several graphics cards."))
    if chosen and chosen not in offered:
        offered[chosen] = Choice(chosen, _("Not found on this computer, or not looked for yet."))
    return offered


def describe(selector: Any, choices: Mapping[str, Choice]) -> None:
    """Put words in the place of the values that a selector lists; the values become the items' data.

    Parameters
    ----------
    selector : QComboBox
        With an item for each choice, in the same order, as a parameter node's connection fills it.
    choices : mapping of str to Choice
    """
    import qt

    for index, (value, choice) in enumerate(choices.items()):
        selector.setItemText(index, choice.title)
        selector.setItemData(index, value)
        selector.setItemData(index, choice.explanation, qt.Qt.ToolTipRole)
    lines = (f"{choice.title}: {choice.explanation}" for choice in choices.values())
    selector.toolTip = "\n".join((selector.toolTip.partition("\n")[0], *lines))


class DeviceSelector:
    """A selector of devices that follows what was found on this computer.

    Parameters
    ----------
    selector : QComboBox
        Lists the devices.
    onChosen : callable
        Called with the name of the device that the user chose.
    """

    def __init__(self, selector: Any, onChosen: Callable[[str], None]) -> None:
        self._selector, self._onChosen = selector, onChosen
        self._shown: dict[str, Choice] = {}
        selector.connect("currentIndexChanged(int)", self._onIndex)

    def show(self, chosen: str) -> None:
        """List the devices found until now, with this one chosen."""
        offered = devices(chosen)
        wasBlocked = self._selector.blockSignals(True)
        if offered != self._shown:
            self._shown = offered
            self._selector.clear()
            self._selector.addItems(list(offered))
            describe(self._selector, offered)
        self._selector.setCurrentIndex(list(offered).index(chosen))
        self._selector.blockSignals(wasBlocked)

    def _onIndex(self, index: int) -> None:
        if index >= 0:
            self._onChosen(list(self._shown)[index])
