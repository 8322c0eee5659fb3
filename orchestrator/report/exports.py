"""A report's tables as files for other programs: CSV with full precision, LaTeX as it is shown."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.report.blocks import Interval, Table
from orchestrator.report.cells import EN_DASH, MINUS, cell_parts, numeric_columns

LONG = 40
"""From more letters than this on a LaTeX column breaks its lines."""

_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    EN_DASH: "--",
    MINUS: "$-$",
    "\n": " ",
}


def file_stems(tables: Sequence[Table]) -> list[str]:
    """For each table its own file name, made of its title.

    >>> file_stems([Table("Gain per layer (%)", [], []), Table("Gain per layer", [], []), Table("表", [], [])])
    ['gain-per-layer', 'gain-per-layer-2', 'table']
    """
    stems: list[str] = []
    for table in tables:
        plain = unicodedata.normalize("NFKD", table.title).encode("ascii", "ignore").decode().lower()
        first = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-") or "table"
        numbered = (f"{first}-{number}" for number in range(2, len(tables) + 2))
        stems.append(first if first not in stems else next(stem for stem in numbered if stem not in stems))
    return stems


def table_csv(table: Table) -> str:
    """The table as CSV in UTF-8 with a header, the footer as last row, and unrounded numbers.

    A column with intervals becomes three: the number, then its "low" and "high" end.
    """
    rows = [*table.rows, *([table.footer] if table.footer else [])]
    wide = [any(isinstance(row[index], Interval) for row in rows) for index in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header: list[str] = []
    for name, has_interval in zip(table.columns, wide, strict=True):
        header += [name, f"{name} low", f"{name} high"] if has_interval else [name]
    writer.writerow(header)
    for row in rows:
        cells = [list(_csv_cells(value, three)) for value, three in zip(row, wide, strict=True)]
        writer.writerow([cell for several in cells for cell in several])
    return file.getvalue()


def _csv_cells(value: Any, three: bool) -> Iterator[Any]:
    if isinstance(value, Interval):
        yield from (value.value, value.low, value.high)
    else:
        yield "" if value is None else value
        if three:
            yield from ("", "")


def table_latex(table: Table) -> str:
    """The table as a LaTeX float for the package booktabs, numbers rounded as in the page, the note below it."""
    numeric = numeric_columns(table)
    columns = "".join(_column(table, index, numeric[index]) for index in range(len(table.columns)))
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex_text(table.title)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        _line(list(map(latex_text, table.columns))),
        "\\midrule",
        *(_line(_cells(table, row)) for row in table.rows),
    ]
    if table.footer:
        lines += ["\\midrule", _line(_cells(table, table.footer))]
    lines += ["\\bottomrule", "\\end{tabular}"]
    if table.note:
        lines += ["", f"\\smallskip{{\\footnotesize {latex_text(table.note)}\\par}}"]
    return "\n".join([*lines, "\\end{table}", ""])


def latex_text(text: str) -> str:
    r"""Text that LaTeX sets as it is written here.

    >>> print(latex_text("50% of {a_b} \\ −1"))
    50\% of \{a\_b\} \textbackslash{} $-$1
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _cells(table: Table, row: Sequence[Any]) -> list[str]:
    cells = []
    for name, value in zip(table.columns, row, strict=True):
        text, interval = cell_parts(value, table.digits, name in table.signed)
        cells.append(latex_text(text) + (f" {{\\scriptsize {latex_text(interval)}}}" if interval else ""))
    return cells


def _line(cells: Sequence[str]) -> str:
    """A row. After the \\ of the row before, a cell that opens with a bracket would be taken for an option."""
    return " & ".join("{}" + cell if cell.startswith(("[", "*")) else cell for cell in cells) + r" \\"


def _column(table: Table, index: int, numeric: bool) -> str:
    if numeric:
        return "r"
    longest = max((len(str(row[index])) for row in table.rows), default=0)
    return "p{0.5\\linewidth}" if longest > LONG else "l"
