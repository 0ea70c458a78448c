"""The report of one segmentation: overlay picture, and one self-contained page to read, print or send.

Neither holds the patient's name, path or date unless `ReportContext.identifiers` says so. The page loads
nothing, runs nothing, and escapes all text it did not write itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from sahlora.imaging.terminology import Segment
from sahlora.imaging.volume import Volume
from sahlora.report.measurements import Measurements
from sahlora.report.overlay import draw_overlay, outline_color
from sahlora.report.page import bullets, facts, figures, image, render, section
from sahlora.runtime.files import write_bytes, write_text


@dataclass(frozen=True)
class ReportContext:
    """What a report says beside the measurements.

    Parameters
    ----------
    segment : Segment
        Name and color of what was segmented.
    model : mapping of str
        Facts of the model card, shown as given; ``"name"`` also stands on the picture.
    settings : mapping of str
        Settings the segmentation was made with, e.g. ``{"threshold": "0.5"}``.
    identifiers : mapping of str
        Shown on page and picture; empty unless the user asked for it.
    """

    segment: Segment
    model: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    identifiers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `measurements.write_json`; identifiers only if there are any."""
        plain = {"segment": asdict(self.segment), "model": dict(self.model), "settings": dict(self.settings)}
        return plain | ({"identifiers": dict(self.identifiers)} if self.identifiers else {})

    @property
    def subtitle(self) -> str:
        """Line of the picture that names model and, if given, patient."""
        model = self.model.get("name")
        return " · ".join([*([f"Model: {model}"] if model else []), *self.identifiers.values()])


def write_overlay(
    path: Path, label: np.ndarray, volume: Volume, measurements: Measurements, context: ReportContext
) -> None:
    """Write the overlay picture as PNG.

    Parameters
    ----------
    path : Path
        File to write; an earlier one is replaced.
    label : np.ndarray
        bool (Z, Y, X), True inside, on the canonical grid of `volume`.
    volume : Volume
        The CT.
    measurements : Measurements
        Of this label.
    context : ReportContext
        Segment, model and, if they should be drawn, identifiers.

    Raises
    ------
    InputError
        ``no-head`` if the volume shows none.
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    picture = draw_overlay(label, volume, measurements, context.segment, context.subtitle)
    write_bytes(path, picture)


def write_page(
    path: Path, label: np.ndarray, volume: Volume, measurements: Measurements, context: ReportContext
) -> None:
    """Write one HTML file with picture, measurements, area per slice, model facts, notes and settings.

    Parameters and errors are those of `write_overlay`.
    """
    picture = draw_overlay(label, volume, measurements, context.segment, context.subtitle)
    text = _page(picture, volume.notes, measurements, context)
    write_text(path, text)


# ------------------------------------------------------------------------------------------------- page

SHOWN = "CT in three planes and in axial slices with the outline of the segmentation."


def _page(picture: bytes, notes: Iterable[str], measurements: Measurements, context: ReportContext) -> str:
    title = f"{context.segment.name}: {measurements.volume_ml:.1f} mL"
    color = "#" + "".join(f"{round(255 * channel):02x}" for channel in outline_color(context.segment))
    sections = [
        section("Patient", facts(context.identifiers)),
        section("Measurements", facts(_measured(measurements))),
        section("Area per slice", _chart(measurements) + _slice_table(measurements)),
        section("Overlay", image(picture, f"{SHOWN} {title}.")),
        section("Notes on the scan", bullets(notes)),
        section("Model", facts(context.model)),
        section("Settings", facts(context.settings)),
    ]
    return render(title, color, sections)


def _measured(measurements: Measurements) -> dict[str, str]:
    """Return the measurements as words and figures."""
    m = measurements
    rows = {"Volume": f"{m.volume_ml:.2f} mL"}
    if m.largest_slice is None or m.extent is None:
        return rows | {"Segmentation": "empty: nothing was segmented"}
    largest = m.slices[m.largest_slice]
    listed = ", ".join(f"{ml:.2f}" for ml in m.components_ml[:10]) + (
        ", …" if len(m.components_ml) > 10 else ""
    )
    return rows | {
        f"Connected components of at least {m.minimum_component_ml:g} mL": f"{len(m.components_ml)}"
        + (f" ({listed} mL)" if listed else ""),
        "Mean density": f"{m.mean_hu:.1f} HU",
        "Slices with segmentation": f"{sum(row.area_mm2 > 0 for row in m.slices)} of {len(m.slices)}",
        "Largest area": f"{largest.area_mm2:.0f} mm² in slice {largest.index + 1} (counted from inferior)",
        "Extent, right to left": f"{m.extent.right_left_mm:.1f} mm",
        "Extent, anterior to posterior": f"{m.extent.anterior_posterior_mm:.1f} mm",
        "Extent, inferior to superior": f"{m.extent.inferior_superior_mm:.1f} mm",
    }


LEAST_SCORE_ML = 0.02
"""A slice without segmentation is listed from this score on."""


def _slice_table(measurements: Measurements) -> str:
    rows = [
        (
            f"{row.index + 1}",
            f"{row.position_mm:.1f}",
            f"{row.thickness_mm:.2f}",
            f"{row.area_mm2:.1f}",
            f"{row.volume_ml:.2f}",
            "–" if row.expected_ml is None else f"{row.expected_ml:.3f}",
        )
        for row in measurements.slices
        if row.area_mm2 > 0 or (row.expected_ml or 0) >= LEAST_SCORE_ML
    ]
    names = ("Slice", "Position, mm", "Thickness, mm", "Area, mm²", "Volume, mL", "Expected, mL")
    table = figures(names, rows)
    return (
        f"<details><summary>Slices with segmentation, or with blood to expect</summary>\n{table}</details>\n"
        if rows
        else ""
    )


# ------------------------------------------------------------------------------------------------ chart

CHART_WIDTH, CHART_HEIGHT = 720, 240
PLOT_LEFT, PLOT_TOP, PLOT_RIGHT, PLOT_BOTTOM = 64, 12, 708, 196


def _chart(measurements: Measurements) -> str:
    """Draw area over position as SVG: one bar a slice, as wide as its slab."""
    if measurements.largest_slice is None:
        return ""
    rows = measurements.slices
    start = rows[0].position_mm - rows[0].thickness_mm / 2
    end = rows[-1].position_mm + rows[-1].thickness_mm / 2
    areas = MaxNLocator(4).tick_values(0, rows[measurements.largest_slice].area_mm2)
    positions = [tick for tick in MaxNLocator(8).tick_values(start, end) if start <= tick <= end]

    def x(position: float) -> float:
        return PLOT_LEFT + (position - start) / (end - start) * (PLOT_RIGHT - PLOT_LEFT)

    def y(area: float) -> float:
        return PLOT_BOTTOM - area / areas[-1] * (PLOT_BOTTOM - PLOT_TOP)

    marks = [
        f'<line x1="{PLOT_LEFT}" x2="{PLOT_RIGHT}" y1="{y(a):.1f}" y2="{y(a):.1f}"/>'
        f'<text x="{PLOT_LEFT - 8}" y="{y(a) + 4:.1f}" text-anchor="end">{a:g}</text>'
        for a in areas
    ]
    marks += [
        f'<text x="{x(p):.1f}" y="{PLOT_BOTTOM + 18}" text-anchor="middle">{p:g}</text>' for p in positions
    ]
    bars = [
        f'<rect x="{x(row.position_mm - row.thickness_mm / 2):.2f}" y="{y(row.area_mm2):.2f}" '
        f'width="{x(row.thickness_mm) - x(0):.2f}" height="{PLOT_BOTTOM - y(row.area_mm2):.2f}"/>'
        for row in rows
        if row.area_mm2 > 0
    ]
    expected = [
        f"{x(row.position_mm):.2f},{y(min(1000 * row.expected_ml / row.thickness_mm, areas[-1])):.2f}"
        for row in rows
        if row.expected_ml is not None
    ]
    return CHART.format(
        width=CHART_WIDTH, height=CHART_HEIGHT, middle=(PLOT_LEFT + PLOT_RIGHT) / 2, foot=CHART_HEIGHT - 6,
        marks="\n".join(marks), bars="\n".join(bars), expected=" ".join(expected),
        line=LINE if expected else "",
    )  # fmt: skip


LINE = """ Line: the area that the probabilities let expect,
with the neighboring slices at half the weight."""


CHART = """\
<svg viewBox="0 0 {width} {height}" role="img" aria-label="Segmented area in mm² over the position in mm">
<g class="marks">
{marks}
<text x="{middle}" y="{foot}" text-anchor="middle">Position from inferior to superior, mm</text>
</g>
<g class="bars">
{bars}
</g>
<polyline points="{expected}" fill="none" stroke="currentColor" stroke-width="1.5" opacity="0.6"/>
</svg>
<p class="caption">Segmented area, mm², of each acquired slice; each bar is as wide as its slice is
thick.{line}</p>
"""
