"""What is in a model file: the listing is complete, and a file with anything more is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sahlora.cli import main
from sahlora.errors import InputError
from sahlora.models.adapter_file import load_adapter, save_adapter
from sahlora.models.base_model import load_model, save_model
from sahlora.models.header import read_card_json, read_contents
from sahlora.models.registry import SHIPPED

ADAPTER = SHIPPED / "sah-phantom.safetensors"
BASE = SHIPPED / "hemorrhage-base.safetensors"
SECRET = "DOE^JANE"


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a file's header and the bytes of its tensors, taken apart by hand."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def written(header: dict[str, Any]) -> str:
    """Write a header as safetensors does."""
    text = json.dumps(header, separators=(",", ":"))
    return text + " " * (-len(text) % 8)


def assemble(path: Path, header: str, tensors: bytes) -> Path:
    text = header.encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


@pytest.mark.parametrize("path", [ADAPTER, BASE], ids=["adapter", "base"])
def test_listing_accounts_for_every_tensor_and_every_byte(path: Path) -> None:
    contents, tensors = read_contents(path), load_file(path)
    assert {t.name: t.shape for t in contents.tensors} == {k: tuple(t.shape) for k, t in tensors.items()}
    assert contents.file_bytes == path.stat().st_size
    data = path.read_bytes()
    for entry in contents.tensors:
        stored = data[entry.start : entry.start + entry.bytes]
        assert stored == tensors[entry.name].reshape(-1).view(torch.uint8).numpy().tobytes()
    # The tensors' bytes, one after another, are all that follows the header.
    assert b"".join(data[t.start : t.start + t.bytes] for t in contents.tensors) == parts(path)[1]


def test_show_prints_every_tensor_and_every_field_of_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    header, _tensors = parts(ADAPTER)
    card = json.loads(header["__metadata__"]["sahlora"])
    assert main(["adapters", "show", "sah-phantom"]) == 0
    shown = capsys.readouterr().out
    printed = shown[shown.index("{") : shown.index("tensors, all")]
    assert json.loads(printed) == card
    lines = shown[shown.index("tensors, all") :].splitlines()
    assert {line.split()[0] for line in lines[1:-1]} == header.keys() - {"__metadata__"}
    assert f"{ADAPTER.stat().st_size:,} bytes: nothing else" in lines[-1]


@pytest.mark.parametrize(
    ("command", "name", "path"), [("adapters", "sah-phantom", ADAPTER), ("models", "hemorrhage-base", BASE)]
)
def test_show_tells_programs_the_same(
    command: str, name: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, tensors = parts(path)
    assert main([command, "show", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    card = shown["card"] if command == "adapters" else shown
    assert card["training"] == json.loads(header["__metadata__"]["sahlora"])["training"]
    listed = {entry["name"]: entry for entry in shown["contents"]["tensors"]}
    assert listed.keys() == header.keys() - {"__metadata__"}
    assert all(
        (listed[key]["type"], listed[key]["shape"]) == (value["dtype"], value["shape"])
        for key, value in header.items()
        if key != "__metadata__"
    )
    assert shown["contents"]["tensor_bytes"] == len(tensors)
    assert shown["contents"]["file_bytes"] == path.stat().st_size


def text_beside_the_card(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return written({**header, "__metadata__": {**header["__metadata__"], "patient": SECRET}}), tensors


def bytes_after_the_tensors(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return written(header), tensors + SECRET.encode()


def bytes_between_the_tensors(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    names = sorted(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    first = header[names[0]]["data_offsets"][1]
    for name in names[1:]:
        header[name]["data_offsets"] = [offset + len(SECRET) for offset in header[name]["data_offsets"]]
    return written(header), tensors[:first] + SECRET.encode() + tensors[first:]


def card_given_twice(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    text = written(header)
    return text.replace('{"sahlora":', f'{{"sahlora":"{SECRET}","sahlora":', 1), tensors


def field_beside_shape_and_type(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    header[next(name for name in header if name != "__metadata__")]["patient"] = SECRET
    return written(header), tensors


def tensor_given_twice(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    name, value = next(item for item in header.items() if item[0] != "__metadata__")
    return written(header).rstrip()[:-1] + f',"{name}":{json.dumps(value)}}}', tensors


def unknown_field_of_the_card(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    card = {**json.loads(header["__metadata__"]["sahlora"]), "patient": SECRET}
    return written({**header, "__metadata__": {"sahlora": json.dumps(card, sort_keys=True)}}), tensors


def field_of_the_card_given_twice(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    card = header["__metadata__"]["sahlora"].replace('{"', f'{{"kind": "{SECRET}", "', 1)
    return written({**header, "__metadata__": {"sahlora": card}}), tensors


def bits() -> str:
    return "".join(f"{byte:08b}" for byte in SECRET.encode()).replace("0", " ").replace("1", "\t")


def blanks_in_the_header(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return "{" + bits() + written(header)[1:], tensors


def blanks_after_the_header(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return written(header) + bits(), tensors


def order_of_the_entries(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return written(dict(reversed(header.items()))), tensors


def other_spelling_of_a_name(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return written(header).replace('"dtype"', '"\\u0064type"', 1), tensors


def with_card(change: Callable[[str], str]) -> Callable[[dict[str, Any], bytes], tuple[str, bytes]]:
    def hide(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
        card = change(header["__metadata__"]["sahlora"])
        assert card != header["__metadata__"]["sahlora"]
        return written({**header, "__metadata__": {"sahlora": card}}), tensors

    return hide


LAYOUTS = {
    "blanks in the header": blanks_in_the_header,
    "blanks after the header": blanks_after_the_header,
    "order of the entries": order_of_the_entries,
    "other spelling": other_spelling_of_a_name,
}
CARDS = {
    "blanks": lambda card: "{" + bits() + card[1:],
    "no blanks": lambda card: card.replace(": ", ":"),
    "order": lambda card: json.dumps(dict(reversed(json.loads(card).items()))),
    "escapes": lambda card: card.replace('"kind"', '"\\u006bind"'),
    "zeros": lambda card: card.replace("0.005", "0.00500"),
    "surplus digits": lambda card: card.replace("0.005", "0.005000000123456789"),
    "other spelling of a number": lambda card: card.replace("0.005", "5e-3"),
    "exponent": lambda card: card.replace('"threshold": 0.5', '"threshold": 5E-1'),
    "blanks in a text": lambda card: card.replace(
        '"title": "', f'"title": "{bits()[:8]}'.replace("\t", "  ")
    ),
    "letters nobody sees": lambda card: card.replace('"title": "', '"title": "\\u200b\\u200c'),
    "selectors": lambda card: card.replace('"title": "', '"title": "a\\udb40\\udd00'),
    "surrogate": lambda card: card.replace('"title": "', '"title": "\\udc41'),
    "control characters": lambda card: card.replace('"title": "', '"title": "\\u001b[2J'),
    "huge number": lambda card: card.replace('"cases": 16', f'"cases": {"7" * 400}'),
    "infinite number": lambda card: card.replace('"cases": 16', '"cases": 1e999'),
    "no number": lambda card: card.replace('"cases": 16', '"cases": NaN'),
    "long text": lambda card: card.replace('"title": "', '"title": "' + "x" * 5000),
    "much": lambda card: card.replace('"cases": 16', '"cases": [' + ", ".join(["1"] * 30000) + "]"),
    "deep": lambda card: card.replace('"cases": 16', '"cases": ' + "[" * 2000 + "]" * 2000),
    "pattern that fits nothing": lambda card: card.replace('"ranks": {}', '"ranks": {"DOE": 3}'),
    "scope that fits nothing": lambda card: card.replace('"scope": "all"', '"scope": "*,DOE"'),
    "lacking": lambda card: card.replace('"base_title"', '"base_name"'),
}


@pytest.mark.parametrize("hide", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(
    ("source", "read"), [(ADAPTER, load_adapter), (BASE, load_model)], ids=["adapter", "base"]
)
def test_a_header_in_another_form_is_refused(
    hide: Callable, source: Path, read: Callable, tmp_path: Path
) -> None:
    path = assemble(tmp_path / "hiding.safetensors", *hide(*parts(source)))
    with pytest.raises(InputError) as raised:
        read(path)
    assert raised.value.code == "more-than-a-model" and raised.value.hint


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS.keys())
def test_a_card_in_another_form_is_refused(change: Callable[[str], str], tmp_path: Path) -> None:
    path = assemble(tmp_path / "hiding.safetensors", *with_card(change)(*parts(ADAPTER)))
    with pytest.raises(InputError) as raised:
        load_adapter(path)
    assert raised.value.code == "bad-card" and raised.value.hint
    assert raised.value.message.isprintable()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_what_is_written_anew_is_in_the_one_form(path: Path, tmp_path: Path) -> None:
    copies = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for source, copy in zip((path, copies[0]), copies, strict=True):
        if "adapters" in json.loads(read_card_json(source)):
            save_adapter(copy, load_adapter(source))
        else:
            model = load_model(source)
            save_model(copy, model.network, model.card)
    assert copies[0].read_bytes() == copies[1].read_bytes()
    save_file(load_file(path), copies[1], {"sahlora": read_card_json(copies[0])})
    assert copies[0].read_bytes() == copies[1].read_bytes()  # as the library writes it


@pytest.mark.parametrize(
    ("hide", "code"),
    [
        (text_beside_the_card, "more-than-a-model"),
        (bytes_after_the_tensors, "more-than-a-model"),
        (bytes_between_the_tensors, "more-than-a-model"),
        (card_given_twice, "wrong-tensors"),
        (tensor_given_twice, "wrong-tensors"),
        (field_beside_shape_and_type, "not-a-model"),
        (unknown_field_of_the_card, "bad-card"),
        (field_of_the_card_given_twice, "bad-card"),
    ],
)
@pytest.mark.parametrize(
    ("source", "read"), [(ADAPTER, load_adapter), (BASE, load_model)], ids=["adapter", "base"]
)
def test_file_that_hides_anything_is_refused(
    source: Path, read: Callable, hide: Callable, code: str, tmp_path: Path
) -> None:
    path = assemble(tmp_path / "hiding.safetensors", *hide(*parts(source)))
    assert SECRET.encode() in path.read_bytes() or hide is tensor_given_twice
    with pytest.raises(InputError) as raised:
        read(path)
    assert raised.value.code == code and raised.value.hint


def test_file_taken_apart_and_put_together_again_is_read(tmp_path: Path) -> None:
    """The files of the test above are refused for what they hide, not for how they are written."""
    header, tensors = parts(ADAPTER)
    assert load_adapter(assemble(tmp_path / "same.safetensors", written(header), tensors)).parameters


def test_file_that_hides_something_is_not_installed(
    tmp_path: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = assemble(tmp_path / "site.safetensors", *text_beside_the_card(*parts(ADAPTER)))
    assert (main(["adapters", "import", str(path)]), models_folder.exists()) == (3, False)
    assert "a text “patient” beside its card" in capsys.readouterr().err
