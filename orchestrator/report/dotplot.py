"""Dot plots: the same data as stretchable HTML and as a Matplotlib figure.

In the page each row is an SVG strip whose horizontal positions are percentages: it fills whatever width a phone or a
wide screen gives it, while marks and letters keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from orchestrator.report.blocks import DotPlot, Interval, Series
from orchestrator.report.cells import cell_text, number_text
from orchestrator.report.theme import LIGHT

ROW_HEIGHT = 30
"""Height of a row in CSS pixels."""

MANY = 15
"""From more rows than this on the axis is numbered at both ends."""


@dataclass(frozen=True)
class Axis:
    """A horizontal axis from `low` to `high` with its tick positions."""

    low: float
    high: float
    ticks: Sequence[float]

    def percent(self, value: float) -> str:
        """The position of `value` as CSS percentage."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def axis_of(block: DotPlot) -> Axis:
    """An axis that shows every mark and whisker, and 0 where that is the line to compare with."""
    ends = [0.0] if block.zero else []
    for _, values in block.rows:
        for value in values:
            if isinstance(value, Interval):
                ends += [value.value, value.low, value.high]
            elif value is not None:
                ends.append(value)
    return axis_over(ends)


def axis_over(values: Sequence[float]) -> Axis:
    """An axis with room for these values and up to seven round ticks, whole numbers where all values are whole."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.03 * (high - low) or 1.0
    low, high = low - margin, high + margin
    whole = bool(values) and all(float(value).is_integer() for value in values)
    locator = MaxNLocator(nbins=6, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole)
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    return Axis(low, high, ticks)


def tick_text(axis: Axis, tick: float, signed: bool) -> str:
    """A tick's number with as many decimals as the ticks of its axis need."""
    digits = next((d for d in range(4) if all(abs(round(t, d) - t) < 1e-9 for t in axis.ticks)), 4)
    return number_text(tick, digits=digits, signed=signed)


def dotplot_html(block: DotPlot, tag: Callable[[Sequence[str]], Markup] = lambda names: Markup("")) -> Markup:
    """The rows of the plot with the axis below, and above as well when there are many rows.

    `tag` gives each row, named by its label, an attribute by which the page finds it again.
    """
    axis = axis_of(block)
    numbers = Markup(
        '<div class="row numbers"><span class="name"></span><svg class="track" aria-hidden="true">{}</svg></div>'
    )
    numbers = numbers.format(
        Markup("").join(
            Markup('<text x="{}" y="14">{}</text>').format(axis.percent(tick), tick_text(axis, tick, block.zero))
            for tick in axis.ticks
        )
    )
    rows = Markup("\n").join(_row(block, axis, label, values, tag([label])) for label, values in block.rows)
    name = Markup('<p class="axis">{}</p>').format(block.axis)
    above = numbers if len(block.rows) > MANY else Markup("")
    return Markup('<div class="dots">{}{}{}{}</div>').format(above, rows, numbers, name)


def mark_svg(series: Series, x: str, y: float) -> Markup:
    """The mark of a series, centred at (x, y); `x` may be a percentage."""
    if series.shape == "square":
        return Markup('<rect class="square" x="{}" y="{}" width="8" height="8" transform="translate(-4 -4)"/>').format(
            x, y
        )
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(series.shape, x, y, 4.5)


def _row(block: DotPlot, axis: Axis, label: str, values: Sequence[float | Interval | None], tag: Markup) -> Markup:
    parts = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y2="100%"/>').format(axis.percent(tick)) for tick in axis.ticks
    ]
    if block.zero:
        parts.append(Markup('<line class="zero" x1="{0}" x2="{0}" y2="100%"/>').format(axis.percent(0.0)))
    present = [_number(value) for value in values if value is not None]
    if block.joined and present:
        bar = Markup('<line class="bar" x1="{}" x2="{}" y1="50%" y2="50%"/>')
        parts.append(bar.format(axis.percent(min(present)), axis.percent(max(present))))
    said = []
    for index, (series, value) in enumerate(zip(block.series, values, strict=True)):
        if value is None:
            continue
        height = ROW_HEIGHT / 2 if block.joined else ROW_HEIGHT * (0.8 * (index + 0.5) / len(block.series) + 0.1)
        y = round(height, 1)
        text = f"{series.label}: {cell_text(value, signed=block.zero)}"
        said.append(text)
        whisker = Markup("")
        if isinstance(value, Interval):
            whisker = Markup('<line x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
                axis.percent(value.low), axis.percent(value.high), y=y
            )
        mark = Markup('<g class="mark c-{}"><title>{}</title>{}{}</g>')
        hover = f"{label}. {text}"
        parts.append(mark.format(series.colour, hover, whisker, mark_svg(series, axis.percent(_number(value)), y)))
    row = Markup(
        '<div class="row"{}><span class="name"><bdi>{}</bdi></span>'
        '<svg class="track" role="img" aria-label="{}">{}</svg></div>'
    )
    return row.format(tag, label, f"{label}. " + "; ".join(said), Markup("").join(parts))


def draw_dotplot(block: DotPlot) -> MatplotlibFigure:
    """The plot for print: 6.3 inches wide, 0.27 inches per row."""
    axis = axis_of(block)
    count, many = len(block.rows), len(block.rows) > MANY
    figure = MatplotlibFigure(figsize=(6.3, 0.27 * max(count, 2) + 1.1))
    axes = figure.add_subplot()
    for line, (_, values) in enumerate(block.rows):
        present = [_number(value) for value in values if value is not None]
        if block.joined and present:
            axes.plot([min(present), max(present)], [line, line], color=LIGHT["line"], lw=3, zorder=1.5)
        for index, (series, value) in enumerate(zip(block.series, values, strict=True)):
            if value is None:
                continue
            y = line if block.joined else line + 0.8 * ((index + 0.5) / len(block.series) - 0.5)
            if isinstance(value, Interval):
                axes.plot([value.low, value.high], [y, y], color=LIGHT[series.colour], lw=1.4, zorder=2)
            axes.plot([_number(value)], [y], zorder=3, **_marker(series))
    axes.set_xlim(axis.low, axis.high)
    axes.set_ylim(max(count, 1) - 0.4, -0.6)
    axes.set_yticks(range(count), [label for label, _ in block.rows])
    axes.set_xticks(axis.ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: tick_text(axis, tick, block.zero)))
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", labeltop=many)
    axes.grid(axis="x", zorder=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    if block.zero:
        axes.axvline(0, color=LIGHT["ink"], lw=1, zorder=1)
    axes.set_xlabel(block.axis)
    handles = [Line2D([], [], ls="none", label=series.label, **_marker(series)) for series in block.series]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=2.0 if many else 0.3, handletextpad=0.2
    )
    return figure


def _marker(series: Series) -> dict[str, Any]:
    colour = LIGHT[series.colour]
    return {
        "marker": "s" if series.shape == "square" else "o",
        "markersize": 5.5 if series.shape == "square" else 6,
        "markerfacecolor": LIGHT["paper"] if series.shape == "ring" else colour,
        "markeredgecolor": colour,
        "markeredgewidth": 1.5 if series.shape == "ring" else 0,
    }


def _number(value: float | Interval) -> float:
    return value.value if isinstance(value, Interval) else value
