"""Hits in rounds are the hits of all candidates under all pairs; most queries are settled by one rival."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.backbone.projection import Pair, all_pairs
from methods.lrp2.found import Keep, Progress, SearchResult
from methods.lrp2.probes import Query
from methods.lrp2.rounds import cut_down, groups_of, in_rounds, share_of_work, worth_rounds
from methods.lrp2.search import LayerSearch
from tests.lrp2.cases import world

LAYERS = 4
PAIRS = all_pairs(LAYERS)


def query(index: int, forms: Sequence[int], gold: int) -> Query:
    """Candidate c, asked on form ``forms[c]``, has the single token c; form f is f + 2 tokens long."""
    return Query(
        index=index,
        forms=tuple((index,) * (form + 2) for form in range(max(forms) + 1)),
        scored=tuple((form, (0,), (candidate,)) for candidate, form in enumerate(forms)),
        divisors=(1,) * len(forms),
        gold=gold,
        gold_twins=0,
    )


def rows(query: Query) -> int:
    return sum(map(len, query.forms))


class TableSearch:
    """A search whose scores are known: ``scores[index]`` is [1 + P, candidates]. Counts what it is asked."""

    def __init__(self, scores: Sequence[np.ndarray]) -> None:
        self.scores = scores
        self.asked = 0

    def __call__(self, queries: Sequence[Query], pairs: Sequence[Pair], keep: Keep, progress: Progress) -> SearchResult:
        columns = [0, *(1 + PAIRS.index(pair) for pair in pairs)]
        tables = [self.scores[q.index][columns][:, [tokens[0] for _, _, tokens in q.scored]] for q in queries]
        self.asked += sum(rows(q) for q in queries) * len(pairs)
        hits, ties = np.zeros((2, len(queries), len(columns)), dtype=np.int16)
        for n, (q, table) in enumerate(zip(queries, tables, strict=True)):
            others = np.delete(table, q.gold, 1)
            top = (others <= table[:, [q.gold]]).all(1)
            ties[n] = np.where(top, (others == table[:, [q.gold]]).sum(1), 0)
            hits[n] = top & (ties[n] == 0)
        progress(1.0)
        return SearchResult(hits.astype(bool), ties, tables if keep == "scores" else None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Query], list[np.ndarray]]:
    """A few queries with few different scores, so that ties and close races are common."""
    queries, scores = [], []
    for index in range(draw(st.integers(1, 4))):
        forms = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
        forms = [sorted(set(forms)).index(form) for form in forms]
        queries.append(query(index, forms, draw(st.integers(0, len(forms) - 1))))
        values = st.lists(st.integers(0, 3), min_size=len(forms), max_size=len(forms))
        scores.append(np.array([draw(values) for _ in range(1 + len(PAIRS))], dtype=float))
    return queries, scores


@given(cases())
@settings(max_examples=150, deadline=None)
def test_rounds_find_what_all_candidates_under_all_pairs_give(case: tuple[list[Query], list[np.ndarray]]) -> None:
    queries, scores = case
    whole = TableSearch(scores)(queries, PAIRS, "hits", lambda share: None)
    told: list[float] = []
    found = in_rounds(TableSearch(scores), queries, PAIRS, num_layers=LAYERS, rows=rows, progress=told.append)
    np.testing.assert_array_equal(found.hits, whole.hits)
    np.testing.assert_array_equal(found.ties, whole.ties)
    assert told == sorted(told)
    assert told[-1] <= 1.0 + 1e-9


def test_a_query_that_one_rival_beats_everywhere_is_never_asked_whole() -> None:
    """The right object and the strongest rival take 2 and 3 of its 14 rows."""
    lost = query(0, [0, 1, 2, 3], gold=0)
    scores = np.tile([1.0, 9.0, 0.0, 0.0], (1 + len(PAIRS), 1))
    search = TableSearch([scores])
    in_rounds(search, [lost], PAIRS, num_layers=LAYERS, rows=rows)
    assert rows(lost) == 14
    assert search.asked == 5 * len(PAIRS)


def test_only_pairs_that_have_not_lost_a_query_ask_it_whole() -> None:
    lost = query(0, [0, 1, 2, 3], gold=0)
    scores = np.tile([1.0, 9.0, 0.0, 0.0], (1 + len(PAIRS), 1))
    scores[3] = [5.0, 4.0, 6.0, 0.0]  # under the third pair another rival wins
    search = TableSearch([scores])
    assert not in_rounds(search, [lost], PAIRS, num_layers=LAYERS, rows=rows).hits.any()
    assert search.asked == 5 * len(PAIRS) + 14


def test_a_query_is_cut_down_to_the_forms_of_two_candidates() -> None:
    """Other candidates of the same forms come along."""
    whole = query(0, [0, 1, 2, 1, 0], gold=3)
    duel = cut_down(whole, np.array([0.0, 5.0, 3.0, 1.0, 4.0]))
    assert duel.forms == (whole.forms[1],)
    assert [tokens for _, _, tokens in duel.scored] == [(1,), (3,)]
    assert [form for form, _, _ in duel.scored] == [0, 0]
    assert duel.gold == 1
    duel = cut_down(whole, np.array([0.0, 2.0, 3.0, 9.0, 2.5]))
    assert duel.forms == (whole.forms[1], whole.forms[2])
    assert [tokens for _, _, tokens in duel.scored] == [(1,), (2,), (3,)]


@given(st.lists(st.lists(st.booleans(), min_size=len(PAIRS), max_size=len(PAIRS)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_groups_cover_every_open_pair_of_every_query_once(table: list[list[bool]]) -> None:
    open_ = np.array(table)
    covered = np.zeros_like(open_)
    seen: list[int] = []
    for places, columns, cost in groups_of(open_, [20] * len(open_), PAIRS, LAYERS, 64):
        covered[np.ix_(places, columns)] = True
        seen += places
        assert cost > 0
    assert sorted(seen) == np.flatnonzero(open_.any(1)).tolist()
    assert (covered >= open_).all()


def test_small_groups_are_searched_together_where_blocks_cost_as_much_for_few_rows() -> None:
    open_ = np.eye(4, len(PAIRS), dtype=bool)
    apart, together = (list(groups_of(open_, [20] * 4, PAIRS, LAYERS, fewest)) for fewest in (1, 1024))
    assert len(apart) > len(together) == 1


def test_queries_with_the_same_open_pairs_are_searched_together() -> None:
    open_ = np.zeros((4, len(PAIRS)), dtype=bool)
    open_[[0, 2]] = True
    open_[1, 0] = open_[3, -1] = True
    groups = [(places, len(columns)) for places, columns, _ in groups_of(open_, [1000] * 4, PAIRS, LAYERS, 64)]
    assert ([0, 2], len(PAIRS)) in groups


@pytest.mark.parametrize(("layers", "worth"), [(2, False), (4, False), (5, True), (12, True)])
def test_few_layers_are_not_worth_a_round_before(layers: int, worth: bool) -> None:
    assert worth_rounds(all_pairs(layers), layers) == worth
    assert not worth_rounds(all_pairs(layers)[:1], layers)


@pytest.mark.parametrize("family", ["bert", "bloom"])
def test_rounds_of_a_model_compute_fewer_blocks_and_find_the_same(family: str) -> None:
    """The shift is small, as languages' are; a shift that makes answers a matter of chance leaves most pairs open."""
    case = world(family, layers=6)
    pairs, shift = all_pairs(6), case.shift / 10
    rounds, whole = (
        LayerSearch(case.backbone, rounds=rounds).run(case.queries, shift, pairs) for rounds in (True, False)
    )
    np.testing.assert_array_equal(rounds.hits, whole.hits)
    np.testing.assert_array_equal(rounds.ties, whole.ties)
    assert rounds.stats.block_rows < whole.stats.block_rows
    assert not whole.hits.all()
    base = LayerSearch(case.backbone, keep="scores")
    share = share_of_work(case.queries, base.run(case.queries, None, ()), pairs, 6, base.rows_of)
    assert share == pytest.approx(rounds.stats.block_rows / whole.stats.block_rows, abs=0.2)
