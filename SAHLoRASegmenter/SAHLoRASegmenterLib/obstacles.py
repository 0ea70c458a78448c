"""Why a segmentation can't be started: what is missing, and what to do about it."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from SAHLoRASegmenterLib.devicepanel import passesOf, viewsToRun
from SAHLoRASegmenterLib.inputcheck import inputObstacle
from SAHLoRASegmenterLib.parameters import settingsOf


def settingsObstacle(parameters: Any, modelPanel: Any) -> str:
    """Return why nothing can be segmented with these settings, or an empty string."""
    if parameters is None:
        return _("The scene is being closed.")
    if modelPanel.obstacle():
        return modelPanel.obstacle()
    anyView = parameters.axial or parameters.coronal or parameters.sagittal
    if not (parameters.automaticViews or anyView or modelPanel.decidesViews()):
        return _("Choose at least one view.")
    return settingsOf(parameters).isValid()[1]


def volumeObstacle(parameters: Any, modelPanel: Any) -> str:
    """Return why the chosen volume can't be segmented with these settings, or an empty string."""
    node = parameters and parameters.inputVolume
    if parameters is not None and node is None:
        return _("Load and choose a head CT.")
    return (
        settingsObstacle(parameters, modelPanel)
        or inputObstacle(node)
        or _disagreementObstacle(node, parameters, modelPanel)
    )


def _disagreementObstacle(volumeNode: Any, parameters: Any, modelPanel: Any) -> str:
    """Return why the wanted disagreement can't be had of a volume, or an empty string."""
    if not parameters.keepDisagreement:
        return ""
    views = viewsToRun(volumeNode, parameters, modelPanel.views())
    if sum(passesOf(view, parameters) for view in views) > 1:
        return ""
    return _("Tick the mirrored pass or choose several views: one prediction has no disagreement.")
