"""What to annotate next: scans on which the predictions differ come first, and nothing stops the others."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch import Tensor, nn

from helpers import (
    events,
    random_card,
    random_network,
    sahlora,
    simple_head,
    start_sahlora,
    write_series,
)
from sahlora.cases.scans import list_scans, scans_in
from sahlora.cli import main
from sahlora.errors import UsageError
from sahlora.imaging.planes import VIEWS
from sahlora.imaging.terminology import SAH
from sahlora.imaging.volume import read_volume
from sahlora.inference.predictor import CPU, InferenceSettings, predict
from sahlora.inference.ranking import Ranker, disagreement_score
from sahlora.models.base_model import Model, save_model
from sahlora.models.card import Target
from sahlora.runtime.progress import Progress

SHAPE, SPACING = (12, 64, 56), (5.0, 3.0, 3.0)
VOXEL_ML = float(np.prod(SPACING)) / 1000
SURE, UNSURE = 70, 100  # HU that `Sided` outlines everywhere, and only in the left half of a slice


class Sided(nn.Module):
    """Outlines 60 to 80 HU everywhere, and 90 to 110 HU in one half of the slice alone."""

    def forward(self, x: Tensor) -> Tensor:
        left = torch.arange(x.shape[-1]) < x.shape[-1] // 2
        certain = ((x > 60) & (x < 80)) | ((x > 90) & (x < 110) & left)
        return torch.where(certain, 20.0, -20.0).to(x.dtype)


def sided_model() -> Model:
    return Model(random_card(window=(-1024.0, 3000.0), intensity_range=(-1024.0, 3000.0), spacing=None),
                 Sided(), "0" * 64)  # type: ignore[arg-type] # fmt: skip


def head(*lesions: tuple[int, int]) -> np.ndarray:
    """Return a head of even brain with equal blocks on both sides, given as (HU, rows of 4 voxels)."""
    hu = simple_head(SHAPE, SPACING)
    hu[(hu > -900) & (hu < 900)] = 30
    slices = iter(range(3, SHAPE[0]))
    for value, voxels in lesions:
        z = next(slices)
        hu[z, 30 : 30 + voxels, 14:18] = hu[z, 30 : 30 + voxels, 38:42] = value
    return hu


def write(path: Path, hu: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(hu[:, ::-1, ::-1])  # canonical order is LPS; NIfTI's identity is that, too
    image.SetSpacing(SPACING[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# ------------------------------------------------------------------------------------------------- the score


def test_scans_come_in_the_order_of_their_disagreement(tmp_path: Path) -> None:
    lesions = {
        "agree": [(SURE, 10)],
        "half": [(SURE, 10), (UNSURE, 10)],
        "differ": [(UNSURE, 20)],
        "differ on little": [(UNSURE, 1)],
        "nothing": [],
    }
    scans = {name: write(tmp_path / f"{name}.nii.gz", head(*found)) for name, found in lesions.items()}
    ranked = Ranker([{"axial": sided_model()}], CPU).rank(scans, tmp_path / "r.csv", Progress())

    assert [one.scan for one in ranked] == ["differ", "half", "differ on little", "agree", "nothing"]
    # 0 and 1 on a voxel are a mean of 1/2 and a variance of 1/4; 1 mL is added to the denominator.
    for one in ranked:
        sure, unsure = (
            sum(8 * n for hu, n in lesions[one.scan] if hu == value) * VOXEL_ML for value in (SURE, UNSURE)
        )
        assert one.score == pytest.approx(unsure / 4 / (sure + unsure / 2 + 1), abs=1e-3)
        assert one.predicted_ml == pytest.approx(sure + unsure, rel=1e-3)
    assert ranked[1].slice == 5  # “half” has the unsure block one slice above the sure one
    assert "agree to" in ranked[0].reason and "All 2 predictions agree" in ranked[-1].reason


def pairwise(predictions: list[np.ndarray], weights: list[float], voxel_ml: np.ndarray) -> float:
    """Compute the score as it is defined: over all pairs."""
    apart = together = 0.0
    volume = voxel_ml[:, None, None]
    for (p, w), (q, v) in product(zip(predictions, weights, strict=True), repeat=2):
        apart += w * v * float(((p - q) ** 2 * volume).sum())
        together += w * v * float(((p**2 + q**2) * volume).sum())
    return apart / (together + 2.0)


def test_score_is_one_minus_the_soft_dice_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 7):
        predictions = list(rng.random((count, 4, 5, 6)))
        weights = list(rng.dirichlet(np.ones(count)))
        voxel_ml = rng.uniform(0.1, 2, 4)
        mean = np.average(predictions, axis=0, weights=weights)
        variance = np.average((np.stack(predictions) - mean) ** 2, axis=0, weights=weights)
        expected = pairwise(predictions, weights, voxel_ml)
        assert disagreement_score(mean, variance, voxel_ml) == pytest.approx(expected, rel=1e-9)


def test_score_of_an_ensemble_counts_every_view_mirrored_pass_and_member(tmp_path: Path) -> None:
    card = random_card(spacing=None, views=VIEWS)
    members = [dict.fromkeys(VIEWS, Model(card, random_network(seed), "0" * 64)) for seed in (0, 1)]
    path = write(tmp_path / "a.nii.gz", head((SURE, 10)))
    volume = read_volume(path)
    predictions, weights = [], []
    for models in members:
        views = {view: model.for_inference() for view, model in models.items()}
        for view in VIEWS:
            plain, both = (
                predict(volume, views, InferenceSettings((view,), flip=flip)).probability
                for flip in (False, True)
            )
            mirrored = view != "sagittal"
            predictions += [plain, 2 * both - plain] if mirrored else [plain]
            weights += [1 / 12] * 2 if mirrored else [1 / 6]
    ranker = Ranker(members, CPU)
    (one,) = ranker.rank({"a": path}, tmp_path / "r.csv", Progress())

    assert ranker.predictions == len(predictions) == 10
    # Probabilities below 0.01 are rounded to 0 on the way.
    assert one.score == pytest.approx(pairwise(predictions, weights, volume.voxel_ml), abs=2e-3)
    assert one.score > 0.01


def test_members_that_can_not_be_compared_are_refused() -> None:
    model = sided_model()
    other = Model(random_card(), Sided(), "")  # type: ignore[arg-type]
    other.card.__dict__["target"] = Target(SAH)
    for code, ensemble, views in (
        ("mixed-targets", [{"axial": model}, {"axial": other}], None),
        ("mixed-views", [{"axial": model}, {"coronal": model}], None),
        ("no-model-for-view", [{"axial": model}], ("coronal",)),
        ("single-prediction", [{"sagittal": model}], None),
    ):
        with pytest.raises(UsageError) as raised:
            Ranker(ensemble, CPU, views)  # type: ignore[arg-type]
        assert raised.value.code == code and raised.value.hint
    assert Ranker([{"sagittal": model}] * 2, CPU).predictions == 2


# --------------------------------------------------------------------------------------------------- scans


def test_folder_and_list_name_every_scan_once(tmp_path: Path) -> None:
    folder = tmp_path / "scans é"
    for name in ("a.nii.gz", "a.nrrd", "deep/b.mha", "x_y.nrrd", "x/y.nrrd", "a.seg.nrrd", "notes.txt"):
        write_text(folder / name)
    listed = [
        {"case": "p/1", "image": "a.nrrd"},
        {"case": "p_1", "image": "b.nrrd"},
        {"case": "", "image": "c"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(listed))

    assert list(scans_in(folder)) == ["a.nii", "a.nrrd", "x_y.nrrd", "deep_b.mha", "x_y.nrrd-2"]
    assert list_scans(tmp_path / "list.json") == {
        "p_1": (tmp_path / "a.nrrd").resolve(),
        "p_1-2": (tmp_path / "b.nrrd").resolve(),
    }


def write_text(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def test_dicom_folders_are_one_scan_each(tmp_path: Path) -> None:
    for folder in ("p1/head", "p2"):
        write_dicom_file(tmp_path / folder / "1")

    assert scans_in(tmp_path) == {"p1_head": tmp_path / "p1/head", "p2": tmp_path / "p2"}


def write_dicom_file(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = generate_uid()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


# ------------------------------------------------------------------------------------------------- command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans and a broken one; a model of random weights."""
    write(tmp_path / "scans" / "a.nii.gz", head((SURE, 10)))
    write(tmp_path / "scans" / "deep" / "b.nrrd", head((UNSURE, 20)))
    (tmp_path / "scans" / "broken.nrrd").write_bytes(b"NRRD0004")
    save_model(tmp_path / "m.safetensors", random_network(), random_card(spacing=3.0, views=("axial",)))
    return tmp_path


def test_command_writes_table_and_proposals_and_passes_over_what_it_can_not_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = sahlora(
        "cases", "rank", folder / "scans", "-o", folder / "ranking.csv", "--model", folder / "m.safetensors",
        "--proposals", folder / "proposals", "--device", "cpu", "--progress", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = events(done.stdout)
    table = rows(folder / "ranking.csv")

    assert {row["scan"] for row in table[:2]} == {"a.nii", "deep_b.nrrd"}
    assert (table[2]["scan"], table[2]["rank"], table[2]["score"]) == ("broken.nrrd", "", "")
    assert "can't be read" in table[2]["reason"]
    assert [row["score"] for row in table[:2]] == sorted((row["score"] for row in table[:2]), reverse=True)
    for row in table[:2]:
        label = sitk.GetArrayFromImage(sitk.ReadImage(row["proposal"]))
        assert label.sum() * VOXEL_ML == pytest.approx(float(row["predicted_ml"]), abs=1e-2)
        assert Path(row["image"]).is_file()
    codes = {event["code"] for event in told if event["event"] == "warning"}
    assert codes == {"unreadable", "doubtful-size"}  # these heads are drawn small
    assert told[-1]["ranking"][0]["scan"] == table[0]["scan"] and told[-1]["predictions"] == 2
    assert [e["fraction"] for e in told if e["event"] == "progress"] == [0.3333, 0.6667, 1.0]

    again = main(["cases", "rank", str(folder / "scans"), "-o", str(folder / "r.json"),
                  "--proposals", str(folder / "proposals")])  # fmt: skip
    assert (again, "corrected already" in capsys.readouterr().err) == (2, True)


def test_cancelled_ranking_keeps_the_scans_that_are_done(folder: Path) -> None:
    for number in range(6):
        write(folder / "scans" / f"c{number}.nrrd", head((UNSURE, 20)))
    stop, table = folder / "stop", folder / "ranking.json"
    process = start_sahlora(
        "cases", "rank", folder / "scans", "-o", table, "--model", folder / "m.safetensors",
        "--device", "cpu", "--cancel-file", stop,
    )  # fmt: skip
    for line in process.stdout:
        if json.loads(line)["event"] == "metric":
            stop.touch()
            break
    rest = events(process.stdout.read())
    assert process.wait(60) == 130
    kept = json.loads(table.read_text(encoding="utf-8"))

    assert 1 <= len(kept) < 9
    assert rest[-1]["code"] == "cancelled"
    assert rest[-1]["hint"] == f"{len(kept)} of 9 scans stand in {table}."


def test_proposal_of_a_dicom_series_comes_with_the_slices_that_were_segmented(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", np.arange(0, 60, 5), tilt=15.0)
    ranker = Ranker([{"axial": sided_model()}], CPU, proposals=tmp_path / "out")
    (one,) = ranker.rank(scans_in(tmp_path / "scan"), tmp_path / "r.csv", Progress())
    ct, label = (sitk.ReadImage(path) for path in (one.proposal_image, one.proposal))
    volume = read_volume(tmp_path / "scan")

    assert (ct.GetSize(), ct.GetOrigin(), ct.GetDirection()) == (
        label.GetSize(), label.GetOrigin(), label.GetDirection(),
    )  # fmt: skip
    even = sitk.GetArrayFromImage(volume.to_grid(volume.hu, label=False))
    assert np.array_equal(sitk.GetArrayFromImage(ct), even)
    assert not any("Doe" in ct.GetMetaData(key) for key in ct.GetMetaDataKeys())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["no-such-folder", "-o", "r.csv"], 3, "no-such-folder"),
        (["empty", "-o", "r.csv"], 3, "There is no scan"),
        (["scans", "-o", "r.xlsx"], 2, ".csv or .json"),
        (["scans", "-o", "r.csv", "--views", "coronal"], 2, "No model is given for coronal"),
        (["scans", "-o", "r.csv", "--adapter", "not-there"], 3, "No adapter “not-there”"),
        (["scans/broken", "-o", "r.csv"], 3, "None of 1 scans"),
    ],
)
def test_bad_calls_are_refused_with_a_reason(
    arguments: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "scans" / "broken" / "x.nrrd")

    assert main(["cases", "rank", *arguments, "--device", "cpu"]) == status
    assert said in capsys.readouterr().err
    assert (tmp_path / "r.csv").exists() == ("None of" in said)
