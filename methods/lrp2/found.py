"""What a layer search finds, and what it cost.

Shape legend: Q queries, P layer pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from methods.backbone.projection import Pair

Keep = Literal["hits", "scores"]
Progress = Callable[[float], None]
"""Told the fraction that is done."""


@dataclass
class SearchStats:
    """What a search cost.

    Attributes:
        tiles: passes through the model; `retried` of them because a larger one did not fit.
        packed_rows: rows over all tiles.
        block_rows: packed rows times blocks computed.
        block_flops: floating-point operations in the blocks.
        head_rows: rows whose normaliser was computed, parts of them added up, of `needed_rows`.
        weight_bytes: weights read from disk, where the model is streamed.
    """

    tiles: int = 0
    retried: int = 0
    packed_rows: int = 0
    block_rows: int = 0
    block_flops: float = 0.0
    head_rows: int = 0
    needed_rows: int = 0
    weight_bytes: int = 0

    def add(self, other: SearchStats) -> None:
        """Adds another search's cost to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class SearchResult:
    """Hits of all queries, in the order in which the queries were given.

    Attributes:
        hits: [Q, 1 + P] bool; column 0 is the unmodified model.
        ties: [Q, 1 + P] int16, candidates that share the top with the gold object.
        scores: per query [1 + P, candidates], or None when only hits are kept.
    """

    hits: NDArray[np.bool_]
    ties: NDArray[np.int16]
    scores: list[NDArray[np.floating]] | None
    stats: SearchStats = field(default_factory=SearchStats)

    @classmethod
    def empty(cls, queries: int, pairs: int, keep: Keep) -> SearchResult:
        """Room for the answers of so many queries under so many pairs: no hits, and scores [1 + P, 0] of each."""
        width = 1 + pairs
        return cls(
            hits=np.zeros((queries, width), dtype=np.bool_),
            ties=np.zeros((queries, width), dtype=np.int16),
            scores=[np.empty((width, 0))] * queries if keep == "scores" else None,
        )


def part_of(progress: Progress, at: float, share: float) -> Progress:
    """Progress of a part that begins at `at` and is `share` of the whole."""
    return lambda fraction: progress(at + share * fraction)


def spread(result: SearchResult, live: Sequence[Pair], pairs: Sequence[Pair]) -> SearchResult:
    """The columns of a search over `live` pairs at their places among all `pairs`; the others are empty."""
    columns = [0, *(1 + pairs.index(pair) for pair in live)]
    hits = np.zeros((len(result.hits), 1 + len(pairs)), dtype=np.bool_)
    ties = np.zeros(hits.shape, dtype=np.int16)
    hits[:, columns], ties[:, columns] = result.hits, result.ties
    scores = None
    if result.scores is not None:
        scores = [np.full((1 + len(pairs), table.shape[1]), np.nan, dtype=table.dtype) for table in result.scores]
        for wide, table in zip(scores, result.scores, strict=True):
            wide[columns] = table
    return SearchResult(hits, ties, scores, result.stats)
