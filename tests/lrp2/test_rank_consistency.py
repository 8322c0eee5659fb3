"""RankC of a sweep: from candidates' names and scores to the map, the verdicts and the line that says how to get it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from transformers import BertTokenizerFast

from methods.backbone.projection import all_pairs
from methods.lrp2.analysis.answer import evaluate_search, summary_of
from methods.lrp2.analysis.consistency_section import NOT_KEPT, TITLE
from methods.lrp2.analysis.language import evaluate_language
from methods.lrp2.analysis.rank_consistency import AS_BEFORE, CLOSER, rank_consistency
from methods.lrp2.analysis.record import record_of
from methods.lrp2.consistency import fact_consistency
from methods.lrp2.found import SearchResult, SearchStats
from methods.lrp2.outcome import Consistency
from methods.lrp2.probes import ProbeOptions, QueryBuilder
from methods.lrp2.results import has_rankings, hits_table, language_rankings
from methods.lrp2.results import language_hits as read_hits
from methods.lrp2.selection import SelectionOptions
from orchestrator.data import Pool
from orchestrator.report.blocks import HeatMaps
from tests.lrp2.test_study import results, study

NAMES = [f"Q{n}" for n in range(6)]


def table(uuids: Sequence[str], names: Sequence[Sequence[str]], scores: Sequence[NDArray[np.float64]]) -> pa.Table:
    """A trial's table; `scores` [1 + P, C] for each fact, whose first candidate is the right one."""
    columns = max(score.shape[0] for score in scores)
    hits = np.array([[len(row) > 0 and row.argmax() == 0 for row in score] for score in scores])
    facts = pa.table({"relation": ["P1"] * len(uuids), "uuid": uuids, "sub_uri": uuids})
    part = SearchResult(hits, np.zeros_like(hits, dtype=np.int16), list(scores), SearchStats())
    return hits_table(facts, [part], all_pairs(4)[: columns - 1], 4, dropped={}, changed=None, candidates=names)


def test_rankings_are_read_back_part_by_part_each_fact_in_its_own_column() -> None:
    first = table(["a", "b"], [["x", "y", "z"], []], [np.array([[3.0, 2, 1], [1, 2, 3]]), np.empty((2, 0))])
    second = table(["c"], [["z", "w"]], [np.array([[1.0, 1], [1, 2]])])
    numbers = {"w": 0}
    found = language_rankings([first, second], np.array([1, 1, 0]), numbers)
    assert found.uuids == ("a", "b", "c")
    word = {number: name for name, number in numbers.items()} | {-1: ""}
    assert [[word[number] for number in order] for order in found.orders] == [
        ["z", "y", "x"],
        ["", "", ""],
        ["z", "w", ""],  # equal scores stay in the order in which they were scored
    ]


def test_two_names_of_one_object_count_where_the_better_one_stands() -> None:
    both, once = ([list(names)] for names in (["x", "y", "x", "z"], ["x", "y", "z"]))
    twice = table(["a"], both, [np.array([[1.0, 2, 3, 0]])])
    plain = table(["a"], once, [np.array([[3.0, 2, 1]])])
    numbers: dict[str, int] = {}
    first, second = (language_rankings([one], np.array([0]), numbers) for one in (twice, plain))
    assert fact_consistency(first, second).values.tolist() == [pytest.approx(1.0)]


def test_scores_without_names_are_not_enough() -> None:
    whole = table(["a"], [["x", "y"]], [np.array([[2.0, 1]])])
    assert has_rankings([whole])
    assert not has_rankings([whole, whole.drop(["candidates"])])


def found_for(planted: bool) -> Consistency | None:
    """A language that ranks at random, except that at its one pair it ranks as the pivot where that is planted."""
    random = np.random.default_rng(5)
    uuids = [f"u{n}" for n in range(80)]
    pivot = random.normal(size=(80, 1, 6))
    scores = random.normal(size=(80, 2, 6))
    if planted:
        scores[:, 1] = pivot[:, 0]
    tables = {
        "en": [table(uuids, [NAMES] * 80, list(pivot))],
        "de": [table(uuids, [NAMES] * 80, list(scores))],
    }
    options = SelectionOptions(bootstrap=200)
    known = dict(zip(uuids, read_hits("en", tables["en"]).hits[:, 0].tolist(), strict=True))
    outcome, answers = evaluate_language(read_hits("de", tables["de"]), known, {}, options)
    return rank_consistency(tables, "en", [outcome], {"de": answers}, options)


def test_a_language_that_learns_to_rank_as_the_pivot_is_called_more_alike() -> None:
    found = found_for(planted=True)
    assert found is not None
    german = found.with_pivot[0]
    assert german.verdict == CLOSER
    assert german.oracle == pytest.approx(100)
    assert german.baseline == pytest.approx(german.chance, abs=8)
    assert german.change == pytest.approx(100 - german.baseline)
    assert found.languages == ("en", "de")
    assert found.baseline[0, 1] == pytest.approx(german.baseline)


def test_one_that_ranks_at_random_is_not() -> None:
    found = found_for(planted=False)
    assert found is not None
    assert found.with_pivot[0].verdict == AS_BEFORE
    assert found.with_pivot[0].low < 0 < found.with_pivot[0].high


def test_own_candidates_have_the_same_names_in_every_language(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "in", "rome", "venice", "rom", "venedig"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))

    def names(gold: str, candidates: list[str], own: bool) -> dict[str, str]:
        row = {"relation": "r", "uuid": "u", "subject": "x", "object": gold, "template": "in [Y]"}
        facts = pa.Table.from_pylist([{**row, "candidates": candidates}])
        pool = Pool(
            tuple(sorted(candidates)), tuple("" if text == "rom" else f"Q-{text}" for text in sorted(candidates))
        )
        options = ProbeOptions("masked", "own" if own else "full")
        query = QueryBuilder(tokenizer, options, {"r": pool}).build(facts)[0]
        spelled = [words[tokens[0]] for _, _, tokens in query.scored]
        assert query.names[query.gold] == dict(zip(spelled, query.names, strict=True))[gold]
        return dict(zip(spelled, query.names, strict=True))

    assert names("rome", ["venice", "rome"], own=True) == {"venice": "1/2", "rome": "2/2"}
    assert names("rom", ["venedig", "rom"], own=True) == {"venedig": "1/2", "rom": "2/2"}
    assert names("rom", ["venedig", "rom"], own=False) == {"venedig": "Q-venedig", "rom": "rom"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_sweep_that_keeps_scores_tells_rankc_and_one_that_does_not_says_how(cache: Path) -> None:
    made = study(cache, keep="scores", max_facts=20, pairs=("1/3", "2/5"))
    trials = results(made)
    evaluated = evaluate_search(record_of(made), trials)
    found = evaluated.outcome.consistency
    assert found is not None
    assert found.languages == ("en", "de", "zh")
    document = summary_of(evaluated).document["rank_consistency"]
    assert document["baseline"][1][2] == found.baseline[1, 2]
    tables = {str(result.trial.cell["language"]): [result.table] for result in trials}
    numbers: dict[str, int] = {}
    german, chinese = (
        language_rankings(tables[name], evaluated.answers[name].oracle_columns, numbers) for name in ("de", "zh")
    )
    assert found.oracle[1, 2] == pytest.approx(100 * fact_consistency(german, chinese).values.mean())
    section: Any = next(section for section in summary_of(evaluated).sections if section.title == TITLE)
    assert isinstance(section.blocks[0], HeatMaps)
    assert "RankC" in section.text
    without = study(cache, max_facts=20, pairs=("1/3", "2/5"))
    assert {trial.key for trial in without.trials()}.isdisjoint(trial.key for trial in made.trials())
    plain = [replace(result, table=result.table.drop(["candidates", "scores"])) for result in trials]
    sections = summary_of(evaluate_search(record_of(without), plain)).sections
    assert next(section for section in sections if section.title == TITLE).text == NOT_KEPT
