"""What a sweep of editors shows: the right numbers in the paper's layout, the paper's never taken for ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from methods.editing.outcome import (
    ALL,
    CurvePoint,
    EditorOutcome,
    MaskSummary,
    Method,
    MethodOutcome,
    PairScore,
    Run,
    harmonic,
    over_seeds,
    score,
)
from methods.editing.paper import TABLE_1, TABLE_2
from methods.editing.report import cross_gain, headline, report_sections
from orchestrator.report.blocks import Figure, HeatMaps, Interval, LinePlot, Table
from orchestrator.report.theme import draw_files

LANGUAGES = ("de", "en", "zh")


def run(
    seed: int, edits_in: Sequence[str], own: float, other: float, *, trained: bool = True, masks: bool = False
) -> Run:
    """A trial in which an edit is carried out with `own` percent in its language and `other` percent elsewhere."""
    scores = {
        (edit, update): PairScore(
            edits=10, acc=(own if edit == update else other) + seed, retains=20, con=80.0, con_all=60.0
        )
        for edit in edits_in
        for update in LANGUAGES
    }
    curve = tuple(CurvePoint(step, 1.0, 10.0 * step, 80.0, 10.0 * step + seed) for step in (1, 2, 3)) if trained else ()
    cosines = tuple(tuple(1.0 if a == b else 0.5 for b in LANGUAGES) for a in LANGUAGES)
    return Run(
        seed=seed,
        scores=scores,
        curve=curve,
        best_step=3,
        validation=40.0 + seed,
        steps=3,
        masks=MaskSummary(LANGUAGES, cosines, 4, (0.9, 0.8, 0.7)) if masks else None,
    )


def method(editor: str, training: str, edits_in: str, own: float, other: float, mask: str = "none") -> MethodOutcome:
    edited = LANGUAGES if edits_in == ALL else (edits_in,)
    runs = tuple(
        run(seed, edited, own, other, trained=training != "none", masks=mask == "lime")
        for seed in ((0,) if training == "none" else (0, 1, 2))
    )
    return MethodOutcome(Method(editor, training, edits_in, mask), runs, chosen=True)


@pytest.fixture
def outcome() -> EditorOutcome:
    return EditorOutcome(
        task="atlas-facts",
        model="atlas-bert",
        languages=LANGUAGES,
        reading="labels",
        paper_task=None,
        methods=(
            method("fine-tuning", "none", ALL, 60.0, 10.0),
            method("mend", "mono", "en", 90.0, 20.0),
            method("mend", "cross", "en", 85.0, 50.0),
            method("mend", "cross", ALL, 80.0, 55.0),
            method("mend", "cross", ALL, 82.0, 60.0, mask="lime"),
        ),
        decisions={"consistency": "at the label positions"},
        notes=("masks need languages",),
    )


def tables(outcome: EditorOutcome) -> dict[str, Table]:
    return {b.title: b for s in report_sections(outcome) for b in s.blocks if isinstance(b, Table)}


def pictures(outcome: EditorOutcome) -> dict[str, Figure | HeatMaps | LinePlot]:
    found = [b for s in report_sections(outcome) for b in s.blocks]
    return {b.name: b for b in found if isinstance(b, Figure | HeatMaps | LinePlot)}


def test_the_order_of_the_report(outcome: EditorOutcome) -> None:
    assert [section.title for section in report_sections(outcome)] == [
        "What it found",
        "Which languages does an edit reach?",
        "From which language to which?",
        "What did the masks learn?",
        "How did training go?",
        "What the paper reports",
        "What was decided on the way",
    ]


def test_scores_average_sentences_within_an_edit_language_and_languages_equally() -> None:
    one = Run(
        seed=0,
        scores={
            ("en", "en"): PairScore(30, 100.0, 10, 90.0, 50.0),
            ("en", "de"): PairScore(10, 20.0, 30, 70.0, 30.0),
            ("de", "en"): PairScore(1, 0.0, 1, 100.0, 100.0),
        },
        curve=(),
        best_step=0,
        validation=None,
        steps=0,
        masks=None,
    )
    english = score(one, "labels", ["en"])
    assert english is not None
    assert (english.acc, english.con, english.con_all) == (80.0, 75.0, 35.0)
    assert english.succ == pytest.approx(2 * 80 * 75 / 155)
    both = score(one, "all", ["en", "de"])
    assert both is not None
    assert both.acc == 40.0
    assert both.succ == pytest.approx(harmonic(40.0, 67.5))
    others = score(one, "labels", ["en"], where="others")
    assert others is not None
    assert others.acc == 20.0
    assert score(one, "labels", ["de"], where="own") is None


def test_success_without_any_success_is_zero() -> None:
    assert harmonic(0.0, 0.0) == 0.0
    assert harmonic(100.0, 0.0) == 0.0


def test_a_row_of_table_1_has_acc_where_the_edit_was_made_and_elsewhere(outcome: EditorOutcome) -> None:
    table = tables(outcome)["Edits in English, updates in all languages"]
    row = dict(zip(table.columns, table.rows[1], strict=True))
    found = over_seeds(outcome.methods[1], "labels", ["en"])
    assert found is not None
    assert row == {
        "Editor": "MEND",
        "Training": "en only",
        "Acc": Interval(found["acc"].mean, found["acc"].low, found["acc"].high),
        "Acc own": Interval(91.0, 90.0, 92.0),
        "Acc others": Interval(21.0, 20.0, 22.0),
        "Con": 80.0,
        "Con all": 60.0,
        "Succ": Interval(found["succ"].mean, found["succ"].low, found["succ"].high),
    }
    assert [row[1] for row in table.rows] == ["n/a", "en only", "edits en, updates all", "all", "all"]


def test_table_2_holds_what_edits_in_all_languages(outcome: EditorOutcome) -> None:
    table = tables(outcome)["Edits in all languages, updates in all languages"]
    assert [tuple(row[:2]) for row in table.rows] == [
        ("Fine-tuning", "n/a"),
        ("MEND", "all"),
        ("MEND with LiME", "all"),
    ]


def test_the_papers_numbers_stand_beside_ours_only_on_its_task_and_model(outcome: EditorOutcome) -> None:
    ours = tables(outcome)["Edits in English, updates in all languages"]
    assert not any("Paper" in column for column in ours.columns)
    same = tables(replace(outcome, paper_task="mlama"))
    first = same["Edits in English, updates in all languages"]
    assert first.rows[1][-3:] == [24.76, 61.09, 35.24]
    assert first.rows[3][-3:] == [99.58, 75.76, 86.05]
    assert first.rows[4][-3:] == [None, None, None], "the paper has no masks in Table 1"
    second = same["Edits in all languages, updates in all languages"]
    assert second.rows[2][-3:] == [96.12, 69.20, 80.47]


def test_the_papers_tables_are_always_listed_as_the_papers(outcome: EditorOutcome) -> None:
    section = next(s for s in report_sections(outcome) if s.title == "What the paper reports")
    assert "nothing here was measured" in section.text
    first, second = section.blocks
    assert isinstance(first, Table)
    assert isinstance(second, Table)
    assert list(first.rows[0]) == ["Fine-tuning", "n/a", 21.94, 55.69, 31.48, 47.53, 98.24, 64.06]
    assert list(second.rows[-1]) == ["MEND with LiME", "all", 96.12, 69.20, 80.47, 98.42, 98.02, 98.22]


@pytest.mark.parametrize("row", [*TABLE_1, *TABLE_2], ids=str)
def test_the_papers_succ_is_the_harmonic_mean_of_its_acc_and_con(row: object) -> None:
    for acc, con, succ in row.scores.values():  # type: ignore[attr-defined]
        assert succ == pytest.approx(harmonic(acc, con), abs=0.025)


def test_the_headline_names_the_best_editor_and_the_gain_seed_by_seed(outcome: EditorOutcome) -> None:
    text = headline(outcome)
    assert text.startswith("MEND (all, LiME) carries edits in English best")
    assert "+30.0 points (MEND)" in text
    gain = cross_gain(outcome, "mend", "en")
    assert gain is not None
    assert gain.mean == 30.0
    assert cross_gain(outcome, "knowledge-editor", "en") is None


def test_where_no_editor_has_finished_the_report_says_so(outcome: EditorOutcome) -> None:
    nothing = replace(outcome, methods=())
    assert headline(nothing).startswith("No trial has scores")
    assert report_sections(nothing)[0].title == "What it found"


def test_a_gain_falls_back_on_the_editor_trained_on_all_languages(outcome: EditorOutcome) -> None:
    fewer = replace(
        outcome, methods=tuple(m for m in outcome.methods if m.method.label != "MEND (edits en, updates all)")
    )
    gain = cross_gain(fewer, "mend", "en")
    assert gain is not None
    assert gain.mean == 35.0


def test_heat_maps_go_from_language_to_language(outcome: EditorOutcome) -> None:
    maps = pictures(outcome)["languages"]
    assert isinstance(maps, HeatMaps)
    assert [panel.label for panel in maps.panels] == ["Fine-tuning", "MEND (all)", "MEND (all, LiME)"]
    cells = {(cell.row, cell.column): cell.value for cell in maps.panels[1].cells}
    assert len(cells) == 9
    assert cells[1, 1] == 81.0
    assert cells[0, 1] == 56.0
    assert maps.row_labels == list(LANGUAGES)


def test_masks_and_curves_are_shown_for_what_was_trained(outcome: EditorOutcome) -> None:
    shown = pictures(outcome)
    masks, training = shown["masks"], shown["training"]
    assert isinstance(masks, HeatMaps)
    assert [panel.label for panel in masks.panels] == ["MEND (all, LiME)"]
    assert isinstance(training, LinePlot)
    assert [line.label for line in training.lines] == [one.method.label for one in outcome.methods[1:]]
    assert training.lines[0].points[0] == (1.0, Interval(11.0, 10.0, 12.0))


def test_the_distribution_is_drawn(outcome: EditorOutcome) -> None:
    for name in ("reach-en", "reach-all"):
        figure = pictures(outcome)[name]
        assert isinstance(figure, Figure)
        assert draw_files(figure.draw)[0].startswith(b"\x89PNG")


def test_hyperparameters_are_listed_where_the_grid_varies_them(outcome: EditorOutcome) -> None:
    assert "Hyperparameters" not in tables(outcome)
    first = outcome.methods[1]
    varied = [
        replace(first, method=replace(first.method, settings=(("lr", rate),)), chosen=rate == 1e-4)
        for rate in (1e-4, 1e-6)
    ]
    rows = tables(replace(outcome, methods=tuple(varied)))["Hyperparameters"].rows
    assert [(row[1], row[4]) for row in rows] == [("lr 0.0001", "chosen"), ("lr 1e-06", "")]
