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

LEVELS = 50
"""Steps of the diverging scale on either side of 0 in the page; the PNG has the same colours."""

RC: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
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


def css_variables(dark: bool = False) -> str:
    """The palette as CSS custom properties, with the steps of the diverging scale as ``--q-50`` to ``--q50``."""
    scale = diverging(dark)
    colours = {**(DARK if dark else LIGHT)}
    for level in range(-LEVELS, LEVELS + 1):
        colours[f"q{level}"] = to_hex(scale(0.5 + level / LEVELS / 2))
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


def draw_png(draw: Callable[[], MatplotlibFigure], trim: bool = True) -> bytes:
    """Draws in the house's type and colours; the same picture gives the same bytes.

    `trim` fits the picture to what is on it, which takes twice as long; a picture that knows its margins needs none.
    """
    with matplotlib.rc_context(RC):
        buffer = io.BytesIO()
        box = "tight" if trim else None
        draw().savefig(buffer, format="png", facecolor=LIGHT["paper"], bbox_inches=box, metadata={"Software": None})
    return buffer.getvalue()


def draw_svg_addresses(draw: Callable[[], MatplotlibFigure]) -> tuple[str, str]:
    """The picture as two data addresses, for a light and a dark page; letters are outlines, so no font is needed."""
    with matplotlib.rc_context(RC):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    light = buffer.getvalue()
    to_dark = {LIGHT[name]: DARK[name] for name in LIGHT}
    dark = re.sub("|".join(to_dark), lambda match: to_dark[match.group()], light)
    return _svg_address(light), _svg_address(dark)


def _svg_address(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
