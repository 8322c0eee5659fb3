"""What a layer search shows: the right numbers in the right place, oracle and honest never confused."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from methods.lrp2.outcome import SearchOutcome
from methods.lrp2.report import headline, key_table, report_sections
from orchestrator.report.blocks import DotPlot, HeatMaps, Interval, Table


def blocks(outcome: SearchOutcome) -> dict[str, DotPlot | HeatMaps | Table]:
    found = [block for section in report_sections(outcome) for block in section.blocks]
    return {block.title if isinstance(block, Table) else block.name: block for block in found}


def test_the_order_of_the_report(outcome: SearchOutcome) -> None:
    assert [section.title for section in report_sections(outcome)] == [
        "What it found",
        "Is the gain real?",
        "Which layers?",
        "How far apart may the layers be?",
        "How wide is the gap?",
        "Do languages rank alike?",
        "What was decided on the way",
    ]


def test_a_row_of_the_key_table(outcome: SearchOutcome) -> None:
    table, german = key_table(outcome), outcome.languages[0]
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row == {
        "Language": "German (de)",
        "Facts": german.facts,
        "Baseline acc": german.baseline_acc,
        "Oracle pair": f"{german.oracle.lirp}/{german.oracle.lsrp}",
        "Oracle acc": german.oracle.acc,
        "Oracle gain": german.oracle.acc - german.baseline_acc,
        "Honest acc": Interval(german.honest.acc, german.honest.acc_low, german.honest.acc_high),
        "Honest gain": Interval(german.honest.gain, german.honest.gain_low, german.honest.gain_high),
        "Baseline trans": german.baseline_trans,
        "Oracle trans": german.oracle.trans,
        "Verdict": german.verdict,
    }


def test_the_pivot_stands_on_top_and_out_of_the_mean(outcome: SearchOutcome) -> None:
    pivot = replace(outcome.languages[0], language="en", baseline_acc=100.0)
    for one in (outcome, replace(outcome, languages=(pivot, *outcome.languages))):
        table = key_table(one)
        assert table.rows[0][:3] == ["English (en)", None, one.pivot_acc]
        assert [row[0] for row in table.rows].count("English (en)") == 1
        mean = dict(zip(table.columns, table.footer, strict=True))
        assert mean["Language"] == "Mean of 4"
        assert mean["Baseline acc"] == pytest.approx(fmean(one.baseline_acc for one in outcome.languages))
        assert mean["Honest gain"] == pytest.approx(fmean(one.honest.gain for one in outcome.languages))
        assert mean["Facts"] == mean["Oracle pair"] == mean["Verdict"] == ""


def test_oracle_and_honest_differ_in_shape_and_colour_and_are_the_same_in_every_picture(outcome: SearchOutcome) -> None:
    for name in ("gain", "pairs"):
        block = blocks(outcome)[name]
        assert isinstance(block, DotPlot | HeatMaps)
        oracle, honest = block.series
        assert oracle.label.lower().startswith("oracle")
        assert (oracle.shape, oracle.colour) == ("ring", "orange")
        assert honest.label.lower().startswith("honest")
        assert (honest.shape, honest.colour) == ("dot", "blue")
    gain = blocks(outcome)["gain"]
    assert isinstance(gain, DotPlot)
    assert not gain.joined, "each has its own height in the row"


def test_the_gain_plot_is_ordered_by_honest_gain(outcome: SearchOutcome) -> None:
    gain = blocks(outcome)["gain"]
    assert isinstance(gain, DotPlot)
    honest = [values[1] for _, values in gain.rows]
    assert all(isinstance(value, Interval) for value in honest)
    values = [value.value for value in honest if isinstance(value, Interval)]
    assert values == sorted((one.honest.gain for one in outcome.languages), reverse=True)


def test_a_heat_map_shows_every_pair_and_both_choices(outcome: SearchOutcome) -> None:
    maps = blocks(outcome)["pairs"]
    assert isinstance(maps, HeatMaps)
    assert [panel.label for panel in maps.panels] == ["Arabic (ar)", "Chinese (zh)", "Finnish (fi)", "German (de)"]
    arabic = next(one for one in outcome.languages if one.language == "ar")
    panel = maps.panels[0]
    assert {(cell.row, cell.column): cell.value for cell in panel.cells} == {
        (score.lirp, score.lsrp): score.acc - arabic.baseline_acc for score in arabic.grid
    }
    best = (arabic.oracle.lirp, arabic.oracle.lsrp)
    assert panel.marks == [[best], list(arabic.honest.pairs)]
    hover = next(cell.hover for cell in panel.cells if (cell.row, cell.column) == best)
    assert hover.startswith(f"{best[0]}/{best[1]}: +")
    assert hover.endswith(f"trans {arabic.oracle.trans:.1f}, chosen in 3 of 5 folds")


def test_the_gap_is_told_on_the_same_facts(outcome: SearchOutcome) -> None:
    gap, table = blocks(outcome)["gap"], blocks(outcome)["The gap in numbers"]
    assert isinstance(gap, DotPlot)
    assert isinstance(table, Table)
    assert {tuple(values) for _, values in gap.rows} == {
        (one.baseline_acc, one.english_acc) for one in outcome.languages
    }
    widths = [row[table.columns.index("Gap")] for row in table.rows]
    assert widths == sorted((one.english_acc - one.baseline_acc for one in outcome.languages), reverse=True)


def test_decisions_notes_and_skipped_languages_are_listed(outcome: SearchOutcome) -> None:
    listed = blocks(outcome)
    assert [list(row) for row in listed["Decisions"].rows] == [list(item) for item in outcome.decisions.items()]
    assert listed["Notes"].rows == [[note] for note in outcome.notes]
    assert listed["Skipped languages"].rows == [["Swahili (sw)", "no facts in the selected relations"]]
    assert "Notes" not in blocks(replace(outcome, notes=(), skipped=()))


def test_the_headline_counts_what_is_certain_and_names_both_means(outcome: SearchOutcome) -> None:
    languages = []
    for one, verdict in zip(outcome.languages, ("real gain", "hint of a gain", "real gain", "real loss"), strict=True):
        honest = replace(one.honest, gain=2.0)
        oracle = replace(one.oracle, acc=one.baseline_acc + 3)
        languages.append(replace(one, honest=honest, oracle=oracle, verdict=verdict))
    text = headline(replace(outcome, languages=tuple(languages)))
    assert "helps 2 of 4 languages beyond chance, harms 1, and" in text
    assert "+2.0" in text
    assert "+3.0" in text


def test_a_search_of_the_pivot_alone_has_no_pictures(outcome: SearchOutcome) -> None:
    alone = replace(outcome, languages=())
    assert len(report_sections(alone)) == 2
    assert headline(alone) == "The model answers 88.4% of the facts in English; no other language was searched."
    assert list(key_table(alone).footer) == []
