"""Fonts for every script of a figure: found on the system where the house's font lacks letters, and never an empty box.

Matplotlib shapes and orders the letters itself (HarfBuzz and the bidirectional algorithm, since 3.11); what it needs is
a font that has them. A text that no installed font covers is shown with the name of its script instead, ``[Thai]``; the
page is not concerned, there the browser finds fonts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

from matplotlib.axis import Axis
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text

HOUSE = "DejaVu Sans"
"""Comes with Matplotlib; has Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian, Lao and others."""

OTHERS = (
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Nirmala UI",
    "Leelawadee UI",
    "Ebrima",
    "Arial Unicode MS",
    "FreeSans",
    "Unifont",
)
"""Families with scripts that the house's font lacks, asked after all Noto Sans; the common ones of each system."""


def families_for(texts: Sequence[str]) -> list[str]:
    """The house's font and the installed ones that add letters which these texts need."""
    families = [HOUSE]
    missing = {letter for text in texts for letter in text if _is_visible(letter)} - _letters(HOUSE)
    for family in _candidates() if missing else ():
        if added := missing & _letters(family):
            families.append(family)
            missing -= added
    return families


def uncovered(text: str, families: Sequence[str]) -> str:
    """The letters of a text that none of these fonts has."""
    return "".join(one for one in text if _is_visible(one) and not any(one in _letters(name) for name in families))


def readable(text: str, families: Sequence[str]) -> str:
    """The text with the name of the script in brackets wherever no font has its letters."""
    missing = set(uncovered(text, families))
    if not missing:
        return text
    parts = []
    for script, letters in groupby(text, lambda letter: _script(letter) if letter in missing else ""):
        parts.append(f"[{script}]" if script else "".join(letters))
    return "".join(parts)


def texts_of(figure: MatplotlibFigure) -> list[str]:
    """Everything that is written on a figure."""
    written = [text.get_text() for text in _texts(figure)]
    return [*written, *(label for _, labels in _ticks(figure) for label in labels)]


def make_readable(figure: MatplotlibFigure, families: Sequence[str]) -> None:
    """Replaces what would be empty boxes, in place."""
    for text in _texts(figure):
        text.set_text(readable(text.get_text(), families))
    for axis, labels in _ticks(figure):
        shown = [readable(label, families) for label in labels]
        if shown != labels:
            axis.set_ticks(axis.get_majorticklocs(), labels=shown)


def _texts(figure: MatplotlibFigure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text)]


def _ticks(figure: MatplotlibFigure) -> Iterator[tuple[Axis, list[str]]]:
    """Every axis with the labels of its ticks, which are written only when the figure is drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            yield axis, list(axis.get_major_formatter().format_ticks(list(axis.get_majorticklocs())))


def _candidates() -> list[str]:
    installed = {font.name for font in fontManager.ttflist}
    noto = sorted(name for name in installed if name.startswith("Noto Sans") and "Mono" not in name)
    return [*noto, *(name for name in OTHERS if name in installed)]


@cache
def _letters(family: str) -> frozenset[str]:
    """The letters that a font family has."""
    path = fontManager.findfont(FontProperties(family=family), fallback_to_default=False)
    return frozenset(map(chr, get_font(path).get_charmap()))


def _is_visible(letter: str) -> bool:
    """Not a space, line end or one of the invisible signs that guide shaping and direction."""
    return unicodedata.category(letter) not in ("Cc", "Cf", "Zs", "Zl", "Zp")


def _script(letter: str) -> str:
    """The script a letter is of, by the first word of its Unicode name."""
    word = unicodedata.name(letter, "UNKNOWN").split()[0]
    return word if word == "CJK" else word.capitalize()
