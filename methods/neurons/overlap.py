"""How many knowledge neurons two languages share, by relation and layer (Xu et al. 2023, Table 2 and Figure 2b).

The paper compares sets of 20 neurons for each relation and layer and does not define the rate. ``share`` is the number
of common neurons over the size of the larger set, |A & B| / 20 for the paper's sets; ``jaccard`` is over the union.
Two independent random sets of k of F neurons share k/F on average.

Shape legend: L layers, F neurons of a layer, R relations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Measure = Literal["share", "jaccard"]
Sets = Mapping[str, NDArray[np.bool_]]
"""Of one language: relation -> [L, F], its knowledge neurons."""


@dataclass(frozen=True)
class Overlap:
    """Overlap of two languages in percent; nan where no set has a neuron.

    Attributes:
        relations: those that both have, in the order of the axes.
        rates: [L, R, R'] of relation R in the first language and R' in the second.
    """

    relations: tuple[str, ...]
    rates: NDArray[np.float64]

    @property
    def same(self) -> NDArray[np.float64]:
        """[L, R] of a relation with itself."""
        return np.asarray(np.diagonal(self.rates, axis1=1, axis2=2))

    @property
    def different(self) -> NDArray[np.float64]:
        """[L] mean over all ordered pairs of different relations."""
        apart = ~np.eye(len(self.relations), dtype=bool)
        return np.array([mean(layer[apart]) for layer in self.rates])

    @property
    def all_pairs(self) -> float:
        """Mean over all layers and ordered pairs of relations, equal ones included: the paper's "Avg"."""
        return mean(self.rates)


def overlap(first: Sets, second: Sets, measure: Measure = "share") -> Overlap:
    """Compares the relations that two languages have in common."""
    relations = tuple(relation for relation in first if relation in second)
    if not relations:
        return Overlap((), np.empty((len(next(iter(first.values()))), 0, 0)))
    one, other = (np.stack([sets[r] for r in relations], axis=1).astype(np.float32) for sets in (first, second))
    common = one @ other.transpose(0, 2, 1)
    sizes = [side.sum(-1) for side in (one, other)]
    left, right = sizes[0][:, :, None], sizes[1][:, None, :]
    whole = np.maximum(left, right) if measure == "share" else left + right - common
    with np.errstate(invalid="ignore"):
        return Overlap(relations, 100.0 * common.astype(np.float64) / whole)


def same_overlap(first: Sets, second: Sets, measure: Measure = "share") -> float:
    """`Overlap.same` over all layers and relations, without comparing different relations: for many languages."""
    rates = []
    for relation in first:
        if relation in second:
            one, other = first[relation], second[relation]
            common, sizes = (one & other).sum(-1), (one.sum(-1), other.sum(-1))
            whole = np.maximum(*sizes) if measure == "share" else sizes[0] + sizes[1] - common
            with np.errstate(invalid="ignore"):
                rates.append(100.0 * common / whole)
    return mean(np.array(rates))


def mean(values: NDArray[np.float64] | Sequence[float]) -> float:
    """Mean of the numbers among the values; nan without any."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    flat = flat[~np.isnan(flat)]
    return float(flat.mean()) if flat.size else float("nan")


def languages_sharing(sets: Sequence[Sets], relation: str) -> NDArray[np.int64]:
    """[L, F] in how many languages a neuron is one of a relation's."""
    return np.sum([one[relation] for one in sets if relation in one], axis=0, dtype=np.int64)
