"""The panel's state, kept in the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from SAHLoRACoreLib.settings import AUTO
from SAHLoRASegmenterLib.settings import DEFAULT_MODEL, PRECISIONS, VIEWS, SegmentSettings


@parameterNodeWrapper
class SAHLoRASegmenterParameterNode:
    """What the panel shows; a saved scene brings it back."""

    inputVolume: vtkMRMLScalarVolumeNode
    model: str = DEFAULT_MODEL
    adapter: str = ""
    device: str = AUTO  # any name that the command takes: graphics cards differ between computers
    automaticViews: bool = True
    axial: bool = True
    coronal: bool = False
    sagittal: bool = False
    modelThreshold: bool = True
    threshold: Annotated[float, WithinRange(0.01, 0.99)] = 0.5
    minimumComponentMl: Annotated[float, WithinRange(0.0, 100.0)] = 0.0
    flip: bool = False
    keepProbability: bool = False
    keepDisagreement: bool = False
    makePage: bool = True
    precision: Annotated[str, Choice(list(PRECISIONS))] = "auto"
    batchSize: Annotated[int, WithinRange(0, 256)] = 0
    output: vtkMRMLSegmentationNode
    result: vtkMRMLSegmentationNode


def settingsOf(parameters: SAHLoRASegmenterParameterNode) -> SegmentSettings:
    """Return the settings that the panel's state stands for."""
    automatic = parameters.automaticViews or parameters.adapter
    views = () if automatic else tuple(view for view in VIEWS if getattr(parameters, view))
    return SegmentSettings(
        model=parameters.model,
        views=views,
        device=parameters.device,
        threshold=None if parameters.modelThreshold else parameters.threshold,
        flip=parameters.flip,
        minimumComponentMl=parameters.minimumComponentMl,
        keepProbability=parameters.keepProbability,
        adapter=parameters.adapter,
        makePage=parameters.makePage,
        keepDisagreement=parameters.keepDisagreement,
        precision=parameters.precision,
        batchSize=parameters.batchSize,
    )
