"""RankC: whether two languages rank the candidates of a fact alike, whatever is right (Qi, Fernández and Bisazza 2023).

For fact n with C candidates, let P@k be the share of the k candidates ranked first in one language that are among the k
ranked first in the other. Equations 1 and 2 of the paper:

    RankC = mean over facts of  sum_{k=1..C} w_k P@k,      w_k = exp(C - k) / sum_{m=1..C} exp(C - m)

so that the first ranks count most: 0.63 of the weight lies on the first. It needs all scores of a sweep (``--keep
scores``) for the same candidates in both languages; two languages know a candidate as the same by its URI.

Shape legend: C candidates of a fact, G languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FactScores = Mapping[str, Mapping[str, float]]
"""Of one language: fact (uuid) -> candidate (URI) -> score."""


def fact_consistency(first: ArrayLike, second: ArrayLike) -> float:
    """How alike two languages rank one fact's candidates, 0 to 1.

    Args:
        first, second: [C] scores of the same candidates in the same order. Equal scores rank in this order.

    Raises:
        ValueError: the shapes differ or there is no candidate.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError(
            f"scores of the same candidates are needed, but their shapes are {one.shape} and {other.shape}"
        )
    # A candidate is among the first k of both from the larger of its two ranks on.
    shared = np.cumsum(np.bincount(np.maximum(_ranks(one), _ranks(other)), minlength=len(one)))
    places = np.arange(1, len(one) + 1)
    return float(np.sum(_weights(len(one)) * shared / places))


def chance_consistency(candidates: int) -> float:
    """The expected value for two independent random orders of C candidates, where P@k is k / C on average."""
    return float(np.sum(_weights(candidates) * np.arange(1, candidates + 1) / candidates))


def rank_consistency(first: FactScores, second: FactScores) -> float:
    """RankC of two languages over the facts that both have; nan if they share none.

    Of each fact the candidates that both languages score are ranked.
    """
    values = []
    for uuid in sorted(first.keys() & second.keys()):
        candidates = sorted(first[uuid].keys() & second[uuid].keys())
        if candidates:
            one, other = ([scores[uuid][candidate] for candidate in candidates] for scores in (first, second))
            values.append(fact_consistency(one, other))
    return float(np.mean(values)) if values else float("nan")


def consistency_matrix(scores: Mapping[str, FactScores]) -> tuple[Sequence[str], NDArray[np.float64]]:
    """RankC of every two languages.

    Args:
        scores: language -> its scores.

    Returns:
        The languages, and [G, G] symmetric with ones on the diagonal.
    """
    languages = list(scores)
    matrix = np.eye(len(languages))
    for (row, one), (column, other) in combinations(enumerate(languages), 2):
        matrix[row, column] = matrix[column, row] = rank_consistency(scores[one], scores[other])
    return languages, matrix


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """[C] the rank of each candidate, 0 for the largest score."""
    ranks = np.empty(len(scores), dtype=np.intp)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return ranks


def _weights(candidates: int) -> NDArray[np.float64]:
    """[C] the weights of the first 1, 2, ... C ranks; the exponents are shifted, so that none overflows."""
    weights = np.exp(-np.arange(candidates, dtype=np.float64))
    return np.asarray(weights / weights.sum())
