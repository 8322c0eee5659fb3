"""From hits to answers: accuracy, transferability, the oracle's pair and the honest one. No model is needed here.

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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.outcome import HonestScore, LanguageOutcome, PairScore
from methods.lrp2.projection import Pair

Ties = Literal["strict", "fractional"]
EnglishReference = Literal["restricted", "full"]
Criterion = Literal["trans", "acc"]


@dataclass(frozen=True)
class SelectionOptions:
    """How hits become scores.

    Attributes:
        ties: a gold object that shares the top with t others counts 0 (``strict``) or 1 / (1 + t) (``fractional``).
        pivot_reference: R_en within D_l (``restricted``) or all of it (``full``).
        criterion: the score by which a pair is best; ties go to the other score, then to the smaller i, then j.
        folds: folds of the honest choice.
        bootstrap: resamples of the subjects for the intervals.
        confidence: of the intervals.
        seed: of folds and resamples.
    """

    ties: Ties = "strict"
    pivot_reference: EnglishReference = "restricted"
    criterion: Criterion = "trans"
    folds: int = 5
    bootstrap: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class LanguageHits:
    """The hits of one language.

    Attributes:
        language: its code.
        uuids, subjects: of each fact, F of them.
        pairs: P of them.
        hits: [F, 1 + P] bool.
        ties: [F, 1 + P] int.
        evaluated: [1 + P] int, how many of the facts, from the first, a column was evaluated on; F unless a race
            dropped the pair.
    """

    language: str
    uuids: tuple[str, ...]
    subjects: tuple[str, ...]
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


def evaluate_language(
    language: LanguageHits, pivot_hits: dict[str, bool], pivot_credit: dict[str, float], options: SelectionOptions
) -> LanguageOutcome:
    """Baseline, oracle and honest scores of one language.

    Args:
        language: its hits.
        pivot_hits: for each fact known in English whether the unmodified model got it right.
        pivot_credit: the same as credits.
        options: see `SelectionOptions`.
    """
    pivot = np.array([pivot_hits.get(uuid, False) for uuid in language.uuids], dtype=np.bool_)
    here = set(language.uuids)
    elsewhere = (
        sum(hit for uuid, hit in pivot_hits.items() if uuid not in here) if options.pivot_reference == "full" else 0
    )
    value = credit(language.hits, language.ties, options.ties)
    complete = np.flatnonzero(language.evaluated[1:] == len(language.uuids))
    grid = []
    for column in range(value.shape[1]):
        facts = slice(0, int(language.evaluated[column]))
        grid.append(
            (float(acc(value[facts, column])), float(trans(language.hits[facts, column], pivot[facts], elsewhere)))
        )
    accs = np.array([a for a, _ in grid[1:]])
    transfers = np.array([t for _, t in grid[1:]])
    pairs = [language.pairs[p] for p in complete]
    best = complete[best_pair(transfers[complete], accs[complete], pairs, options.criterion)]
    cells = tuple(PairScore(i, j, float(accs[p]), float(transfers[p])) for p, (i, j) in enumerate(language.pairs))
    honest = _honest(language, value, pivot, elsewhere, complete, options)
    on_same_facts = [pivot_credit[uuid] for uuid in language.uuids if uuid in pivot_credit]
    return LanguageOutcome(
        language=language.language,
        facts=len(language.uuids),
        baseline_acc=grid[0][0],
        baseline_trans=grid[0][1],
        oracle=cells[best],
        honest=honest,
        grid=cells,
        english_acc=100.0 * float(np.mean(on_same_facts)) if on_same_facts else 0.0,
        ties=int((language.ties[:, 0] > 0).sum()),
        verdict=verdict(honest),
    )


def verdict(honest: HonestScore) -> str:
    """What the interval of the honest gain says, in words."""
    if honest.gain_low > 0:
        return "real gain"
    if honest.gain_high < 0:
        return "real loss"
    return "no clear change"


def _honest(
    language: LanguageHits,
    value: NDArray[np.float64],
    pivot: NDArray[np.bool_],
    elsewhere: int,
    complete: NDArray[np.intp],
    options: SelectionOptions,
) -> HonestScore:
    """Scores every fold of subjects with the pair that is best on the other folds."""
    folds = np.array([fold_of(subject, options.folds, options.seed) for subject in language.subjects])
    pairs = [language.pairs[p] for p in complete]
    columns = 1 + complete
    chosen_value = np.zeros(len(folds))
    chosen = []
    for fold in range(options.folds):
        inside, outside = folds == fold, folds != fold
        if not inside.any():
            continue
        accs = acc(value[outside][:, columns])
        transfers = trans(language.hits[outside][:, columns], pivot[outside], elsewhere)
        best = best_pair(transfers, accs, pairs, options.criterion)
        chosen.append(pairs[best])
        chosen_value[inside] = value[inside, columns[best]]
    samples = bootstrap_means(np.stack([chosen_value, value[:, 0]], 1), language.subjects, options)
    low, high = 100 * (1 - options.confidence) / 2, 100 * (1 + options.confidence) / 2
    gains = samples[:, 0] - samples[:, 1]
    acc_low, acc_high = np.percentile(samples[:, 0], [low, high])
    gain_low, gain_high = np.percentile(gains, [low, high])
    honest_acc, baseline = float(acc(chosen_value)), float(acc(value[:, 0]))
    return HonestScore(
        acc=honest_acc,
        acc_low=float(acc_low),
        acc_high=float(acc_high),
        baseline_acc=baseline,
        gain=honest_acc - baseline,
        gain_low=float(gain_low),
        gain_high=float(gain_high),
        pairs=tuple(chosen),
    )


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
