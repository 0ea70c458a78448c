"""SAHLoRA: segment hemorrhage on head CT and adapt the model to a site with LoRA and DoRA.

The front door. Importing it loads no torch: each name is found in its room when it is first used.

>>> import sahlora
>>> found = sahlora.segment("head.nii.gz", adapter="sah-ct")  # doctest: +SKIP

For research use only, not for diagnosis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sahlora.about import __version__

if TYPE_CHECKING:
    from sahlora.adapters.attach import adapt, merge
    from sahlora.adapters.config import AdapterConfig
    from sahlora.evaluation.evaluate import evaluate
    from sahlora.imaging.volume import read_volume
    from sahlora.models.adapter_file import load_adapter
    from sahlora.models.base_model import load_model
    from sahlora.segmentation import segment
    from sahlora.training.finetuning import finetune

__all__ = [
    "AdapterConfig",
    "__version__",
    "adapt",
    "evaluate",
    "finetune",
    "load_adapter",
    "load_model",
    "merge",
    "read_volume",
    "segment",
]

ROOMS = {
    "AdapterConfig": "adapters.config",
    "adapt": "adapters.attach",
    "evaluate": "evaluation.evaluate",
    "finetune": "training.finetuning",
    "load_adapter": "models.adapter_file",
    "load_model": "models.base_model",
    "merge": "adapters.attach",
    "read_volume": "imaging.volume",
    "segment": "segmentation",
}


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
