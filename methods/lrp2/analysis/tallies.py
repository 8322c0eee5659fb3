"""Counts from which accuracy and transferability of any union of fact sets follow by adding and subtracting.

Shape legend: F facts, C columns (column 0 the unmodified model, then pairs), G sets of facts (folds, or relations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tally:
    """Counts over sets of facts.

    Attributes:
        facts: [G], how many.
        value: [G, C], credit (for hits, how many of them).
        both: [G, C], facts right in the language and in the pivot.
        either: [G, C], facts right in at least one of them.
    """

    facts: NDArray[np.float64]
    value: NDArray[np.float64]
    both: NDArray[np.float64]
    either: NDArray[np.float64]

    def __getitem__(self, sets: int | Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]) -> Tally:
        """Some of the sets; one number gives a tally without the set axis."""
        return Tally(self.facts[sets], self.value[sets], self.both[sets], self.either[sets])

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.facts - other.facts, self.value - other.value, self.both - other.both, self.either - other.either
        )

    def total(self) -> Tally:
        """The union of all sets."""
        return Tally(self.facts.sum(0), self.value.sum(0), self.both.sum(0), self.either.sum(0))

    def acc(self) -> NDArray[np.float64]:
        """Acc in percent, [..., C]; 0 without facts."""
        return 100.0 * self.value / np.maximum(self.facts, 1.0)[..., None]

    def trans(self, elsewhere: float = 0.0) -> NDArray[np.float64]:
        """Trans in percent, [..., C]; `elsewhere` as in `selection.trans`. Nothing known is nothing transferred."""
        either = self.either + elsewhere
        return np.divide(100.0 * self.both, either, out=np.zeros(self.both.shape), where=either > 0)


def tally(
    value: NDArray[np.float64],
    hits: NDArray[np.bool_],
    pivot: NDArray[np.bool_],
    sets: NDArray[np.intp],
    count: int,
) -> Tally:
    """Counts per set.

    Args:
        value: [F, C] credits.
        hits: [F, C].
        pivot: [F] the pivot's hits.
        sets: [F] the set of each fact, below `count`.
        count: G.
    """
    columns = hits.shape[1]
    found = Tally(np.zeros(count), *(np.zeros((count, columns)) for _ in range(3)))
    order = np.argsort(sets, kind="stable")
    bounds = np.searchsorted(sets[order], np.arange(count + 1))
    for number in range(count):
        rows = order[bounds[number] : bounds[number + 1]]
        if not len(rows):
            continue
        here, known = hits[rows], pivot[rows]
        found.facts[number] = len(rows)
        found.value[number] = value[rows].sum(0)
        found.both[number] = here[known].sum(0)
        found.either[number] = here[~known].sum(0) + known.sum()
    return found
