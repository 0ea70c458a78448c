"""What a user chooses for one segmentation, and the command line it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from sahlora.imaging.planes import VIEWS
from SAHLoRACoreLib.models import DEFAULT_MODEL
from SAHLoRACoreLib.settings import deviceFor

PRECISIONS = ("auto", "float32", "bf16")


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
    keepDisagreement : bool
        Bring the disagreement of the averaged predictions to the scene; needs several views or `flip`.
    precision : str
        auto, float32 or bf16.
    batchSize : int
        Slices at once; 0 leaves the choice to the command.
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
    keepDisagreement: bool = False
    precision: str = "auto"
    batchSize: int = 0

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
        if self.precision not in PRECISIONS:
            return False, _("Choose the precision auto, float32 or bf16.")
        if self.batchSize < 0:
            return False, _("Choose 1 slice at once or more, or 0 for what suits the memory.")
        if self.keepDisagreement and self.isSinglePrediction():
            return False, _("Choose another view or the mirrored pass: one prediction has no disagreement.")
        return True, ""

    def isSinglePrediction(self) -> bool:
        """Tell whether a single view is chosen, without its mirror image; for automatic views False."""
        return len(self.views) == 1 and not (self.flip and self.views != ("sagittal",))

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
        if self.precision != "auto":
            options += ["--precision", self.precision]
        if self.batchSize > 0:
            options += ["--batch-size", str(self.batchSize)]
        return options
