"""Which model segments which view: a base by name or file, an adapter, other models for single views."""

from __future__ import annotations

from collections.abc import Sequence

from sahlora.errors import UsageError
from sahlora.imaging.planes import View, parse_views
from sahlora.models.adapter_file import find_base, merged_model, read_adapter
from sahlora.models.base_model import Model, load_model
from sahlora.models.registry import find

DEFAULT_MODEL = "hemorrhage-base"


def select_models(
    name: str | None = None, adapter: str | None = None, overrides: Sequence[str] = ()
) -> dict[View, Model]:
    """Load the model of each view: the main one, adapted or not, for its own views, then the overrides.

    Parameters
    ----------
    name : str, optional
        Installed name or file of the base; without it the adapter's, or the shipped one.
    adapter : str, optional
        Installed name or file of an adapter of the base; its views are used.
    overrides : sequence of str
        ``VIEW=MODEL``, a base model for one view.

    Raises
    ------
    UsageError
        ``bad-view-model``, ``unknown-view`` or ``mixed-targets``.
    InputError
        From reading the files.
    """
    models: dict[View, Model]
    if adapter is None:
        main = load_model(find(name or DEFAULT_MODEL, "base"))
        models = dict.fromkeys(main.card.preprocessing.views, main)
    else:
        content = read_adapter(find(adapter, "adapter"))
        base = load_model(find(name, "base")) if name else find_base(content.card)
        models = {view: merged_model(content, base, view) for view in content.states}
    target = next(iter(models.values())).card.target
    for override in overrides:
        view, _, other = override.partition("=")
        if not other:
            raise UsageError(
                "bad-view-model", f"“{override}” is not VIEW=MODEL.", "Write e.g. coronal=my-model."
            )
        model = load_model(find(other, "base"))
        if model.card.target.segment != target.segment:
            raise UsageError(
                "mixed-targets",
                f"{other} outlines {model.card.target.segment.name}, not {target.segment.name}.",
                "Choose models of one target.",
            )
        models |= dict.fromkeys(parse_views(view), model)
    return models
