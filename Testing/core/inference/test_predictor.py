from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from helpers import HU_PREPROCESSING, HUThreshold, random_network, simple_head
from sahlora.errors import Cancelled, ResourceError, UsageError
from sahlora.imaging.geometry import SliceStack
from sahlora.imaging.planes import VIEWS
from sahlora.imaging.volume import Volume, read_volume
from sahlora.inference.predictor import InferenceSettings, fold_batch_norm, predict
from sahlora.models.adapter_file import find_base, load_adapter, merged_model
from sahlora.models.base_model import ViewModel
from sahlora.models.card import Preprocessing
from sahlora.models.registry import find
from sahlora.runtime.progress import Event, Progress
from sahlora.simulation.head import HeadPhantom, simulate_head

SPACING = (4.0, 1.5, 1.2)
VOLUME = Volume.from_array(simple_head((20, 56, 64), SPACING), SPACING)
GOLDEN = dict.fromkeys(VIEWS, ViewModel(HUThreshold(), HU_PREPROCESSING))
RANDOM = dict.fromkeys(VIEWS, ViewModel(random_network(), Preprocessing(spacing=1.3, views=VIEWS), 4))
ALL = InferenceSettings(views=VIEWS)
ORDERS = [
    np.array(axes) * np.array(signs)[:, None]
    for axes in permutations(np.eye(3))
    for signs in product((1, -1), repeat=3)
]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two probability volumes above the median of the first, so that neither label is empty."""
    threshold = np.median(a[a > 0])
    a, b = a >= threshold, b >= threshold
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def lesion(hu: np.ndarray) -> np.ndarray:
    return (hu > 50) & (hu < 90)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("oblique", [False, True])
def test_nothing_moves_in_any_orientation(ending: str, oblique: bool, tmp_path: Path) -> None:
    """Through files of all 48 axis orders and flips, a golden network's label lies on the voxels it saw."""
    hu = np.ascontiguousarray(VOLUME.hu)
    base = np.array(
        Rotation.from_euler("xyz", [11, -7, 16] if oblique else [0, 0, 0], degrees=True).as_matrix()
    )
    for number, order in enumerate(ORDERS):
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((-20.5, 31.25, 7.0))
        image.SetDirection((base @ order).ravel().tolist())
        path = tmp_path / f"head{number}{ending}"
        sitk.WriteImage(image, str(path))
        volume = read_volume(path)
        label = predict(volume, GOLDEN, InferenceSettings(views=("axial",))).probability >= 0.5
        back = volume.to_grid(label, label=True)
        read = sitk.ReadImage(str(path))
        assert back.GetSize() == read.GetSize()
        assert back.GetSpacing() == read.GetSpacing()
        assert back.GetOrigin() == read.GetOrigin()
        np.testing.assert_allclose(back.GetDirection(), read.GetDirection(), rtol=0, atol=2e-16)
        assert np.array_equal(sitk.GetArrayViewFromImage(back) == 1, lesion(sitk.GetArrayViewFromImage(read)))


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_finds_the_lesions_where_they_are(view: str) -> None:
    cube = Volume.from_array(simple_head((56, 56, 56), (1.5, 1.5, 1.5)), (1.5, 1.5, 1.5))
    probability = predict(cube, GOLDEN, InferenceSettings(views=(view,))).probability
    assert np.array_equal(probability >= 0.5, lesion(cube.hu))


def test_storage_order_changes_nothing() -> None:
    plain = predict(VOLUME, RANDOM, ALL).probability
    fortran = Volume.from_array(np.asfortranarray(VOLUME.hu), SPACING)
    flipped = Volume.from_array(VOLUME.hu[:, ::-1][:, ::-1], SPACING)
    for other in (fortran, flipped):
        assert np.array_equal(predict(other, RANDOM, ALL).probability, plain)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    one = predict(VOLUME, RANDOM, ALL).probability
    other = predict(VOLUME, RANDOM, InferenceSettings(VIEWS, batch_size=batch_size)).probability
    assert np.abs(one - other).max() <= 1e-4
    assert dice(one, other) >= 0.9999


def test_number_of_threads_changes_nothing() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(predict(VOLUME, RANDOM, ALL).probability)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert np.abs(results[0] - other).max() <= 1e-4
        assert dice(results[0], other) >= 0.9999


def test_order_of_views_changes_nothing() -> None:
    one = predict(VOLUME, RANDOM, InferenceSettings(views=VIEWS)).probability
    other = predict(VOLUME, RANDOM, InferenceSettings(views=VIEWS[::-1])).probability
    assert np.abs(one - other).max() <= 1e-4
    assert dice(one, other) >= 0.9999


def test_fusion_is_the_weighted_mean_of_the_views() -> None:
    single = [predict(VOLUME, RANDOM, InferenceSettings(views=(view,))).probability for view in VIEWS]
    fused = predict(
        VOLUME, RANDOM, InferenceSettings(VIEWS, dict(zip(VIEWS, (2, 1, 1), strict=True)))
    ).probability
    expected = 0.5 * single[0] + 0.25 * single[1] + 0.25 * single[2]
    everywhere = (np.stack(single) > 0).all(axis=0) & (fused > 0)
    assert np.abs(fused - expected)[everywhere].max() < 1e-5


NATIVE = dict.fromkeys(VIEWS, ViewModel(random_network(), Preprocessing(spacing=None, views=VIEWS), 4))


class Slope(nn.Module):
    """A network whose logit rises with HU, by its own slope."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return (x - 40) * self.slope


SLOPES = {
    view: ViewModel(Slope(slope), HU_PREPROCESSING)
    for view, slope in zip(VIEWS, (0.01, 0.03, 0.1), strict=True)
}


class Columns(nn.Module):
    """A network whose probability rises from 0.1 at the left edge of a slice to 0.9 at the right."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linspace(0.1, 0.9, x.shape[-1]).logit().expand_as(x)


def tilted(volume: Volume) -> Volume:
    """The same slices as if the gantry had been tilted."""
    heights = np.arange(volume.hu.shape[0]) * SPACING[0]
    origins = np.stack([np.zeros_like(heights), heights * 0.3, heights], axis=1)
    stack = SliceStack(
        origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), SPACING[1:], volume.hu.shape[1:]
    )
    return Volume(volume.hu, stack.even_grid, stack)


@pytest.mark.parametrize("volume", [VOLUME, tilted(VOLUME)], ids=["even", "tilted"])
def test_disagreement_is_the_standard_deviation_of_the_views(volume: Volume) -> None:
    weights = dict(zip(VIEWS, (2.0, 1.0, 1.0), strict=True))
    views = VIEWS if volume.is_regular else VIEWS[:2]  # what lies on two grids can't be compared exactly
    single = [predict(volume, SLOPES, InferenceSettings(views=(view,))).probability for view in views]
    fused = predict(volume, SLOPES, InferenceSettings(views, weights, disagreement=True))
    share = [weights[view] for view in views]
    mean = np.average(single, axis=0, weights=share)
    expected = np.sqrt(np.average((np.stack(single) - mean) ** 2, axis=0, weights=share))
    everywhere = (np.stack(single) > 0).all(axis=0) & (fused.disagreement > 0)
    assert everywhere.mean() > 0.1
    assert np.abs(fused.disagreement - expected)[everywhere].max() < 1e-5
    assert not ((fused.disagreement > 0) & (fused.disagreement < 0.01)).any()


def test_disagreement_of_mirrored_passes_is_half_their_difference() -> None:
    models = {"axial": ViewModel(Columns(), Preprocessing(spacing=None))}
    found = predict(VOLUME, models, InferenceSettings(("axial",), flip=True, disagreement=True))
    columns = found.disagreement[VOLUME.hu.shape[0] // 2, VOLUME.hu.shape[1] // 2]
    inside = np.flatnonzero(found.probability[VOLUME.hu.shape[0] // 2, VOLUME.hu.shape[1] // 2])
    expected = np.abs(np.linspace(0.1, 0.9, len(inside)) - 0.5)
    assert np.abs(columns[inside] - np.where(expected < 0.01, 0, expected)).max() < 1e-5


def test_views_that_agree_have_no_disagreement() -> None:
    found = predict(VOLUME, GOLDEN, InferenceSettings(("axial",), flip=True, disagreement=True))
    assert found.disagreement.shape == VOLUME.hu.shape
    assert not found.disagreement.any()


@pytest.mark.parametrize("flip", [False, True])
def test_asking_for_the_disagreement_leaves_the_probability_alone(flip: bool) -> None:
    asked = predict(VOLUME, RANDOM, InferenceSettings(VIEWS, flip=flip, disagreement=True))
    plain = predict(VOLUME, RANDOM, InferenceSettings(VIEWS, flip=flip))
    assert np.array_equal(asked.probability, plain.probability)
    assert 0.01 < asked.disagreement.max() <= 0.5
    assert plain.disagreement is None


@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings(("axial",), disagreement=True),
        InferenceSettings(("sagittal",), flip=True, disagreement=True),
        InferenceSettings(VIEWS, {"axial": 1.0}, disagreement=True),
    ],
    ids=["one view", "sagittal has no mirror image", "one view with a weight"],
)
def test_a_single_prediction_has_no_disagreement(settings: InferenceSettings) -> None:
    with pytest.raises(UsageError, match="--flip") as error:
        predict(VOLUME, RANDOM, settings)
    assert error.value.code == "single-prediction"


def test_flip_makes_the_result_symmetric() -> None:
    mirrored = Volume.from_array(VOLUME.hu[:, :, ::-1].copy(), SPACING)
    settings = InferenceSettings(views=("axial",), flip=True)
    one = predict(VOLUME, NATIVE, settings).probability
    other = predict(mirrored, NATIVE, settings).probability[:, :, ::-1]
    inside = (one > 0) & (other > 0)  # the head boxes may differ by a voxel
    assert np.median(np.abs(one - other)[inside]) < 1e-3


def test_folded_batch_norm_gives_the_same_logits() -> None:
    network = random_network().double()
    x = torch.rand(2, 1, 32, 48, dtype=torch.float64)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert (folded(x) - network(x)).abs().max() < 1e-10


def test_prediction_leaves_the_model_untouched() -> None:
    network = random_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict(VOLUME, {"axial": ViewModel(network, Preprocessing(), 4)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.proof
def test_bf16_finds_what_float32_finds_in_the_demo() -> None:
    head = simulate_head(HeadPhantom(seed=1, sah_volume_ml=30))
    volume = Volume.from_array(head.hu, head.settings.spacing)
    adapter = load_adapter(find("sah-phantom", "adapter"))
    model = merged_model(adapter, find_base(adapter.card), "axial")
    found = [
        predict(volume, {"axial": model.for_inference()}, InferenceSettings(precision=precision)).probability
        >= model.card.target.threshold
        for precision in ("float32", "bf16")
    ]
    assert found[0].any()
    assert 2 * (found[0] & found[1]).sum() / (found[0].sum() + found[1].sum()) >= 0.99


def test_bf16_agrees_with_float32() -> None:
    one = predict(VOLUME, RANDOM, InferenceSettings(VIEWS, precision="float32")).probability
    other = predict(VOLUME, RANDOM, InferenceSettings(VIEWS, precision="bf16")).probability
    assert np.abs(one - other).max() < 0.03


class CountingNetwork(HUThreshold):
    """Counts the slices it sees and runs out of memory above a number of them."""

    seen = 0
    most = 10**9

    def __deepcopy__(self, memo: dict) -> CountingNetwork:
        return self

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen += len(x)
        return super().forward(x)


def test_slices_of_air_are_not_run() -> None:
    hu = VOLUME.hu.copy()
    hu[3:6] = -1024
    network = CountingNetwork()
    predict(Volume.from_array(hu, SPACING), {"axial": ViewModel(network, HU_PREPROCESSING)})
    assert network.seen == np.sum((hu > -1024).any(axis=(1, 2)))


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    network = CountingNetwork()
    network.most = 3
    seen: list[Event] = []
    settings = InferenceSettings(("axial",), batch_size=16)
    result = predict(
        VOLUME, {"axial": ViewModel(network, HU_PREPROCESSING)}, settings, progress=Progress(seen.append)
    )
    warnings = [event["message"] for event in seen if event["event"] == "warning"]
    assert [message.split()[0] for message in warnings] == ["16", "8", "4"]
    assert np.array_equal(result.probability >= 0.5, lesion(VOLUME.hu))


def test_a_slice_too_large_for_the_cpu_is_a_clear_error() -> None:
    network = CountingNetwork()
    network.most = 0
    with pytest.raises(ResourceError) as error:
        predict(VOLUME, {"axial": ViewModel(network, HU_PREPROCESSING)})
    assert error.value.code == "out-of-memory"


def test_an_error_of_the_network_is_not_taken_for_lack_of_memory() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        predict(VOLUME, {"axial": ViewModel(Broken(), HU_PREPROCESSING)})


def test_cancel_is_honored_between_batches() -> None:
    network = CountingNetwork()
    with pytest.raises(Cancelled):
        predict(
            VOLUME,
            {"axial": ViewModel(network, HU_PREPROCESSING)},
            InferenceSettings(("axial",), batch_size=2),
            progress=Progress(cancelled=lambda: network.seen >= 4),
        )
    assert network.seen == 4


def test_progress_rises_to_one_in_every_view() -> None:
    seen: list[Event] = []
    predict(VOLUME, RANDOM, InferenceSettings(VIEWS, batch_size=5), progress=Progress(seen.append))
    for view in VIEWS:
        fractions = [e["fraction"] for e in seen if e["event"] == "progress" and e["stage"] == view]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1


def test_each_model_brings_its_own_window() -> None:
    seen: list[float] = []

    class Recorder(HUThreshold):
        def forward(self, x: Tensor) -> Tensor:
            seen.extend((float(x.min()), float(x.max())))
            return super().forward(x)

    for window, scale in (((0.0, 140.0), (0.0, 255.0)), ((-100.0, 200.0), (-1.0, 1.0))):
        seen.clear()
        model = ViewModel(Recorder(), Preprocessing(window, scale, None))
        predict(VOLUME, {"axial": model})
        assert (min(seen), max(seen)) == scale


def test_models_of_two_spacings_are_not_fused() -> None:
    models = {**RANDOM, "coronal": ViewModel(random_network(), Preprocessing(spacing=2.0), 4)}
    with pytest.raises(UsageError) as error:
        predict(VOLUME, models, ALL)
    assert error.value.code == "mixed-preprocessing"


def test_a_view_without_a_model_is_refused() -> None:
    with pytest.raises(UsageError, match="sagittal"):
        predict(VOLUME, {"axial": GOLDEN["axial"]}, InferenceSettings(views=("axial", "sagittal")))


@pytest.mark.parametrize("weights", [{"axial": -1.0}, {"axial": 0.0}, {"axial": float("nan")}])
def test_impossible_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        InferenceSettings(weights=weights)
