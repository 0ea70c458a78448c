"""Which of the scene's volumes can be a head CT, and the selectors that offer them."""

from __future__ import annotations

from typing import Any

import slicer

CT_CLASS = "vtkMRMLScalarVolumeNode"
MAP = "SAHLoRA.map"  # attribute of a volume that is no CT: "probability" or "disagreement"


def possibleCTs() -> list[Any]:
    """Return the volumes of the scene that can be a CT: no label maps, color pictures or maps of ours."""
    return [node for node in _exactly(CT_CLASS) if node.GetAttribute(MAP) is None]


def firstCT() -> Any:
    """Return the first volume that can be a CT and has voxels; None if there is none."""
    return next((node for node in possibleCTs() if hasVoxels(node)), None)


def hasVoxels(volumeNode: Any) -> bool:
    """Tell whether a volume was filled already: a node comes to the scene before its image."""
    image = volumeNode.GetImageData()
    return image is not None and image.GetNumberOfPoints() > 0


def offerPossibleCTs(selector: Any) -> None:
    """Let a selector offer only what can be a CT; call it whenever nodes came or went.

    Parameters
    ----------
    selector : qMRMLNodeComboBox
        Of scalar volumes.
    """
    selector.showChildNodeTypes = False
    maps = [node.GetID() for node in _exactly(CT_CLASS) if node.GetAttribute(MAP) is not None]
    model = selector.sortFilterProxyModel()
    if list(model.hiddenNodeIDs) != maps:
        model.hiddenNodeIDs = maps


def _exactly(kind: str) -> list[Any]:
    return [node for node in slicer.util.getNodesByClass(kind) if node.GetClassName() == kind]
