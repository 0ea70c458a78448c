"""Look at adapter files, install them, make new ones of them, and count what a new one would train.

An adapter is given by the name it is installed under or by its file. Its base is looked for among the
installed models, by the SHA-256 in the adapter's card, unless --base names it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.adapters.algebra import Fit
    from sahlora.models.adapter_file import Adapter
    from sahlora.models.base_model import Model
    from sahlora.models.card import NetworkSpec

SUMMARY = "list, show, merge, average, compress and share adapters"
EXAMPLE = "sahlora adapters show site.safetensors"
ACTIONS = {
    "list": "list the installed adapters",
    "count": "tell how many parameters each method trains in each scope of a base model",
    "show": "show what an adapter is, and all that its file holds",
    "describe": "change an adapter's title, summary, author, license or strength",
    "merge": "write base and adapter as one base model",
    "average": "make one adapter of several, e.g. those of the folds of a cross-validation",
    "compress": "turn a LoRA-C or convLoRA adapter into CP form and report the error per layer",
    "export": "copy an installed adapter to a file",
    "import": "check an adapter file and install it",
    "remove": "delete an installed adapter",
}

WORDS = {
    "title": ("TEXT", "what the adapter is called"),
    "summary": ("TEXT", "what it is good for, in a sentence or two"),
    "author": ("NAME", "who made it; the file is made to be shared"),
    "license": ("NAME", "on which terms others may use it, e.g. CC-BY-4.0"),
}
"""Words of a card that can be changed afterwards, with what they say."""


def configure(action: str, parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of one action."""
    if action == "average":
        parser.add_argument("adapter", nargs="+", metavar="ADAPTER", help="adapters of one base and method")
    elif action not in ("list", "count"):
        parser.add_argument("adapter", metavar="ADAPTER", help="installed name, or file")
    if action == "count":
        parser.add_argument("--model", metavar="MODEL", help="base: name or file (default: hemorrhage-base)")
        parser.add_argument("--rank", type=int, default=4, help="rank (default: 4)")
    if action == "show":
        parser.add_argument("--json", action="store_true", help="print card and content as JSON")
    if action in ("describe", "export", "import"):
        for word, (metavar, meaning) in WORDS.items():
            parser.add_argument(f"--{word}", metavar=metavar, help=f"{meaning} (default: as it is)")
        parser.add_argument(
            "--strength",
            type=float,
            metavar="S",
            help="how far it goes from its base, 0, to what was trained, 1 (default: as it is)",
        )
    if action in ("merge", "average", "compress", "export"):
        parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="file to write")
    if action == "merge":
        parser.add_argument(
            "--base", metavar="MODEL", help="base model (default: the installed one that fits)"
        )
        parser.add_argument(
            "--view", choices=("axial", "coronal", "sagittal"), help="which view's (default: the only one)"
        )
    if action == "average":
        parser.add_argument("--rank", type=int, help="lower rank, by SVD or PARAFAC (default: exact)")
    if action == "compress":
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("--rank", type=int, help="CP rank of every layer")
        target.add_argument("--error", type=float, help="relative error allowed in each layer, e.g. 0.1")
    if action == "import":
        parser.add_argument("--name", help="name to install it under (default: the file's)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Do what was asked."""
    from sahlora.models.registry import SUFFIX, find, require_replaceable
    from sahlora.runtime.files import require_ending, require_writable

    if (output := getattr(args, "output", None)) is not None:
        require_ending(output, SUFFIX)
        named = args.adapter if isinstance(args.adapter, list) else [args.adapter]
        named = [*named, *filter(None, [getattr(args, "base", None)])]
        require_writable(output, inputs=[find(name) for name in named])
        require_replaceable(output, "base" if args.action == "merge" else "adapter")
    actions = {
        "list": _list, "count": _count, "show": _show, "merge": _merge, "average": _average,
        "compress": _compress, "export": _export, "import": _import, "remove": _remove,
        "describe": _describe,
    }  # fmt: skip
    if args.action == "list":
        _warn_of_unusable(progress)
    lines, result = actions[args.action](args)
    if args.progress != "json":
        print("\n".join(lines))
    progress.result(**result)


Outcome = tuple[list[str], dict[str, Any]]  # lines for people, values for programs


def _warn_of_unusable(progress: Progress) -> None:
    """Name the files that the list lacks."""
    from sahlora.models.adapter_file import read_adapter_card
    from sahlora.models.registry import installed, readable, unusable

    _, odd = readable(installed("adapter"), lambda entry: read_adapter_card(entry.path))
    for path, error in {**unusable(), **odd}.items():
        progress.warning("unusable-model", f"{path} is left out: {error.message}", error.hint)


def _list(args: argparse.Namespace) -> Outcome:
    from sahlora.models.adapter_file import read_adapter_card
    from sahlora.models.registry import installed, readable

    found, _ = readable(installed("adapter"), lambda entry: read_adapter_card(entry.path))
    lines = [
        f"{e.name}: {_methods(card.adapters)}, of base “{card.base_title}”"
        + (f", strength {card.strength:g}" if card.strength < 1 else "")
        for e, card in found
    ]
    values = [{"name": e.name, "path": str(e.path), "base_sha256": card.base_sha256} for e, card in found]
    return lines or ["No adapter is installed."], {"adapters": values}


def _count(args: argparse.Namespace) -> Outcome:
    from sahlora.adapters.scope import count_methods
    from sahlora.models.base_model import read_base_card
    from sahlora.models.registry import find
    from sahlora.models.selection import DEFAULT_MODEL

    card = read_base_card(find(args.model or DEFAULT_MODEL, "base"))
    network = _network(card.network)
    whole = sum(parameter.numel() for parameter in network.parameters())
    counts = count_methods(network, args.rank)
    methods = list(next(iter(counts.values())))
    lines = [f"Parameters at rank {args.rank}; the base has {whole:,}."]
    lines.append("".join([f"{'method':<10}", *(f"{scope:>10}" for scope in counts)]))
    for method in methods:
        cells = (f"{counts[scope][method].parameters:>10,}" for scope in counts)
        lines.append("".join([f"{method:<10}", *cells]))
    plain = {scope: {name: count._asdict() for name, count in row.items()} for scope, row in counts.items()}
    return lines, {"base": whole, "rank": args.rank, "scopes": plain}


def _show(args: argparse.Namespace) -> Outcome:
    from sahlora.models.header import read_contents
    from sahlora.models.registry import find

    adapter, contents = _read(args.adapter), read_contents(find(args.adapter, "adapter"))
    card = adapter.card
    values = {"parameters": adapter.parameters, "card": asdict(card), "contents": contents.to_dict()}
    if args.json:
        return [json.dumps(values, indent=2, ensure_ascii=False)], values
    lines = [
        f"{card.description.title}: {card.description.summary}".rstrip(": "),
        f"outlines: {card.target.segment.name}, from probability {card.target.threshold} on",
        f"base: {card.base_title} (SHA-256 {card.base_sha256})",
        f"parameters: {adapter.parameters:,}",
        f"strength: {card.strength:g}",
    ]
    for view, config in card.adapters.items():
        lines.append(f"{view}: {config.method}, rank {config.rank}, scope {config.scope}")
    return [*lines, *contents.lines()], values


def _describe(args: argparse.Namespace) -> Outcome:
    from sahlora.errors import UsageError
    from sahlora.models.registry import SHIPPED, find

    path = find(args.adapter, "adapter")
    if not _changes(args):
        raise UsageError("no-change", "Nothing of the card is to be changed.", "Give e.g. --title.")
    if path.resolve().parent == SHIPPED.resolve():
        raise UsageError(
            "shipped-model", f"“{args.adapter}” came with SAHLoRA and stays.", "Export it with the changes."
        )
    _changed(args)(path)
    return [f"Changed the card of {path}."], {"adapter": str(path)}


def _merge(args: argparse.Namespace) -> Outcome:
    from sahlora.errors import UsageError
    from sahlora.models.adapter_file import find_base, merged_model
    from sahlora.models.base_model import load_model, save_model

    adapter = _read(args.adapter)
    views = tuple(adapter.states)
    if args.view is None and len(views) > 1:
        raise UsageError("which-view", f"The adapter holds {', '.join(views)}.", "Choose one with --view.")
    view = args.view or views[0]
    base: Model = load_model(args.base) if args.base else find_base(adapter.card)
    model = merged_model(adapter, base, view)
    save_model(args.output, model.network, model.card)
    return [f"Wrote the base model {args.output}."], {"model": str(args.output)}


def _average(args: argparse.Namespace) -> Outcome:
    from sahlora.adapters.algebra import average
    from sahlora.errors import UsageError

    members = [_read(name) for name in args.adapter]
    first = members[0]
    for what, key in (
        ("bases", lambda m: m.card.base_sha256),
        ("views", lambda m: set(m.states)),
        ("targets", lambda m: m.card.target),
        ("strengths", lambda m: m.card.strength),
    ):
        if unlike := [m for m in members if key(m) != key(first)]:
            titles = (m.card.description.title for m in (first, unlike[0]))
            raise UsageError(
                "not-averageable",
                f"{' and '.join(f'“{title}”' for title in titles)} have unlike {what}.",
                "Average adapters of one base, target and threshold, exported with one --strength.",
            )
    network = _network(first.card.network)
    results = {
        view: average(
            network,
            [m.card.adapters[view] for m in members],
            [m.states[view] for m in members],
            rank=args.rank,
        )
        for view in first.states
    }
    training = {"average_of": [member.card.training for member in members]}
    return _write(args.output, first, results, training)


def _compress(args: argparse.Namespace) -> Outcome:
    from sahlora.adapters.algebra import compress

    adapter = _read(args.adapter)
    network = _network(adapter.card.network)
    results = {
        view: compress(network, adapter.card.adapters[view], state, rank=args.rank, error=args.error)
        for view, state in adapter.states.items()
    }
    training = {**adapter.card.training, "compressed_from": _methods(adapter.card.adapters)}
    return _write(args.output, adapter, results, training)


def _export(args: argparse.Namespace) -> Outcome:
    _changed(args)(args.output)
    return [f"Wrote {args.output}."], {"adapter": str(args.output)}


def _import(args: argparse.Namespace) -> Outcome:
    from sahlora.models.registry import find, install

    path = install(args.name or find(args.adapter, "adapter").stem, _changed(args))
    return [f"Installed {path.stem}."], {"name": path.stem, "adapter": str(path)}


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the words of the card, and the strength, that were given."""
    given = {key: getattr(args, key) for key in (*WORDS, "strength")}
    return {
        key: value.strip() if isinstance(value, str) else value
        for key, value in given.items()
        if value is not None
    }


def _changed(args: argparse.Namespace) -> Callable[[Path], None]:
    """Return what writes the adapter anew, checked, with what is to change on its card."""
    from sahlora.errors import UsageError
    from sahlora.models.adapter_file import save_adapter

    adapter, changes = _read(args.adapter), _changes(args)
    if changes.get("title") == "":
        raise UsageError("no-title", "An adapter needs a title.", "Give --title a text.")
    strength = changes.pop("strength", adapter.card.strength)
    description = replace(adapter.card.description, **changes)
    card = replace(adapter.card, description=description, strength=strength)
    return lambda path: save_adapter(path, replace(adapter, card=card))


def _remove(args: argparse.Namespace) -> Outcome:
    from sahlora.models.registry import remove

    path = remove(args.adapter, "adapter")
    return [f"Removed {path}."], {"removed": str(path)}


# ------------------------------------------------------------------------------------------------------ help


def _read(name: str) -> Adapter:
    from sahlora.models.adapter_file import load_adapter

    return load_adapter(name)


def _network(spec: NetworkSpec) -> Any:
    """Return a network of the base's shape; algebra and counting read nothing but shapes."""
    import torch

    from sahlora.models.network import MultiViewUNet

    with torch.device("meta"):
        return MultiViewUNet(spec.level, spec.width, spec.in_channels, spec.out_channels)


def _write(output: Path, source: Adapter, results: Any, training: dict[str, Any]) -> Outcome:
    """Write the adapter made of another's card and new tensors; tell how well each layer fits."""
    from sahlora.models.adapter_file import Adapter, save_adapter

    configs = {view: result.config for view, result in results.items()}
    fits: dict[str, dict[str, Fit]] = {view: result.fits for view, result in results.items()}
    made = Adapter(
        replace(source.card, adapters=configs, training=training),
        {view: result.state for view, result in results.items()},
    )
    save_adapter(output, made)
    lines = [f"{view} {layer}: rank {fit.rank}, error {fit.error:.2%}"
             for view, layers in fits.items() for layer, fit in layers.items()]  # fmt: skip
    lines.append(f"Wrote {output}: {_methods(configs)}, {made.parameters:,} parameters.")
    report = {view: {layer: asdict(fit) for layer, fit in layers.items()} for view, layers in fits.items()}
    return lines, {"adapter": str(output), "parameters": made.parameters, "layers": report}


def _methods(configs: Any) -> str:
    return ", ".join(f"{view} {config.method} of rank {config.rank}" for view, config in configs.items())
