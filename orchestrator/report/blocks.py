"""What a report is made of: sections of text, tables and pictures. A study fills these; the engine renders them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # matplotlib is slow to import, and most of the engine only passes blocks on
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval, shown as ``45.2 [43.1, 47.0]`` and sorted by the number."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Table:
    """Rows under named columns. Floats are shown with `digits` decimals; None is shown as an en dash.

    Attributes:
        rows: cells are text, numbers, an `Interval` or None.
        note: how to read the table, shown below it.
        signed: the columns whose numbers carry a sign, such as gains.
        footer: one more row that stays below the others however they are sorted, such as the mean.
        spare: columns that a narrow terminal may leave out, the first to go first; the page always shows them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    digits: int = 1
    signed: Sequence[str] = ()
    footer: Sequence[Any] = ()
    spare: Sequence[str] = ()


@dataclass(frozen=True)
class Series:
    """One kind of mark in a picture, with its own shape and colour, explained by `label` in the legend."""

    label: str
    shape: Literal["dot", "ring", "square"]
    colour: Literal["blue", "orange", "green", "grey"]


@dataclass(frozen=True)
class DotPlot:
    """One line per thing compared, one mark per series at its value, whiskers where the value is an `Interval`.

    Attributes:
        name: file stem of the PNG and SVG under figures/.
        axis: what the horizontal axis counts, with its unit.
        rows: (label, one value per series); None leaves the mark out.
        zero: draws a strong line at 0 and puts a sign on the numbers (for differences).
        joined: draws the marks of a row on one line, joined by a bar, so that their distance is what one sees;
            otherwise each series has its own height in the row and marks never cover each other.
    """

    name: str
    title: str
    axis: str
    series: Sequence[Series]
    rows: Sequence[tuple[str, Sequence[float | Interval | None]]]
    note: str = ""
    zero: bool = False
    joined: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a plot, told from the others by colour and dash, explained by `label` in the legend.

    Attributes:
        points: (x, y) in the order in which they are joined; where y is an `Interval`, a band shows it.
    """

    label: str
    colour: Literal["blue", "orange", "green", "grey"]
    points: Sequence[tuple[float, float | Interval]]
    dash: Literal["solid", "dashed", "dotted"] = "solid"


@dataclass(frozen=True)
class LinePlot:
    """Lines over one horizontal axis, such as a score for each layer.

    Attributes:
        name: file stem of the PNG and SVG under figures/.
        x_axis, y_axis: what the axes count, with their units.
        reference: height of a strong horizontal line to compare with, such as 0 for gains.
        signed: puts a sign on the numbers of the vertical axis (for differences).
        digits: decimals of the numbers that hovering shows.
    """

    name: str
    title: str
    x_axis: str
    y_axis: str
    lines: Sequence[Line]
    note: str = ""
    reference: float | None = None
    signed: bool = False
    digits: int = 1


@dataclass(frozen=True)
class HeatCell:
    """One cell: where it is, its value, and what hovering over it says."""

    row: int
    column: int
    value: float
    hover: str


@dataclass(frozen=True)
class HeatPanel:
    """One of several small heat maps.

    Attributes:
        label: its name.
        caption: a few words beside the name, e.g. the best cell.
        cells: any subset of the (row, column) grid; the rest stays empty.
        marks: for each series of the block the (row, column) cells that carry its mark.
    """

    label: str
    caption: str
    cells: Sequence[HeatCell]
    marks: Sequence[Sequence[tuple[int, int]]] = ()


@dataclass(frozen=True)
class HeatMaps:
    """Small multiples on one colour scale that spans the values of all panels.

    Attributes:
        name: file stem of the PNG and SVG under figures/.
        rows, columns: what the rows and the columns of a panel are.
        scale: what the colours count, with its unit.
        series: the marks that cells may carry, rings or dots.
        colours: "diverging" for differences: symmetric about 0, and colour grows with the square root of the value,
            so that a gain of one point is still seen beside a loss of thirty. "sequential" for shares and other
            amounts: from little to much, in proportion.
        span: both ends of a sequential scale, such as (0, 100) for percentages; by default the smallest and the
            largest value. What lies outside has the colour of the end.
        row_labels, column_labels: names instead of numbers; the cell in row r and column c is called row_labels[r],
            column_labels[c]. Given both or neither.
    """

    name: str
    title: str
    rows: str
    columns: str
    scale: str
    panels: Sequence[HeatPanel]
    series: Sequence[Series] = ()
    note: str = ""
    colours: Literal["diverging", "sequential"] = "diverging"
    span: tuple[float, float] | None = None
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """Any other picture, drawn on demand; `name` is its file stem under figures/.

    The page shows it in the light colours of `orchestrator.report.theme` or, on a dark screen, with the dark ones in
    their place; other colours stay as they are.
    """

    name: str
    title: str
    draw: Callable[[], MatplotlibFigure]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, an introduction in plain sentences (blank lines part paragraphs), and blocks below it."""

    title: str
    text: str = ""
    blocks: Sequence[Table | DotPlot | LinePlot | HeatMaps | Figure] = ()
