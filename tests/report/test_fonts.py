"""Letters of every script in figures: shaped, found in an installed font, and never an empty box."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.font_manager import fontManager
from PIL import Image

from orchestrator.report import fonts, theme
from orchestrator.report.blocks import DotPlot, HeatMaps, Series
from orchestrator.report.dotplot import draw_dotplot
from orchestrator.report.fonts import HOUSE, families_for, readable, uncovered
from orchestrator.report.heatmap import draw_heatmaps
from orchestrator.report.languages import LANGUAGE_NAMES, language_label
from orchestrator.report.lineplot import draw_lineplot
from tests.report.gallery import LINES, MATRIX

NATIVE = (
    "العربية",
    "עברית",
    "ไทย",
    "中文",
    "日本語",
    "한국어",
    "हिन्दी",
    "বাংলা",
    "தமிழ்",
    "ქართული",
    "አማርኛ",
    "Tiếng Việt",
)


def plot(*labels: str) -> DotPlot:
    return DotPlot("native", "Native names", "points", [Series("a", "dot", "blue")], [(one, [1.0]) for one in labels])


def written(figure: MatplotlibFigure) -> list[str]:
    return fonts.texts_of(figure)


@pytest.fixture
def thai_font(tmp_path: Path) -> Iterator[str]:
    """An installed font, called Noto Sans Made, that has the letters of ไทย and nothing else: squares of ink."""
    name, letters = "Noto Sans Made", sorted(set("ไทย"))
    pen = TTGlyphPen(None)
    for index, corner in enumerate([(50, 0), (50, 700), (550, 700), (550, 0)]):
        (pen.lineTo if index else pen.moveTo)(corner)
    pen.closePath()
    square = pen.glyph()
    glyphs = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"uni{ord(letter):04X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(tmp_path / "made.ttf")
    fontManager.addfont(tmp_path / "made.ttf")
    yield name
    fontManager.ttflist = [font for font in fontManager.ttflist if font.name != name]
    fonts._letters.cache_clear()


def test_labels_of_languages_need_the_houses_font_alone() -> None:
    assert families_for([language_label(code) for code in LANGUAGE_NAMES]) == [HOUSE]


def test_what_no_font_has_is_named_by_its_script() -> None:
    assert readable("ไทย (th)", [HOUSE]) == "[Thai] (th)"
    assert readable("中文/한국어", [HOUSE]) == "[CJK]/[Hangul]"
    for text in ("العربية", "עברית", "Ελλάδα", "Tiếng Việt", "50 % − 3", "a\u200db\n"):
        assert readable(text, [HOUSE]) == text


def test_no_figure_has_an_empty_box() -> None:
    figures = [lambda: draw_dotplot(plot(*NATIVE)), lambda: draw_lineplot(LINES), lambda: draw_heatmaps(MATRIX)]
    for draw in figures:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Matplotlib warns of every letter that it cannot draw
            png, svg = theme.draw_files(draw)
        assert png.startswith(b"\x89PNG")
        assert b"<svg" in svg
        drawn = theme._drawn(draw)
        families = families_for(written(drawn))
        assert [uncovered(text, families) for text in written(drawn) if uncovered(text, families)] == []


def test_titles_legends_and_labels_of_any_figure_are_made_readable() -> None:
    def draw() -> MatplotlibFigure:
        figure = MatplotlibFigure()
        axes = figure.add_subplot(title="ไทย title", ylabel="አማርኛ")
        axes.plot([0, 1], [0, 1], label="தமிழ்")
        axes.set_xticks([0, 1], ["中文", "Deutsch"])
        figure.legend()
        return figure

    texts = written(theme._drawn(draw))
    installed = families_for(NATIVE)
    for text in ("ไทย title", "አማርኛ", "தமிழ்", "中文", "Deutsch"):
        assert readable(text, installed) in texts


def test_an_installed_font_is_found_by_its_letters(thai_font: str) -> None:
    assert families_for(["Deutsch ไทย"]) == [HOUSE, thai_font]
    assert uncovered("ไทย", [HOUSE, thai_font]) == ""
    figure = theme._drawn(lambda: draw_dotplot(plot("ไทย", "Deutsch")))
    assert "ไทย" in written(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theme.draw_files(lambda: draw_dotplot(plot("ไทย", "Deutsch")))


def strokes(text: str) -> list[int]:
    """The widths, from left to right, of the runs of columns that have ink."""

    def draw() -> MatplotlibFigure:
        figure = MatplotlibFigure(figsize=(4, 1))
        figure.text(0.1, 0.4, text, fontsize=30)
        return figure

    picture = Image.open(io.BytesIO(theme.draw_files(draw, trim=False)[0])).convert("L")
    dark = (np.asarray(picture) < 128).any(axis=0)
    ends = np.flatnonzero(np.diff(dark.astype(int)))
    return [int(width) for width in (ends[1::2] - ends[::2])]


def test_arabic_letters_join_and_hebrew_runs_from_right_to_left() -> None:
    assert len(strokes("س ل ا م")) == 4
    assert len(strokes("سلام")) == 2, "the alef joins only the letter before it"
    (wide,), (thin,) = strokes("ש"), strokes("ו")
    assert wide > 2 * thin
    left, right = strokes("שו")
    assert (left, right) == (pytest.approx(thin, abs=2), pytest.approx(wide, abs=2)), "the first letter on the right"


def test_the_gallery_needs_no_named_script() -> None:
    for block, draw in ((LINES, draw_lineplot), (MATRIX, draw_heatmaps)):
        texts = written(theme._drawn(lambda b=block, d=draw: d(b)))
        assert not any("[" in text for text in texts), texts
        assert isinstance(block, HeatMaps) or "layer" in texts
