"""Adapter files: what is written comes back; what is hostile is refused in whole."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sahlora.adapters.attach import adapt, collect, disabled
from sahlora.adapters.config import METHODS, STANDARD, AdapterConfig
from sahlora.cli import build_parser
from sahlora.commands import adapters as command
from sahlora.errors import InputError, UsageError
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE, SAH
from sahlora.models.adapter_file import (
    Adapter,
    AdapterCard,
    apply_adapter,
    find_base,
    load_adapter,
    merged_model,
    require_base,
    save_adapter,
)  # fmt: skip
from sahlora.models.base_model import Model, load_model, save_model
from sahlora.models.card import BaseCard, Description, NetworkSpec, Target
from sahlora.models.header import CARD_KEY
from sahlora.models.network import MultiViewUNet
from sahlora.models.tensors import read_tensors
from sahlora.runtime.progress import Progress

SPEC = NetworkSpec(level=1, width=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_model(path, MultiViewUNet(1, 4), BaseCard(Description("Base"), Target(SAH), SPEC))
    return load_model(path)


def trained(base: Model, seed: int = 1, views: tuple[str, ...] = ("axial",), **values: Any) -> Adapter:
    config = AdapterConfig(**{"method": "lora-c", "rank": 2, **values})
    torch.manual_seed(seed)
    states = {}
    for view in views:
        network = MultiViewUNet(1, 4)
        adapt(network, config)
        states[view] = {k: t + 0.1 * torch.randn(t.shape) if t.is_floating_point() else t
                        for k, t in collect(network).items()}  # fmt: skip
    card = AdapterCard(
        Description("Site"),
        Target(SAH),
        base.sha256,
        "Base",
        SPEC,
        dict.fromkeys(views, config),
        {"cases": 3},
    )
    return Adapter(card, states)  # type: ignore[arg-type]


def rewritten(path: Path, source: Path, card: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """Write a file with another card or other tensors, as no program of ours would; None drops a tensor."""
    changed = {**read_tensors(source), **tensors}
    text = json.dumps(card if card is not None else read_card(source), sort_keys=True)
    save_file({k: t.contiguous() for k, t in changed.items() if t is not None}, path, {CARD_KEY: text})
    return path


def read_card(path: Path) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(load_adapter(path).card)))


# ------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_an_adapter_comes_back_equal(method: str, base: Model, tmp_path: Path) -> None:
    adapter = trained(
        base, method=method, views=("axial", "coronal"), ranks={"head.*": 1}, adapt_batchnorm_statistics=True
    )
    save_adapter(tmp_path / "a.safetensors", adapter)
    back = load_adapter(tmp_path / "a.safetensors")
    assert back.card == adapter.card
    assert back.states.keys() == adapter.states.keys()
    for view, state in adapter.states.items():
        assert back.states[view].keys() == state.keys()
        assert all(torch.equal(back.states[view][key], tensor) for key, tensor in state.items())


def test_another_process_under_another_seed_gives_the_same_output(base: Model, tmp_path: Path) -> None:
    adapter = trained(base, method="conv-dora")
    save_adapter(tmp_path / "a.safetensors", adapter)
    save_model(tmp_path / "b.safetensors", base.network, base.card)
    x = torch.randn(1, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    code = """if True:
        import sys, torch
        from pathlib import Path
        from sahlora.models.adapter_file import apply_adapter, load_adapter, require_base
        from sahlora.models.base_model import load_model
        torch.manual_seed(12345)
        folder = Path(sys.argv[1])
        model, adapter = load_model(folder / "b.safetensors"), load_adapter(folder / "a.safetensors")
        require_base(adapter.card, model)
        apply_adapter(model.network, adapter, "axial")
        torch.save(model.network(torch.load(folder / "x.pt")).detach(), folder / "y.pt")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    network = load_model(tmp_path / "b.safetensors").network
    apply_adapter(network, adapter, "axial")
    y = torch.load(tmp_path / "y.pt")
    assert torch.equal(network(x), y)
    with disabled(network):
        assert not torch.equal(network(x), y)


@pytest.mark.parametrize("method", [*METHODS, STANDARD])
def test_strength_goes_a_part_of_the_way_from_the_base(method: str, base: Model, tmp_path: Path) -> None:
    adapter = trained(base, method=method, adapt_batchnorm_statistics=True)
    save_adapter(tmp_path / "a.safetensors", replace(adapter, card=replace(adapter.card, strength=0.25)))
    whole = merged_model(adapter, base, "axial").network.state_dict()
    part = merged_model(load_adapter(tmp_path / "a.safetensors"), base, "axial").network.state_dict()
    for key, tensor in base.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(part[key], tensor.lerp(whole[key], 0.25), rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(part[key], whole[key]) for key in part)


def test_results_of_an_adapter_say_which_base_and_strength(base: Model) -> None:
    adapter = trained(base)
    adapter = replace(adapter, card=replace(adapter.card, strength=0.25))
    told = merged_model(adapter, base, "axial").facts()["adapted from"]
    assert told == f"{base.card.description.title}, SHA-256 {base.sha256}, at strength 0.25"
    assert "adapted from" not in base.facts()


@pytest.mark.parametrize("strength", [0.0, 0.001, -0.5, 1.5, float("nan"), "strong", None])
def test_a_strength_that_is_none_is_refused(strength: Any, base: Model, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", trained(base))
    card = read_card(tmp_path / "a.safetensors")
    with pytest.raises(InputError) as raised:
        load_adapter(
            rewritten(tmp_path / "b.safetensors", tmp_path / "a.safetensors", card | {"strength": strength})
        )
    assert raised.value.code == "bad-card"


def test_a_card_without_a_strength_is_of_full_strength(base: Model, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", trained(base))
    card = read_card(tmp_path / "a.safetensors")
    del card["strength"]
    old = load_adapter(rewritten(tmp_path / "b.safetensors", tmp_path / "a.safetensors", card))
    assert old.card.strength == 1


def test_file_keys_are_plain(base: Model, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", trained(base, method="cp-dora"))
    keys = read_tensors(tmp_path / "a.safetensors").keys()
    assert "axial.ups.0.conv.0.factor_out" in keys and not any("parametrization" in key for key in keys)


def test_an_adapter_of_another_base_is_refused(base: Model) -> None:
    other = trained(replace(base, sha256="0" * 64))
    with pytest.raises(InputError) as raised:
        require_base(other.card, base)
    assert raised.value.code == "other-base"


def test_a_diverged_adapter_is_not_written(base: Model, tmp_path: Path) -> None:
    adapter = trained(base)
    adapter.states["axial"]["head.0.A"][0, 0] = torch.nan
    with pytest.raises(InputError) as raised:
        save_adapter(tmp_path / "a.safetensors", adapter)
    assert raised.value.code == "not-finite" and not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- hostile files


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("axial.head.0.A", None),
        ("axial.head.0.A", torch.zeros(3, 3)),
        ("axial.head.0.A", torch.zeros(2, 36, dtype=torch.float64)),
        ("axial.head.0.A", torch.zeros(2, 36, dtype=torch.int32)),
        ("axial.head.0.A", torch.full((2, 36), torch.nan)),
        ("../../etc/passwd", torch.zeros(1)),
        ("axial.head.0.C", torch.zeros(1)),
        ("coronal.head.0.A", torch.zeros(2, 36)),
    ],
    ids=["missing", "shape", "float64", "int32", "nan", "path", "extra", "other view"],
)
def test_wrong_tensors_are_refused(name: str, value: Any, base: Model, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", trained(base))
    path = rewritten(tmp_path / "b.safetensors", tmp_path / "a.safetensors", **{name: value})
    with pytest.raises(InputError) as raised:
        load_adapter(path)
    assert raised.value.code in ("wrong-tensors", "not-finite")


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("format_version",), 99, "newer-format"),
        (("kind",), "base", "not-an-adapter"),
        (("base_sha256",), 5, "bad-card"),
        (("adapters",), {}, "bad-card"),
        (("adapters",), {"oblique": {}}, "bad-card"),
        (("adapters", "axial", "method"), "eval", "bad-card"),
        (("adapters", "axial", "rank"), 10**12, "bad-card"),
        (("adapters", "axial", "rank"), 4096, "wrong-tensors"),
        (("adapters", "axial", "rank"), "2", "bad-card"),
        (("adapters", "axial", "alpha"), float("nan"), "bad-card"),
        (("adapters", "axial", "ranks"), {"*": -1}, "bad-card"),
        (("adapters", "axial", "scope"), "nowhere.*", "bad-card"),
        (("adapters", "axial", "surprise"), 1, "bad-card"),
        (("network", "level"), 10**9, "bad-card"),
    ],
)
def test_wrong_cards_are_refused(place: tuple, value: Any, code: str, base: Model, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", trained(base))
    card = read_card(tmp_path / "a.safetensors")
    node = card
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    with pytest.raises(InputError) as raised:
        load_adapter(rewritten(tmp_path / "b.safetensors", tmp_path / "a.safetensors", card))
    assert raised.value.code == code


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"PK\x03\x04" + b"x" * 100, b"\x80\x05" + b"x" * 100, struct.pack("<Q", 2**62) + b"{}"],
    ids=["empty", "short", "zip", "pickle", "huge header"],
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError) as raised:
        load_adapter(tmp_path / "a.safetensors")
    assert raised.value.code == "not-a-model"


def test_a_key_given_twice_is_refused(base: Model, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a.safetensors", trained(base))
    data = (tmp_path / "a.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].rstrip()
    twice = header[:-1] + b',"axial.head.0.A":{"dtype":"F32","shape":[2,36],"data_offsets":[0,288]}}'
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(twice)) + twice + data[8 + length :])
    with pytest.raises(InputError):
        load_adapter(tmp_path / "b.safetensors")


# ---------------------------------------------------------------------------------------------------- command


@pytest.fixture
def shelf(base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with the base and an adapter of it, “site”."""
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    save_model(tmp_path / "models" / "base.safetensors", base.network, base.card)
    save_adapter(tmp_path / "models" / "site.safetensors", trained(base, rank=1))
    save_adapter(tmp_path / "other.safetensors", trained(base, 2, rank=1))
    return tmp_path


def sahlora(*arguments: str | Path) -> dict[str, Any]:
    events: list[dict[str, Any]] = []
    parser = build_parser({"adapters": command})
    command.run(parser.parse_args(["adapters", *map(str, arguments)]), Progress(events.append))
    return events[-1]


def own_adapters(shelf: Path) -> list[str]:
    """Name the listed adapters that did not come with SAHLoRA."""
    return [
        entry["name"] for entry in sahlora("list")["adapters"] if Path(entry["path"]).is_relative_to(shelf)
    ]


def test_list_and_show_tell_what_is_installed(shelf: Path, capsys: pytest.CaptureFixture) -> None:
    assert own_adapters(shelf) == ["site"]
    shown = sahlora("show", "site")
    assert shown["card"]["adapters"]["axial"]["method"] == "lora-c"
    assert (
        shown["parameters"]
        == trained(find_base(load_adapter(shelf / "other.safetensors").card), rank=1).parameters
    )
    assert "lora-c" in capsys.readouterr().out


def test_merge_writes_a_base_with_the_adapters_output(shelf: Path, base: Model) -> None:
    sahlora("merge", "site", "-o", shelf / "merged.safetensors")
    merged = load_model(shelf / "merged.safetensors")
    network = MultiViewUNet(1, 4).eval()
    network.load_state_dict(base.network.state_dict())
    apply_adapter(network, load_adapter(shelf / "models" / "site.safetensors"), "axial")
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(merged.network(x), network(x))
    assert merged.sha256 != base.sha256 and merged.card.description.title == "Site"


def test_average_and_compress_write_adapters_that_load(shelf: Path) -> None:
    mean = sahlora("average", "site", shelf / "other.safetensors", "-o", shelf / "mean.safetensors")
    assert {layer["rank"] for layer in mean["layers"]["axial"].values()} == {2}
    small = sahlora("compress", shelf / "mean.safetensors", "--rank", "2", "-o", shelf / "small.safetensors")
    assert all(0 <= layer["error"] < 1 for layer in small["layers"]["axial"].values())
    assert load_adapter(shelf / "small.safetensors").card.adapters["axial"].method == "cp-lora"


def test_adapters_of_unlike_targets_or_thresholds_are_not_averaged(shelf: Path) -> None:
    for name, change in (("target", {"segment": INTRACRANIAL_HEMORRHAGE}), ("threshold", {"threshold": 0.4})):
        adapter = load_adapter(shelf / "other.safetensors")
        unlike = replace(adapter.card, target=replace(adapter.card.target, **change))
        save_adapter(shelf / f"{name}.safetensors", replace(adapter, card=unlike))
        with pytest.raises(UsageError) as raised:
            sahlora("average", "site", shelf / f"{name}.safetensors", "-o", shelf / "mean.safetensors")
        assert raised.value.code == "not-averageable" and "unlike targets" in raised.value.message
    assert not (shelf / "mean.safetensors").exists()


@pytest.mark.parametrize("action", ["export", "merge", "average", "compress"])
def test_no_adapter_or_base_is_overwritten(action: str, shelf: Path) -> None:
    own, base = shelf / "models" / "site.safetensors", shelf / "models" / "base.safetensors"
    outputs = {own: "same-file", base: "foreign-file" if action != "merge" else "same-file"}
    more = {"average": [shelf / "other.safetensors"], "compress": ["--rank", "1"], "merge": ["--base", base]}
    for output, code in outputs.items():
        before = output.read_bytes()
        with pytest.raises(UsageError) as raised:
            sahlora(action, own, *more.get(action, []), "-o", output)
        assert raised.value.code == code and output.read_bytes() == before


def test_export_import_and_remove_move_a_file_in_and_out(shelf: Path) -> None:
    sahlora("export", "site", "-o", shelf / "out.safetensors")
    sahlora("remove", "site")
    assert own_adapters(shelf) == []
    sahlora("import", shelf / "out.safetensors", "--name", "back")
    assert own_adapters(shelf) == ["back"]
    with pytest.raises(UsageError):
        sahlora("import", shelf / "out.safetensors", "--name", "../escape")
    (shelf / "bad.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError):
        sahlora("import", shelf / "bad.safetensors")
    assert own_adapters(shelf) == ["back"]


def test_words_of_the_card_are_changed_and_nothing_else(shelf: Path) -> None:
    before = load_adapter(shelf / "models" / "site.safetensors")
    words = {"title": "Scanner 2", "summary": "é “for” 5 mm", "author": "A group", "license": "CC-BY-4.0"}
    options = [part for word, text in words.items() for part in (f"--{word}", text)]
    sahlora("describe", "site", *options)
    sahlora("export", shelf / "other.safetensors", "-o", shelf / "out.safetensors", "--author", "Others")
    sahlora("import", shelf / "other.safetensors", "--name", "new", "--title", "New")
    after = load_adapter(shelf / "models" / "site.safetensors")

    assert {word: getattr(after.card.description, word) for word in words} == words
    assert replace(after.card, description=before.card.description) == before.card
    assert all(torch.equal(t, after.states["axial"][k]) for k, t in before.states["axial"].items())
    assert load_adapter(shelf / "out.safetensors").card.description == Description("Site", author="Others")
    assert load_adapter(shelf / "models" / "new.safetensors").card.description.title == "New"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("describe", "site"), "no-change"),
        (("describe", "site", "--title", " "), "no-title"),
        (("describe", "sah-phantom", "--title", "Mine"), "shipped-model"),
        (("import", "site", "--name", "new", "--title", ""), "no-title"),
        (("describe", "site", "--strength", "0"), "bad-strength"),
        (("describe", "sah-phantom", "--strength", "0.5"), "shipped-model"),
        (("export", "sah-phantom", "-o", "out.nii.gz"), "unsupported-output"),
    ],
)
def test_words_that_can_not_be_changed_are_refused(arguments: tuple, code: str, shelf: Path) -> None:
    before = {path: path.read_bytes() for path in shelf.rglob("*.safetensors")}
    with pytest.raises(UsageError) as raised:
        sahlora(*arguments)
    assert raised.value.code == code
    assert {path: path.read_bytes() for path in shelf.rglob("*.safetensors")} == before


def test_the_strength_is_changed_and_nothing_else(shelf: Path) -> None:
    before = load_adapter(shelf / "models" / "site.safetensors")
    sahlora("export", "site", "-o", shelf / "weak.safetensors", "--strength", "0.5", "--title", "Weak")
    sahlora("describe", "site", "--strength", "0.7")
    after = load_adapter(shelf / "models" / "site.safetensors")
    assert after.card == replace(before.card, strength=0.7)
    assert all(torch.equal(t, after.states["axial"][k]) for k, t in before.states["axial"].items())
    assert load_adapter(shelf / "weak.safetensors").card.strength == 0.5
    with pytest.raises(UsageError, match="strengths"):
        sahlora("average", "site", shelf / "weak.safetensors", "-o", shelf / "mean.safetensors")
    sahlora("compress", "site", "--rank", "2", "-o", shelf / "small.safetensors")
    assert load_adapter(shelf / "small.safetensors").card.strength == 0.7


def test_export_without_words_is_the_same_file(shelf: Path) -> None:
    sahlora("export", "site", "-o", shelf / "out.safetensors")
    same = (shelf / "models" / "site.safetensors").read_bytes()
    assert (shelf / "out.safetensors").read_bytes() == same
