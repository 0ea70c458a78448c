from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors import safe_open

from helpers import simple_head
from sahlora.cases.manifest import read_manifest
from sahlora.cases.split import Cohort
from sahlora.errors import InputError, SAHLoRAError, UsageError
from sahlora.imaging.labels import UNKNOWN, UNMARKED, known_label, read_label
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import Volume, read_volume
from sahlora.inference.predictor import InferenceSettings, predict
from sahlora.models.base_model import load_model
from sahlora.models.card import Description, NetworkSpec, Preprocessing, Target
from sahlora.models.network import MultiViewUNet
from sahlora.runtime.progress import Event, Progress
from sahlora.training.augmentation import augmentation
from sahlora.training.batches import SliceBatches
from sahlora.training.losses import SMALLEST_BLEED, bce_dice_loss, empty_loss, soft_dice_loss, unmarked_loss
from sahlora.training.prepared import prepare_cases
from sahlora.training.pretraining import PretrainingPlan, pretrain, start_from
from sahlora.training.settings import PRESETS, TrainingSettings

SPACING = (4.0, 2.0, 2.0)
SHAPE = (10, 48, 44)
CPU = torch.device("cpu")


def write_case(folder: Path, name: str, *, blood: bool = True, value: int = 1) -> dict[str, str]:
    """Write a simple head and the label of its lesions; return the row of the manifest."""
    hu = simple_head(SHAPE, SPACING)
    label = ((hu > 50) & (hu < 90)).astype(np.uint8) * value
    hu[hu < -900] = -1000 + sum(map(ord, name)) % 50  # no scan is a copy of another
    if not blood:
        hu[label > 0] = 30
        label[:] = 0
    for kind, array in (("image", hu), ("label", label)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(folder / f"{name}-{kind}.nii.gz"))
    return {"case": name, "image": f"{name}-image.nii.gz", "label": f"{name}-label.nii.gz"}


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = sorted({key for row in rows for key in row})
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        write_case(tmp_path, "one"),
        write_case(tmp_path, "two"),
        write_case(tmp_path, "none", blood=False),
    ]
    return write_manifest(tmp_path / "cases.csv", rows)


PLAN = PretrainingPlan(
    Description("test"),
    Target(INTRACRANIAL_HEMORRHAGE),
    NetworkSpec(level=1, width=4),
    Preprocessing(window=(0.0, 120.0), spacing=2.0),
    TrainingSettings(epochs=2, batch_size=4, crop=(80, 80), augmentation="none", learning_rate=1e-2),
)

# --------------------------------------------------------------------------------------------- manifest


def manifest_error(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_manifest(path)
    assert error.value.hint
    return error.value.code


def test_manifest_paths_start_at_its_folder(manifest: Path) -> None:
    cases = read_manifest(manifest)
    assert [case.name for case in cases] == ["one", "two", "none"]
    assert cases[0].image == manifest.parent.resolve() / "one-image.nii.gz"


def test_bad_manifests_are_named(tmp_path: Path, manifest: Path) -> None:
    path = tmp_path / "bad.csv"
    assert manifest_error(path) == "not-found"
    for text in ("", "case,image\n", "case,image,label\n", "case,image,label\na,,b\n"):
        path.write_text(text)
        assert manifest_error(path) == "bad-manifest"
    path.write_bytes(b"case,image,label\n\xff\xfe\x00,b,c\n")
    assert manifest_error(path) == "bad-manifest"
    path.write_text("case,image,label\na,no.nii,no.nii\n")
    assert manifest_error(path) == "missing-file"
    path.write_text("case,image,label\na,one-image.nii.gz,one-image.nii.gz\n")
    assert manifest_error(path) == "label-is-image"
    row = "a,one-image.nii.gz,one-label.nii.gz\n"
    path.write_text("case,image,label\n" + row + row)
    assert manifest_error(path) == "duplicate-case"


# ----------------------------------------------------------------------------------------------- slices


def test_expert_labels_gate_the_label() -> None:
    label = np.zeros((4, 3, 3), dtype=np.uint8)
    label[0, 1, 1] = label[1, 1, 1] = 1
    gated = known_label(label, np.array([True, False, True, False]))
    assert (gated[0] == label[0]).all()
    assert (gated[1] == 0).all()  # no blood, says the expert
    assert (gated[2] == UNKNOWN).all()  # blood that nobody outlined
    assert (gated[3] == 0).all()


def write_case_with_unmarked_slice(tmp_path: Path) -> tuple[Path, np.ndarray, int]:
    """Write a case of which an expert says that one slice more shows blood than are outlined.

    Return its manifest, which slices are outlined, and the one that is not.
    """
    row = write_case(tmp_path, "one")
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / row["label"]))).any(axis=(1, 2))
    expert = label.copy()
    unlabeled = int(np.flatnonzero(~label)[0])
    expert[unlabeled] = True
    (tmp_path / "expert.csv").write_text(
        "slice,hemorrhage\n" + "".join(f"{i},{int(seen)}\n" for i, seen in enumerate(expert))
    )
    return write_manifest(tmp_path / "m.csv", [{**row, "slices": "expert.csv"}]), label, unlabeled


def test_unknown_slices_are_in_no_batch(tmp_path: Path) -> None:
    manifest, label, unlabeled = write_case_with_unmarked_slice(tmp_path)
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, "axial", tmp_path / "cache")[0]
    assert unlabeled not in prepared.with_blood + prepared.without_blood
    assert set(prepared.with_blood) == set(np.flatnonzero(label))
    assert prepared.unmarked == (unlabeled,)
    batches = SliceBatches([prepared], PLAN.preprocessing, 4, None, 2, augmentation("none"), 0)
    assert not any((label == UNMARKED).any() for _, label in batches.epoch(0))


def test_unmarked_slices_count_as_slices_with_blood_when_asked_for(tmp_path: Path) -> None:
    manifest, label, _ = write_case_with_unmarked_slice(tmp_path)
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, "axial", tmp_path / "cache")
    batches = SliceBatches(
        prepared, PLAN.preprocessing, 4, None, 2, augmentation("none"), 0, with_unmarked=True
    )
    labels = torch.cat([label for _, label in batches.epoch(0)])
    halves = labels.split(2)
    shown = torch.cat(halves[0::2]).flatten(1)
    assert (((shown == 1) | (shown == UNMARKED)).any(dim=1)).all()
    unmarked = (shown == UNMARKED).any(dim=1)
    assert 1 <= unmarked.sum() < len(shown)
    assert not (shown[unmarked] == 1).any()
    assert len(shown) >= label.sum() + 1


@pytest.mark.parametrize("view", ["coronal", "sagittal"])
def test_slices_across_those_an_expert_looked_at_are_never_unmarked(view: str, tmp_path: Path) -> None:
    manifest, _, _ = write_case_with_unmarked_slice(tmp_path)
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, view, tmp_path / "cache")[0]
    assert prepared.unmarked == ()


def test_training_takes_unmarked_slices_and_records_them(tmp_path: Path) -> None:
    manifest, _, _ = write_case_with_unmarked_slice(tmp_path)
    weights = []
    for weight in (0.0, 0.5):
        plan = replace(PLAN, settings=replace(PLAN.settings, unmarked_weight=weight))
        cohort, run = Cohort(tuple(read_manifest(manifest))), tmp_path / f"run-{weight}"
        card = pretrain(cohort, plan, tmp_path / f"{weight}.safetensors", run, CPU)
        assert card.training["settings"]["unmarked_weight"] == weight
        assert card.training["slices_unmarked"] == 1
        weights.append(load_model(tmp_path / f"{weight}.safetensors").network.state_dict())
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_label_on_another_grid_comes_to_the_images_voxels(tmp_path: Path) -> None:
    write_case(tmp_path, "one")
    label = sitk.ReadImage(str(tmp_path / "one-label.nii.gz"))
    turned = sitk.DICOMOrient(label, "PIR")
    assert turned.GetSize() != label.GetSize()
    sitk.WriteImage(turned, str(tmp_path / "turned.nrrd"))
    volume = read_volume(tmp_path / "one-image.nii.gz")
    assert np.array_equal(
        read_label(tmp_path / "turned.nrrd", volume), read_label(tmp_path / "one-label.nii.gz", volume)
    )


@pytest.mark.parametrize("view", ["axial", "coronal", "sagittal"])
def test_half_of_every_batch_shows_blood(view: str, manifest: Path, tmp_path: Path) -> None:
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, view, tmp_path / "cache")
    batches = SliceBatches(prepared, PLAN.preprocessing, 4, (80, 80), 2, augmentation("none"), 0)
    seen = list(batches.epoch(0))
    assert len(seen) == len(batches) == -(-sum(len(case.with_blood) for case in prepared) // 2)
    for image, label in seen:
        assert image.shape == label.shape == (4, 1, 40, 40)
        assert image.min() >= 0
        assert image.max() <= 1
        assert [bool((one == 1).any()) for one in label] == [True, True, False, False]


@pytest.mark.parametrize(("spacing", "size"), [(2.0, (40, 32)), (1.0, (80, 64)), (1.6, (50, 40))])
def test_slices_are_cut_to_millimeters(
    spacing: float, size: tuple[int, int], manifest: Path, tmp_path: Path
) -> None:
    preprocessing = replace(PLAN.preprocessing, spacing=spacing)
    prepared = prepare_cases(read_manifest(manifest), preprocessing, "axial", tmp_path / "cache")
    assert SliceBatches(prepared, preprocessing, 4, (80, 64), 2, augmentation("none"), 0).size == size


def test_slices_of_native_pixels_are_not_cut(manifest: Path, tmp_path: Path) -> None:
    preprocessing = replace(PLAN.preprocessing, spacing=None)
    prepared = prepare_cases(read_manifest(manifest), preprocessing, "axial", tmp_path / "cache")
    largest = np.max([case.image().shape[1:] for case in prepared], axis=0)
    size = SliceBatches(prepared, preprocessing, 4, (8, 8), 2, augmentation("none"), 0).size
    assert size == tuple(largest + largest % 2)


def test_batches_are_a_function_of_seed_epoch_and_number(manifest: Path, tmp_path: Path) -> None:
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, "axial", tmp_path / "cache")

    def batches(seed: int) -> SliceBatches:
        return SliceBatches(prepared, PLAN.preprocessing, 4, None, 2, augmentation("default"), seed)

    whole, rest = list(batches(0).epoch(1)), list(batches(0).epoch(1, first=2))
    for (image, label), (again, same) in zip(whole[2:], rest, strict=True):
        assert torch.equal(image, again)
        assert torch.equal(label, same)
    assert not torch.equal(whole[0][0], next(iter(batches(1).epoch(1)))[0])


@pytest.mark.parametrize("name", ["paper", "default", "robust"])
def test_augmentation_moves_image_and_label_alike(name: str) -> None:
    """Where the augmented label is, the augmented image is bright."""
    hu = torch.zeros(20, 1, 64, 48)
    hu[:, :, 20:40, 10:30] = 110
    label = (hu > 60).to(torch.uint8)
    images, labels = augmentation(name)(hu.clone(), label, [(seed,) for seed in range(20)])
    for image, mask in zip(images, labels, strict=True):
        assert image[mask == 1].median() > 0.55
        assert image[mask == 0].median() < 0.3
        assert set(mask.unique().tolist()) <= {0, 1}
    assert (images != hu / 120).flatten(1).any(dim=1).sum() > 5


def test_robust_augmentation_of_a_slice_is_a_function_of_its_seed_alone() -> None:
    hu, label = torch.rand(4, 3, 32, 32) * 100, (torch.rand(4, 3, 32, 32) > 0.8).to(torch.uint8)
    seeds = [(3, i) for i in range(4)]
    whole = augmentation("robust")(hu.clone(), label.clone(), seeds)
    part = augmentation("robust")(hu[2:].clone(), label[2:].clone(), seeds[2:])
    for made, again in zip(whole, part, strict=True):
        assert torch.allclose(made[2:].float(), again.float(), atol=1e-5)
    assert whole[0].shape == (4, 3, 32, 32) and whole[1].shape == (4, 1, 32, 32)


def test_robust_augmentation_makes_blood_fainter_and_denser_but_keeps_it_blood() -> None:
    hu = torch.full((60, 1, 48, 48), 35.0)
    hu[:, :, 12:36, 12:36] = 60
    images, labels = augmentation("robust", (0.0, 130.0))(
        hu, (hu > 50).to(torch.uint8), [(seed, 1) for seed in range(60)]
    )
    gains = [
        130 * float(i[m == 1].median() - i[m == 0].median()) for i, m in zip(images, labels, strict=True)
    ]
    assert min(gains) > 2 and max(gains) > 35
    assert np.ptp(gains) > 25


def test_simulated_cases_have_their_share_of_the_slices_with_blood(manifest: Path, tmp_path: Path) -> None:
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, "axial", tmp_path / "cache")
    with_blood = [case for case in prepared if case.with_blood]
    own, simulated = with_blood[:1], with_blood[1:]
    batches = SliceBatches(
        own, PLAN.preprocessing, 2, None, 2, augmentation("none"), 0, simulated=simulated, simulated_share=0.5
    )
    assert len(batches) == 2 * len(own[0].with_blood)
    assert sum(bool((label[0] == 1).any()) for _, label in batches.epoch(0)) == len(batches)


def test_slices_come_with_their_neighbors(manifest: Path, tmp_path: Path) -> None:
    prepared = prepare_cases(read_manifest(manifest), PLAN.preprocessing, "axial", tmp_path / "cache")[0]
    image, step = prepared.image(), prepared.slice_mm
    hu, label = prepared.read([0, 2], neighbors=2 * step)
    assert hu.shape == (2, 3, *image.shape[1:]) and label.shape == hu.shape
    for row, expected in zip(hu, ([0, 0, 2], [0, 2, 4]), strict=True):
        assert np.array_equal(row.numpy(), image[expected].astype(np.float32))


def test_training_goes_on_from_a_model_that_saw_slices_alone() -> None:
    torch.manual_seed(0)
    alone, with_neighbors = MultiViewUNet(1, 4).eval(), MultiViewUNet(1, 4, 3).eval()
    start_from(with_neighbors, alone)
    stack = torch.rand(2, 3, 8, 8)
    assert torch.allclose(with_neighbors(stack), alone(stack[:, 1:2]), atol=1e-6)
    with pytest.raises(UsageError) as caught:
        start_from(MultiViewUNet(2, 4), alone)
    assert caught.value.code == "other-network"


def test_preparing_again_uses_what_is_there(manifest: Path, tmp_path: Path) -> None:
    cases = read_manifest(manifest)
    prepare_cases(cases, PLAN.preprocessing, "axial", tmp_path / "cache")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    prepare_cases(cases, PLAN.preprocessing, "axial", tmp_path / "cache")
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}


# ----------------------------------------------------------------------------------------------- losses


def test_soft_dice_loss_is_its_formula() -> None:
    logits = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    label = (torch.rand(2, 1, 5, 5) > 0.5).to(torch.uint8)
    p, y = 1 / (1 + torch.exp(-logits)), label.double()
    expected = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
    assert soft_dice_loss(logits, label).item() == pytest.approx(expected.item(), abs=1e-14)


@pytest.mark.parametrize("loss", [soft_dice_loss, bce_dice_loss])
def test_unknown_pixels_have_no_gradient(loss: object) -> None:
    logits = torch.randn(1, 1, 6, 6, requires_grad=True)
    label = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    label[..., 0] = 1
    label[..., 3:] = UNKNOWN
    loss(logits, label).backward()
    assert (logits.grad[..., 3:] == 0).all()
    assert (logits.grad[..., :3] != 0).all()


@pytest.mark.parametrize("loss", [soft_dice_loss, bce_dice_loss])
def test_unmarked_pixels_are_unknown_to_the_losses_of_pixels(loss: object) -> None:
    logits = torch.randn(1, 1, 6, 6)
    label = (torch.rand(1, 1, 6, 6) > 0.5).to(torch.uint8)
    label[..., 3:] = UNKNOWN
    assert loss(logits, label) == loss(logits, label.masked_fill(label == UNKNOWN, UNMARKED))


def test_empty_slices_are_asked_for_low_highest_probabilities_and_no_other_slice() -> None:
    logits = torch.randn(4, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    label = torch.zeros(4, 1, 12, 12, dtype=torch.uint8)
    label[1, 0, 4:7, 4:7] = 1
    label[2, 0, 0, 0] = UNKNOWN
    loss = empty_loss(logits, label)
    highest = [logits[i].flatten().topk(SMALLEST_BLEED).values.sigmoid().mean() for i in (0, 3)]
    assert loss.item() == pytest.approx(sum(-math.log(1 - float(p)) for p in highest) / 4, rel=1e-9)
    loss.backward()
    asked = (logits.grad != 0).flatten(1).sum(dim=1)
    assert asked.tolist() == [SMALLEST_BLEED, 0, 0, SMALLEST_BLEED]
    assert (logits.grad >= 0).all()


def test_unmarked_slices_are_asked_for_their_highest_probabilities_and_no_other_slice() -> None:
    logits = torch.randn(3, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    label = torch.zeros(3, 1, 12, 12, dtype=torch.uint8)
    label[0, 0, :, 2:] = UNMARKED
    label[1, 0, 4:7, 4:7] = 1
    label[2] = UNKNOWN
    loss = unmarked_loss(logits, label)
    loss.backward()
    candidates = logits.detach()[0, 0, :, 2:].flatten()
    highest = candidates.sort(descending=True).values[:SMALLEST_BLEED]
    expected = -math.log((1 / (1 + torch.exp(-highest))).mean().item()) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert set(logits.grad[0].flatten().nonzero().flatten().tolist()) == set(
        torch.isin(logits.detach()[0], highest).flatten().nonzero().flatten().tolist()
    )
    assert (logits.grad[0] <= 0).all()  # more probability, less loss
    assert not logits.grad[1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_unmarked_slice_that_is_missed_with_confidence_still_asks_for_more(dtype: torch.dtype) -> None:
    logits = torch.full((2, 1, 8, 8), -60.0, dtype=dtype, requires_grad=True)
    label = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    label[0, 0, 2:] = UNMARKED
    loss = unmarked_loss(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(30, rel=1e-6)  # -log of e^-60, of one slice of two
    assert logits.grad.sum().item() == pytest.approx(-0.5, rel=1e-6)


def test_without_an_unmarked_slice_nothing_is_asked_for() -> None:
    logits = torch.randn(2, 1, 6, 6, requires_grad=True)
    loss = unmarked_loss(logits, torch.zeros(2, 1, 6, 6, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


# ------------------------------------------------------------------------------------------------- loop


def test_training_finds_the_lesions(manifest: Path, tmp_path: Path) -> None:
    plan = replace(
        PLAN,
        network=NetworkSpec(level=1, width=8),
        settings=replace(PLAN.settings, epochs=70, learning_rate=2e-2),
    )
    pretrain(Cohort(tuple(read_manifest(manifest))), plan, tmp_path / "m.safetensors", tmp_path / "run", CPU)
    model = load_model(tmp_path / "m.safetensors")
    volume = read_volume(tmp_path / "one-image.nii.gz")
    found = (
        predict(volume, {"axial": model.for_inference()}, InferenceSettings(("axial",))).probability >= 0.5
    )
    true = read_label(tmp_path / "one-label.nii.gz", volume) == 1
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.8


def test_the_card_records_the_training_and_no_names(manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    card = pretrain(Cohort(tuple(read_manifest(manifest))), PLAN, path, tmp_path / "run", CPU)
    assert card.training["cases"] == 3
    assert card.training["cases_with_blood"] == 2
    assert card.training["settings"]["epochs"] == 2
    content = path.read_bytes()
    for secret in (b"one-image", b"none-label", str(tmp_path).encode()):
        assert secret not in content


def test_one_epoch_of_the_paper_preset_equals_a_plain_loop(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches through forty plain lines of PyTorch give the same loss curve, in float32."""
    monkeypatch.setattr("sahlora.training.learner.runs_bf16", lambda device: False)
    settings = replace(PRESETS["paper"], epochs=1, augmentation="none", crop=(80, 80))
    plan = replace(PLAN, settings=settings)
    pretrain(Cohort(tuple(read_manifest(manifest))), plan, tmp_path / "m.safetensors", tmp_path / "run", CPU)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]

    from sahlora.models.network import MultiViewUNet, initialize_as_published

    prepared = prepare_cases(read_manifest(manifest), plan.preprocessing, "axial", tmp_path / "other cache")
    batches = SliceBatches(prepared, plan.preprocessing, 2, (80, 80), 2, augmentation("none"), settings.seed)
    torch.manual_seed(settings.seed)
    network = MultiViewUNet(1, 4)
    initialize_as_published(network)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    total = 0.0
    for image, label in batches.epoch(0):
        p, y = torch.sigmoid(network(image)), label.float()
        loss = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    assert losses == [pytest.approx(total / len(batches), abs=1e-5)]


def test_a_run_of_other_settings_is_not_continued(manifest: Path, tmp_path: Path) -> None:
    cases, path = Cohort(tuple(read_manifest(manifest))), tmp_path / "m.safetensors"
    pretrain(cases, PLAN, path, tmp_path / "run", CPU)
    with pytest.raises(InputError) as error:
        pretrain(cases, replace(PLAN, settings=replace(PLAN.settings, epochs=3)), path, tmp_path / "run", CPU)
    assert error.value.code == "other-run"


def test_a_run_killed_after_its_first_step_has_that_step(manifest: Path, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        if event["event"] == "progress" and event["stage"].startswith("training"):
            raise KeyboardInterrupt

    cases, run = Cohort(tuple(read_manifest(manifest))), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain(cases, PLAN, tmp_path / "m.safetensors", run, CPU, Progress(kill))
    with safe_open(next(run.rglob("state.safetensors")), framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    assert (state["epoch"], state["batch"]) == (0, 1)


def test_a_loss_that_is_no_number_stops_the_run(manifest: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, preprocessing=Preprocessing(intensity_range=(0.0, 3e38), spacing=2.0))
    with pytest.raises(SAHLoRAError) as error:
        pretrain(
            Cohort(tuple(read_manifest(manifest))), plan, tmp_path / "m.safetensors", tmp_path / "run", CPU
        )
    assert error.value.code == "diverged"
    assert not (tmp_path / "m.safetensors").exists()


def test_pre_training_scores_held_out_cases_and_keeps_the_best_epoch(manifest: Path, tmp_path: Path) -> None:
    one, two, none = read_manifest(manifest)
    plan = replace(PLAN, settings=replace(PLAN.settings, epochs=3, patience=3, average=0.9, slices_at_once=2))
    cohort = Cohort((one, none), (two,))
    card = pretrain(cohort, plan, tmp_path / "m.safetensors", tmp_path / "run", CPU)
    scores = [
        json.loads(line)["held_out_dice"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert card.training["cases"] == 2
    assert card.training["held_out_cases"] == 1
    assert card.training["held_out_soft_dice"] == pytest.approx(max(scores), abs=5e-5)
    assert card.training["kept_epoch"] == 1 + scores.index(max(scores))
    trained_on = SliceBatches(
        prepare_cases([one, none], PLAN.preprocessing, "axial", tmp_path / "run" / "cache"),
        PLAN.preprocessing, 4, (80, 80), 2, augmentation("none"), 0,
    )  # fmt: skip
    identity = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert identity["cases"] == trained_on.fingerprint
    assert len(identity["held_out"]) == 1


def test_a_pre_training_without_held_out_cases_keeps_its_identity(manifest: Path, tmp_path: Path) -> None:
    """A run begun by an earlier version continues: nothing is added to what it is known by."""
    cohort = Cohort(tuple(read_manifest(manifest)))
    pretrain(cohort, PLAN, tmp_path / "m.safetensors", tmp_path / "run", CPU)
    identity = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert identity.keys() == PLAN.settings.to_dict().keys() | {"cases"}


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 3},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": 7.0},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused(change: dict) -> None:
    with pytest.raises(UsageError):
        replace(PLAN.settings, **change)


def test_cases_without_blood_are_refused(tmp_path: Path) -> None:
    rows = [write_case(tmp_path, "none", blood=False)]
    cases = Cohort(tuple(read_manifest(write_manifest(tmp_path / "m.csv", rows))))
    with pytest.raises(InputError) as error:
        pretrain(cases, PLAN, tmp_path / "m.safetensors", tmp_path / "run", CPU)
    assert error.value.code == "no-blood"


def test_volume_of_the_label_is_kept_in_preparation(manifest: Path, tmp_path: Path) -> None:
    case = read_manifest(manifest)[0]
    volume: Volume = read_volume(case.image)
    true_ml = (read_label(case.label, volume) == 1).sum() * np.prod(SPACING) / 1000
    prepared = prepare_cases([case], Preprocessing(spacing=1.0), "axial", tmp_path / "cache")[0]
    shape = prepared.label().shape
    box = [(s.stop - s.start) * mm for s, mm in zip(_box(volume), SPACING, strict=True)]
    pixel = np.prod([size / n for size, n in zip(box, shape, strict=True)])
    assert (prepared.label() == 1).sum() * pixel / 1000 == pytest.approx(true_ml, rel=0.03)


def _box(volume: Volume) -> tuple[slice, slice, slice]:
    from sahlora.imaging.head import head_box

    return head_box(volume.hu, volume.spacing)
