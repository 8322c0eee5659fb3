"""How one value of a table is written and sorted, the same in the terminal and in the page."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.report.blocks import Interval, Table

EN_DASH = "–"
MINUS = "−"


def number_text(value: float, digits: int = 1, signed: bool = False) -> str:
    """A number with thousands separators, a true minus and, if `signed`, a plus; what rounds to zero has no sign.

    >>> number_text(-1234.56), number_text(2.0, signed=True), number_text(-0.01, signed=True)
    ('−1,234.6', '+2.0', '0.0')
    """
    if not math.isfinite(value):
        return EN_DASH
    digits = 0 if isinstance(value, int) else digits
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def cell_parts(value: Any, digits: int = 1, signed: bool = False) -> tuple[str, str]:
    """The cell's main text and its interval ("" where it has none).

    >>> cell_parts(Interval(45.21, 43.1, 47.04)), cell_parts(None)
    (('45.2', '[43.1, 47.0]'), ('–', ''))
    """
    if value is None:
        return EN_DASH, ""
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if isinstance(value, Interval):
        bounds = f"[{number_text(value.low, digits, signed)}, {number_text(value.high, digits, signed)}]"
        return number_text(value.value, digits, signed), bounds
    if isinstance(value, int | float):
        return number_text(value, digits, signed), ""
    return str(value), ""


def cell_text(value: Any, digits: int = 1, signed: bool = False) -> str:
    """The whole cell as one text, e.g. ``"+3.1 [+1.2, +4.9]"``."""
    return " ".join(part for part in cell_parts(value, digits, signed) if part)


def is_number(value: Any) -> bool:
    """Whether a cell holds a number, alone or with its interval."""
    return isinstance(value, int | float | Interval) and not isinstance(value, bool)


def sort_number(value: Any) -> float | None:
    """What a cell is sorted by if it is a number; None for text and for what is missing."""
    if not is_number(value):
        return None
    number = float(value.value if isinstance(value, Interval) else value)
    return number if math.isfinite(number) else None


def numeric_columns(table: Table) -> list[bool]:
    """For each column whether it holds numbers (and possibly gaps) only, so that it is aligned to the right."""
    columns = [[row[index] for row in table.rows if row[index] is not None] for index in range(len(table.columns))]
    return [bool(present) and all(is_number(value) for value in present) for present in columns]
