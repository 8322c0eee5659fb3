"""Tables for other programs: CSV that reads back exactly, LaTeX in which everything is escaped."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path

import pytest

from orchestrator.report.blocks import Interval, Section, Table
from orchestrator.report.exports import file_stems, table_csv, table_latex
from orchestrator.report.render import render_report
from tests.report.gallery import TABLE, gallery
from tests.report.page import parse


def test_csv_reads_back_with_intervals_as_three_columns_and_full_precision() -> None:
    table = Table("T", ["Language", "Acc"], [['a,"b"', Interval(1 / 3, 0.1, 0.5)], ["c", None], ["d", 2]])
    assert list(csv.reader(io.StringIO(table_csv(table)))) == [
        ["Language", "Acc", "Acc low", "Acc high"],
        ['a,"b"', str(1 / 3), "0.1", "0.5"],
        ["c", "", "", ""],
        ["d", "2", "", ""],
    ]
    rows = list(csv.reader(io.StringIO(table_csv(TABLE))))
    assert rows[-1] == ["Mean", "-0.375", "", "", ""]
    assert rows[3][-1] == 'العربية, "x"'


def test_latex_is_a_booktabs_float_with_everything_escaped() -> None:
    assert table_latex(TABLE).splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{Gain \& loss (\%)}",
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"Language & Gain & Note \\",
        r"\midrule",
        r"German (de) & +1.2 {\scriptsize [$-$0.5, +3.0]} & 50\% of \{a\_b\} \\",
        r"Arabic (ar) & $-$2.0 & {}[?] \\",
        r'Egyptian Arabic (arz) & -- & العربية, "x" \\',
        r"\midrule",
        r"Mean & $-$0.4 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\smallskip{\footnotesize Points \& so on.\par}",
        r"\end{table}",
    ]


@pytest.mark.parametrize("text", ["\\input{/etc/passwd}", "a & b \\\\ c", "x_1^2 ~ 3", "#$%{}", "<a|b>", "two\nlines"])
def test_no_text_escapes_from_its_cell(text: str) -> None:
    latex = table_latex(Table("T", ["Note"], [[text]]))
    row = latex.split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    assert row.count("\n") == 0
    assert row.endswith(r" \\")
    bare = re.sub(r"\\(?:text[a-z]+\{\}|[&%$#_{}])", "", row.removesuffix(r"\\"))
    assert not set(bare) & set("\\&%$#_{}~^")


def test_long_texts_break_their_lines() -> None:
    assert r"\begin{tabular}{lp{0.5\linewidth}}" in table_latex(Table("T", ["a", "b"], [["x", "word " * 20]]))


def test_every_table_has_its_own_file_name() -> None:
    titles = ["Gain", "Gain", "gain!", "Gain 2", "表", "", "../../etc"]
    stems = file_stems([Table(title, [], []) for title in titles])
    assert stems == ["gain", "gain-2", "gain-3", "gain-2-2", "table", "table-2", "etc"]


def test_files_lie_beside_the_page_and_in_it(tmp_path: Path) -> None:
    report = render_report(tmp_path, title="t", headline="h", sections=gallery(), provenance={}, commands=[])
    assert report.tables == [tmp_path / "tables" / "gain-loss.csv"]
    names = {"dots", "lines", "matrix"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{n}.{k}" for n in names for k in ("png", "svg")
    }
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"gain-loss.csv", "gain-loss.tex"}
    links = [link for div in parse(report.html.read_text()).all("div", "files") for link in div.all("a")]
    assert [link.text for link in links] == ["CSV", "LaTeX", *["PNG", "SVG"] * 3]
    for link in links:
        name = link.attributes["download"]
        folder = "tables" if link.text in ("CSV", "LaTeX") else "figures"
        content = base64.b64decode(link.attributes["href"].split(";base64,")[1])
        assert content == (tmp_path / folder / name).read_bytes()


def test_a_table_without_rows_is_written_nonetheless(tmp_path: Path) -> None:
    sections = [Section("S", blocks=[Table("Empty", ["a", "b"], [])])]
    report = render_report(tmp_path, title="t", headline="h", sections=sections, provenance={}, commands=[])
    assert report.tables[0].read_text() == "a,b\n"
