from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers import random_card, random_network, sahlora
from sahlora.cli import main
from sahlora.errors import InputError, SAHLoRAError, UsageError
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE, SAH
from sahlora.models import registry
from sahlora.models.base_model import load_model, save_model
from sahlora.models.card import BaseCard, Description, NetworkSpec, Target, decode, encode
from sahlora.models.header import CARD_KEY
from sahlora.models.network import MultiViewUNet
from sahlora.models.published import import_published, network_from_published
from sahlora.models.registry import find, install, installed, remove
from sahlora.models.tensors import weights_sha256
from sahlora.runtime.files import write_bytes


def error_code(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_model(path)
    assert error.value.message
    assert error.value.hint
    return error.value.code


def rewrite(path: Path, card: object = None, **tensors: Tensor) -> None:
    """Write a model file again with another card or with some tensors replaced."""
    text = card if isinstance(card, str) else json.dumps(card, sort_keys=True)
    text = encode(random_card()) if card is None else text
    save_file({**load_file(path), **tensors}, path, {CARD_KEY: text})


# ----------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(("level", "parameters"), [(2, 232_737), (4, 399_969)])
def test_published_sizes(level: int, parameters: int) -> None:
    assert sum(p.numel() for p in MultiViewUNet(level).parameters()) == parameters


@pytest.mark.parametrize(
    ("scope", "parameters"),
    [("shallow", 46_785), ("deep", 46_464), ("encoding", 46_944), ("decoding", 101_985), ("all", 232_737)],
)
def test_scopes_have_the_published_sizes(scope: str, parameters: int) -> None:
    network = MultiViewUNet()
    prefixes = tuple(f"{prefix}." for prefix in network.scopes()[scope])
    assert sum(p.numel() for name, p in network.named_parameters() if name.startswith(prefixes)) == parameters


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 8, 32])
def test_output_has_the_size_of_the_input(level: int, width: int) -> None:
    size = (3 * 2**level, 2 * 2**level)
    assert MultiViewUNet(level, width).eval()(torch.zeros(2, 1, *size)).shape == (2, 1, *size)


def test_sizes_that_would_need_stretching_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        MultiViewUNet()(torch.zeros(1, 1, 62, 64))


# ------------------------------------------------------------------------------------------------- files


def test_saved_and_loaded_models_are_equal(random_model: Path) -> None:
    loaded = load_model(random_model)
    original = random_network().state_dict()
    assert loaded.network.state_dict().keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in loaded.network.state_dict().items())
    assert loaded.card == random_card(spacing=2.0, views=("axial", "coronal", "sagittal"))
    assert not loaded.network.training


def test_same_model_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, random_network(), random_card())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_sha256_follows_the_weights_and_not_the_words(tmp_path: Path) -> None:
    card = random_card()
    save_model(tmp_path / "a.safetensors", random_network(), card)
    save_model(tmp_path / "b.safetensors", random_network(), replace(card, description=Description("other")))
    save_model(tmp_path / "c.safetensors", random_network(seed=1), card)
    a, b, c = (load_model(tmp_path / f"{name}.safetensors").sha256 for name in "abc")
    assert a == b != c
    assert a == weights_sha256(card.network, random_network().state_dict())


def test_card_survives_json_exactly() -> None:
    card = BaseCard(
        Description("é ü “quoted”", data=("a", "b"), limits=("c",)),
        Target(SAH, 0.37),
        NetworkSpec(level=4),
        training={"n": 3, "dice": 0.5, "nested": {"x": [1, None, True]}},
    )
    assert decode(BaseCard, encode(card)) == card


# ---------------------------------------------------------------------------------------- hostile files


def test_missing_file(tmp_path: Path) -> None:
    assert error_code(tmp_path / "no.safetensors") == "not-found"


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(b"")
    assert error_code(path) == "not-a-model"


@pytest.mark.parametrize("header", [0, 2**40, 2**63, 2**64 - 1])
def test_absurd_header_lengths_allocate_nothing(header: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", header) + b"{}" * 100)
    assert error_code(path) == "not-a-model"


class Attack:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_posing_as_a_model_runs_nothing(tmp_path: Path) -> None:
    plain, zipped, trace = tmp_path / "plain.safetensors", tmp_path / "zip.safetensors", tmp_path / "trace"
    plain.write_bytes(pickle.dumps(Attack(trace)))
    torch.save({"weight": Attack(trace)}, zipped)
    assert zipfile.is_zipfile(zipped)
    for path in (plain, zipped):
        assert error_code(path) == "not-a-model"
        with pytest.raises(InputError) as error:
            import_published(path, "x", Target(SAH))
        assert error.value.code == "unsafe-checkpoint"
    assert not trace.exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_clear_errors(data: st.DataObject, random_model: Path, tmp_path: Path) -> None:
    """Cut short or with bytes changed in the header, a file is refused or, by luck, loads whole."""
    content = bytearray(random_model.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    try:
        load_model(path)
    except SAHLoRAError as error:
        assert error.message


def test_foreign_tensors_are_named(random_model: Path) -> None:
    rewrite(random_model, extra=torch.zeros(3))
    with pytest.raises(InputError, match="extra"):
        load_model(random_model)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(3), torch.zeros(8, 1, 3, 3, dtype=torch.float64), torch.full((8, 1, 3, 3), torch.nan)],
)
def test_wrong_tensors_are_refused(tensor: Tensor, random_model: Path) -> None:
    rewrite(random_model, **{"stem.0.weight": tensor})
    assert error_code(random_model) in ("wrong-tensors", "not-finite")


def test_a_missing_tensor_is_refused(random_model: Path) -> None:
    tensors = load_file(random_model)
    del tensors["stem.0.weight"]
    save_file(tensors, random_model, {CARD_KEY: encode(random_card())})
    assert error_code(random_model) == "wrong-tensors"


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    assert error_code(path) == "no-card"


def test_a_newer_format_asks_for_an_update(random_model: Path) -> None:
    rewrite(random_model, {**json.loads(encode(random_card())), "format_version": 99})
    assert error_code(random_model) == "newer-format"


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"level": 10**9}},
        {"network": {"level": True}},
        {"network": {"width": 10**6}},
        {"network": {"architecture": "os.system"}},
        {"network": []},
        {"preprocessing": {"window": [100, 0]}},
        {"preprocessing": {"window": [0]}},
        {"preprocessing": {"spacing": -1}},
        {"preprocessing": {"spacing": float("nan")}},
        {"preprocessing": {"views": ["axial", "axial"]}},
        {"preprocessing": {"views": []}},
        {"target": {}},
        {"description": None},
        {"surprise": 1},
    ],
)
def test_impossible_cards_are_refused(change: dict, random_model: Path) -> None:
    rewrite(random_model, {**json.loads(encode(random_card())), **change})
    assert error_code(random_model) == "bad-card"


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"kind": "base"}', "[" * 100_000])
def test_cards_that_are_no_card_are_refused(text: str, random_model: Path) -> None:
    rewrite(random_model, text)
    assert error_code(random_model) == "bad-card"


# --------------------------------------------------------------------------------------------- registry


def test_shipped_models_can_be_loaded() -> None:
    shipped = [each for each in installed("base") if each.shipped]
    assert shipped
    for each in shipped:
        card = load_model(each.path).card
        assert card.description.license
        assert card.description.data
        assert card.description.limits


def test_the_shipped_base_is_not_called_sah() -> None:
    assert load_model("hemorrhage-base").card.target.segment == INTRACRANIAL_HEMORRHAGE


def copied(source: Path) -> Callable[[Path], None]:
    return lambda path: write_bytes(path, source.read_bytes())


def test_installed_models_are_found_by_name_and_removed(random_model: Path, models_folder: Path) -> None:
    install("site", copied(random_model))
    assert find("site", "base").parent == models_folder
    assert "site" in [each.name for each in installed("base")]
    remove("site", "base")
    assert not list(models_folder.iterdir())
    with pytest.raises(InputError, match="hemorrhage-base"):
        find("site")


def test_nothing_is_replaced_silently(random_model: Path, models_folder: Path) -> None:
    install("site", copied(random_model))
    for name in ("site", "hemorrhage-base"):
        with pytest.raises(UsageError) as error:
            install(name, copied(random_model))
        assert error.value.code == "name-taken"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", ".hidden", "x" * 81, "é"])
def test_names_stay_inside_the_folder(name: str, random_model: Path, models_folder: Path) -> None:
    with pytest.raises(UsageError) as error:
        install(name, copied(random_model))
    assert error.value.code == "bad-name"
    assert not models_folder.exists()


def test_shipped_models_and_files_elsewhere_are_not_removed(random_model: Path, models_folder: Path) -> None:
    for name in ("hemorrhage-base", str(random_model)):
        with pytest.raises(UsageError) as error:
            remove(name)
        assert error.value.code == "shipped-model"
    assert random_model.exists()


# ------------------------------------------------------------------------------- published checkpoints


def published_state(network: MultiViewUNet, *, swapped: bool = False, prefix: str = "") -> dict[str, Tensor]:
    """Name a network's tensors as the published pipeline does."""
    blocks: dict[str, nn.Module] = {
        "M1.DoubleConv": network.stem,
        "M2.TripleDia": network.bottleneck,
        "M3.TripleOut": network.head,
    }
    for i, (down, up) in enumerate(zip(network.downs, network.ups, strict=True)):
        double, dilated = ("M2", "M1") if swapped else ("M1", "M2")
        blocks[f"down_list.{i}.{double}.DoubleConv"] = down.conv
        blocks[f"down_list.{i}.{dilated}.TripleDia"] = down.skip
        blocks[f"up_list.{i}.M1.DoubleConv"] = up.conv
    return {
        f"{prefix}{block}.{name}": tensor
        for block, module in blocks.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("level", [1, 2, 4])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_checkpoints_compute_the_same(
    level: int, swapped: bool, prefix: str, tmp_path: Path
) -> None:
    network = random_network(level=level)
    path = tmp_path / "checkpoint.pt"
    torch.save(published_state(network, swapped=swapped, prefix=prefix), path)
    imported, card = import_published(path, "published", Target(SAH))
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(imported(x), network(x))
    assert card.network == NetworkSpec(level=level, width=8)
    assert card.preprocessing.window == (0, 140)
    assert card.preprocessing.intensity_range == (0, 255)


def test_other_checkpoints_are_refused_with_the_reason() -> None:
    state = published_state(random_network())
    wrong = [
        {},
        {"conv.weight": torch.zeros(1)},
        {**state, "M4.extra.0.weight": torch.zeros(1)},
        {key: tensor for key, tensor in state.items() if not key.startswith("M2")},
        {**state, "M1.DoubleConv.0.weight": torch.zeros(8, 1, 5, 5)},
        nn.Linear(2, 2).state_dict(),
    ]
    for each in wrong:
        with pytest.raises(InputError) as error:
            network_from_published(each)
        assert error.value.code == "foreign-checkpoint"


# ---------------------------------------------------------------------------------------------- command


def test_models_command_imports_shows_lists_and_removes(tmp_path: Path, models_folder: Path) -> None:
    torch.save(published_state(random_network()), tmp_path / "checkpoint.pt")
    assert sahlora("models", "import", tmp_path / "checkpoint.pt", "--name", "old").returncode == 0
    shown = json.loads(sahlora("models", "show", "old", "--json").stdout)
    assert shown["preprocessing"]["window"] == [0, 140]
    listed = json.loads(sahlora("models", "list", "--json").stdout)
    assert {"old", "hemorrhage-base"} <= {row["name"] for row in listed}
    assert sahlora("models", "remove", "old").returncode == 0
    again = sahlora("models", "show", "old")
    assert again.returncode == 3
    assert "hemorrhage-base" in again.stderr


def test_the_users_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path))
    assert registry.models_folder() == tmp_path
    monkeypatch.delenv("SAHLORA_MODELS", raising=False)
    assert registry.models_folder().parts[-2:] == ("sahlora", "models")


def test_one_odd_file_is_named_and_the_rest_is_listed(
    random_model: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("site", copied(random_model))
    card = json.loads(encode(random_card()))
    rewrite(random_model, {**card, "training": {"cases": 10**400}})
    install("huge", copied(random_model))
    (models_folder / "junk.safetensors").write_bytes(b"junk")
    (models_folder / "folder.safetensors").mkdir()
    (models_folder / "._site.safetensors").write_bytes(b"what another system left")
    assert main(["models", "list"]) == 0
    told = capsys.readouterr()
    assert "site " in told.out and "huge" not in told.out
    for name in ("huge", "junk", "folder"):
        assert f"{name}.safetensors is left out: " in told.err
    assert "._site" not in told.err
    assert main(["adapters", "list"]) == 0
    assert "sah-phantom" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="names a user as Unix does")
def test_who_has_no_home_uses_the_shipped_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], random_model: Path
) -> None:
    monkeypatch.setenv("SAHLORA_MODELS", "~nobody-of-this-name/models")
    assert main(["models", "list"]) == 0
    assert "hemorrhage-base" in capsys.readouterr().out
    assert main(["models", "import", str(random_model), "--name", "x"]) == 4
    assert "SAHLORA_MODELS" in capsys.readouterr().err
