"""Fine-tuning: what it gains, what the file says, and that it survives whatever stops it."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from helpers import (
    CORE,
    events,
    overflowing_network,
    random_card,
    random_network,
    sahlora,
    write_head,
    write_manifest,
)
from sahlora.adapters.attach import adapt, collect
from sahlora.adapters.config import AdapterConfig
from sahlora.cases.manifest import list_cases, read_manifest
from sahlora.cases.split import Cohort, split_cases
from sahlora.cli import main
from sahlora.errors import InputError, ResourceError, SAHLoRAError, UsageError
from sahlora.evaluation.metrics import dice
from sahlora.models.adapter_file import load_adapter
from sahlora.models.base_model import load_model, save_model
from sahlora.models.card import Description, Preprocessing
from sahlora.runtime.progress import SILENT, Progress
from sahlora.training.augmentation import augmentation
from sahlora.training.batches import SliceBatches
from sahlora.training.finetuning import (
    NOT_BETTER,
    OPTIMISTIC,
    TOO_FEW,
    UNCHECKED,
    Comparison,
    FinetuningPlan,
    finetune,
)
from sahlora.training.learner import Learner
from sahlora.training.loop import train
from sahlora.training.prepared import prepare_cases
from sahlora.training.settings import FINETUNING_PRESETS, TrainingSettings
from sahlora.training.validation import slice_dice

CPU = torch.device("cpu")
SHIPPED = CORE / "sahlora" / "models" / "weights" / "hemorrhage-base.safetensors"
QUICK = TrainingSettings(
    epochs=2, batch_size=4, learning_rate=1e-2, weight_decay=0.0, augmentation="none", crop=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three heads with blood and one without, their manifest, and a small base of random weights."""
    folder = tmp_path_factory.mktemp("site")
    rows = [write_head(folder, name) for name in ("anna", "berta", "clara")]
    write_manifest(folder / "cases.csv", [*rows, write_head(folder, "dora", blood=False)])
    save_model(folder / "base.safetensors", random_network(0, 1, 4), random_card(1, 4, spacing=2.0))
    return folder


@pytest.fixture
def cohort(folder: Path) -> Cohort:
    return split_cases(read_manifest(folder / "cases.csv"), 1, seed=0)


def plan(settings: TrainingSettings = QUICK, **adapter: Any) -> FinetuningPlan:
    return FinetuningPlan(Description("test"), AdapterConfig(**adapter), settings=settings)


# ------------------------------------------------------------------------------------------------- gain


@pytest.mark.parametrize(
    ("method", "scope", "learning_rate"), [("cp-lora", "all", 3e-2), ("standard", "decoding", 2e-3)]
)
def test_fine_tuning_finds_blood_that_the_base_misses(
    method: str, scope: str, learning_rate: float, cohort: Cohort, tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=8, learning_rate=learning_rate, patience=8)
    base, output = load_model(SHIPPED), tmp_path / "site.safetensors"
    wanted = plan(settings, method=method, scope=scope)
    done = finetune(cohort, base, wanted, output, tmp_path / "run", CPU)
    assert done.comparison is not None
    assert done.comparison.before[0] < 0.3
    assert done.comparison.after[0] > 0.6
    assert load_adapter(output).card.description.limits == (OPTIMISTIC,)


def test_segment_with_the_adapter_gives_the_dice_on_its_card(cohort: Cohort, tmp_path: Path) -> None:
    output, label = tmp_path / "site.safetensors", tmp_path / "label.nii.gz"
    settings = replace(QUICK, epochs=4)
    finetune(cohort, load_model(SHIPPED), plan(settings), output, tmp_path / "run", CPU)
    case = cohort.held_out[0]
    done = sahlora("segment", case.image, "-o", label, "--adapter", output, "--model", SHIPPED)
    assert done.returncode == 0, done.stderr
    found, true = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == 1 for path in (label, case.label))
    stated = load_adapter(output).card.training["held_out"]["dice_after"]
    assert stated["n"] == 1
    assert stated["mean"] == pytest.approx(dice(found, true), abs=5e-5)


def test_who_was_held_out_is_told_and_can_be_judged_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "site.safetensors"
    call = ["finetune", folder / "cases.csv", "-o", output, "--model", folder / "base.safetensors"]
    call += ["--held-out", "1", "--preset", "quick", "--epochs", "1", "--strength", "0.5", "--device", "cpu"]
    assert main([*map(str, call)]) == 0
    cases = list_cases(tmp_path / "site.run" / "cases.csv")
    (held_out,) = (case.name for case in cases if case.held_out)
    assert f"Held out: {held_out}. {tmp_path / 'site.run' / 'cases.csv'}" in capsys.readouterr().out
    assert {case.name for case in cases} == {case.name for case in list_cases(folder / "cases.csv")}

    call = ["evaluate", tmp_path / "site.run" / "cases.csv", "--held-out", "-o", tmp_path / "judged"]
    call += ["--model", folder / "base.safetensors", "--adapter", output, "--device", "cpu"]
    assert main([*map(str, call)]) == 0
    assert "nan" not in capsys.readouterr().out  # one case has no spread
    (judged,) = csv.DictReader((tmp_path / "judged" / "cases.csv").open())
    stated = load_adapter(output).card.training["held_out"]
    assert judged["case"] == held_out
    assert float(judged["dice"]) == pytest.approx(stated["dice_after"]["mean"], abs=5e-5)
    assert stated["strength"] == 0.5


def test_a_run_gives_other_strengths_and_the_card_compares_the_one_asked_for(
    cohort: Cohort, tmp_path: Path
) -> None:
    base, whole = load_model(SHIPPED), plan(replace(QUICK, epochs=4))
    made = {}
    for strength in (1.0, 0.1):
        wanted, output = replace(whole, strength=strength), tmp_path / f"{strength}.safetensors"
        finetune(cohort, base, wanted, output, tmp_path / "run", CPU)
        made[strength] = load_adapter(output)
    assert made[0.1].card.strength == 0.1
    assert all(torch.equal(t, made[0.1].states["axial"][k]) for k, t in made[1.0].states["axial"].items())
    before, after, little = (
        made[strength].card.training["held_out"][when]["mean"]
        for strength, when in ((1.0, "dice_before"), (1.0, "dice_after"), (0.1, "dice_after"))
    )
    assert abs(little - before) < abs(after - before) / 2


def test_each_view_has_its_own_adapter(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    views = ("axial", "coronal", "sagittal")
    three = replace(plan(replace(QUICK, epochs=1)), views=views)
    base, output = load_model(folder / "base.safetensors"), tmp_path / "a.safetensors"
    finetune(cohort, base, three, output, tmp_path / "run", CPU)
    states = load_adapter(output).states
    assert tuple(states) == views
    key = next(iter(states["axial"]))
    assert not torch.equal(states["axial"][key], states["coronal"][key])


# ------------------------------------------------------------------------------------------------- honesty


def test_an_adapter_that_gains_nothing_says_so(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    seen: list[dict] = []
    settings = replace(QUICK, epochs=1, learning_rate=1e-12)
    base, output = load_model(folder / "base.safetensors"), tmp_path / "a.safetensors"
    done = finetune(cohort, base, plan(settings), output, tmp_path / "run", CPU, Progress(seen.append))
    assert done.comparison is not None
    assert done.comparison.after == done.comparison.before
    assert "not-better" in [event.get("code") for event in seen]
    assert load_adapter(output).card.description.limits == (NOT_BETTER,)


@pytest.mark.parametrize(
    ("before", "after", "better", "ending"),
    [
        ((0.0,), (0.0002,), False, TOO_FEW),
        ((0.1, 0.2), (0.3, 0.2), True, TOO_FEW),
        ((0.1,) * 6, (0.3,) * 6, True, "with the adapter."),
    ],
)
def test_a_gain_too_small_to_be_told_is_none_and_few_cases_are_called_few(
    before: tuple[float, ...], after: tuple[float, ...], better: bool, ending: str
) -> None:
    comparison = Comparison(before, after)
    assert comparison.is_better == better
    assert str(comparison).startswith(NOT_BETTER) != better
    assert str(comparison).endswith(ending)


def test_a_verdict_on_the_cases_that_chose_the_epoch_says_that_it_is_optimistic() -> None:
    before, after = (0.1,) * 6, (0.3,) * 6
    assert OPTIMISTIC in str(Comparison(before, after, chose_epoch=True))
    assert OPTIMISTIC not in str(Comparison(before, after))


def test_without_held_out_cases_the_card_says_that_nothing_is_known(folder: Path, tmp_path: Path) -> None:
    cases = read_manifest(folder / "cases.csv")
    base, output = load_model(folder / "base.safetensors"), tmp_path / "a.safetensors"
    settings = replace(QUICK, epochs=1)
    done = finetune(split_cases(cases, 0, 0), base, plan(settings), output, tmp_path / "run", CPU)
    card = load_adapter(output).card
    assert done.comparison is None
    assert card.description.limits == (UNCHECKED,)
    assert card.training["held_out"] is None
    assert card.training["cases"] == 4


def test_the_file_holds_counts_and_settings_but_no_names(
    folder: Path, cohort: Cohort, tmp_path: Path
) -> None:
    base, output = load_model(folder / "base.safetensors"), tmp_path / "a.safetensors"
    finetune(cohort, base, plan(replace(QUICK, epochs=1, seed=7)), output, tmp_path / "run", CPU)
    training = load_adapter(output).card.training
    assert training["cases"] == training["patients"] == 3
    assert training["settings"]["seed"] == 7
    assert training["views"]["axial"]["slices_with_blood"] > 0
    for secret in (b"anna", b"berta", b"clara", b"dora", folder.name.encode(), str(tmp_path).encode()):
        assert secret not in output.read_bytes()


def test_the_words_on_the_card_are_those_of_the_description(folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text(
        '{"title": "Ward 3", "summary": "Five millimeters.", "author": "Us", "data": ["4 heads"]}'
    )
    output = tmp_path / "a.safetensors"
    call = ["finetune", str(folder / "cases.csv"), "-o", str(output), "--held-out", "0", "--epochs", "1"]
    call += ["--model", str(folder / "base.safetensors"), "--description", str(words), "--title", "Ward 4"]
    assert main(call) == 0
    card = load_adapter(output).card.description
    assert (card.title, card.summary, card.author, card.data) == (
        "Ward 4", "Five millimeters.", "Us", ("4 heads",)
    )  # fmt: skip
    assert card.limits == (UNCHECKED,)


# ------------------------------------------------------------------------------------------------- split


def test_all_scans_of_a_patient_are_held_out_together(folder: Path) -> None:
    cases = [replace(case, patient="x") for case in read_manifest(folder / "cases.csv")[:2]]
    cases += [replace(case, patient="y") for case in read_manifest(folder / "cases.csv")[2:]]
    held_out = split_cases(cases, 1, seed=0).held_out
    assert sorted(case.name for case in held_out) in (["anna", "berta"], ["clara", "dora"])


def test_nobody_is_held_out_of_whom_an_expert_says_that_there_is_no_blood(
    folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "empty.csv"
    table.write_text("slice,hemorrhage\n" + "".join(f"{index},0\n" for index in range(8)))
    cases = [
        case if case.name == "berta" else replace(case, slices=table)
        for case in read_manifest(folder / "cases.csv")[:3]
    ]
    with pytest.raises(UsageError) as error:  # berta alone shows blood, and nobody is left to train on
        split_cases(cases, 2, seed=0)
    assert error.value.code == "bad-held-out"


def test_the_column_held_out_decides(folder: Path) -> None:
    cases = [replace(c, held_out=c.name == "berta") for c in read_manifest(folder / "cases.csv")]
    cohort = split_cases(cases, None, seed=0)
    assert [case.name for case in cohort.held_out] == ["berta"]
    assert [case.name for case in cohort.training] == ["anna", "clara", "dora"]


def test_a_scan_is_never_trained_on_and_held_out(folder: Path) -> None:
    cases = tuple(read_manifest(folder / "cases.csv"))
    with pytest.raises(InputError) as error:
        Cohort(cases, (replace(cases[0], name="another"),))
    assert error.value.code == "held-out-in-training"


def test_slice_dice_is_the_soft_dice_of_known_voxels(folder: Path, tmp_path: Path) -> None:
    preprocessing = Preprocessing(spacing=2.0)
    case = prepare_cases(read_manifest(folder / "cases.csv")[:1], preprocessing, "axial", tmp_path)[0]
    network = random_network(3, 1, 4)
    with torch.no_grad():
        found = slice_dice([case], preprocessing, 2, SILENT)(network)
        slices = sorted(case.with_blood + case.without_blood)
        image = torch.from_numpy(np.array(case.image()[slices])).float().clamp(0, 120)[:, None] / 120
        image = nn.functional.pad(image, (0, image.shape[-1] % 2, 0, image.shape[-2] % 2))
        _, height, width = case.image().shape
        p = network(image).sigmoid()[:, 0, :height, :width].numpy()
    y = case.label()[slices] == 1
    assert found == pytest.approx(2 * p[y].sum() / (p.sum() + y.sum()), rel=1e-4)


# ------------------------------------------------------------------------------------------------- learner


class DoublePrecision(nn.Module):
    """An adapted random network in float64, which autocast leaves alone."""

    def __init__(self, at_most: int = 99) -> None:
        super().__init__()
        self.network, self.at_most = random_network(0, 1, 4).double(), at_most
        torch.manual_seed(0)
        adapt(self.network, AdapterConfig(method="lora-c", rank=2, dropout=0.5))

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.at_most:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(x)


def one_batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    image = torch.rand(4, 1, 16, 16, generator=draw, dtype=torch.float64)
    return image, (image > 0.7).to(torch.uint8)


def gradient_after_a_step(network: nn.Module, settings: TrainingSettings, progress: Progress) -> Tensor:
    Learner(network, settings, CPU, progress).step(*one_batch(), step=5, learning_rate=1e-3)
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss", ["soft-dice", "bce-dice"])
def test_a_step_in_parts_has_the_gradient_of_the_whole_batch(loss: Any) -> None:
    settings = replace(QUICK, loss=loss)
    whole = gradient_after_a_step(DoublePrecision(), settings, SILENT)
    parts = gradient_after_a_step(DoublePrecision(), replace(settings, slices_at_once=3), SILENT)
    assert whole.abs().max() > 0
    assert torch.allclose(parts, whole, rtol=1e-5, atol=1e-9)


def test_short_memory_halves_the_parts_and_keeps_the_gradient() -> None:
    seen: list[dict] = []
    whole = gradient_after_a_step(DoublePrecision(), QUICK, SILENT)
    short = gradient_after_a_step(DoublePrecision(at_most=1), QUICK, Progress(seen.append))
    assert [event["code"] for event in seen] == ["out-of-memory", "out-of-memory"]
    assert torch.allclose(short, whole, rtol=1e-5, atol=1e-9)


def test_memory_too_short_for_one_slice_ends_the_run_with_the_weights_it_had() -> None:
    network = DoublePrecision(at_most=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ResourceError) as error:
        gradient_after_a_step(network, QUICK, SILENT)
    assert error.value.code == "out-of-memory"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_gradient_that_is_no_number_does_not_reach_the_weights() -> None:
    network = DoublePrecision()
    learner = Learner(network, QUICK, CPU, SILENT)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image, label = one_batch()
    with pytest.raises(ResourceError) as error:
        learner.step(image * float("nan"), label, step=0, learning_rate=1e-3)
    assert error.value.code == "diverged"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_average_follows_its_formula() -> None:
    network = DoublePrecision()
    learner = Learner(network, replace(QUICK, average=0.5), CPU, SILENT)
    name = next(name for name, p in network.named_parameters() if p.requires_grad)
    expected = dict(network.named_parameters())[name].detach().clone()
    for step in range(12):
        learner.step(*one_batch(), step=step, learning_rate=1e-2)
        decay = min(0.5, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * dict(network.named_parameters())[name].detach()
    assert torch.allclose(learner.weights()[name], expected, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------- loop


def batches_of(folder: Path, cache: Path) -> SliceBatches:
    preprocessing = Preprocessing(spacing=2.0)
    cases = prepare_cases(read_manifest(folder / "cases.csv"), preprocessing, "axial", cache)
    return SliceBatches(cases, preprocessing, 4, None, 2, augmentation("none"), 0)


@pytest.mark.parametrize("method", ["cp-lora", "conv-dora", "standard"])
def test_one_epoch_of_the_paper_preset_equals_a_plain_loop(
    method: str, folder: Path, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches through plain lines of PyTorch give the same loss and adapter, in float32."""
    monkeypatch.setattr("sahlora.training.learner.runs_bf16", lambda device: False)
    settings = replace(FINETUNING_PRESETS["paper"], epochs=1, augmentation="none")
    base, run = load_model(folder / "base.safetensors"), tmp_path / "run"
    wanted = plan(settings, method=method)
    done = finetune(cohort, base, wanted, tmp_path / "a.safetensors", run, CPU)
    loss = json.loads((run / "axial" / "metrics.jsonl").read_text())["loss"]

    preprocessing = base.card.preprocessing
    cases = prepare_cases(cohort.training, preprocessing, "axial", tmp_path / "other cache")
    batches = SliceBatches(cases, preprocessing, 2, None, 2, augmentation("none"), settings.seed)
    network = base.network
    torch.manual_seed(settings.seed)
    adapt(network, wanted.adapter)
    network.train()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for image, label in batches.epoch(0):
        p, y = torch.sigmoid(network(image)), label.float()
        dice_loss = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
        optimizer.zero_grad()
        dice_loss.backward()
        optimizer.step()
        losses.append(dice_loss.item())
    assert len(losses) > 1
    assert loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    for name, tensor in collect(network).items():
        assert torch.allclose(tensor.float(), done.adapter.states["axial"][name].float(), atol=1e-4), name


def test_early_stopping_keeps_the_best_epoch(folder: Path, tmp_path: Path) -> None:
    network = random_network(0, 1, 4)
    scores, weights = iter([0.1, 0.9, 0.3, 0.2, 1.0]), []

    def evaluate(network: nn.Module) -> float:
        weights.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(scores)

    settings = replace(QUICK, epochs=5, patience=2)
    run = tmp_path / "run"
    state = train(network, batches_of(folder, tmp_path / "cache"), settings, run, SILENT, CPU, evaluate)
    assert (state.epoch, state.best_epoch) == (4, 2)
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in network.state_dict().items())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["held_out_dice"] for line in lines] == [0.1, 0.9, 0.3, 0.2]


def test_the_time_left_of_a_continued_run_counts_what_is_left() -> None:
    seen: list[dict] = []
    progress = Progress(seen.append)
    progress.stage("training", done=0.5)
    progress.update(0.5)
    progress.update(0.75)
    assert seen[1]["eta_s"] is None
    assert seen[2]["eta_s"] < 1


def test_a_prepared_case_that_is_gone_is_named_and_made_again(folder: Path, tmp_path: Path) -> None:
    batches = batches_of(folder, tmp_path / "cache")
    lost = sorted((tmp_path / "cache").rglob("image.npy"))
    for path in lost:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError) as error:
        next(iter(batches.epoch(0)))
    assert error.value.code == "unreadable-case"
    next(iter(batches_of(folder, tmp_path / "cache").epoch(0)))


# ------------------------------------------------------------------------------------------------- stops


def test_a_run_of_another_adapter_is_not_continued(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    base, settings = load_model(folder / "base.safetensors"), replace(QUICK, epochs=1)
    output, run = tmp_path / "a.safetensors", tmp_path / "run"
    finetune(cohort, base, plan(settings), output, run, CPU)
    with pytest.raises(InputError) as error:
        finetune(cohort, base, plan(settings, rank=3), output, run, CPU)
    assert error.value.code == "other-run"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file sizes")
def test_a_full_disk_ends_the_run_and_leaves_what_was_there(folder: Path, tmp_path: Path) -> None:
    import resource

    output = tmp_path / "a.safetensors"
    before = SHIPPED.with_name("sah-ct-small.safetensors").read_bytes()
    output.write_bytes(before)
    done = sahlora(
        "finetune", folder / "cases.csv", "-o", output, "--model", folder / "base.safetensors",
        "--epochs", "1", "--progress", "json",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )  # fmt: skip
    assert done.returncode == 4
    assert events(done.stdout)[-1]["code"] == "disk-full"
    assert output.read_bytes() == before


def test_a_loss_that_is_no_number_leaves_what_was_there(folder: Path, cohort: Cohort, tmp_path: Path) -> None:
    save_model(tmp_path / "base.safetensors", overflowing_network(), random_card(1, 4, spacing=2.0))
    output = tmp_path / "a.safetensors"
    output.write_bytes(b"from before")
    with pytest.raises(SAHLoRAError) as error:
        finetune(cohort, load_model(tmp_path / "base.safetensors"), plan(), output, tmp_path / "run", CPU)
    assert error.value.code == "diverged"
    assert output.read_bytes() == b"from before"


# ------------------------------------------------------------------------------------------------- bad calls


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Return exit status and code of a call that fails, and check that it began no training."""
    status = main(["finetune", *map(str, arguments), "--device", "cpu", "--progress", "json"])
    seen = events(capsys.readouterr().out)
    assert not any("training" in event.get("stage", "") for event in seen)
    assert seen[-1]["hint"]
    return status, seen[-1]["code"]


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        (("--method", "qlora"), 2, "bad-adapter-config"),
        (("--rank", "0"), 2, "bad-adapter-config"),
        (("--dropout", "1"), 2, "bad-adapter-config"),
        (("--strength", "0"), 2, "bad-strength"),
        (("--strength", "1.1"), 2, "bad-strength"),
        (("--scope", "cerebellum"), 2, "unknown-scope"),
        (("--scope", "nothing.*"), 2, "unknown-scope"),
        (("--views", "oblique"), 2, "unknown-view"),
        (("--preset", "turbo"), 2, "unknown-preset"),
        (("--epochs", "0"), 2, "bad-epochs"),
        (("--patience", "0"), 2, "bad-patience"),
        (("--average", "1"), 2, "bad-average"),
        (("--slices-at-once", "0"), 2, "bad-batch-size"),
        (("--held-out", "3"), 2, "bad-held-out"),
        (("--held-out", "-1"), 2, "bad-held-out"),
        (("--held-out", "no.csv"), 3, "not-found"),
        (("--model", "no-such-base"), 3, "unknown-model"),
        (("--description", "no.json"), 3, "not-found"),
    ],
)
def test_a_call_that_cannot_work_is_refused_before_training(
    options: tuple[str, ...],
    status: int,
    code: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "a.safetensors"
    call = (folder / "cases.csv", "-o", output, "--model", folder / "base.safetensors", *options)
    assert error_of(capsys, *call) == (status, code)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cases", "code"),
    [
        ("case,image\n", "bad-manifest"),
        ("case,image,label\na,no.nii,no.nii\n", "missing-file"),
        ("case,image,label\na,anna-image.nii.gz,anna-image.nii.gz\n", "label-is-image"),
        ("case,image,label\nd,dora-image.nii.gz,dora-label.nii.gz\n", "no-blood"),
        ("case,image,label\na,anna-image.nii.gz,anna-label.nii.gz\n", "one-case"),
        ("case,image,label\na,anna-image.nii.gz,cases.csv\n", "unreadable-label"),
        (
            "case,image,label,held_out\na,anna-image.nii.gz,anna-label.nii.gz,0\n"
            "d,dora-image.nii.gz,dora-label.nii.gz,1\n",
            "no-blood",
        ),
    ],
)
def test_cases_that_cannot_be_used_are_named_before_training(
    cases: str, code: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = folder / "bad.csv"
    manifest.write_text(cases)
    output = tmp_path / "a.safetensors"
    call = (manifest, "-o", output, "--model", folder / "base.safetensors")
    assert error_of(capsys, *call) == (3, code)
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_refused_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, refusal in (("a.safetensors", (4, "unwritable")), ("a.txt", (2, "unsupported-output"))):
        output = tmp_path / name
        output.mkdir()
        call = (folder / "cases.csv", "-o", output, "--model", folder / "base.safetensors")
        assert error_of(capsys, *call) == refusal


def test_the_presets_are_named_for_themselves() -> None:
    assert all(name == settings.preset for name, settings in FINETUNING_PRESETS.items())
    paper = FINETUNING_PRESETS["paper"]
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.patience) == (20, 2, 1e-3, None)
