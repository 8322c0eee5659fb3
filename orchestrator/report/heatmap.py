"""Small heat maps on one scale: the same cells as inline SVG and as a Matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D

from orchestrator.report.blocks import HeatMaps, HeatPanel, Series
from orchestrator.report.scales import Diverging, Sequential, scale_of
from orchestrator.report.theme import LIGHT

MANY = 14
"""From more columns than this on, panels are larger and only every other row and column is numbered."""

LETTER = 0.024
"""Height of the letters of a named panel as a share of its width in the page."""

HEAD_WIDTH = 7.4
"""Inches that colour bar and legend need side by side."""

BAR_HEIGHT, LINE_HEIGHT, TITLE_HEIGHT = 0.7, 0.18, 0.28
"""Inches of the colour bar with title and numbers, of a line of the legend, and of the line above a panel."""

LETTER_WIDTH = 0.068
"""Inches of a letter of a label in figures; in the page a letter is 0.58 of its height wide."""


def columns_of(block: HeatMaps) -> int:
    """How many columns the widest panel has, so that the page can choose the size of all panels."""
    return max((_extent(panel)[3] - _extent(panel)[2] + 1 for panel in block.panels if panel.cells), default=1)


def scale_html(block: HeatMaps) -> Markup:
    """The colour bar, stretching to the width it is given."""
    scale = scale_of(block)
    steps = scale.steps()
    width = 100 / len(steps)
    bar = Markup("").join(
        Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="12"/>').format(step, index * width, width + 0.1)
        for index, step in enumerate(steps)
    )
    ticks = Markup("").join(
        Markup('<text x="{:.1f}%" y="26">{}</text>').format(100 * scale.place(tick), text)
        for tick, text in scale.ticks()
    )
    said = f"Colour scale {scale.ends}"
    return Markup('<svg class="scale" role="img" aria-label="{}">{}{}</svg>').format(said, bar, ticks)


def panel_svg(
    block: HeatMaps,
    panel: HeatPanel,
    scale: Diverging | Sequential,
    tag: Callable[[Sequence[str]], Markup] = lambda names: Markup(""),
) -> Markup:
    """One panel. Without labels, rows are numbered right before their first cell and columns above their first row.

    `tag` as for dot plots, for each cell of a named row.
    """
    if not panel.cells:
        return Markup("")
    box, letters, labels = _named_frame(block) if block.row_labels else _numbered_frame(panel)
    cell_svg = Markup('<rect class="{}" x="{}" y="{}"{}><title>{}</title></rect>')
    tags = [tag([label]) for label in block.row_labels]
    cells = [
        cell_svg.format(scale.step(cell.value), cell.column, cell.row, tags[cell.row] if tags else "", cell.hover)
        for cell in panel.cells
    ]
    width = box[2]
    # In units of a cell, so that marks have about the same size on the screen whatever the cells have.
    radius = 0.45 if width > MANY else max(0.24, 0.026 * width)
    marks = [
        _mark_svg(series, row, column, radius)
        for series, places in zip(block.series, panel.marks, strict=False)
        for row, column in dict.fromkeys(places)
    ]
    frame = Markup('<svg class="heat" viewBox="{}" font-size="{:.2f}" role="img" aria-label="{}">{}{}{}</svg>')
    return frame.format(
        " ".join(f"{number:.4g}" for number in box),
        letters,
        f"{panel.label}. {panel.caption}",
        *(Markup("").join(part) for part in (labels, cells, marks)),
    )


_Frame = tuple[tuple[float, float, float, float], float, list[Markup]]
"""Of a panel in the page, in units of a cell: left, top, width and height; the height of letters; the labels."""


def _numbered_frame(panel: HeatPanel) -> _Frame:
    top, bottom, left, right = _extent(panel)
    every = _numbered_every(right - left + 1)
    text = Markup('<text x="{}" y="{}">{}</text>')
    labels = []
    for row, column in sorted(_first_columns(panel).items()):
        if (row - top) % every == 0:
            labels.append(text.format(column - 0.5, row + 0.5, row))
    for column in range(left, right + 1, every):
        labels.append(text.format(column + 0.5, top - 0.5, column))
    width = right - left + 2
    letters = 0.037 * width if width > MANY else min(0.58, 0.06 * width)
    return (left - 1, top - 1, width, bottom - top + 2), letters, labels


def _named_frame(block: HeatMaps) -> _Frame:
    down, across = len(block.row_labels), len(block.column_labels)
    longest = max(map(len, block.row_labels))
    letters = min(0.85, LETTER * across / (1 - LETTER * 0.58 * longest))
    left = 0.58 * letters * longest + 0.5 * letters
    upright = _upright(block.column_labels, 0.58 * letters)
    above = letters * (0.58 * max(map(len, block.column_labels)) + 0.5 if upright else 1.4)
    labels = [
        Markup('<text class="end" x="{:.2f}" y="{}">{}</text>').format(-0.5 * letters, row + 0.5, label)
        for row, label in enumerate(block.row_labels)
    ]
    for column, label in enumerate(block.column_labels):
        if upright:
            turned = Markup('<text class="start" transform="translate({} {:.2f}) rotate(-90)">{}</text>')
            labels.append(turned.format(column + 0.5, -0.5 * letters, label))
        else:
            labels.append(Markup('<text x="{}" y="{:.2f}">{}</text>').format(column + 0.5, -0.7 * letters, label))
    return (-left, -above, across + left, down + above), letters, labels


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
    """All panels on one sheet with one colour bar and the legend of the marks on top.

    Cells are an image also in the SVG, where each would be a path: thousands of them would make files of megabytes.
    """
    scale = scale_of(block)
    cells, gutter = _named_size(block) if block.row_labels else _numbered_size(block)
    panel_width, panel_height = cells[0] + gutter[0] + gutter[2], cells[1] + gutter[1]
    count = len(block.panels)
    most = max(1, int(10.5 / panel_width)) if block.row_labels else max(5 if columns_of(block) > MANY else 6, 1)
    across = min(count, max(most, round(math.sqrt(count)))) or 1
    down = math.ceil(count / across) or 1
    titled = TITLE_HEIGHT if any(panel.label or panel.caption for panel in block.panels) else 0.0
    width, head = max(across * panel_width, HEAD_WIDTH), max(BAR_HEIGHT, LINE_HEIGHT * (2 + len(block.series)) + 0.23)
    height = down * (panel_height + titled) + head
    figure = MatplotlibFigure(figsize=(width, height))
    for index, panel in enumerate(block.panels):
        row, column = divmod(index, across)
        low = 1 - (head + (row + 1) * (panel_height + titled)) / height
        left = column * panel_width + gutter[0]
        axes = figure.add_axes((left / width, low + 0.04 / height, cells[0] / width, cells[1] / height))
        _draw_panel(axes, block, panel, scale)
    bar_axes = figure.add_axes((0.22 / width, 1 - 0.42 / height, 2.9 / width, 0.13 / height))
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.colours), cax=bar_axes, orientation="horizontal")
    bar.set_ticks([tick for tick, _ in scale.ticks()], labels=[text for _, text in scale.ticks()])
    bar.ax.tick_params(length=2, labelsize=7)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.set_title(block.scale, loc="left", pad=4)
    handles = [Line2D([], [], label=series.label, **_marker(series, 1.0)) for series in block.series]
    for label in (f"down: {block.rows}", f"across: {block.columns}"):
        handles.append(Line2D([], [], ls="none", label=label))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(3.3 / width, 1 - 0.02 / height), borderpad=0)
    return figure


_Gutter = tuple[float, float, float]
"""Inches around a panel: left, above, right."""


def _numbered_size(block: HeatMaps) -> tuple[tuple[float, float], _Gutter]:
    """Width and height of a panel's cells with their numbers, and its gutter."""
    side = 2.1 if columns_of(block) > MANY else 1.75
    return (side - 0.12, side - 0.06), (0.06, 0.06, 0.06)


def _named_size(block: HeatMaps) -> tuple[tuple[float, float], _Gutter]:
    """Width and height of a panel's cells, and what its row labels need on the left and its column labels above."""
    cells = (max(1.6, _side(block) * len(block.column_labels)), _side(block) * len(block.row_labels))
    above = max(map(len, block.column_labels)) if _stands(block) else 2
    return cells, (LETTER_WIDTH * max(map(len, block.row_labels)) + 0.2, LETTER_WIDTH * above + 0.15, 0.05)


def _side(block: HeatMaps) -> float:
    """Inches of a cell of a named panel."""
    return min(0.4, max(0.13, 5.5 / len(block.column_labels)))


def _stands(block: HeatMaps) -> bool:
    return _upright(block.column_labels, LETTER_WIDTH / max(_side(block), 1.6 / len(block.column_labels)))


def _draw_panel(axes: Axes, block: HeatMaps, panel: HeatPanel, scale: Diverging | Sequential) -> None:
    named = bool(block.row_labels)
    if named:
        # Standing labels begin at one height whatever letters they have.
        stands: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor", "ha": "left", "va": "center"}
        turn = stands if _stands(block) else {}
        axes.set_xticks([column + 0.5 for column in range(len(block.column_labels))], block.column_labels, **turn)
        axes.set_yticks([row + 0.5 for row in range(len(block.row_labels))], block.row_labels)
        axes.tick_params(length=0, labelsize=7, labeltop=True, labelbottom=False, pad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
    else:
        axes.set_axis_off()
    axes.set_title(panel.label, loc="left", pad=3, fontsize=8)
    axes.set_title(panel.caption, loc="right", pad=3, fontsize=8, color=LIGHT["muted"])
    if not panel.cells:
        return
    edge = (0, len(block.row_labels) - 1, 0, len(block.column_labels) - 1) if named else _extent(panel)
    top, bottom, left, right = edge
    values = np.ma.array(np.zeros((bottom - top + 1, right - left + 1)), mask=True)
    for cell in panel.cells:
        values[cell.row - top, cell.column - left] = cell.value
    edges = (np.arange(left, right + 2), np.arange(top, bottom + 2))
    paper = LIGHT["paper"]
    axes.pcolormesh(
        *edges, values, norm=scale.norm, cmap=scale.colours, edgecolors=paper, linewidth=0.3, rasterized=True
    )
    across = right - left + 2
    if not named:
        _draw_numbers(axes, panel)
    for series, places in zip(block.series, panel.marks, strict=False):
        for row, column in dict.fromkeys(places):
            _draw_mark(axes, series, column + 0.5, row + 0.5, min(1.0, (15 if across > MANY else 12) / across))
    margin = 0 if named else 1
    axes.set_xlim(left - margin, right + 1)
    axes.set_ylim(bottom + 1, top - margin)


def _draw_numbers(axes: Axes, panel: HeatPanel) -> None:
    top, _, left, right = _extent(panel)
    every = _numbered_every(right - left + 1)
    number: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 6.5 if right - left + 2 <= MANY else 5,
        "color": LIGHT["muted"],
    }
    for row, column in _first_columns(panel).items():
        if (row - top) % every == 0:
            axes.text(column - 0.5, row + 0.5, str(row), **number)
    for column in range(left, right + 1, every):
        axes.text(column + 0.5, top - 0.5, str(column), **number)


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


def _upright(labels: Sequence[str], letter: float) -> bool:
    """Whether column labels are too long to lie side by side above their cells; `letter` in widths of a cell."""
    return letter * max(map(len, labels)) > 0.9
