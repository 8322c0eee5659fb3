"""Colours and type of every report: one light and one dark value per name, for the page and for Matplotlib.

Blue, orange and green are told apart by readers with any common colour blindness; no picture relies on colour alone.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure as MatplotlibFigure

from orchestrator.report import fonts

LIGHT: dict[str, str] = {
    "paper": "#ffffff",
    "ink": "#1c2430",
    "muted": "#667080",
    "line": "#d8dce2",
    "shade": "#f5f6f8",
    "blue": "#1f62b0",
    "orange": "#c8500a",
    "green": "#177a55",
    "grey": "#7b8594",
}
DARK: dict[str, str] = {
    "paper": "#14171c",
    "ink": "#e6e9ee",
    "muted": "#9aa4b2",
    "line": "#343b46",
    "shade": "#1c2027",
    "blue": "#7fb5f5",
    "orange": "#f79a5b",
    "green": "#5cc79a",
    "grey": "#8d97a6",
}

# Loss, nothing, gain.
_DIVERGING_LIGHT = ("#4d1f78", "#a583c4", "#f1f0ed", "#7fbd8f", "#0b6137")
_DIVERGING_DARK = ("#b48be0", "#6d4c8c", "#272c34", "#347a51", "#6fdc95")

# Little to much.
_SEQUENTIAL_LIGHT = ("#f1f0ed", "#9dbde0", "#3f7fc4", "#0c3a75")
_SEQUENTIAL_DARK = ("#272c34", "#2b517f", "#5590d6", "#cfe4fd")

LEVELS = 50
"""Steps of the diverging scale on either side of 0, and of the sequential scale, in the page; figures have the same
colours."""

RC: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "sans-serif",
    "font.sans-serif": [fonts.HOUSE],
    "font.size": 8.5,
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.prop_cycle": cycler(color=[LIGHT[name] for name in ("blue", "orange", "green", "grey")]),
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "report",
}


def diverging(dark: bool = False) -> LinearSegmentedColormap:
    """The colours from loss (0.0) over nothing (0.5) to gain (1.0)."""
    return LinearSegmentedColormap.from_list("loss-gain", _DIVERGING_DARK if dark else _DIVERGING_LIGHT, N=1001)


def sequential(dark: bool = False) -> LinearSegmentedColormap:
    """The colours from little (0.0) to much (1.0)."""
    return LinearSegmentedColormap.from_list("amount", _SEQUENTIAL_DARK if dark else _SEQUENTIAL_LIGHT, N=1001)


def css_variables(dark: bool = False) -> str:
    """The palette as CSS custom properties, the diverging scale as ``--q-50`` to ``--q50``, the sequential as ``--s0``
    to ``--s50``.
    """
    scale, amounts = diverging(dark), sequential(dark)
    colours = {**(DARK if dark else LIGHT)}
    for level in range(-LEVELS, LEVELS + 1):
        colours[f"q{level}"] = to_hex(scale(0.5 + level / LEVELS / 2))
    for level in range(LEVELS + 1):
        colours[f"s{level}"] = to_hex(amounts(level / LEVELS))
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


def draw_files(draw: Callable[[], MatplotlibFigure], trim: bool = True) -> tuple[bytes, bytes]:
    """The picture as PNG and as SVG in the house's type and colours; the same picture gives the same bytes.

    Letters of the SVG are outlines, so that no font is needed. `trim` fits the picture to what is on it, which takes
    twice as long; a picture that knows its margins needs none.
    """
    figure = _drawn(draw)
    return _saved(figure, "png", trim), _saved(figure, "svg", trim)


def draw_svg_addresses(draw: Callable[[], MatplotlibFigure]) -> tuple[str, str]:
    """The picture as two data addresses, for a light and a dark page."""
    light = _saved(_drawn(draw), "svg", trim=True, transparent=True)
    to_dark = {LIGHT[name].encode(): DARK[name].encode() for name in LIGHT}
    dark = re.sub(b"|".join(to_dark), lambda match: to_dark[match.group()], light)
    return data_address("image/svg+xml", light), data_address("image/svg+xml", dark)


def _drawn(draw: Callable[[], MatplotlibFigure]) -> MatplotlibFigure:
    """The figure with fonts for every script on it."""
    with matplotlib.rc_context(RC):
        figure = draw()
    families = fonts.families_for(fonts.texts_of(figure))
    if len(families) > 1:
        with matplotlib.rc_context({**RC, "font.family": families}):
            figure = draw()
    fonts.make_readable(figure, families)
    return figure


def _saved(figure: MatplotlibFigure, kind: str, trim: bool, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"transparent": True} if transparent else {"facecolor": LIGHT["paper"]}
    options["metadata"] = {"Software": None} if kind == "png" else {"Date": None}
    with matplotlib.rc_context(RC):
        box = "tight" if trim else None
        figure.savefig(buffer, format=kind, dpi=150 if kind == "png" else 300, bbox_inches=box, **options)
    return buffer.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """The content as an address that needs no file; `kind` is its media type, such as ``"text/csv"``."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
