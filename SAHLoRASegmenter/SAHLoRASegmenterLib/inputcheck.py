"""Whether a volume can be a head CT, told when it is chosen and not only by the command."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.volumes import MAP, hasVoxels


class InputCheck:
    """Looks at the chosen volume, once for each content."""

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] = ()
        self._warning = ""

    def warning(self, volumeNode: Any) -> str:
        """Return why a volume may be no head CT in HU, or an empty string; an obstacle is no warning."""
        image = volumeNode and volumeNode.GetImageData()
        if image is None:
            return ""
        seen = (volumeNode.GetID(), image.GetMTime())
        if seen != self._seen:
            self._seen, self._warning = seen, inputWarning(volumeNode)
        return self._warning


def inputObstacle(volumeNode: Any) -> str:
    """Return why a volume can't be segmented at all, or an empty string."""
    if volumeNode.GetAttribute(MAP):
        return _("This is a map made by SAHLoRA. Choose the head CT.")
    if not hasVoxels(volumeNode):
        return _("This volume is empty. Choose the head CT.")
    if volumeNode.GetImageData().GetNumberOfScalarComponents() != 1:
        return _("This is a color picture. Choose the head CT.")
    return ""


def inputWarning(volumeNode: Any) -> str:
    """Return why a volume may be no head CT in HU, by the command's own rule, or an empty string."""
    from sahlora.errors import InputError
    from sahlora.imaging.plausibility import require_ct

    if inputObstacle(volumeNode):
        return ""
    try:
        require_ct(slicer.util.arrayFromVolume(volumeNode), _("this volume"))
    except InputError as error:
        text = str(error)
        return text[0].upper() + text[1:]
    return ""
