"""Pictures are exact: positions, colours and marks in the page and in the PNG come from the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report import theme
from orchestrator.report.blocks import DotPlot, HeatCell, HeatMaps, HeatPanel, Interval, Line, LinePlot, Series
from orchestrator.report.dotplot import axis_of, dotplot_html, draw_dotplot, tick_text
from orchestrator.report.heatmap import draw_heatmaps, panel_svg, scale_html
from orchestrator.report.lineplot import axes_of, draw_lineplot, lineplot_html
from orchestrator.report.scales import Diverging, Sequential, scale_of, strength
from tests.report.gallery import LANGUAGES, LINES, MATRIX
from tests.report.page import parse

RING, DOT = Series("oracle", "ring", "orange"), Series("honest", "dot", "blue")


def triangle(label: str, gains: dict[tuple[int, int], float], *marks: list[tuple[int, int]]) -> HeatPanel:
    cells = [HeatCell(i, j, gain, f"{i}/{j}: {gain}") for (i, j), gain in gains.items()]
    return HeatPanel(label, "", cells, marks)


def heat_maps(*panels: HeatPanel) -> HeatMaps:
    return HeatMaps("pairs", "Pairs", "i", "j", "gain", panels, [RING, DOT])


def dot_plot(*rows: tuple[str, list[float | Interval | None]], joined: bool = False) -> DotPlot:
    return DotPlot("gain", "Gain", "points", [RING, DOT], rows, zero=True, joined=joined)


def percent(text: str) -> float:
    return float(text.removesuffix("%"))


def test_a_dot_stands_where_its_number_is() -> None:
    block = dot_plot(("German", [4.0, Interval(2.0, -1.0, 3.0)]), ("Greek", [None, -2.0]))
    axis = axis_of(block)
    german, greek = parse(str(dotplot_html(block))).all("svg", "track")[:2]

    def at(x: str) -> float:
        return axis.low + percent(x) / 100 * (axis.high - axis.low)

    assert at(german.one("circle", "ring").attributes["cx"]) == pytest.approx(4.0, abs=1e-3)
    assert at(german.one("circle", "dot").attributes["cx"]) == pytest.approx(2.0, abs=1e-3)
    whisker = german.one("g", "c-blue").one("line").attributes
    assert (at(whisker["x1"]), at(whisker["x2"])) == pytest.approx((-1.0, 3.0), abs=1e-3)
    assert at(german.one("line", "zero").attributes["x1"]) == pytest.approx(0.0, abs=1e-3)
    assert not greek.all("circle", "ring"), "a missing value has no mark"
    assert "honest: +2.0 [−1.0, +3.0]" in german.one("g", "c-blue").one("title").text
    assert german.attributes["aria-label"] == "German. oracle: +4.0; honest: +2.0 [−1.0, +3.0]"


def test_marks_of_a_row_have_their_own_heights_unless_they_are_joined() -> None:
    row = ("German", [1.0, 1.0])
    for joined in (False, True):
        marks = parse(str(dotplot_html(dot_plot(row, joined=joined)))).all("circle")
        assert (marks[0].attributes["cy"] == marks[1].attributes["cy"]) is joined


def test_the_png_of_a_dot_plot_has_the_same_numbers() -> None:
    block = dot_plot(("German", [4.0, Interval(2.0, -1.0, 3.0)]))
    lines = [list(line.get_xdata()) for line in draw_dotplot(block).axes[0].lines]
    assert [4.0] in lines
    assert [2.0] in lines
    assert [-1.0, 3.0] in lines


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=5))
def test_every_value_and_zero_lie_within_the_axis_and_tick_numbers_are_exact(values: list[float]) -> None:
    axis = axis_of(dot_plot(*[(str(value), [value, None]) for value in values]))
    assert axis.low < min(0.0, *values)
    assert axis.high > max(0.0, *values)
    for tick in axis.ticks:
        if abs(tick) >= 0.001:
            assert float(tick_text(axis, tick, True).replace("−", "-")) == pytest.approx(tick)


def test_an_empty_plot_is_drawn_nonetheless() -> None:
    assert "axis" in dotplot_html(dot_plot())
    assert draw_dotplot(dot_plot())
    assert draw_heatmaps(heat_maps())
    assert panel_svg(heat_maps(), triangle("German", {}), Diverging(1.0)) == ""


@given(st.floats(-50, 50), st.floats(50, 100))
def test_colour_strength_is_odd_monotone_and_within_bounds(value: float, limit: float) -> None:
    assert strength(-value, limit) == -strength(value, limit)
    assert -1 <= strength(value, limit) <= strength(value + 1, limit + 1) + 1
    assert strength(limit, limit) == 1.0


def test_the_scale_spans_all_panels_and_is_symmetric() -> None:
    block = heat_maps(triangle("German", {(1, 2): 1.0}), triangle("Greek", {(1, 2): -9.0}))
    assert scale_of(block) == Diverging(9.0)
    ticks = [tick for tick, _ in Diverging(9.0).ticks()]
    assert ticks[0] == -9.0
    assert ticks == [-tick for tick in reversed(ticks)]
    bar = parse(str(scale_html(block)))
    assert [rect.classes[0] for rect in bar.all("rect")] == [f"q{level}" for level in range(-50, 51)]
    positions = [percent(text.attributes["x"]) for text in bar.all("text")]
    assert positions == sorted(positions)
    assert (positions[0], positions[3], positions[-1]) == (0.0, 50.0, 100.0)


def test_cells_stand_at_row_and_column_with_the_colour_of_their_value() -> None:
    panel = triangle("German", {(1, 2): 4.0, (1, 3): -1.0, (2, 3): 0.0}, [(1, 2)], [(1, 2), (2, 3), (2, 3)])
    svg = parse(str(panel_svg(heat_maps(panel), panel, Diverging(4.0)))).one("svg")
    cells = {(rect.attributes["y"], rect.attributes["x"]): rect for rect in svg.all("rect")}
    assert {place: rect.classes[0] for place, rect in cells.items()} == {
        ("1", "2"): "q50",
        ("1", "3"): "q-25",
        ("2", "3"): "q0",
    }
    assert cells["1", "3"].one("title").text == "1/3: -1.0"
    assert svg.attributes["viewbox"] == "1 0 3 3", "one more column and row for the numbers"
    rings = [mark for mark in svg.all("circle", "ring") if "halo" not in mark.classes]
    dots = [mark for mark in svg.all("circle", "dot") if "halo" not in mark.classes]
    assert len(rings) == 1
    assert len(dots) == 2, "a cell chosen twice has one mark"
    numbers = {(text.attributes["x"], text.attributes["y"], text.text) for text in svg.all("text")}
    assert numbers == {("1.5", "1.5", "1"), ("2.5", "2.5", "2"), ("2.5", "0.5", "2"), ("3.5", "0.5", "3")}


def test_the_png_of_heat_maps_has_the_same_numbers_and_one_scale() -> None:
    panel = triangle("German", {(1, 2): 4.0, (1, 3): -1.0, (2, 3): 0.0})
    figure = draw_heatmaps(heat_maps(panel, triangle("Greek", {(1, 2): -9.0})))
    first, second = (axes.collections[0] for axes in figure.axes[:2])
    assert first.get_array().tolist() == [[4.0, -1.0], [None, 0.0]]
    for mesh in (first, second):
        assert (mesh.norm.vmin, mesh.norm.vmax) == (-9.0, 9.0)
        assert mesh.norm(0.0) == pytest.approx(0.5)
        assert mesh.norm(2.25) == pytest.approx(0.75), "the square root, as in the page"


def test_a_point_of_a_line_stands_where_its_numbers_are_and_says_them() -> None:
    across, up = axes_of(LINES)
    german, arabic = parse(str(lineplot_html(LINES))).all("g", "line")
    marks = german.all("g", "mark")
    places = [
        (
            across.low + percent(mark.one("circle", "dot").attributes["cx"]) / 100 * (across.high - across.low),
            up.high - percent(mark.one("circle", "dot").attributes["cy"]) / 100 * (up.high - up.low),
        )
        for mark in marks
    ]
    assert np.array(places) == pytest.approx(np.array([[1, 2], [2, 4], [3, -1]]), abs=2e-3)
    assert [mark.one("title").text for mark in marks] == [
        "German (de). At 1: +2.0 [+1.0, +3.0]",
        "German (de). At 2: +4.0",
        "German (de). At 3: −1.0",
    ]
    assert len(german.one("polygon", "band").attributes["points"].split()) == 6, "there and back again"
    assert not arabic.all("polygon"), "without intervals there is no band"
    assert (
        arabic.one("polyline").attributes["stroke-dasharray"] != german.one("polyline").attributes["stroke-dasharray"]
    )
    assert across.ticks == [1, 2, 3], "layers are whole numbers"


def test_the_figure_of_a_line_plot_has_the_same_numbers() -> None:
    axes = draw_lineplot(LINES).axes[0]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn["German (de)"] == ([1, 2, 3], [2.0, 4.0, -1.0])
    assert drawn["Arabic (ar)"] == ([1, 3], [0.0, 1.0])
    assert [0.0, 0.0] in [list(line.get_ydata()) for line in axes.lines], "the reference"
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["German (de)", "Arabic (ar)"]


def test_a_line_plot_without_lines_or_with_one_point_is_drawn_nonetheless() -> None:
    for lines in ([], [Line("a", "blue", [])], [Line("a", "blue", [(2, 0.5)])]):
        block = LinePlot("x", "X", "layer", "score", lines)
        assert "axis" in lineplot_html(block)
        assert draw_lineplot(block)


def test_a_sequential_scale_grows_in_proportion_between_its_ends() -> None:
    scale = scale_of(MATRIX)
    assert scale == Sequential(0.0, 100.0)
    assert [scale.step(value) for value in (0.0, 50.0, 100.0)] == ["s0", "s25", "s50"]
    assert (scale.step(-5.0), scale.step(120.0)) == ("s0", "s50")
    assert [text for _, text in scale.ticks()] == ["0", "20", "40", "60", "80", "100"]
    assert [scale.place(tick) for tick, _ in scale.ticks()] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    bar = parse(str(scale_html(MATRIX)))
    assert [rect.classes[0] for rect in bar.all("rect")] == [f"s{level}" for level in range(51)]
    free = HeatMaps("h", "H", "r", "c", "s", [HeatPanel("p", "", [HeatCell(0, 0, 3.0, "")])], colours="sequential")
    assert scale_of(free) == Sequential(3.0, 4.0), "a scale has two ends even where all values are equal"


def test_a_matrix_with_names_stands_in_the_page_and_in_the_figure() -> None:
    svg = parse(str(panel_svg(MATRIX, MATRIX.panels[0], scale_of(MATRIX)))).one("svg")
    assert [text.text for text in svg.all("text", "end")] == list(LANGUAGES)
    assert [text.text for text in svg.all("text") if "end" not in text.classes] == ["en", "de", "ar", "arz"]
    left, top, width, height = map(float, svg.attributes["viewbox"].split())
    assert left < 0 > top
    assert (left + width, top + height) == pytest.approx((4, 4), abs=0.01)
    axes = draw_heatmaps(MATRIX).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LANGUAGES)
    assert axes.collections[0].get_array().tolist() == [
        [25.0 * row + column for column in range(4)] for row in range(4)
    ]


@pytest.mark.parametrize(("columns", "turned"), [(6, False), (52, True)])
def test_column_labels_that_would_touch_stand_upright(columns: int, turned: bool) -> None:
    codes = [f"x{column:02}" for column in range(columns)]
    panel = HeatPanel("", "", [HeatCell(0, column, column, "") for column in range(columns)])
    block = HeatMaps("m", "M", "language", "language", "s", [panel], row_labels=["Cebuano (ceb)"], column_labels=codes)
    texts = [text for text in parse(str(panel_svg(block, panel, scale_of(block)))).all("text") if text.text in codes]
    assert [("transform" in text.attributes) for text in texts] == [turned] * columns
    labels = draw_heatmaps(block).axes[0].get_xticklabels()
    assert [label.get_rotation() for label in labels] == [90.0 * turned] * columns


def test_page_and_png_share_their_colours() -> None:
    css = theme.css_variables()
    for level in (-50, -13, 0, 50):
        (colour,) = re.findall(rf"--q{level}:(#[0-9a-f]{{6}});", css)
        expected = np.round(np.array(theme.diverging()(0.5 + level / 100)[:3]) * 255).astype(int)
        assert colour == "#" + "".join(f"{part:02x}" for part in expected)


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("name", "least"), [("ink", 7), ("muted", 4.5), ("blue", 4.5), ("orange", 4.5), ("grey", 3)])
def test_text_and_marks_have_enough_contrast(colours: dict[str, str], name: str, least: float) -> None:
    """The ratios of WCAG 2: 4.5 for text, 3 for marks."""
    one, other = sorted((luminance(colours[name]), luminance(colours["paper"])))
    assert (other + 0.05) / (one + 0.05) >= least
