"""List, show, import and remove base models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sahlora.runtime.progress import Progress

SUMMARY = "list, show, import and remove base models"
EXAMPLE = "sahlora models import checkpoint.pt --name site-base --target hemorrhage"
ACTIONS = {
    "list": "list the installed base models",
    "show": "show a model's card, and all that its file holds",
    "import": "install a .safetensors model or a checkpoint (.pt) of the published pipeline",
    "remove": "delete a model from the user's folder",
}


def configure(action: str, parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of one action."""
    match action:
        case "list":
            parser.add_argument("--json", action="store_true", help="print as JSON")
        case "show":
            parser.add_argument("model", metavar="MODEL", help="name or file")
            parser.add_argument("--json", action="store_true", help="print card and content as JSON")
        case "import":
            parser.add_argument("file", type=Path, metavar="FILE", help=".safetensors or .pt")
            parser.add_argument("--name", help="name to install it under (default: the file's)")
            parser.add_argument(
                "--target", choices=("hemorrhage", "sah"), default="hemorrhage", help="what a .pt outlines"
            )
        case "remove":
            parser.add_argument("model", metavar="MODEL", help="name")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Do what the action says."""
    {"list": _list, "show": _show, "import": _import, "remove": _remove}[args.action](args, progress)


def _list(args: argparse.Namespace, progress: Progress) -> None:
    from sahlora.models.base_model import read_base_card
    from sahlora.models.registry import installed, own_folder, readable, unusable

    models, odd = readable(installed("base"), lambda model: read_base_card(model.path))
    for path, error in {**unusable(), **odd}.items():
        progress.warning("unusable-model", f"{path} is left out: {error.message}", error.hint)
    folder = own_folder()
    rows = [
        {
            "name": model.name,
            "title": card.description.title,
            "outlines": card.target.segment.name,
            "views": list(card.preprocessing.views),
            "license": card.description.license,
            "created": card.description.created,
            "shipped": model.shipped,
            "path": str(model.path),
        }
        for model, card in models
    ]
    progress.result(models=rows, folder=folder and str(folder))
    if args.progress == "json":
        return
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['name']:<24} {row['outlines']}; {'shipped' if row['shipped'] else 'yours'}")
    print(f"Your models: {folder or 'no place, as you have no home folder'}")


def _show(args: argparse.Namespace, progress: Progress) -> None:
    from sahlora.models.base_model import load_model
    from sahlora.models.card import encode
    from sahlora.models.header import read_contents
    from sahlora.models.registry import find

    path = find(args.model, "base")
    model, contents = load_model(path), read_contents(path)
    card = json.loads(encode(model.card))
    progress.result(card=card, sha256=model.sha256, contents=contents.to_dict())
    if args.progress == "json":
        return
    if args.json:
        shown = {**card, "sha256": model.sha256, "contents": contents.to_dict()}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    parameters = sum(p.numel() for p in model.network.parameters())
    preprocessing = model.card.preprocessing
    spacing = "the scan's own" if preprocessing.spacing is None else f"{preprocessing.spacing:g} mm"
    for key, value in model.facts().items():
        print(f"{key}: {value}")
    network = model.card.network
    print(f"network: {network.architecture}, level {network.level}, {parameters:,} parameters")
    print(f"input: {preprocessing.window[0]:g} to {preprocessing.window[1]:g} HU, pixels of {spacing}")
    print(f"views: {', '.join(preprocessing.views)}; threshold {model.card.target.threshold:g}")
    print("\n".join(contents.lines()))


def _import(args: argparse.Namespace, progress: Progress) -> None:
    from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE, SAH
    from sahlora.models.base_model import load_model, save_model
    from sahlora.models.card import Target
    from sahlora.models.published import import_published
    from sahlora.models.registry import SUFFIX, install

    name = args.name or args.file.name.split(".")[0]
    if args.file.suffix == SUFFIX:
        model = load_model(args.file)
        path = install(name, lambda path: save_model(path, model.network, model.card))
    else:
        target = Target(SAH if args.target == "sah" else INTRACRANIAL_HEMORRHAGE)
        network, card = import_published(args.file, name, target)
        path = install(name, lambda path: save_model(path, network, card))
    progress.result(name=name, path=str(path))
    if args.progress != "json":
        print(f"Installed {name} as {path}")


def _remove(args: argparse.Namespace, progress: Progress) -> None:
    from sahlora.models.registry import remove

    path = remove(args.model, "base")
    progress.result(removed=str(path))
    if args.progress != "json":
        print(f"Removed {path}")
