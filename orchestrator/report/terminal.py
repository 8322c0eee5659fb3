"""A report's tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.report.blocks import Table
from orchestrator.report.cells import cell_text, numeric_columns


def print_table(table: Table, console: Console) -> None:
    """Prints title, rows, footer and note; where the terminal is too narrow, without some of the table's spare columns.

    Cells are shown as they are: brackets in them are not markup. Words of a column's name stand below each other and
    numbers are never broken.
    """
    unbounded = console.options.update(max_width=10_000)
    left_out: list[str] = []
    grid = _grid(table, left_out)
    for name in table.spare:
        if console.measure(grid, options=unbounded).maximum <= console.width:
            break
        left_out.append(name)
        grid = _grid(table, left_out)
    console.print(grid)
    for line in (table.note, f"Not shown for want of width: {', '.join(left_out)}." if left_out else ""):
        if line:
            console.print(Text(line, style="dim"))


def _grid(table: Table, left_out: Sequence[str]) -> RichTable:
    """The table without these columns."""
    grid = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        show_footer=bool(table.footer),
    )
    keep = [index for index, name in enumerate(table.columns) if name not in left_out]
    numeric = numeric_columns(table)
    for index in keep:
        head = Text(table.columns[index].replace(" ", "\n"))
        foot = _text(table, table.footer, index) if table.footer else ""
        grid.add_column(head, foot, justify="right" if numeric[index] else "left", no_wrap=numeric[index])
    for row in table.rows:
        grid.add_row(*(_text(table, row, index) for index in keep))
    return grid


def _text(table: Table, row: Sequence[Any], index: int) -> Text:
    return Text(cell_text(row[index], table.digits, table.columns[index] in table.signed))
