"""Racing: layer pairs are dropped as soon as they cannot win, and their branches with them.

Facts come in random order, shard after shard. After each shard every pair is compared with the leader on the facts seen
so far. A pair is dropped when the leader's true advantage over all N facts is positive at the wanted confidence, by the
empirical Bernstein-Serfling inequality for sampling without replacement (Bardenet and Maillard 2015, theorem 4.3): with
probability at least 1 - 5 d,

    mean_n - mean_N <= s_n sqrt(2 rho_n log(1/d) / n) + kappa (b - a) log(1/d) / n,   kappa = 7/3 + 3/sqrt(2).

d is shared out over all ordered pairs of pairs, all shards and all statistics (a union bound), so with probability
1 - delta no pair is dropped wrongly in the whole race (Maron and Moore 1994 race models in this way).

By Acc the statistic is the difference of hits. Trans is a ratio, |R_l ∩ R_en| / |R_en ∪ R_l|; with x = hits that
English has too and y = hits that it has not, pair b beats p if mean(x_b - x_p - t (y_b - y_p)) > 0 at t = Trans_p.
That is linear in t, so it is enough that it holds at t = 0 and at t = 1.

Shape legend: n facts seen, N facts in all, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from methods.backbone.projection import Pair
from methods.lrp2.selection import Criterion, acc, trans

KAPPA = 7 / 3 + 3 / math.sqrt(2)


def advantage_bound(
    differences: NDArray[np.float64], population: int, log_term: float, width: float
) -> NDArray[np.float64]:
    """Lower confidence bound of the mean difference over the population, for each column.

    Args:
        differences: [n, K], values within an interval of length `width`.
        population: N.
        log_term: log(1/d).
        width: b - a.
    """
    n = len(differences)
    rho = 1 - (n - 1) / population if n <= population / 2 else (1 - n / population) * (1 + 1 / n)
    spread = differences.std(0) * math.sqrt(2 * max(0.0, rho) * log_term / n)
    bound: NDArray[np.float64] = differences.mean(0) - spread - KAPPA * width * log_term / n
    return bound


@dataclass
class Race:
    """The state of one language's race.

    Attributes:
        pairs: all pairs, P of them.
        population: facts in all, N.
        shards: shards that the facts come in.
        criterion: what a pair must win by.
        delta: probability of dropping any pair wrongly.
        dropped: for each dropped pair the facts after which it was.
    """

    pairs: tuple[Pair, ...]
    population: int
    shards: int
    criterion: Criterion
    delta: float
    dropped: dict[Pair, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._hits = np.zeros((0, len(self.pairs)), dtype=bool)
        self._pivot = np.zeros(0, dtype=bool)

    @property
    def live(self) -> tuple[Pair, ...]:
        """The pairs still in the race."""
        return tuple(pair for pair in self.pairs if pair not in self.dropped)

    def feed(self, hits: NDArray[np.bool_], pivot: NDArray[np.bool_]) -> Sequence[Pair]:
        """Takes the next shard and returns the pairs that it puts out of the race.

        Args:
            hits: of the live pairs on the shard's facts, [n, live].
            pivot: whether the pivot language has each of these facts right, [n].
        """
        columns = self._columns()
        shard = np.zeros((len(hits), len(self.pairs)), dtype=bool)
        shard[:, columns] = hits
        self._hits = np.concatenate([self._hits, shard])
        self._pivot = np.concatenate([self._pivot, pivot])
        n = len(self._hits)
        if n >= self.population or len(columns) < 2:
            return ()
        seen = self._hits[:, columns]
        score = acc(seen.astype(float)) if self.criterion == "acc" else trans(seen, self._pivot)
        leader = int(np.argmax(score))
        comparisons = len(self.pairs) * (len(self.pairs) - 1) * self.shards
        bound = np.min([self._bound(statistic, leader, comparisons) for statistic in self._statistics(seen)], axis=0)
        out = [self.pairs[columns[k]] for k in np.flatnonzero(bound > 0)]
        self.dropped.update(dict.fromkeys(out, n))
        return out

    def _columns(self) -> list[int]:
        return [p for p, pair in enumerate(self.pairs) if pair not in self.dropped]

    def _statistics(self, seen: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
        """What a leader must be ahead in, [n, live] each, all within [-1, 1]."""
        value = seen.astype(np.float64)
        if self.criterion == "acc":
            return [value]
        inside = self._pivot[:, None]
        return [value * inside, value * inside - value * ~inside]

    def _bound(self, value: NDArray[np.float64], leader: int, comparisons: int) -> NDArray[np.float64]:
        statistics = 1 if self.criterion == "acc" else 2
        log_term = math.log(5 * comparisons * statistics / self.delta)
        return advantage_bound(value[:, [leader]] - value, self.population, log_term, width=2.0)
