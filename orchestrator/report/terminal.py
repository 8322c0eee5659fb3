"""A report's tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.report.blocks import Interval, Table
from orchestrator.report.cells import cell_text, numeric_columns


def print_table(table: Table, console: Console) -> None:
    """Prints title, rows, footer and note.

    Where the terminal is too narrow some of the table's spare columns are left out; where that is not enough the
    intervals are, and then columns again. Cells are shown as they are: brackets in them are not markup. Words of a
    column's name stand below each other and numbers are never broken.
    """
    unbounded = console.options.update(max_width=10_000)
    ways = list(_narrower(table))
    fitting = (way for way in ways if console.measure(_grid(way[0]), options=unbounded).maximum <= console.width)
    shown, cut = next(fitting, ways[-1])
    console.print(_grid(shown))
    for line in (table.note, cut):
        if line:
            console.print(Text(line, style="dim"))


def _narrower(table: Table) -> Iterator[tuple[Table, str]]:
    """The table, then narrower ones, each with a sentence that says what it leaves out."""
    for plain in (False, True):
        rows = [[cell.value if plain and isinstance(cell, Interval) else cell for cell in row] for row in table.rows]
        for count in range(len(table.spare) + 1):
            left_out = table.spare[:count]
            what = [*left_out, *(["the brackets"] if plain else [])]
            cut = f"Not shown for want of width: {', '.join(what)}." if what else ""
            keep = [index for index, name in enumerate(table.columns) if name not in left_out]
            narrower = replace(
                table,
                columns=[table.columns[index] for index in keep],
                rows=[[row[index] for index in keep] for row in rows],
                footer=[table.footer[index] for index in keep] if table.footer else (),
            )
            yield narrower, cut


def _grid(table: Table) -> RichTable:
    grid = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_footer=bool(table.footer),
    )
    numeric = numeric_columns(table)
    for index, name in enumerate(table.columns):
        head = Text(name.replace(" ", "\n"))
        foot = _text(table, table.footer, index) if table.footer else ""
        grid.add_column(head, foot, justify="right" if numeric[index] else "left", no_wrap=numeric[index])
    for row in table.rows:
        grid.add_row(*(_text(table, row, index) for index in range(len(table.columns))))
    return grid


def _text(table: Table, row: Sequence[Any], index: int) -> Text:
    return Text(cell_text(row[index], table.digits, table.columns[index] in table.signed))
