"""From hits to scores: accuracy, transferability, the best pair, folds and resamples. No model is needed here.

Acc_l = 100 |R_l| / |D_l| and Trans_l = 100 |R_l ∩ R_en| / |R_l ∪ R_en| (Xu et al. 2023, section 4.3), where R are the
facts got right. R_en is restricted to the facts of D_l by default: unrestricted, a language with few facts could not
reach a high Trans whatever it knew.

The *oracle* picks a language's best pair on the very facts it is reported on, as in the paper. The *honest* choice is
made on other facts: facts are dealt into folds by subject, every fold is scored with the pair that was best on the
others.

Shape legend: F facts, P layer pairs; column 0 of a table [F, 1 + P] is the unmodified model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch stands behind it, and hits are read without
    from methods.backbone.projection import Pair

Ties = Literal["strict", "fractional"]
EnglishReference = Literal["restricted", "full"]
Criterion = Literal["trans", "acc"]
Correction = Literal["holm", "bh", "none"]


@dataclass(frozen=True)
class SelectionOptions:
    """How hits become scores.

    Attributes:
        ties: a gold object that shares the top with t others counts 0 (``strict``) or 1 / (1 + t) (``fractional``).
        pivot_reference: R_en within D_l (``restricted``) or all of it (``full``).
        criterion: the score by which a pair is best; ties go to the other score, then to the smaller i, then j.
        folds: folds of the honest choice.
        bootstrap: resamples of the subjects for the intervals.
        confidence: of the intervals; a change is called real at 1 - confidence.
        correction: of p values over the languages: Holm, Benjamini-Hochberg or none.
        draws: label-exchanged copies of the sweep for the null control; 0 leaves it out.
        seed: of folds, resamples and draws.
    """

    ties: Ties = "strict"
    pivot_reference: EnglishReference = "restricted"
    criterion: Criterion = "trans"
    folds: int = 5
    bootstrap: int = 2000
    confidence: float = 0.95
    correction: Correction = "holm"
    draws: int = 200
    seed: int = 0


@dataclass(frozen=True)
class LanguageHits:
    """The hits of one language.

    Attributes:
        language: its code.
        uuids, subjects, relations: of each fact, F of them.
        pairs: P of them.
        hits: [F, 1 + P] bool.
        ties: [F, 1 + P] int.
        evaluated: [1 + P] int, how many of the facts, from the first, a column was evaluated on; F unless a race
            dropped the pair.
    """

    language: str
    uuids: tuple[str, ...]
    subjects: tuple[str, ...]
    relations: tuple[str, ...]
    pairs: tuple[Pair, ...]
    hits: NDArray[np.bool_]
    ties: NDArray[np.int16]
    evaluated: NDArray[np.int64]


def credit(hits: NDArray[np.bool_], ties: NDArray[np.int16], rule: Ties) -> NDArray[np.float64]:
    """Credit in [0, 1] for each fact: 1 for a hit, for a tie what the rule gives."""
    value = hits.astype(np.float64)
    if rule == "fractional":
        value += np.where(ties > 0, 1.0 / (1.0 + ties), 0.0)
    return value


def acc(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Acc in percent of credits [F, ...] over the first axis; 0 without facts."""
    if not len(value):
        return np.zeros(value.shape[1:])
    return 100.0 * value.mean(0)


def trans(hits: NDArray[np.bool_], pivot: NDArray[np.bool_], pivot_elsewhere: int = 0) -> NDArray[np.float64]:
    """Trans in percent: hits [F, ...] against the pivot's hits on the same facts [F].

    Args:
        pivot_elsewhere: facts the pivot language got right that are not among the F (``full`` reference).

    Both sets empty gives 0: nothing known is nothing transferred.
    """
    pivot = pivot.reshape(-1, *[1] * (hits.ndim - 1))
    both = (hits & pivot).sum(0)
    either = (hits | pivot).sum(0) + pivot_elsewhere
    return np.divide(100.0 * both, either, out=np.zeros(both.shape), where=either > 0)


def best_pair(
    scores: NDArray[np.float64], accs: NDArray[np.float64], pairs: Sequence[Pair], criterion: Criterion
) -> int:
    """The index of the best pair: by the criterion, then the other score, then the smaller i, then the smaller j."""
    first, second = (scores, accs) if criterion == "trans" else (accs, scores)
    return min(range(len(pairs)), key=lambda p: (-first[p], -second[p], pairs[p]))


def fold_of(subject: str, folds: int, seed: int) -> int:
    """The fold of a subject, the same in every language and on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{subject}".encode()).digest()[:8], "big") % folds


def bootstrap_means(
    values: NDArray[np.float64], subjects: Sequence[str], options: SelectionOptions
) -> NDArray[np.float64]:
    """Percent means of columns [F, K] under resampling of whole subjects: [bootstrap, K].

    Facts of one subject stay together (a cluster bootstrap): they are not independent of each other.
    """
    _, cluster = np.unique(np.array(subjects, dtype=object).astype(str), return_inverse=True)
    clusters = int(cluster.max()) + 1
    sizes = np.bincount(cluster, minlength=clusters).astype(np.float64)
    sums = np.stack([np.bincount(cluster, weights=column, minlength=clusters) for column in values.T], 1)
    generator = np.random.default_rng(options.seed)
    means = np.empty((options.bootstrap, values.shape[1]))
    chunk = max(1, 4_000_000 // clusters)
    for start in range(0, options.bootstrap, chunk):
        stop = min(options.bootstrap, start + chunk)
        weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=stop - start).astype(np.float64)
        means[start:stop] = 100.0 * (weights @ sums) / (weights @ sizes)[:, None]
    return means
