"""Picture and page: the outline lies where the mask is, nothing leaks, nothing is loaded, bytes repeat."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib import image as pictures

from sahlora.errors import ResourceError
from sahlora.imaging.geometry import SliceStack
from sahlora.imaging.head import head_box
from sahlora.imaging.terminology import Code, Segment
from sahlora.imaging.volume import Volume, read_volume
from sahlora.report.measurements import measure, write_json
from sahlora.report.overlay import GAP, HEADER, HEADING, MARGIN, WIDTH, choose_slices
from sahlora.report.report import ReportContext, write_overlay, write_page

SPACING = (4.0, 1.6, 1.2)
SEGMENT = Segment(
    "Hemorrhage",
    (188, 65, 28),
    Code("49755003", "SCT", "Morphologically altered structure"),
    Code("50960005", "SCT", "Hemorrhage"),
)
CONTEXT = ReportContext(SEGMENT, {"name": "simulated", "license": "CC BY 4.0"}, {"threshold": "0.5"})
HOSTILE = "<script>alert('x')</script>\"><img src=http://x onerror=y>{0}$\\frac{$&amp;\x07"


def head() -> np.ndarray:
    """An ellipsoid head of 38 slices with a skull, int16 (Z, Y, X)."""
    size = np.array([38, 128, 140])
    z, y, x = np.ogrid[: size[0], : size[1], : size[2]]
    middle = (size - 1) / 2 * SPACING
    radius = np.sqrt(
        ((z * SPACING[0] - middle[0]) / 68) ** 2
        + ((y * SPACING[1] - middle[1]) / 92) ** 2
        + ((x * SPACING[2] - middle[2]) / 74) ** 2
    )
    return np.select([radius < 0.92, radius < 1], [30, 1000], -1000).astype(np.int16)


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ct") / "SENTINEL-NAME.nii.gz"
    image = sitk.GetImageFromArray(head())
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def volume(ct: Path) -> Volume:
    return read_volume(ct)


@pytest.fixture(scope="module")
def label() -> np.ndarray:
    """A box in the left (high x), anterior (low y), superior (high z) part of the head."""
    mask = np.zeros((38, 128, 140), dtype=bool)
    mask[22:27, 40:55, 80:105] = True
    return mask


def page(path: Path, label: np.ndarray, volume: Volume, context: ReportContext = CONTEXT) -> str:
    write_page(path, label, volume, measure(label, volume), context)
    return path.read_text("utf-8")


def overlay(path: Path, label: np.ndarray, volume: Volume, context: ReportContext = CONTEXT) -> np.ndarray:
    write_overlay(path, label, volume, measure(label, volume), context)
    return (pictures.imread(path)[..., :3] * 255).round().astype(int)


def outline(picture: np.ndarray) -> np.ndarray:
    """Pixels in the segment's color at full brightness, (255, 88, 38)."""
    return np.abs(picture - (255, 88, 38)).max(axis=2) < 70


# -------------------------------------------------------------------------------------------- picture


def test_outline_lies_around_the_mask_in_all_three_planes(
    volume: Volume, label: np.ndarray, tmp_path: Path
) -> None:
    found = outline(overlay(tmp_path / "o.png", label, volume))
    z, y, x = head_box(volume.hu, volume.spacing)
    sizes = {"z": (z.stop - z.start) * 4.0, "y": (y.stop - y.start) * 1.6, "x": (x.stop - x.start) * 1.2}
    scale = (WIDTH - 2 * MARGIN - 2 * GAP) / (2 * sizes["x"] + sizes["y"])
    left_side = ((80 - x.start) * 1.2, (105 - x.start) * 1.2)
    front = ((40 - y.start) * 1.6, (55 - y.start) * 1.6)
    top = ((z.stop - 27) * 4.0, (z.stop - 22) * 4.0)
    panels = [(sizes["x"], left_side, sizes["y"], front), (sizes["x"], left_side, sizes["z"], top),
              (sizes["y"], front, sizes["z"], top)]  # fmt: skip
    start = float(MARGIN)
    for width, across, height, down in panels:
        rows = slice(HEADER + HEADING, round(HEADER + HEADING + height * scale))
        inside = found[rows, round(start) : round(start + width * scale)]
        hit_rows, hit_columns = np.nonzero(inside)
        edges = (hit_columns.min(), hit_columns.max(), hit_rows.min(), hit_rows.max())
        assert edges == pytest.approx([mm * scale for mm in (*across, *down)], abs=2.5)
        start += width * scale + GAP


def test_an_empty_segmentation_has_a_picture_without_outline(volume: Volume, tmp_path: Path) -> None:
    empty = np.zeros(volume.hu.shape, dtype=bool)
    assert not outline(overlay(tmp_path / "o.png", empty, volume))[HEADER:].any()


def test_every_slice_with_blood_is_shown_when_slices_are_few() -> None:
    areas = [0, 0, 5, 9, 2, 0]
    assert choose_slices(areas, most=6) == [0, 1, 2, 3, 4, 5]


def test_chosen_slices_spread_over_the_head_and_include_the_largest() -> None:
    areas = np.zeros(300)
    areas[140:160] = np.arange(20)
    chosen = choose_slices(areas.tolist())
    assert len(chosen) == 30 and chosen == sorted(set(chosen))
    assert 159 in chosen
    assert max(np.diff(chosen)) < 20 and chosen[0] < 10 and chosen[-1] >= 290


def test_tilted_uneven_slices_are_drawn(label: np.ndarray, tmp_path: Path) -> None:
    heights = np.concatenate([np.arange(20) * 3.0, 57 + np.arange(1, 19) * 5.0])
    origins = np.stack([np.zeros(38), heights * 0.3, heights], axis=1)
    stack = SliceStack(origins, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), SPACING[1:], (128, 140))
    volume = Volume(head(), stack.even_grid, stack)
    assert not volume.is_regular
    assert outline(overlay(tmp_path / "o.png", label, volume))[HEADER:].any()


def test_bytes_repeat_in_another_process(ct: Path, volume: Volume, label: np.ndarray, tmp_path: Path) -> None:
    page(tmp_path / "here.html", label, volume)
    np.save(tmp_path / "label.npy", label)
    code = (
        "import sys, numpy as np; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from test_report import CONTEXT, page, read_volume;"
        "folder = Path(sys.argv[2]);"
        "page(folder / 'there.html', np.load(folder / 'label.npy'), read_volume(sys.argv[3]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), str(ct)]
    subprocess.run(arguments, check=True, env=environment, cwd=tmp_path)
    assert (tmp_path / "there.html").read_bytes() == (tmp_path / "here.html").read_bytes()


# ----------------------------------------------------------------------------------------------- page


class Reader(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_loads_and_runs_nothing(volume: Volume, label: np.ndarray, tmp_path: Path) -> None:
    text = page(tmp_path / "p.html", label, volume)
    reader = Reader(text)
    assert not reader.tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    sources = [
        value for name, value in reader.attributes if name in ("src", "href", "srcset", "action", "data")
    ]
    assert len(sources) == 1 and str(sources[0]).startswith("data:image/png;base64,")
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text


def test_page_holds_the_overlay_and_the_measurements(
    volume: Volume, label: np.ndarray, tmp_path: Path
) -> None:
    text = page(tmp_path / "p.html", label, replace(volume, notes=("The gantry was tilted.",)))
    overlay(tmp_path / "o.png", label, volume)
    assert base64.b64encode((tmp_path / "o.png").read_bytes()).decode() in text
    words = Reader(text).text
    volume_ml = measure(label, volume).volume_ml
    for expected in (f"{volume_ml:.2f} mL", "simulated", "CC BY 4.0", "The gantry was tilted.", "Threshold",
                     "For research use only, not for diagnosis."):  # fmt: skip
        assert expected in words


def test_chart_has_a_bar_for_each_slice_with_segmentation(
    volume: Volume, label: np.ndarray, tmp_path: Path
) -> None:
    assert page(tmp_path / "p.html", label, volume).count("<rect ") == 5


def test_an_empty_segmentation_has_a_page_that_says_so(volume: Volume, tmp_path: Path) -> None:
    words = Reader(page(tmp_path / "p.html", np.zeros(volume.hu.shape, dtype=bool), volume)).text
    assert "0.00 mL" in words and "nothing was segmented" in words


def test_hostile_names_are_text_on_page_and_picture(
    volume: Volume, label: np.ndarray, tmp_path: Path
) -> None:
    hostile = {HOSTILE: HOSTILE, "name": HOSTILE}
    context = ReportContext(replace(SEGMENT, name=HOSTILE), hostile, hostile, hostile)
    text = page(tmp_path / "p.html", label, replace(volume, notes=(HOSTILE,)), context)
    plain, attacked = Reader(page(tmp_path / "plain.html", label, volume)), Reader(text)
    assert attacked.tags <= plain.tags | {"ul", "li"}
    assert not any(name.startswith("on") for name, _ in attacked.attributes)
    assert attacked.text.count("onerror=y>{0}$\\frac{$&amp;") >= 9


def test_nothing_that_identifies_the_patient_is_written_unasked(
    volume: Volume, label: np.ndarray, tmp_path: Path
) -> None:
    marked = replace(
        volume,
        name="SENTINEL-NAME",
        identifiers={"PatientName": "SENTINEL^JANE", "StudyDate": "19990203"},
        sources=(Path("/SENTINEL/PATH.dcm"),),
    )
    bare = replace(volume, name="", identifiers={}, sources=())
    text = page(tmp_path / "marked.html", label, marked)
    assert text == page(tmp_path / "bare.html", label, bare)
    assert (
        overlay(tmp_path / "marked.png", label, marked) == overlay(tmp_path / "bare.png", label, bare)
    ).all()
    write_json(tmp_path / "marked.json", measure(label, marked), CONTEXT.to_dict())
    for content in (text, (tmp_path / "marked.json").read_text("utf-8")):
        assert not any(secret in content for secret in ("SENTINEL", "19990203", tmp_path.name))


def test_identifiers_are_shown_when_asked_for(volume: Volume, label: np.ndarray, tmp_path: Path) -> None:
    context = replace(CONTEXT, identifiers={"PatientID": "SENTINEL-42"})
    assert "SENTINEL-42" in Reader(page(tmp_path / "p.html", label, volume, context)).text
    assert context.to_dict()["identifiers"] == {"PatientID": "SENTINEL-42"}
    shown, hidden = (overlay(tmp_path / "o.png", label, volume, c)[:HEADER] for c in (context, CONTEXT))
    assert (shown != hidden).any()


def test_context_is_ready_for_json() -> None:
    assert json.loads(json.dumps(CONTEXT.to_dict()))["segment"]["type"]["value"] == "50960005"


@pytest.mark.parametrize("write", [write_overlay, write_page])
def test_a_place_that_cannot_be_written_is_an_error_with_a_way_out(
    volume: Volume, label: np.ndarray, tmp_path: Path, write
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ResourceError) as caught:
        write(tmp_path / "file" / "o.png", label, volume, measure(label, volume), CONTEXT)
    assert caught.value.code == "unwritable"
    assert (tmp_path / "file").read_text() == "kept"
