"""Writes a report: one self-contained HTML page and its pictures as PNG.

The page needs no server and makes no request: style, script and pictures are inside, and its content security policy
allows exactly this style and this script (by hash). Everything that a study says is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure as MatplotlibFigure

from orchestrator.data.atomic import write_atomically
from orchestrator.report import dotplot, heatmap, theme
from orchestrator.report.blocks import DotPlot, Figure, HeatMaps, Section, Table
from orchestrator.report.cells import cell_parts, numeric_columns, sort_number


@dataclass(frozen=True)
class ReportFiles:
    """What was written: the page, and one PNG per picture in the order of the page."""

    html: Path
    figures: list[Path]


def render_report(
    folder: Path,
    *,
    title: str,
    headline: str,
    sections: Sequence[Section],
    provenance: Mapping[str, str],
    commands: Sequence[str],
) -> ReportFiles:
    """Writes ``folder/report.html`` and ``folder/figures/<name>.png``, each atomically.

    Args:
        title: what was run, e.g. the sweep's name.
        headline: one or two sentences saying what was found.
        provenance: how it was run, e.g. model, data, versions, in the order to be shown.
        commands: what to type to run it again, one command per line.

    Raises:
        ValueError: two pictures have the same name.
        UserError: the disk is full, or the folder may not be written to.
    """
    pictures = [block for section in sections for block in section.blocks if not isinstance(block, Table)]
    names = [picture.name for picture in pictures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"every picture of a report needs its own name, but these occur twice: {', '.join(twice)}")
    figures = []
    for picture in pictures:
        path = folder / "figures" / f"{picture.name}.png"
        _write(path, theme.draw_png(partial(_draw, picture), trim=not isinstance(picture, HeatMaps)))
        figures.append(path)
    page = _page(title=title, headline=headline, sections=sections, provenance=provenance, commands=commands)
    html = folder / "report.html"
    _write(html, page.encode(errors="replace"))
    return ReportFiles(html, figures)


def _draw(picture: DotPlot | HeatMaps | Figure) -> MatplotlibFigure:
    match picture:
        case DotPlot():
            return dotplot.draw_dotplot(picture)
        case HeatMaps():
            return heatmap.draw_heatmaps(picture)
        case Figure():
            return picture.draw()


def _page(**content: Any) -> str:
    """The whole page as text."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    css = environment.get_template("report.css.j2").render(
        light=Markup(theme.css_variables()),
        dark=Markup(theme.css_variables(dark=True)),
        levels=range(-theme.LEVELS, theme.LEVELS + 1),
        row_height=dotplot.ROW_HEIGHT,
    )
    js = environment.get_template("report.js.j2").render()
    return environment.get_template("report.html.j2").render(
        content,
        css=Markup(css),
        js=Markup(js),
        hash=_csp_hash,
        kind=lambda block: type(block).__name__,
        paragraphs=lambda text: [part.strip() for part in text.split("\n\n") if part.strip()],
        cell_parts=cell_parts,
        numeric_columns=numeric_columns,
        sort_number=sort_number,
        mark=dotplot.mark_svg,
        dotplot_html=dotplot.dotplot_html,
        scale_html=heatmap.scale_html,
        panel_svg=heatmap.panel_svg,
        limit_of=heatmap.limit_of,
        columns_of=heatmap.columns_of,
        many_columns=heatmap.MANY,
        draw_svg_addresses=theme.draw_svg_addresses,
    )


def _csp_hash(text: str) -> str:
    """The source expression by which a content security policy allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(path: Path, content: bytes) -> None:
    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)
