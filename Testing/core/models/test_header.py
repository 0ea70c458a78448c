"""What is in a model file: the listing is complete, and a file with anything more is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sahlora.cli import main
from sahlora.errors import InputError
from sahlora.models.adapter_file import load_adapter
from sahlora.models.base_model import load_model
from sahlora.models.header import read_contents
from sahlora.models.registry import SHIPPED

ADAPTER = SHIPPED / "sah-phantom.safetensors"
BASE = SHIPPED / "hemorrhage-base.safetensors"
SECRET = "DOE^JANE"


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a file's header and the bytes of its tensors, taken apart by hand."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


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
    return json.dumps({**header, "__metadata__": {**header["__metadata__"], "patient": SECRET}}), tensors


def bytes_after_the_tensors(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    return json.dumps(header), tensors + SECRET.encode()


def bytes_between_the_tensors(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    names = sorted(header.keys() - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    first = header[names[0]]["data_offsets"][1]
    for name in names[1:]:
        header[name]["data_offsets"] = [offset + len(SECRET) for offset in header[name]["data_offsets"]]
    return json.dumps(header), tensors[:first] + SECRET.encode() + tensors[first:]


def card_given_twice(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    text = json.dumps(header)
    return text.replace('{"sahlora": ', f'{{"sahlora": "{SECRET}", "sahlora": ', 1), tensors


def field_beside_shape_and_type(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    header[next(name for name in header if name != "__metadata__")]["patient"] = SECRET
    return json.dumps(header), tensors


def tensor_given_twice(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    name, value = next(item for item in header.items() if item[0] != "__metadata__")
    return json.dumps(header)[:-1] + f', "{name}": {json.dumps(value)}}}', tensors


def unknown_field_of_the_card(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    card = {**json.loads(header["__metadata__"]["sahlora"]), "patient": SECRET}
    return json.dumps({**header, "__metadata__": {"sahlora": json.dumps(card)}}), tensors


def field_of_the_card_given_twice(header: dict[str, Any], tensors: bytes) -> tuple[str, bytes]:
    card = header["__metadata__"]["sahlora"].replace('{"', f'{{"kind": "{SECRET}", "', 1)
    return json.dumps({**header, "__metadata__": {"sahlora": card}}), tensors


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
    assert load_adapter(assemble(tmp_path / "same.safetensors", json.dumps(header), tensors)).parameters


def test_file_that_hides_something_is_not_installed(
    tmp_path: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = assemble(tmp_path / "site.safetensors", *text_beside_the_card(*parts(ADAPTER)))
    assert (main(["adapters", "import", str(path)]), models_folder.exists()) == (3, False)
    assert "a text “patient” beside its card" in capsys.readouterr().err
