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

from orchestrator.data.atomic import explained, write_atomically
from orchestrator.report import dotplot, exports, heatmap, lineplot, scales, theme
from orchestrator.report.blocks import DotPlot, Figure, HeatMaps, LinePlot, Section, Table
from orchestrator.report.cells import cell_parts, numeric_columns, sort_number
from orchestrator.report.languages import is_language_label

Picture = DotPlot | LinePlot | HeatMaps | Figure

WRITTEN = ".report-files"
"""Beside the page: the tables and pictures of the report, one path a line. Only what stands in it is ever removed."""


@dataclass(frozen=True)
class ReportFiles:
    """What was written: the page, one PNG per picture and one CSV per table in the order of the page.

    Beside each PNG lies the same picture as SVG, beside each CSV the same table as LaTeX.
    """

    html: Path
    figures: list[Path]
    tables: list[Path]


def render_report(
    folder: Path,
    *,
    title: str,
    headline: str,
    sections: Sequence[Section],
    provenance: Mapping[str, str],
    commands: Sequence[str],
) -> ReportFiles:
    """Writes ``report.html``, ``figures/<name>.png`` and ``.svg``, ``tables/<title>.csv`` and ``.tex``, all atomically.

    Tables and pictures of an earlier report in this folder that this one does not have are removed; other files stay.

    Args:
        title: what was run, e.g. the sweep's name.
        headline: one or two sentences saying what was found.
        provenance: how it was run, e.g. model, data, versions, in the order to be shown.
        commands: what to type to run it again, one command per line.

    Raises:
        ValueError: two pictures have the same name.
        UserError: the disk is full, or the folder may not be written to.
    """
    blocks = [block for section in sections for block in section.blocks]
    pictures = [block for block in blocks if not isinstance(block, Table)]
    names = [picture.name for picture in pictures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"every picture of a report needs its own name, but these occur twice: {', '.join(twice)}")
    stems = iter(exports.file_stems([block for block in blocks if isinstance(block, Table)]))
    files = [
        _table_files(block, next(stems)) if isinstance(block, Table) else _picture_files(block) for block in blocks
    ]
    page = _page(
        title=title,
        headline=headline,
        sections=sections,
        provenance=provenance,
        commands=commands,
        files={id(block): own for block, own in zip(blocks, files, strict=True)},
    )
    places = ["tables" if isinstance(block, Table) else "figures" for block in blocks]
    current = {f"{place}/{file.name}" for place, own in zip(places, files, strict=True) for file in own}
    earlier = _listed(folder)
    if not current <= earlier:  # before they are written: what a run that is killed leaves is known too
        _list(folder, earlier | current)
    written: dict[str, list[Path]] = {"figures": [], "tables": []}
    for place, own in zip(places, files, strict=True):
        for file in own:
            _write(folder / place / file.name, file.content)
        written[place].append(folder / place / own[0].name)
    html = folder / "report.html"
    _write(html, page.encode(errors="replace"))
    for path in (folder / name for name in earlier - current):
        if path.is_file():
            with explained(path):
                path.unlink()
    if not earlier <= current:
        _list(folder, current)
    return ReportFiles(html, **written)


def _listed(folder: Path) -> set[str]:
    """The tables and pictures that earlier reports wrote into a folder."""
    try:
        lines = (folder / WRITTEN).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    return {line for line in lines if len(Path(line).parts) == 2 and Path(line).parts[0] in ("figures", "tables")}


def _list(folder: Path, names: set[str]) -> None:
    _write(folder / WRITTEN, "".join(f"{name}\n" for name in sorted(names)).encode())


@dataclass(frozen=True)
class _File:
    """A table or picture as a file of its own, which the page holds as well: it stays whole when it is moved."""

    name: str
    kind: str
    media: str
    content: bytes

    @property
    def address(self) -> str:
        return theme.data_address(self.media, self.content)


def _table_files(table: Table, stem: str) -> list[_File]:
    texts = exports.table_csv(table), exports.table_latex(table)
    csv, latex = (text.encode(errors="replace") for text in texts)
    return [_File(f"{stem}.csv", "CSV", "text/csv", csv), _File(f"{stem}.tex", "LaTeX", "text/x-tex", latex)]


def _picture_files(picture: Picture) -> list[_File]:
    trim = not isinstance(picture, HeatMaps) or bool(picture.row_labels)
    png, svg = theme.draw_files(partial(_draw, picture), trim)
    name = picture.name
    return [_File(f"{name}.png", "PNG", "image/png", png), _File(f"{name}.svg", "SVG", "image/svg+xml", svg)]


def _draw(picture: Picture) -> MatplotlibFigure:
    match picture:
        case DotPlot():
            return dotplot.draw_dotplot(picture)
        case LinePlot():
            return lineplot.draw_lineplot(picture)
        case HeatMaps():
            return heatmap.draw_heatmaps(picture)
        case Figure():
            return picture.draw()


def _page(**content: Any) -> str:
    """The whole page as text."""
    languages = _languages(content["sections"])
    environment = Environment(
        loader=PackageLoader("orchestrator.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    css = environment.get_template("report.css.j2").render(
        light=Markup(theme.css_variables()),
        dark=Markup(theme.css_variables(dark=True)),
        steps=[*scales.Diverging(1.0).steps(), *scales.Sequential(0.0, 1.0).steps()],
        row_height=dotplot.ROW_HEIGHT,
    )
    js = environment.get_template("report.js.j2").render()
    return environment.get_template("report.html.j2").render(
        content,
        css=Markup(css),
        js=Markup(js),
        hash=_csp_hash,
        files_of=lambda block: content["files"][id(block)],
        languages=languages,
        languages_of=partial(_tag, languages),
        kind=lambda block: type(block).__name__,
        paragraphs=lambda text: [part.strip() for part in text.split("\n\n") if part.strip()],
        cell_parts=cell_parts,
        numeric_columns=numeric_columns,
        sort_number=sort_number,
        mark=dotplot.mark_svg,
        dotplot_html=dotplot.dotplot_html,
        lineplot_html=lineplot.lineplot_html,
        line_key=lineplot.line_key,
        scale_html=heatmap.scale_html,
        panel_svg=heatmap.panel_svg,
        scale_of=scales.scale_of,
        columns_of=heatmap.columns_of,
        many_columns=heatmap.MANY,
        draw_svg_addresses=theme.draw_svg_addresses,
    )


def _languages(sections: Sequence[Section]) -> set[str]:
    """What the report calls its languages: every label of a known language, and whatever a column "Language" holds."""
    labels: set[str] = set()
    for block in (block for section in sections for block in section.blocks):
        match block:
            case Table():
                for row in block.rows:
                    labels |= {str(cell) for name, cell in zip(block.columns, row, strict=True) if name == "Language"}
                    labels |= {cell for cell in row if isinstance(cell, str) and is_language_label(cell)}
            case DotPlot():
                labels |= {label for label, _ in block.rows if is_language_label(label)}
            case LinePlot():
                labels |= {line.label for line in block.lines if is_language_label(line.label)}
            case HeatMaps():
                names = [*block.row_labels, *(panel.label for panel in block.panels)]
                labels |= {name for name in names if is_language_label(name)}
    return labels


def _tag(languages: set[str], texts: Sequence[Any]) -> Markup:
    """The attribute by which the page's filter finds an element that is about languages; "" if it is about none."""
    named = [text for text in texts if isinstance(text, str) and text in languages]
    return Markup(' data-languages="{}"').format("\n".join(named)) if named else Markup("")


def _csp_hash(text: str) -> str:
    """The source expression by which a content security policy allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(path: Path, content: bytes) -> None:
    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)
