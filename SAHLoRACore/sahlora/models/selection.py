"""Which model segments which view: a base by name or file, an adapter, other models for single views."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sahlora.errors import UsageError
from sahlora.imaging.planes import View, parse_views
from sahlora.models.adapter_file import find_base, load_adapter, merged_model
from sahlora.models.base_model import Model, load_model

DEFAULT_MODEL = "hemorrhage-base"


def select_models(
    name: str | None = None, adapter: str | None = None, overrides: Mapping[str, str] = MappingProxyType({})
) -> dict[View, Model]:
    """Load the model of each view: the main one, adapted or not, for its own views, then the overrides.

    Parameters
    ----------
    name : str, optional
        Installed name or file of the base; without it the adapter's, or the shipped one.
    adapter : str, optional
        Installed name or file of an adapter of the base; its views are used.
    overrides : mapping of str to str
        Name or file of another base for a view.

    Raises
    ------
    UsageError
        ``unknown-view`` or ``mixed-targets``.
    InputError
        From reading the files.
    """
    models: dict[View, Model]
    if adapter is None:
        main = load_model(name or DEFAULT_MODEL)
        models = dict.fromkeys(main.card.preprocessing.views, main)
    else:
        content = load_adapter(adapter)
        base = load_model(name) if name else find_base(content.card)
        models = {view: merged_model(content, base, view) for view in content.states}
    target = next(iter(models.values())).card.target
    for view, other in overrides.items():
        model = load_model(other)
        if model.card.target.segment != target.segment:
            raise UsageError(
                "mixed-targets",
                f"{other} outlines {model.card.target.segment.name}, not {target.segment.name}.",
                "Choose models of one target.",
            )
        models |= dict.fromkeys(parse_views(view), model)
    return models
