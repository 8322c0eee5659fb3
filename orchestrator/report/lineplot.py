"""Line plots: the same data as stretchable HTML and as a Matplotlib figure.

In the page the lines lie in a drawing that stretches with the screen, while marks and letters keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import FuncFormatter

from orchestrator.report.blocks import Interval, Line, LinePlot
from orchestrator.report.cells import cell_text, number_text
from orchestrator.report.dotplot import Axis, axis_over, tick_text
from orchestrator.report.theme import LIGHT

DASHES = {"solid": "", "dashed": "7 4", "dotted": "1.5 3.5"}
"""The strokes and gaps of each kind of line, in pixels."""


def axes_of(block: LinePlot) -> tuple[Axis, Axis]:
    """A horizontal and a vertical axis that show every point, every band and the reference."""
    across = [x for line in block.lines for x, _ in line.points]
    up = [bound for line in block.lines for _, value in line.points for bound in _bounds(value)]
    if block.reference is not None:
        up.append(block.reference)
    return axis_over(across), axis_over(up)


def lineplot_html(block: LinePlot, tag: Callable[[Sequence[str]], Markup] = lambda names: Markup("")) -> Markup:
    """The plot with the names of its axes; `tag` as for dot plots, for each line."""
    across, up = axes_of(block)
    grid = [
        Markup('<line class="grid" x2="100%" y1="{0}" y2="{0}"/><text class="up" x="-8" y="{0}">{1}</text>').format(
            _height(up, tick), tick_text(up, tick, block.signed)
        )
        for tick in up.ticks
    ]
    grid += [
        Markup('<text x="{}" y="100%" dy="18">{}</text>').format(across.percent(tick), tick_text(across, tick, False))
        for tick in across.ticks
    ]
    if block.reference is not None:
        grid.append(Markup('<line class="zero" x2="100%" y1="{0}" y2="{0}"/>').format(_height(up, block.reference)))
    lines = Markup("").join(_line(block, line, across, up, tag([line.label])) for line in block.lines)
    said = f"{block.title}. Across: {block.x_axis}; up: {block.y_axis}. {len(block.lines)} lines."
    drawing = Markup('<svg class="plot" role="img" aria-label="{}">{}{}</svg>').format(
        said, Markup("").join(grid), lines
    )
    names = Markup('<p class="axis up">{}</p>{}<p class="axis">{}</p>')
    return Markup('<div class="lines">{}</div>').format(names.format(block.y_axis, drawing, block.x_axis))


def line_key(line: Line) -> Markup:
    """The line's look, for the legend."""
    stroke = Markup('<line class="stroke" x1="0" x2="26" y1="8" y2="8" stroke-dasharray="{}"/>').format(
        DASHES[line.dash]
    )
    return Markup('<svg class="long c-{}" aria-hidden="true">{}</svg>').format(line.colour, stroke)


def _line(block: LinePlot, line: Line, across: Axis, up: Axis, tag: Markup) -> Markup:
    def place(x: float, y: float) -> str:
        return f"{_share(across, x):.3f},{1 - _share(up, y):.3f}"

    stroke = Markup('<polyline class="stroke" points="{}" stroke-dasharray="{}"/>').format(
        " ".join(place(x, _bounds(value)[0]) for x, value in line.points), DASHES[line.dash]
    )
    band = Markup("")
    if any(isinstance(value, Interval) for _, value in line.points):
        low = [place(x, _bounds(value)[1]) for x, value in line.points]
        high = [place(x, _bounds(value)[2]) for x, value in reversed(line.points)]
        band = Markup('<polygon class="band" points="{}"/>').format(" ".join(low + high))
    marks = []
    for x, value in line.points:
        number = number_text(x, 0 if float(x).is_integer() else 2)
        hover = f"{line.label}. At {number}: {cell_text(value, block.digits, block.signed)}"
        at = (across.percent(x), _height(up, _bounds(value)[0]))
        circle = Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>')
        reach, dot = circle.format("reach", *at, 9), circle.format("dot", *at, 3)
        marks.append(Markup('<g class="mark"><title>{}</title>{}{}</g>').format(hover, reach, dot))
    stretching = Markup('<svg width="100%" height="100%" viewBox="0 0 1 1" preserveAspectRatio="none">{}{}</svg>')
    frame = Markup('<g class="line c-{}"{}>{}{}</g>')
    return frame.format(line.colour, tag, stretching.format(band, stroke), Markup("").join(marks))


def draw_lineplot(block: LinePlot) -> MatplotlibFigure:
    """The plot for print, 6.3 inches wide."""
    across, up = axes_of(block)
    figure = MatplotlibFigure(figsize=(6.3, 3.6))
    axes = figure.add_subplot()
    if block.reference is not None:
        axes.axhline(block.reference, color=LIGHT["ink"], lw=1, zorder=1)
    for line in block.lines:
        xs = [x for x, _ in line.points]
        bounds = [_bounds(value) for _, value in line.points]
        dash = (0, tuple(float(part) / 1.5 for part in DASHES[line.dash].split())) if DASHES[line.dash] else "-"
        colour = LIGHT[line.colour]
        axes.plot(
            xs, [value for value, _, _ in bounds], color=colour, ls=dash, lw=1.5, marker="o", ms=3, label=line.label
        )
        if any(isinstance(value, Interval) for _, value in line.points):
            low, high = [low for _, low, _ in bounds], [high for _, _, high in bounds]
            axes.fill_between(xs, low, high, color=colour, alpha=0.14, lw=0)
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(up.low, up.high)
    axes.set_xticks(across.ticks)
    axes.set_yticks(up.ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: tick_text(across, tick, False)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: tick_text(up, tick, block.signed)))
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(block.x_axis)
    axes.set_ylabel(block.y_axis)
    if block.lines:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3, ncols=2, handlelength=2.6)
    return figure


def _share(axis: Axis, value: float) -> float:
    return (value - axis.low) / (axis.high - axis.low)


def _height(axis: Axis, value: float) -> str:
    """The position of `value` from the top as percentage."""
    return f"{100 * (1 - _share(axis, value)):.2f}%"


def _bounds(value: float | Interval) -> tuple[float, float, float]:
    """The number and both ends of its interval; a plain number is its own interval."""
    return (value.value, value.low, value.high) if isinstance(value, Interval) else (value, value, value)
