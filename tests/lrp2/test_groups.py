"""Language groups and the paper's numbers: the tables in the code agree with each other and with the paper."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, median

import pytest

from methods.lrp2.analysis.groups import ARTICLES, FAMILIES, family_groups, family_of, level_of, paper_groups
from methods.lrp2.analysis.paper import (
    BLOOM_560M,
    MBERT,
    REFERENCES,
    TABLE_1_COLUMNS,
    ModelShape,
    Reference,
    reference_for,
)
from methods.lrp2.analysis.sections import groups_section, layers_table
from methods.lrp2.report import report_sections
from orchestrator.report.blocks import Table
from orchestrator.report.languages import language_label
from tests.report.synthetic import search_outcome

LANGUAGES = tuple(MBERT.pairs)
SIZES = {group.name: len(group.languages) for group in paper_groups(LANGUAGES)}


def test_every_language_has_one_family_and_a_resource_level() -> None:
    listed = [language for languages in FAMILIES.values() for language in languages]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(ARTICLES)
    assert {*LANGUAGES, "en"} <= set(listed)


def test_the_groups_of_mlamas_52_languages() -> None:
    assert [SIZES[name] for name in TABLE_1_COLUMNS] == [34, 18, 16, 9, 27, 52]


@pytest.mark.parametrize("reference", REFERENCES, ids=[reference.name for reference in REFERENCES])
@pytest.mark.parametrize("score", ["acc", "oracle_acc", "trans", "oracle_trans"])
def test_group_sizes_explain_the_papers_averages(reference: Reference, score: str) -> None:
    """Table 1's last column is the mean of the columns before it, weighted by our group sizes, to within rounding."""
    row = dict(zip(TABLE_1_COLUMNS, getattr(reference, score), strict=True))
    for parts in (TABLE_1_COLUMNS[:2], TABLE_1_COLUMNS[2:5]):
        mean = sum(SIZES[part] * row[part] for part in parts) / 52
        assert mean == pytest.approx(row["All"], abs=0.1)


def test_the_papers_optimal_layers_are_read_right() -> None:
    """What is known of Tables 4 and 5: as many languages, neighbouring layers in mBERT, wide gaps in BLOOM."""
    assert set(MBERT.pairs) == set(BLOOM_560M.pairs)
    assert MBERT.pairs["zh"] == (4, 10)
    assert sum(j == i + 1 for i, j in MBERT.pairs.values()) == 35
    assert median(j - i for i, j in BLOOM_560M.pairs.values()) == 5.5
    for reference in REFERENCES:
        assert all(1 <= i < j <= reference.shape.layers for i, j in reference.pairs.values())


def test_a_model_is_recognised_by_its_sizes() -> None:
    assert reference_for(ModelShape("BertForMaskedLM", 12, 768, 119547)) is MBERT
    assert reference_for(ModelShape("BloomForCausalLM", 24, 1024, 250880)) is BLOOM_560M
    assert reference_for(ModelShape("BertForMaskedLM", 12, 768, 105879)) is None


def test_groups_hold_searched_languages_only_and_a_stranger_is_in_none_but_all() -> None:
    groups = {group.name: group.languages for group in paper_groups(("de", "zh", "tlh"))}
    assert groups == {
        "Indo-European": ("de",),
        "Other families": ("zh",),
        "High resource": ("de", "zh"),
        "Medium resource": (),
        "Low resource": (),
        "All": ("de", "zh", "tlh"),
    }
    assert family_of("tlh") is level_of("tlh") is None
    assert [group.name for group in family_groups(("de", "zh", "fr", "tlh"))] == ["Indo-European", "Sino-Tibetan"]


def test_table_1_has_the_papers_rows_below_ours() -> None:
    searched = search_outcome(("de", "zh", "ko"), layers=12)
    outcome = replace(searched, reference=MBERT, groups=paper_groups(("de", "zh", "ko")))
    by_title = {block.title: block for block in groups_section(outcome, outcome.languages).blocks}
    acc, trans = by_title["Accuracy by group"], by_title["Transferability by group"]
    assert isinstance(acc, Table)
    assert isinstance(trans, Table)
    german, chinese, korean = outcome.languages
    assert acc.columns[2:5] == ["Indo-European (1)", "Other families (2)", "High resource (2)"]
    others = fmean((chinese.baseline_acc, korean.baseline_acc))
    assert acc.rows[0][:4] == ["Without LRP2", outcome.pivot_acc, german.baseline_acc, others]
    assert acc.rows[0][6] is None, "no language of the sweep is low in resources"
    assert acc.rows[3] == ["Paper: mBERT", 35.2, 20.9, 18.4, 23.4, 22.2, 17.4, 20.0]
    assert trans.rows[4] == ["Paper: mBERT (LRP2)", None, 37.9, 33.1, 43.1, 38.5, 31.5, 36.3]
    assert "ours are not" in trans.note, "the facts of this sweep are not the paper's"


def test_optimal_layers_stand_beside_the_papers() -> None:
    outcome = replace(search_outcome(("zh", "fa", "sw"), layers=12), reference=MBERT)
    rows = {row[0]: row for row in layers_table(outcome, outcome.languages).rows}
    assert rows["Chinese (zh)"][-1] == "4/10"
    assert rows["Persian (fa)"][-1] == "1/2 (hard to read in print)"
    assert rows["Swahili (sw)"][-1] is None
    chinese = outcome.languages[0].oracle
    assert rows["Chinese (zh)"][1:4] == [chinese.lirp, chinese.lsrp, chinese.lsrp - chinese.lirp]


def test_on_x_factr_the_papers_table_3_stands_beside_ours() -> None:
    outcome = replace(search_outcome(("zh", "nl"), layers=12), reference=MBERT, facts_kind="xfactr")
    table = report_sections(outcome)[0].blocks[1]
    assert isinstance(table, Table)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [language_label(language) for language in ("en", "zh", "ko", "nl", "vi", "ceb", "ja")]
    assert (rows["Chinese (zh)"]["Oracle trans, paper"], rows["Japanese (ja)"]["Oracle acc, paper"]) == (32.6, 12.8)
    chinese = next(one for one in outcome.languages if one.language == "zh")
    assert rows["Chinese (zh)"]["Acc"] == chinese.baseline_acc
    assert rows["Korean (ko)"]["Acc"] is None
    assert rows["English (en)"]["Acc"] == outcome.pivot_acc
    titles = [block.title for block in report_sections(replace(outcome, facts_kind="mlama"))[0].blocks]
    assert "Beside the paper on X-FACTR" not in titles
