"""The panel's state, kept in the scene; the table of cases is kept beside it, see `cases`."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from SAHLoRACoreLib.settings import AUTO
from SAHLoRATrainerLib.settings import (
    DEFAULT_MODEL,
    MAX_RANK,
    METHODS,
    PRESETS,
    SCOPES,
    TARGETS,
    VIEWS,
    TrainSettings,
)


@parameterNodeWrapper
class SAHLoRATrainerParameterNode:
    """What the panel shows; a saved scene brings it back."""

    caseVolume: vtkMRMLScalarVolumeNode
    caseSegmentation: vtkMRMLSegmentationNode
    cases: str = "[]"
    model: str = DEFAULT_MODEL
    method: Annotated[str, Choice(list(METHODS))] = "cp-lora"
    rank: Annotated[int, WithinRange(0, MAX_RANK)] = 4
    preset: Annotated[str, Choice(list(PRESETS))] = "default"
    scope: Annotated[str, Choice(list(SCOPES))] = "decoding"
    axial: bool = True
    coronal: bool = False
    sagittal: bool = False
    epochs: Annotated[int, WithinRange(0, 1000)] = 0
    learningRate: Annotated[float, WithinRange(0.0, 0.9)] = 0.0
    target: Annotated[str, Choice(list(TARGETS))] = TARGETS[0]
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    device: str = AUTO  # any name that the command takes: graphics cards differ between computers
    runName: str = "site"


def settingsOf(parameters: SAHLoRATrainerParameterNode) -> TrainSettings:
    """Return the settings that the panel's state stands for."""
    return TrainSettings(
        name=parameters.runName,
        model=parameters.model,
        method=parameters.method,
        rank=parameters.rank,
        scope=parameters.scope,
        views=tuple(view for view in VIEWS if getattr(parameters, view)),
        preset=parameters.preset,
        epochs=parameters.epochs,
        learningRate=parameters.learningRate,
        target=parameters.target,
        seed=parameters.seed,
        device=parameters.device,
    )
