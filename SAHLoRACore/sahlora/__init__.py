"""SAHLoRA: segment hemorrhage on head CT and adapt the model to a site with LoRA and DoRA.

For research use only, not for diagnosis. Submodules are imported by name (``from sahlora import volume``),
so that a command loads only what it needs.
"""

from sahlora.about import __version__

__all__ = ["__version__"]
