"""RankC: whether two languages rank the candidates of a fact alike, whatever is right (Qi, Fernández and Bisazza 2023).

For fact n with C candidates, let P@k be the share of the k candidates ranked first in one language that are among the k
ranked first in the other. Equations 1 and 2 of the paper:

    RankC = mean over facts of  sum_{k=1..C} w_k P@k,      w_k = exp(C - k) / sum_{m=1..C} exp(C - m)

so that the first ranks count most: 0.63 of the weight lies on the first. A candidate is among the first k of both
languages from the larger of its two ranks on, so that a fact's value is a sum over its candidates, and all facts of
two languages are a few array operations. Two languages are compared on the candidates that both rank.

Shape legend: C candidates of a fact, F facts, G languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST = 2
"""Shared candidates below which a fact tells nothing: one candidate is always ranked alike."""


@dataclass(frozen=True)
class Rankings:
    """How one language ranks the candidates of its facts.

    Attributes:
        uuids: of the F facts.
        orders: [F, C] candidates by number, the best first; -1 fills the rows of facts with fewer. A candidate has the
            same number in every language.
    """

    uuids: tuple[str, ...]
    orders: NDArray[np.int32]


@dataclass(frozen=True)
class FactConsistency:
    """Two languages on the facts of which both rank at least two of the same candidates.

    Attributes:
        rows: of these facts among the first language's.
        values: RankC of each, 0 to 1.
        chance: what two independent random orders of as many candidates would have on average.
    """

    rows: NDArray[np.intp]
    values: NDArray[np.float64]
    chance: NDArray[np.float64]


def fact_consistency(first: Rankings, second: Rankings) -> FactConsistency:
    """RankC of two languages, fact by fact."""
    place = {uuid: row for row, uuid in enumerate(second.uuids)}
    rows = np.array([row for row, uuid in enumerate(first.uuids) if uuid in place], dtype=np.intp)
    others = np.array([place[first.uuids[row]] for row in rows], dtype=np.intp)
    numbers = 1 + max((int(side.orders.max(initial=-1)) for side in (first, second)), default=0)
    one, other = (_keys(side.orders[at], numbers) for side, at in ((first, rows), (second, others)))
    one, other = one[np.isin(one, other)], other[np.isin(other, one)]
    sizes = np.bincount(one // numbers, minlength=len(rows)) if len(one) else np.zeros(len(rows), dtype=np.intp)
    starts = np.cumsum(sizes) - sizes
    ranks = []
    for keys in (one, other):  # rows in order, within a row the best first
        rank = np.arange(len(keys)) - starts[keys // numbers]
        ranks.append(rank[np.argsort(keys)])
    fact = np.sort(one) // numbers
    weights, shares = _sums(int(sizes.max(initial=0)))
    reached = shares[sizes[fact]] - shares[np.maximum(*ranks)]
    told = sizes >= FEWEST
    values = np.bincount(fact, weights=reached, minlength=len(rows))[told] / weights[sizes[told]]
    return FactConsistency(rows[told], values, chance_consistency(sizes[told]))


def chance_consistency(candidates: ArrayLike) -> NDArray[np.float64]:
    """The expected value for two independent random orders of C candidates, where P@k is k / C on average."""
    counts = np.asarray(candidates, dtype=np.intp)
    weights, _ = _sums(int(counts.max(initial=0)))
    places = np.arange(len(weights))
    first = np.cumsum(places * np.diff(weights, prepend=0.0))
    return np.asarray(first[counts] / (np.maximum(counts, 1) * weights[np.maximum(counts, 1)]))


def consistency_matrix(languages: Sequence[Rankings]) -> NDArray[np.float64]:
    """[G, G] RankC of every two languages, symmetric with ones on the diagonal; nan where they share no fact."""
    matrix = np.eye(len(languages))
    for row, one in enumerate(languages):
        for column in range(row):
            values = fact_consistency(one, languages[column]).values
            matrix[row, column] = matrix[column, row] = values.mean() if len(values) else np.nan
    return matrix


def _keys(orders: NDArray[np.int32], numbers: int) -> NDArray[np.int64]:
    """One number for each fact and candidate, row by row."""
    row, column = np.nonzero(orders >= 0)
    return np.asarray(row * np.int64(numbers) + orders[row, column])


def _sums(candidates: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of exp(1 - k), and of exp(1 - k) / k, over the first 0, 1, ... C ranks k; scaled, so that none overflows."""
    places = np.arange(1, max(1, candidates) + 1)
    weights = np.exp(1.0 - places)
    return np.cumsum([0.0, *weights]), np.cumsum([0.0, *(weights / places)])
