"""LoRA and DoRA adapters on any network of convolutions.

Importing this package loads no torch: its names are found when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sahlora.adapters.attach import adapt, disabled, merge, remove, unmerge
    from sahlora.adapters.config import AdapterConfig

__all__ = ["AdapterConfig", "adapt", "disabled", "merge", "remove", "unmerge"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'config' if name == 'AdapterConfig' else 'attach'}"), name)
