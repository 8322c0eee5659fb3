"""Small heat maps on one scale: the same cells as inline SVG and as a Matplotlib figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from orchestrator.report.blocks import HeatMaps, HeatPanel, Series
from orchestrator.report.cells import number_text
from orchestrator.report.theme import LEVELS, LIGHT, diverging

MANY = 14
"""From more columns than this on, panels are larger and only every other row and column is numbered."""

HEAD_WIDTH = 7.4
"""Inches that colour bar and legend need side by side."""


def limit_of(block: HeatMaps) -> float:
    """Where the scale ends on either side: the largest absolute value of all panels (1 if there is none)."""
    return max((abs(cell.value) for panel in block.panels for cell in panel.cells), default=0.0) or 1.0


def strength(value: float, limit: float) -> float:
    """Position on the colour scale, -1 to 1, the signed square root of value / limit.

    >>> strength(1.0, 4.0), strength(-4.0, 4.0)
    (0.5, -1.0)
    """
    return math.copysign(math.sqrt(abs(value) / limit), value)


def scale_ticks(limit: float) -> list[float]:
    """Round numbers of the colour bar on both sides of 0, and its exact ends."""
    positive = [_round_number(limit / 30), _round_number(limit / 3.5), limit]
    return [-tick for tick in reversed(positive)] + [0.0, *positive]


def columns_of(block: HeatMaps) -> int:
    """How many columns the widest panel has, so that the page can choose the size of all panels."""
    return max((_extent(panel)[3] - _extent(panel)[2] + 1 for panel in block.panels if panel.cells), default=1)


def tick_label(value: float) -> str:
    """A number of the colour bar with two significant digits or all before the point, and no zeros at its end.

    >>> tick_label(0.5), tick_label(-9.84), tick_label(123.4)
    ('+0.5', '−9.8', '+123')
    """
    digits = max(0, 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = number_text(value, digits=digits, signed=True)
    return text.rstrip("0").rstrip(".") if "." in text else text


def scale_html(block: HeatMaps) -> Markup:
    """The colour bar, stretching to the width it is given."""
    limit = limit_of(block)
    steps = range(-LEVELS, LEVELS + 1)
    width = 100 / len(steps)
    bar = Markup("").join(
        Markup('<rect class="q{}" x="{:.2f}%" width="{:.2f}%" height="12"/>').format(
            level, (level + LEVELS) * width, width + 0.1
        )
        for level in steps
    )
    ticks = Markup("").join(
        Markup('<text x="{:.1f}%" y="26">{}</text>').format(50 + 50 * strength(tick, limit), tick_label(tick))
        for tick in scale_ticks(limit)
    )
    label = f"Colour scale from {number_text(-limit)} to {number_text(limit, signed=True)}"
    return Markup('<svg class="scale" role="img" aria-label="{}">{}{}</svg>').format(label, bar, ticks)


def panel_svg(block: HeatMaps, panel: HeatPanel, limit: float) -> Markup:
    """One panel. Rows are numbered right before their first cell, columns above their first row."""
    if not panel.cells:
        return Markup("")
    top, bottom, left, right = _extent(panel)
    labels = []
    every = _numbered_every(right - left + 1)
    text = Markup('<text x="{}" y="{}">{}</text>')
    for row, column in sorted(_first_columns(panel).items()):
        if (row - top) % every == 0:
            labels.append(text.format(column - 0.5, row + 0.5, row))
    for column in range(left, right + 1, every):
        labels.append(text.format(column + 0.5, top - 0.5, column))
    cell_svg = '<rect class="q{}" x="{}" y="{}"><title>{}</title></rect>'
    cells = [
        Markup(cell_svg).format(round(LEVELS * strength(cell.value, limit)), cell.column, cell.row, cell.hover)
        for cell in panel.cells
    ]
    width = right - left + 2
    many = width > MANY
    # In units of a cell, so that letters and marks have about the same size on the screen whatever the cells have.
    letters = 0.037 * width if many else min(0.58, 0.06 * width)
    radius = 0.45 if many else max(0.24, 0.026 * width)
    marks = [
        _mark_svg(series, row, column, radius)
        for series, places in zip(block.series, panel.marks, strict=False)
        for row, column in dict.fromkeys(places)
    ]
    frame = Markup('<svg class="heat" viewBox="{}" font-size="{:.2f}" role="img" aria-label="{}">{}{}{}</svg>')
    return frame.format(
        f"{left - 1} {top - 1} {width} {bottom - top + 2}",
        letters,
        f"{panel.label}. {panel.caption}",
        *(Markup("").join(part) for part in (labels, cells, marks)),
    )


def _mark_svg(series: Series, row: int, column: int, radius: float) -> Markup:
    """A ring or a dot in the middle of a cell, on a halo of paper so that it stands out from any colour."""
    shape = "ring" if series.shape == "ring" else "dot"
    circle = Markup('<circle class="{}" cx="{}" cy="{}" r="{:.2f}"/>')
    size = radius if shape == "ring" else radius / 2
    return Markup('<g class="c-{}">{}{}</g>').format(
        series.colour,
        *(circle.format(kind, column + 0.475, row + 0.475, size) for kind in (f"{shape} halo", shape)),
    )


def draw_heatmaps(block: HeatMaps) -> MatplotlibFigure:
    """All panels on one sheet with one colour bar and the legend of the marks on top."""
    limit = limit_of(block)
    many = columns_of(block) > MANY
    across = min(len(block.panels), max(5 if many else 6, round(math.sqrt(len(block.panels))))) or 1
    down = math.ceil(len(block.panels) / across) or 1
    side = 2.1 if many else 1.75
    width, head = max(across * side, HEAD_WIDTH), 0.95
    height = down * (side + 0.28) + head
    figure = MatplotlibFigure(figsize=(width, height))
    norm = FuncNorm((lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * np.square(x)), -limit, limit)
    for index, panel in enumerate(block.panels):
        row, column = divmod(index, across)
        low = 1 - (head + (row + 1) * (side + 0.28)) / height
        box = ((column * side + 0.06) / width, low + 0.04 / height, (side - 0.12) / width, (side - 0.06) / height)
        _draw_panel(figure.add_axes(box), block, panel, norm)
    bar_axes = figure.add_axes((0.22 / width, 1 - 0.42 / height, 2.9 / width, 0.13 / height))
    bar = figure.colorbar(ScalarMappable(norm, diverging()), cax=bar_axes, orientation="horizontal")
    ticks = scale_ticks(limit)
    bar.set_ticks(ticks, labels=[tick_label(tick) for tick in ticks])
    bar.ax.tick_params(length=2, labelsize=7)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.set_title(block.scale, loc="left", pad=4)
    handles = [Line2D([], [], label=series.label, **_marker(series, 1.0)) for series in block.series]
    for label in (f"down: {block.rows}", f"across: {block.columns}"):
        handles.append(Line2D([], [], ls="none", label=label))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(3.3 / width, 1 - 0.02 / height), borderpad=0)
    return figure


def _draw_panel(axes: Axes, block: HeatMaps, panel: HeatPanel, norm: FuncNorm) -> None:
    axes.set_axis_off()
    axes.set_title(panel.label, loc="left", pad=3, fontsize=8)
    axes.set_title(panel.caption, loc="right", pad=3, fontsize=8, color=LIGHT["muted"])
    if not panel.cells:
        return
    top, bottom, left, right = _extent(panel)
    values = np.ma.array(np.zeros((bottom - top + 1, right - left + 1)), mask=True)
    for cell in panel.cells:
        values[cell.row - top, cell.column - left] = cell.value
    edges = (np.arange(left, right + 2), np.arange(top, bottom + 2))
    axes.pcolormesh(*edges, values, norm=norm, cmap=diverging(), edgecolors=LIGHT["paper"], linewidth=0.3)
    across = right - left + 2
    every = _numbered_every(right - left + 1)
    number: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 6.5 if across <= MANY else 5,
        "color": LIGHT["muted"],
    }
    for row, column in _first_columns(panel).items():
        if (row - top) % every == 0:
            axes.text(column - 0.5, row + 0.5, str(row), **number)
    for column in range(left, right + 1, every):
        axes.text(column + 0.5, top - 0.5, str(column), **number)
    for series, places in zip(block.series, panel.marks, strict=False):
        for row, column in dict.fromkeys(places):
            _draw_mark(axes, series, column + 0.5, row + 0.5, min(1.0, (15 if across > MANY else 12) / across))
    axes.set_xlim(left - 1, right + 1)
    axes.set_ylim(bottom + 1, top - 1)


def _draw_mark(axes: Axes, series: Series, x: float, y: float, size: float) -> None:
    """The mark on a halo of paper, so that it stands out from a cell of any colour."""
    axes.plot(x, y, **_marker(series, size, halo=True))
    axes.plot(x, y, **_marker(series, size))


def _marker(series: Series, size: float, halo: bool = False) -> dict[str, Any]:
    """A ring or a dot; `size` is 1 for a cell of a panel of twelve."""
    ring = series.shape == "ring"
    colour = LIGHT["paper"] if halo else LIGHT[series.colour]
    return {
        "marker": "o",
        "markersize": (7.2 if ring else 5.0 if halo else 3.8) * size,
        "markerfacecolor": "none" if ring else colour,
        "markeredgecolor": colour,
        "markeredgewidth": (3.0 if halo else 1.5) * size if ring else 0,
        "linestyle": "none",
    }


def _extent(panel: HeatPanel) -> tuple[int, int, int, int]:
    """First row, last row, first column, last column."""
    rows, columns = [cell.row for cell in panel.cells], [cell.column for cell in panel.cells]
    return min(rows), max(rows), min(columns), max(columns)


def _first_columns(panel: HeatPanel) -> dict[int, int]:
    """For each row the column of its first cell."""
    first: dict[int, int] = {}
    for cell in panel.cells:
        first[cell.row] = min(cell.column, first.get(cell.row, cell.column))
    return first


def _numbered_every(columns: int) -> int:
    return 2 if columns > MANY else 1


def _round_number(value: float) -> float:
    """The number of the form 1, 2 or 5 times a power of ten that is nearest to `value` on a logarithmic scale."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((power * digit for digit in (1, 2, 5, 10)), key=lambda number: abs(math.log(number / value)))
