"""Whether a volume can be a head CT, told when it is chosen and not only by the command."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRASegmenterLib.results import MAP


class InputCheck:
    """Looks at the chosen volume, once for each content."""

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] = ()
        self._warning = ""

    def warning(self, volumeNode: Any) -> str:
        """Return why a volume may be no head CT in HU, or an empty string."""
        image = volumeNode and volumeNode.GetImageData()
        if image is None:
            return ""
        seen = (volumeNode.GetID(), image.GetMTime())
        if seen != self._seen:
            self._seen, self._warning = seen, inputWarning(volumeNode)
        return self._warning


def inputWarning(volumeNode: Any) -> str:
    """Return why a volume may be no head CT in HU, by the command's own rule, or an empty string."""
    from sahlora.errors import InputError
    from sahlora.imaging.plausibility import require_ct

    if volumeNode.GetAttribute(MAP):
        return _("This is a map made by SAHLoRA. Choose the head CT.")
    if volumeNode.GetImageData().GetNumberOfScalarComponents() != 1:
        return _("This is a color picture. Choose the head CT.")
    values = slicer.util.arrayFromVolume(volumeNode)
    if values.size == 0:
        return _("This volume is empty. Choose the head CT.")
    try:
        require_ct(values, _("this volume"))
    except InputError as error:
        text = str(error)
        return text[0].upper() + text[1:]
    return ""
