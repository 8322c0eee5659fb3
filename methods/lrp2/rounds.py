"""Hits in rounds: a miss needs one rival that beats the gold object, and it is nearly always the same rival.

With hits only, what a pair of layers does to the other candidates of a lost query does not matter. So there are three
rounds:

1. the unmodified model scores all candidates, which costs L blocks per input;
2. where it has a query wrong, the gold object meets its strongest rival there, under every layer pair. The query is cut
   down to the forms on which these two are scored; other candidates of the same forms come along for nothing;
3. what is still open meets all candidates: queries that the unmodified model has right, under every pair, and the
   others under the pairs that have not lost them.

That the rival is the same rests on a guess, the outcome does not: a query is lost where some candidate scores higher.

Shape legend: Q queries, P layer pairs, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from methods.backbone.projection import Pair
from methods.lrp2.found import Keep, Progress, SearchResult, part_of
from methods.lrp2.lattice import schedule
from methods.lrp2.probes import Query

# The first round is worth its L blocks, and a head for them, where all pairs together cost so many times as many.
WORTH_A_ROUND = 5
# A query that would keep more than this share of its rows is not cut down.
MOST_OF_A_QUERY = 0.75
# Below so many rows a block takes as long as with them: on a CPU to read its weights, on a GPU to be launched.
FEWEST_BLOCK_ROWS = {"cpu": 64, "cuda": 1024}
# Share of the queries and pairs of round 2 that it leaves open: 3 to 5% with the built-in models. And the rows that go
# through all pairs before anything is known. Progress and estimates rest on them, nothing else.
LEFT_OPEN = 0.05
BEFORE_ANYTHING_IS_KNOWN = 0.5

Search = Callable[[Sequence[Query], Sequence[Pair], Keep, Progress], SearchResult]
"""Searches queries under pairs; the unmodified model is column 0."""
Rows = Callable[[Query], int]
"""The packed rows that a query takes."""


def worth_rounds(pairs: Sequence[Pair], num_layers: int) -> bool:
    """Whether the pairs cost enough for a round of the unmodified model before them."""
    return schedule(pairs, num_layers).block_evaluations >= WORTH_A_ROUND * num_layers


def in_rounds(
    search: Search,
    queries: Sequence[Query],
    pairs: Sequence[Pair],
    *,
    num_layers: int,
    rows: Rows,
    device: str = "cpu",
    progress: Progress = lambda fraction: None,
) -> SearchResult:
    """Hits and ties of all queries under all pairs, the same that ``search(queries, pairs, "hits", ...)`` finds."""
    evaluations = schedule(pairs, num_layers).block_evaluations
    first = num_layers / (num_layers + BEFORE_ANYTHING_IS_KNOWN * evaluations)
    base = search(queries, (), "scores", part_of(progress, 0, first))
    result = SearchResult.empty(len(queries), len(pairs), "hits")
    result.stats.add(base.stats)
    result.hits[:, :1], result.ties[:, :1] = base.hits, base.ties
    duels = strongest_rivals(queries, base, rows)
    in_duels, afterwards = rows_of_rounds(queries, duels, rows)
    second = (1 - first) * in_duels / max(1.0, in_duels + afterwards)
    open_ = np.ones((len(queries), len(pairs)), dtype=np.bool_)
    if duels:
        met = search(list(duels.values()), pairs, "hits", part_of(progress, first, second))
        open_[list(duels)] = (met.hits | (met.ties > 0))[:, 1:]
        result.stats.add(met.stats)
    fewest = FEWEST_BLOCK_ROWS[device]
    groups = list(groups_of(open_, [rows(query) for query in queries], pairs, num_layers, fewest))
    at, third = first + second, 1 - first - second
    whole = sum(cost for _, _, cost in groups)
    for places, columns, cost in groups:
        share = third * cost / whole
        chosen = [pairs[column] for column in columns]
        part = search([queries[place] for place in places], chosen, "hits", part_of(progress, at, share))
        there = np.ix_(places, [1 + column for column in columns])
        result.hits[there], result.ties[there] = part.hits[:, 1:], part.ties[:, 1:]
        result.stats.add(part.stats)
        at += share
    return result


def strongest_rivals(queries: Sequence[Query], base: SearchResult, rows: Rows) -> dict[int, Query]:
    """By their places, the queries that the unmodified model has wrong, cut down to gold object and strongest rival.

    Left out are those of which little could be cut.

    Args:
        base: with the scores of the unmodified model.
    """
    assert base.scores is not None
    duels = {}
    for place, query in enumerate(queries):
        if base.hits[place, 0] or base.ties[place, 0]:
            continue
        duel = cut_down(query, base.scores[place][0])
        if rows(duel) <= MOST_OF_A_QUERY * rows(query):
            duels[place] = duel
    return duels


def cut_down(query: Query, scores: NDArray[np.floating]) -> Query:
    """A query with only the forms of its gold object and of its strongest rival, and the candidates scored on them.

    Args:
        scores: of all its candidates, two at least.
    """
    rivals = scores.copy()
    rivals[query.gold] = -np.inf
    forms = sorted({query.scored[candidate][0] for candidate in (query.gold, int(rivals.argmax()))})
    kept = [candidate for candidate, (form, _, _) in enumerate(query.scored) if form in forms]
    reads = [query.scored[candidate] for candidate in kept]
    return replace(
        query,
        forms=tuple(query.forms[form] for form in forms),
        scored=tuple((forms.index(form), positions, tokens) for form, positions, tokens in reads),
        divisors=tuple(query.divisors[candidate] for candidate in kept),
        gold=kept.index(query.gold),
        names=(),
    )


def rows_of_rounds(queries: Sequence[Query], duels: Mapping[int, Query], rows: Rows) -> tuple[float, float]:
    """Rows that go through all pairs: in round 2, and about so many in round 3."""
    whole = sum(rows(query) for place, query in enumerate(queries) if place not in duels)
    return float(sum(map(rows, duels.values()))), whole + LEFT_OPEN * sum(rows(queries[place]) for place in duels)


def share_of_work(
    queries: Sequence[Query], base: SearchResult, pairs: Sequence[Pair], num_layers: int, rows: Rows
) -> float:
    """What the rounds leave of the block evaluations of all queries under all pairs; heads are not counted.

    Args:
        queries: a sample.
        base: with their scores under the unmodified model.
    """
    through_pairs = sum(rows_of_rounds(queries, strongest_rivals(queries, base, rows), rows))
    share = through_pairs / sum(map(rows, queries))
    return share + num_layers / schedule(pairs, num_layers).block_evaluations


def groups_of(
    open_: NDArray[np.bool_], rows: Sequence[int], pairs: Sequence[Pair], num_layers: int, fewest_rows: int
) -> Iterator[tuple[list[int], list[int], int]]:
    """Queries that are searched together, under all pairs that are open for one of them.

    Those with the same open pairs come together; others do where that costs no more than apart.

    Args:
        open_: [Q, P].
        rows: of each query.
        fewest_rows: what a block is charged for at least.

    Yields:
        The places of the queries, the columns of the pairs, and the rows that go through blocks.
    """
    known: dict[bytes, tuple[int, ...]] = {}

    def cost(columns: NDArray[np.bool_], count: int) -> int:
        key = columns.tobytes()
        if key not in known:
            walk = schedule([pairs[column] for column in np.flatnonzero(columns).tolist()], num_layers)
            known[key] = (*(step.live for step in walk.steps), walk.last)
        return sum(max(live * count, fewest_rows) for live in known[key])

    order = sorted(
        np.flatnonzero(open_.any(1)).tolist(), key=lambda place: (-open_[place].sum(), open_[place].tobytes())
    )
    places: list[int] = []
    columns, count, together = np.zeros(len(pairs), dtype=np.bool_), 0, 0
    for place in order:
        apart = cost(open_[place], rows[place])
        joined = cost(columns | open_[place], count + rows[place])
        if places and joined > together + apart:
            yield places, np.flatnonzero(columns).tolist(), together
            places, columns, count, joined = [], np.zeros_like(columns), 0, apart
        places.append(place)
        columns, count, together = columns | open_[place], count + rows[place], joined
    if places:
        yield places, np.flatnonzero(columns).tolist(), together
