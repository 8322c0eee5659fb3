"""Tables in the terminal: everything said, nothing broken, markup taken as text."""

from __future__ import annotations

import io

from rich.console import Console

from methods.lrp2.outcome import SearchOutcome
from methods.lrp2.report import key_table
from orchestrator.report.blocks import Interval, Table
from orchestrator.report.terminal import print_table


def printed(table: Table, width: int) -> str:
    file = io.StringIO()
    print_table(table, Console(file=file, width=width))
    return file.getvalue()


def test_a_table_with_everything() -> None:
    table = Table(
        "Scores [bold]of[/bold] languages",
        ["Name", "Honest gain"],
        [["[red]German[/red]", Interval(1.0, 0.5, 1.5)], ["Greek", None]],
        note="Brackets are intervals.",
        signed=["Honest gain"],
        footer=["Mean", -1.0],
    )
    lines = [line.strip() for line in printed(table, 80).splitlines() if line.strip(" ─\n")]
    assert lines == [
        "Scores [bold]of[/bold] languages",
        "Honest",
        "Name                            gain",
        "[red]German[/red]  +1.0 [+0.5, +1.5]",
        "Greek                              –",
        "Mean                            −1.0",
        "Brackets are intervals.",
    ]


def test_a_narrow_terminal_loses_spare_columns_and_is_told_which(outcome: SearchOutcome) -> None:
    table = key_table(outcome)
    wide, narrow = printed(table, 160), printed(table, 80)
    assert "Not shown" not in wide
    assert "Not shown for want of width: Baseline trans, Oracle trans, Facts" in " ".join(narrow.split())
    assert "…" not in wide + narrow
    for text in ("German (de)", "Oracle", "Honest", outcome.languages[0].verdict.split()[0]):
        assert text in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_where_that_is_not_enough_the_brackets_go_first_and_columns_again() -> None:
    table = Table(
        "Editors", ["Editor", "Acc", "Con"], [["MEND", Interval(1.0, 0.0, 2.0), Interval(3.0, 2.0, 4.0)]], spare=["Con"]
    )
    assert "MEND    1.0 [0.0, 2.0]  3.0 [2.0, 4.0]" in printed(table, 40)
    narrow, narrower = (" ".join(printed(table, width).split()) for width in (24, 20))
    assert "MEND 1.0 [0.0, 2.0] Not shown for want of width: Con." in narrow
    assert "MEND 1.0 3.0 Not shown for want of width: the brackets." in narrower
