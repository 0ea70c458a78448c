"""The overlay picture: axial slices and three planes of the CT with the outline of the segmentation, as PNG.

Radiological display: the patient's right is on the left of axial and coronal images, anterior on the left of
sagittal ones, superior on top. Axial images are slices as acquired; coronal and sagittal ones are cut from
the even, orthogonal grid. Nothing that identifies the patient is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sahlora.about import RESEARCH_USE
from sahlora.imaging.head import head_box
from sahlora.imaging.terminology import Segment
from sahlora.imaging.volume import Volume
from sahlora.report.measurements import Measurements, bounding_box

WINDOW_LEVEL, WINDOW_WIDTH = 40, 80  # HU, the usual window for blood in the brain

MOST_TILES, COLUMNS = 30, 6  # a routine head of 5 mm slices is shown whole
WIDTH, MARGIN, GAP = 1500, 24, 12  # pixels
HEADER, HEADING, CAPTION, FOOTER = 104, 34, 22, 78
DPI = 100
BACKGROUND, TEXT, QUIET = "#101114", "#f2f3f5", "#a9adb5"


@dataclass(frozen=True)
class Plane:
    """One image to draw: HU and mask (rows, columns), pixel size in mm, and the letters at its sides."""

    hu: np.ndarray
    mask: np.ndarray
    row_mm: float
    column_mm: float
    title: str = ""
    left: str = ""
    right: str = ""
    top: str = ""

    @property
    def height_mm(self) -> float:
        """Size from top to bottom."""
        return self.hu.shape[0] * self.row_mm

    @property
    def width_mm(self) -> float:
        """Size from left to right."""
        return self.hu.shape[1] * self.column_mm


def draw_overlay(
    label: np.ndarray, volume: Volume, measurements: Measurements, segment: Segment, subtitle: str
) -> bytes:
    """Draw the overlay picture and return it as PNG; the same input gives the same bytes.

    Parameters
    ----------
    label : np.ndarray
        bool (Z, Y, X), True inside, on the canonical grid of `volume`.
    volume : Volume
        The CT; its name and identifiers are not drawn.
    measurements : Measurements
        Of this label.
    segment : Segment
        Name and color of the outline.
    subtitle : str
        Line below the segment's name, e.g. the model's name.

    Raises
    ------
    InputError
        ``no-head`` if the volume shows none.
    """
    box = _box(label, volume)
    planes, tiles = _three_planes(label, volume, box, measurements), _tiles(label, volume, box, measurements)
    plane_scale = (WIDTH - 2 * MARGIN - 2 * GAP) / sum(plane.width_mm for plane in planes)
    tile_width = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    tile_scale = tile_width / tiles[0].width_mm
    tile_height = tiles[0].height_mm * tile_scale
    planes_top = HEADER + HEADING
    planes_bottom = planes_top + plane_scale * max(plane.height_mm for plane in planes)
    tiles_top = planes_bottom + HEADING
    rows = math.ceil(len(tiles) / COLUMNS)
    height = round(tiles_top + rows * (CAPTION + tile_height + GAP) + FOOTER)

    axes, canvas = _canvas(height)
    color = outline_color(segment)
    _header(axes, measurements, segment, subtitle, color)
    x = float(MARGIN)
    for plane in planes:
        _draw(axes, plane, x, planes_top, plane_scale, color)
        _write(axes, x, planes_top - 10, plane.title, QUIET, 12)
        x += plane.width_mm * plane_scale + GAP
    _scale_bar(axes, WIDTH - MARGIN - 10, planes_bottom - 12, plane_scale)
    _write(
        axes,
        MARGIN,
        tiles_top - 10,
        "Axial slices of the scan, numbered from inferior, with the segmented area",
        QUIET,
        12,
    )
    for n, tile in enumerate(tiles):
        left = MARGIN + (n % COLUMNS) * (tile_width + GAP)
        top = tiles_top + CAPTION + (n // COLUMNS) * (CAPTION + tile_height + GAP)
        _draw(axes, tile, left, top, tile_scale, color)
        _write(axes, left, top - 6, tile.title, TEXT if tile.mask.any() else QUIET, 10)
    _scale_bar(axes, WIDTH - MARGIN - 10, height - FOOTER + 22, tile_scale)
    _footer(axes, height, len(tiles), label.shape[0])
    stream = io.BytesIO()
    canvas.print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def outline_color(segment: Segment) -> tuple[float, float, float]:
    """Return the segment's color at full brightness (0 to 1), so that it stands out from dark tissue."""
    brightest = max(*segment.color, 1)
    red, green, blue = (channel / brightest for channel in segment.color)
    return red, green, blue


def choose_slices(areas: Sequence[float], most: int = MOST_TILES) -> list[int]:
    """Choose at most `most` slices spread evenly: of each group of neighbors the one with the largest area.

    Parameters
    ----------
    areas : sequence of float
        Segmented area of each slice; the middle slice stands for a group without any.
    most : int
        Number of groups.

    Returns
    -------
    list of int
        Ascending indices into `areas`.
    """
    groups = np.array_split(np.arange(len(areas)), min(most, len(areas)))
    best = (
        max(group, key=lambda i: (areas[i], -abs(int(i) - int(group[len(group) // 2])))) for group in groups
    )
    return [int(index) for index in best]


# ----------------------------------------------------------------------------------------- what is shown


def _box(label: np.ndarray, volume: Volume) -> tuple[slice, slice, slice]:
    """Box around the head and everything segmented."""
    head = head_box(volume.hu, volume.spacing)
    if not label.any():
        return head
    pairs = zip(head, bounding_box(label), strict=True)
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
    return z, y, x


def _tiles(
    label: np.ndarray, volume: Volume, box: tuple[slice, slice, slice], measurements: Measurements
) -> list[Plane]:
    z, y, x = box
    rows = measurements.slices[z]
    chosen = [rows[i] for i in choose_slices([row.area_mm2 for row in rows])]
    return [
        Plane(
            volume.hu[row.index, y, x],
            label[row.index, y, x],
            *volume.spacing[1:],
            title=f"{row.index + 1}" + (f"   {row.area_mm2:.0f} mm²" if row.area_mm2 else ""),
        )
        for row in chosen
    ]


def _three_planes(
    label: np.ndarray, volume: Volume, box: tuple[slice, slice, slice], measurements: Measurements
) -> list[Plane]:
    """Axial, coronal and sagittal plane with the largest area each, or through the middle of the head."""
    axial = measurements.largest_slice
    k = (box[0].start + box[0].stop) // 2 if axial is None else axial
    _, row_mm, column_mm = volume.spacing
    planes = [
        Plane(
            volume.hu[k, box[1], box[2]], label[k, box[1], box[2]], row_mm, column_mm,
            f"Axial, slice {k + 1} of {label.shape[0]}", "R", "L", "A",
        )
    ]  # fmt: skip
    if not volume.is_regular:
        even = volume.axes.to_canonical(sitk.GetArrayFromImage(volume.to_grid(label, label=True))) > 0
        label, volume = even, volume.rectified()
        box = _box(label, volume)
    z, y, x = box
    j = _largest(np.count_nonzero(label, axis=(0, 2)), y)
    i = _largest(np.count_nonzero(label, axis=(0, 1)), x)
    up = slice(z.stop - 1, z.start - 1 if z.start else None, -1)
    step_mm = volume.spacing[0]
    planes.append(Plane(volume.hu[up, j, x], label[up, j, x], step_mm, column_mm, "Coronal", "R", "L", "S"))
    planes.append(Plane(volume.hu[up, y, i], label[up, y, i], step_mm, row_mm, "Sagittal", "A", "P", "S"))
    return planes


# ------------------------------------------------------------------------------------------- how it looks


def _canvas(height: int) -> tuple[Axes, FigureCanvasAgg]:
    """One set of axes in pixels, y downwards, that fills the picture."""
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    return axes, FigureCanvasAgg(figure)


def _draw(
    axes: Axes, plane: Plane, left: float, top: float, scale: float, color: tuple[float, float, float]
) -> None:
    """Draw one image with its outline and letters; `scale` in pixels per mm."""
    right, bottom = left + plane.width_mm * scale, top + plane.height_mm * scale
    axes.imshow(
        plane.hu, cmap="gray", aspect="auto", extent=(left, right, bottom, top), interpolation="antialiased",
        vmin=WINDOW_LEVEL - WINDOW_WIDTH / 2, vmax=WINDOW_LEVEL + WINDOW_WIDTH / 2,
    )  # fmt: skip
    if plane.mask.any():
        mask = np.pad(plane.mask, 1).astype(np.float32)  # closes the outline at the image's border
        rows, columns = (np.arange(n) - 0.5 for n in mask.shape)
        x, y = left + columns * plane.column_mm * scale, top + rows * plane.row_mm * scale
        outline = axes.contour(x, y, mask, levels=[0.5], colors=[color], linewidths=1.1)
        outline.set(path_effects=[withStroke(linewidth=2.4, foreground="black")])  # seen on bright blood, too
    middle = (top + bottom) / 2
    _write(axes, left + 6, middle, plane.left, TEXT, 12)
    _write(axes, right - 6, middle, plane.right, TEXT, 12, align="right")
    _write(axes, (left + right) / 2, top + 18, plane.top, TEXT, 12, align="center")


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: object,
    size: float,
    *,
    align: str = "left",
    weight: str = "normal",
) -> None:
    """Write plain text (no mathematics, no control characters) on its base line."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    axes.text(
        x, y, printable, color=color, fontsize=size * 72 / DPI * 1.35, fontfamily="DejaVu Sans", ha=align,
        va="baseline", weight=weight, parse_math=False,
        path_effects=[withStroke(linewidth=3, foreground=BACKGROUND)],
    )  # fmt: skip


def _scale_bar(axes: Axes, right: float, y: float, scale: float, length_mm: int = 50) -> None:
    axes.plot([right - length_mm * scale, right], [y, y], color=TEXT, linewidth=2.5, solid_capstyle="butt")
    _write(axes, right - length_mm * scale / 2, y - 8, f"{length_mm} mm", TEXT, 10, align="center")


def _header(
    axes: Axes, measurements: Measurements, segment: Segment, subtitle: str, color: tuple[float, float, float]
) -> None:
    _write(axes, MARGIN, 52, _shortened(segment.name, 60), color, 22, weight="bold")
    _write(axes, MARGIN, 86, _shortened(subtitle, 100), QUIET, 13)
    volume = (
        f"{measurements.volume_ml:.1f} mL" if measurements.largest_slice is not None else "nothing segmented"
    )
    _write(axes, WIDTH - MARGIN, 52, volume, TEXT, 22, align="right", weight="bold")
    _write(axes, WIDTH - MARGIN, 86, RESEARCH_USE, TEXT, 13, align="right")


def _footer(axes: Axes, height: int, shown: int, total: int) -> None:
    choice = "" if shown == total else ": of each group of neighbors the one with the largest area"
    window = f"Window L {WINDOW_LEVEL} W {WINDOW_WIDTH} HU. Patient's right (R) is on the left."
    _write(axes, MARGIN, height - FOOTER + 28, f"{shown} of {total} slices{choice}", QUIET, 11)
    _write(axes, MARGIN, height - FOOTER + 54, window, QUIET, 11)


def _largest(areas: np.ndarray, within: slice) -> int:
    return int(np.argmax(areas)) if areas.any() else (within.start + within.stop) // 2


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
