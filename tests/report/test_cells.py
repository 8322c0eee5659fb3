"""How numbers, intervals and gaps are written, and how languages are named."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report import cells, exports, languages, scales
from orchestrator.report.blocks import Interval, Table
from orchestrator.report.cells import cell_text, number_text, numeric_columns, sort_number


@pytest.mark.parametrize("module", [cells, exports, languages, scales])
def test_the_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@given(st.floats(-1e9, 1e9), st.integers(0, 4), st.booleans())
def test_a_written_number_reads_back_as_itself_rounded(value: float, digits: int, signed: bool) -> None:
    text = number_text(value, digits, signed)
    assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(round(value, digits), abs=10**-digits / 1.9)
    assert text.lstrip("+−0.,") or text[0] not in "+−", "zero has no sign"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (33981, "33,981"),
        (3.14159, "+3.14"),
        (Interval(3.1, -1.25, 4.0), "+3.10 [−1.25, +4.00]"),
        ("4/10", "4/10"),
        (True, "yes"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell_text(value, digits=2, signed=isinstance(value, float | Interval)) == text


def test_a_column_is_numeric_if_all_that_is_there_are_numbers() -> None:
    rows = [[1, 2.0, "a", None, True], [None, Interval(1, 0, 2), "b", None, False]]
    assert numeric_columns(Table("", "abcde", rows)) == [True, True, False, False, False]


def test_intervals_sort_by_their_number_and_text_not_at_all() -> None:
    assert [sort_number(value) for value in (Interval(2.0, 1.0, 9.0), 3, "3", None, True, float("nan"))] == [
        2.0,
        3.0,
        None,
        None,
        None,
        None,
    ]
