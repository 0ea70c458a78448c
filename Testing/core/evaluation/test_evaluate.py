from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib import image as pictures
from scipy import stats

from helpers import HU_PREPROCESSING, HUThreshold, events, random_network, sahlora, simple_head
from sahlora.adapters.attach import adapt, collect
from sahlora.adapters.config import AdapterConfig
from sahlora.cases.loading import LoadedCase
from sahlora.cases.manifest import Case
from sahlora.cli import main
from sahlora.errors import Cancelled, InputError
from sahlora.evaluation.evaluate import (
    MEASURES,
    CaseResult,
    Evaluation,
    System,
    by_stratum,
    compare,
    detection,
    evaluate,
    score_prediction,
)
from sahlora.evaluation.metrics import CaseScore
from sahlora.evaluation.report import FILES, write_evaluation
from sahlora.imaging.labels import UNKNOWN
from sahlora.imaging.terminology import INTRACRANIAL_HEMORRHAGE
from sahlora.imaging.volume import Volume
from sahlora.inference.predictor import InferenceSettings
from sahlora.models.adapter_file import Adapter, AdapterCard, save_adapter
from sahlora.models.base_model import ViewModel, load_model
from sahlora.models.card import Description, Target
from sahlora.runtime.progress import Event, Progress
from sahlora.simulation.head import HeadPhantom, SimulatedHead
from sahlora.simulation.scanner import Acquisition
from sahlora.simulation.writers import write_dicom_series

SPACING = (4.0, 2.0, 2.0)
SHAPE = (12, 56, 52)
HU = simple_head(SHAPE, SPACING)
LESION = (HU > 50) & (HU < 90)
VOXEL_ML = math.prod(SPACING) / 1000
GOLDEN = System("golden", {"axial": ViewModel(HUThreshold(), HU_PREPROCESSING)}, 0.5, {"name": "golden"})
EXACT = InferenceSettings(precision="float32")


def case(folder: Path, name: str, label: np.ndarray = LESION, hu: np.ndarray = HU) -> Case:
    for kind, array in (("ct", hu), ("label", label.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(folder / f"{name}-{kind}.nii.gz"))
    return Case(name, folder / f"{name}-ct.nii.gz", folder / f"{name}-label.nii.gz")


def scores(dice: float, annotated: float, predicted: float) -> CaseScore:
    return CaseScore(dice, dice / 2, 10 * (1 - dice), 3 * (1 - dice), predicted, annotated, 1.0)


def invented(seed: int, count: int = 24) -> tuple[CaseResult, ...]:
    """Results of a cohort in all strata, four cases without blood, two cases of some patients."""
    draw = np.random.default_rng(seed)
    annotated = np.r_[np.zeros(4), np.random.default_rng(0).gamma(1.2, 70, count - 4)]
    results = []
    for number, ml in enumerate(annotated):
        dice = float(np.clip(0.3 + ml / 150 + draw.normal(0, 0.1), 0.02, 0.95)) if ml else math.nan
        score = scores(dice, float(ml), float(abs(ml * 0.9 + draw.normal(0, 5))))
        results.append(CaseResult(f"case {number}", f"p{number - number % 2}", score))
    return tuple(results)


def invented_evaluation() -> Evaluation:
    systems = (GOLDEN, replace(GOLDEN, name="other $x$ <b>", facts={"name": "other"}))
    return Evaluation(systems, {systems[0].name: invented(1), systems[1].name: invented(2)})


# ------------------------------------------------------------------------------------------------ scores


def test_a_perfect_model_scores_perfectly(tmp_path: Path) -> None:
    (result,) = evaluate([case(tmp_path, "a")], [GOLDEN], EXACT).results["golden"]
    assert (result.score.dice, result.score.hd95_mm, result.score.assd_mm) == (1, 0, 0)
    assert result.score.soft_dice == pytest.approx(1, abs=1e-6)
    assert result.score.predicted_ml == result.score.annotated_ml == pytest.approx(LESION.sum() * VOXEL_ML)
    assert result.volume_error_ml == 0


def test_scores_are_those_of_the_definition(tmp_path: Path) -> None:
    label = np.roll(LESION, 2, axis=2)
    (result,) = evaluate([case(tmp_path, "a", label)], [GOLDEN], EXACT).results["golden"]
    shared = (label & LESION).sum()
    assert result.score.dice == pytest.approx(2 * shared / (label.sum() + LESION.sum()), rel=1e-12)
    assert result.score.false_positive_ml == pytest.approx((LESION & ~label).sum() * VOXEL_ML)


def test_each_prediction_can_be_kept(tmp_path: Path) -> None:
    kept = []
    evaluate([case(tmp_path, "a")], [GOLDEN], EXACT, keep=lambda *made: kept.append(made))
    ((a_case, system, volume, probability),) = kept
    assert (a_case.name, system, volume.hu.shape) == ("a", GOLDEN, SHAPE)
    assert np.array_equal(probability >= 0.5, LESION)


def test_unknown_voxels_are_left_out() -> None:
    label = LESION.astype(np.uint8)
    label[:6] = UNKNOWN
    loaded = LoadedCase(Case("a", Path("i"), Path("l")), Volume.from_array(HU, SPACING), label, None)
    result = score_prediction(loaded, np.full(SHAPE, 0.9, np.float32), 0.5)
    known = LESION[6:].size
    assert result.score.predicted_ml == pytest.approx(known * VOXEL_ML)
    assert result.score.dice == pytest.approx(2 * LESION[6:].sum() / (known + LESION[6:].sum()))


def test_without_annotation_dice_is_left_out_and_false_positives_are_told(tmp_path: Path) -> None:
    cases = [case(tmp_path, "a"), case(tmp_path, "none", np.zeros(SHAPE))]
    cohort = by_stratum(evaluate(cases, [GOLDEN], EXACT).results["golden"])
    assert (cohort["all"].measures["dice"].n, cohort["all"].measures["dice"].undefined) == (1, 1)
    assert cohort["all"].n_empty == 1
    assert cohort["0 mL"].empty_false_positive_ml.mean == pytest.approx(LESION.sum() * VOXEL_ML)


def test_expert_slices_gate_the_label_and_are_detected(tmp_path: Path) -> None:
    expert = LESION.any(axis=(1, 2))
    rows = "".join(f"{i},{int(v)}\n" for i, v in enumerate(expert))
    (tmp_path / "s.csv").write_text("slice,hemorrhage\n" + rows)
    label = LESION.copy()
    label[expert.argmax()] = False  # blood that nobody outlined: unknown, so no false positive
    label[(~expert).argmax(), 28, 26] = True  # a slip on a slice without blood
    one = replace(case(tmp_path, "a", label), slices=tmp_path / "s.csv")
    results = evaluate([one], [GOLDEN], EXACT).results["golden"]
    assert results[0].score.dice == 1
    found = detection(results)
    assert found is not None
    assert (found.value, found.n, found.n_positive) == (1, SHAPE[0], expert.sum())


def test_the_area_under_the_curve_counts_pairs_of_slices() -> None:
    draw = np.random.default_rng(0)
    results = [
        CaseResult(name, name, scores(0.5, 5, 5), tuple(draw.random(9)), tuple(draw.random(9) < 0.4))
        for name in "abc"
    ]
    pairs = [
        (s > t) + (s == t) / 2
        for r in results for s, a in zip(r.slice_scores, r.slice_labels, strict=True) if a
        for q in results for t, b in zip(q.slice_scores, q.slice_labels, strict=True) if not b
    ]  # fmt: skip
    found = detection(results)
    assert found is not None
    assert found.value == pytest.approx(np.mean(pairs), rel=1e-12)
    assert detection([replace(r, slice_scores=(), slice_labels=()) for r in results]) is None


def test_strata_hold_the_cases_of_their_volumes() -> None:
    results = invented(1)
    for name, low, high in (("0-25 mL", 0, 25), ("25-50 mL", 25, 50), ("above 100 mL", 100, np.inf)):
        values = [r.score.dice for r in results if low < r.score.annotated_ml <= high]
        summary = by_stratum(results)[name].measures["dice"]
        assert summary.n == len(values) > 1
        assert summary.mean == pytest.approx(np.mean(values))
        assert summary.sd == pytest.approx(np.std(values, ddof=1))


def test_models_are_compared_by_patient() -> None:
    first, second = invented(1), invented(2)
    tests = compare(first, second)
    assert tuple(tests) == MEASURES
    difference = np.array([a.score.dice - b.score.dice for a, b in zip(first, second, strict=True)])
    means = difference.reshape(-1, 2).mean(axis=1)[2:]  # two cases a patient; the first two have no blood
    assert tests["dice"].n == means.size == 10
    assert tests["dice"].mean_difference == pytest.approx(means.mean())
    assert tests["dice"].p_value == pytest.approx(stats.wilcoxon(means).pvalue)


# ---------------------------------------------------------------------------------------- failure, cancel


def test_a_failing_case_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    told: list[Event] = []
    absent = Case("absent", tmp_path / "no.nii.gz", tmp_path / "no.nrrd")
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    broken = replace(case(tmp_path, "broken"), image=tmp_path / "broken.nii.gz")
    found = evaluate([absent, broken, case(tmp_path, "a")], [GOLDEN], EXACT, progress=Progress(told.append))
    assert [(f.name, f.code) for f in found.failures] == [
        ("absent", "missing-file"),
        ("broken", "unreadable"),
    ]
    assert [r.name for r in found.results["golden"]] == ["a"]
    codes = [event["code"] for event in told if event["event"] == "warning"]
    assert codes == ["missing-file", "unreadable", "doubtful-size"]  # these heads are drawn small
    with pytest.raises(InputError) as error:
        evaluate([absent, broken], [GOLDEN], EXACT)
    assert error.value.code == "nothing-evaluated"


def test_cancelling_is_heard_between_batches_of_a_case(tmp_path: Path) -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 6

    with pytest.raises(Cancelled):
        evaluate(
            [case(tmp_path, "a")],
            [GOLDEN],
            InferenceSettings(batch_size=1),
            progress=Progress(cancelled=cancelled),
        )
    assert len(asked) == 7


# ------------------------------------------------------------------------------------------------- files


class Page(HTMLParser):
    """Collects tags, what they point to, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_evaluation(folder, invented_evaluation(), {"views": "axial"})
    return folder


def test_the_files_are_those_promised(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == set(FILES)


def test_tables_and_json_agree(written: Path) -> None:
    plain = json.loads((written / "evaluation.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)

    def close(cell: str, value: float | None) -> bool:
        return cell == "" if value is None else float(cell) == pytest.approx(value, rel=1e-5)

    with (written / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (written / "summary.csv").open(newline="", encoding="utf-8") as stream:
        summary = list(csv.DictReader(stream))
    listed = [entry for model in plain["models"] for entry in model["cases"]]
    assert len(rows) == len(listed) == 48
    for row, entry in zip(rows, listed, strict=True):
        assert row["case"] == entry["case"]
        assert close(row["dice"], entry["dice"])
    for row in summary:
        (model,) = [m for m in plain["models"] if m["name"] == row["model"]]
        stored = model["strata"][row["stratum"]]["measures"][row["measure"]]
        assert int(row["n"]) == stored["n"]
        assert close(row["mean"], stored["mean"])
    assert plain["comparison"]["dice"]["n"] == 10


def test_the_page_loads_and_runs_nothing(written: Path) -> None:
    text = (written / "evaluation.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("img") == 3
    assert all(target.startswith("data:image/png;base64,") for target in page.targets)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "://" not in text and "url(" not in text and "@import" not in text


def test_hostile_names_are_text_on_the_page(written: Path) -> None:
    page = Page((written / "evaluation.html").read_text(encoding="utf-8"))
    assert "b" not in page.tags
    assert "other $x$ <b>" in page.text


def test_the_page_tells_n_everywhere(written: Path) -> None:
    text = Page((written / "evaluation.html").read_text(encoding="utf-8")).text
    for words in (
        "24 cases of 12 patients",
        "4 cases: left out of Dice",
        "(n = 20)",
        "(n = 4)",
        "n patients",
    ):
        assert words in text
    assert "nan" not in text


def test_plots_are_the_same_each_time_and_not_blank(written: Path, tmp_path: Path) -> None:
    write_evaluation(tmp_path, invented_evaluation(), {"views": "axial"})
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
        if name.endswith(".png"):
            drawn = pictures.imread(tmp_path / name)[..., :3]
            assert min(drawn.shape[:2]) > 400
            assert 0.01 < (drawn.min(axis=2) < 0.9).mean() < 0.5


@pytest.mark.parametrize("annotated", [0.0, 5.0])
def test_a_single_case_has_plots_and_a_page_too(annotated: float, tmp_path: Path) -> None:
    score = scores(0.5 if annotated else math.nan, annotated, 0.0)
    write_evaluation(tmp_path, Evaluation((GOLDEN,), {"golden": (CaseResult("a", "a", score),)}), {})
    assert "– ± –" in Page((tmp_path / "evaluation.html").read_text(encoding="utf-8")).text or annotated
    assert json.loads((tmp_path / "evaluation.json").read_text())["comparison"] == {}


# ----------------------------------------------------------------------------------------------- command


@pytest.fixture
def adapter(random_model: Path, tmp_path: Path) -> Path:
    """An untouched adapter of the random model: it must change nothing."""
    model, network, config = (
        load_model(random_model),
        random_network(),
        AdapterConfig(method="lora-c", rank=2),
    )
    adapt(network, config)
    card = AdapterCard(
        Description("untouched adapter"), Target(INTRACRANIAL_HEMORRHAGE), model.sha256, "random",
        model.card.network, {"axial": config},
    )  # fmt: skip
    path = tmp_path / "fresh.safetensors"
    save_adapter(path, Adapter(card, {"axial": collect(network)}))
    return path


def test_a_model_is_compared_with_an_adapter_and_nobody_is_named(
    random_model: Path, adapter: Path, tmp_path: Path
) -> None:
    acquisition = Acquisition(
        tuple(np.arange(SHAPE[0]) * SPACING[0]), (SPACING[0],) * SHAPE[0], SPACING[1:], SHAPE[1:], tilt=15.0
    )
    head = SimulatedHead(HeadPhantom(3, tilt=15.0), acquisition, HU, LESION.astype(np.uint8))
    write_dicom_series(head, tmp_path / "secret folder" / "ct")
    write_dicom_series(head, tmp_path / "secret folder" / "label", mask=True)
    case(tmp_path, "second")
    (tmp_path / "m.json").write_text(json.dumps([
        {"case": "first", "image": "secret folder/ct", "label": "secret folder/label"},
        {"case": "second", "image": "second-ct.nii.gz", "label": "second-label.nii.gz"},
        {"case": "third", "image": "secret folder/no.nii.gz", "label": "second-label.nii.gz"},
    ]))  # fmt: skip
    out = tmp_path / "out"
    done = sahlora(
        "evaluate", tmp_path / "m.json", "-o", out, "--model", random_model, "--compare", adapter,
        "--views", "axial", "--threshold", "0.4", "--outlines", "--progress", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outlines = {path.name: path for path in (out / "outlines").iterdir()}
    assert set(outlines) == {f"{name}-{number}.seg.nrrd" for name in ("first", "second") for number in (1, 2)}
    outlined = sitk.GetArrayFromImage(sitk.ReadImage(str(outlines["second-1.seg.nrrd"])))
    told = events(done.stdout)
    assert told[-1]["failures"] == [{"name": "third", "code": "missing-file"}]
    assert [e["stage"] for e in told if e["event"] == "stage"] == ["checking", "evaluating", "writing"]
    assert {path.name for path in out.iterdir()} == {*FILES, "outlines"}
    plain = json.loads((out / "evaluation.json").read_text())
    assert [m["name"] for m in plain["models"]] == ["random network", "untouched adapter"]
    assert plain["models"][0]["cases"] == plain["models"][1]["cases"]
    assert (plain["comparison"]["dice"]["n_equal"], plain["comparison"]["dice"]["p_value"]) == (2, None)
    predicted = plain["models"][0]["cases"][1]["predicted_ml"]
    assert outlined.sum() * VOXEL_ML == pytest.approx(predicted)
    for path in filter(Path.is_file, out.rglob("*")):
        content = path.read_bytes()
        assert b"SIMULATED" not in content and b"SIM0" not in content
        assert b"secret" not in content and str(tmp_path).encode() not in content


@pytest.mark.parametrize(
    ("status", "code", "extra"),
    [
        (2, "bad-threshold", ["--threshold", "2"]),
        (2, "unknown-view", ["--views", "oblique"]),
        (3, "unknown-model", ["--compare", "nobody"]),
        (3, "nothing-held-out", ["--held-out"]),
    ],
)
def test_bad_calls_write_nothing(
    status: int,
    code: str,
    extra: list[str],
    random_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case(tmp_path, "a")
    (tmp_path / "m.csv").write_text("case,image,label\na,a-ct.nii.gz,a-label.nii.gz\n")
    call = ["evaluate", str(tmp_path / "m.csv"), "-o", str(tmp_path / "out"), "--model", str(random_model)]
    assert main([*call, *extra, "--progress", "json"]) == status
    assert events(capsys.readouterr().out)[-1]["code"] == code
    assert not list((tmp_path / "out").glob("*"))
