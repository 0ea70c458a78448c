"""What a user chooses for one segmentation, and the command line it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from SAHLoRACoreLib.settings import deviceFor

VIEWS = ("axial", "coronal", "sagittal")
DEFAULT_MODEL = "hemorrhage-base"


@dataclass(frozen=True)
class SegmentSettings:
    """Settings of one segmentation.

    Parameters
    ----------
    model : str
        Name of an installed model, or the path of a model file.
    adapter : str
        Name or file of an adapter of the model; its own views are used. Empty: the model as it is.
    views : tuple of str
        Some of axial, coronal, sagittal; empty leaves the choice to the command.
    device : str
        auto, cpu, cuda, cuda:N or mps.
    threshold : float, optional
        Probability from which on a voxel is outlined; None takes the model's own.
    flip : bool
        Average with the prediction on the mirrored CT.
    minimumComponentMl : float
        Drop connected pieces smaller than this.
    keepProbability : bool
        Bring the probability map to the scene, too; the threshold can then be changed afterwards.
    makePage : bool
        Write a report page; it takes some seconds.
    """

    model: str = DEFAULT_MODEL
    views: tuple[str, ...] = ()
    device: str = "auto"
    threshold: float | None = None
    flip: bool = False
    minimumComponentMl: float = 0.0
    keepProbability: bool = False
    adapter: str = ""
    makePage: bool = False

    def isValid(self) -> tuple[bool, str]:
        """Return whether these settings can be run, and if not, what to do about it."""
        if not self.model:
            return False, _("Choose a model.")
        unknown = set(self.views) - set(VIEWS)
        if unknown:
            return False, _("Choose views among axial, coronal and sagittal.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            return False, _("Choose a threshold between 0 and 1.")
        if self.minimumComponentMl < 0:
            return False, _("Choose 0 mL or more for the smallest piece.")
        return True, ""

    def arguments(self) -> list[str]:
        """Return the options of ``sahlora segment`` for these settings."""
        options = ["--model", self.model, "--device", deviceFor(self.device)]
        if self.adapter:
            options += ["--adapter", self.adapter]
        if self.views:
            options += ["--views", ",".join(self.views)]
        if self.threshold is not None:
            options += ["--threshold", f"{self.threshold:g}"]
        if self.flip:
            options.append("--flip")
        if self.minimumComponentMl > 0:
            options += ["--minimum-component", f"{self.minimumComponentMl:g}"]
        return options
