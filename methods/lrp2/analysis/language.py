"""One language, from its hits to its scores: baseline, oracle, honest and nested choice, and every relation.

The *honest* choice answers each fold of subjects with the pair that is best on the other folds. The *nested* choice
lets the other folds decide more: among them, by folds once more, which criterion chooses pairs that hold on facts it
has not seen, and whether any does better there than leaving the model alone.

Shape legend: F facts, C columns of tables (column 0 the unmodified model, then pairs), K folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.analysis.relations import relation_scores
from methods.lrp2.analysis.statistics import evidence, verdict
from methods.lrp2.analysis.tallies import Tally, tally
from methods.lrp2.outcome import HonestScore, LanguageOutcome, NestedScore, PairScore
from methods.lrp2.selection import (
    Criterion,
    LanguageHits,
    SelectionOptions,
    acc,
    best_pair,
    bootstrap_means,
    credit,
    fold_of,
    trans,
)

if TYPE_CHECKING:
    from methods.backbone.projection import Pair


@dataclass(frozen=True)
class Answers:
    """What each fact of a language scores, 0 to 1, under every way to answer it; all [F], in the order of `uuids`.

    `oracle_columns` and `honest_columns` are the columns of the stored table that answer it.
    """

    uuids: tuple[str, ...]
    subjects: tuple[str, ...]
    baseline: NDArray[np.float64]
    oracle: NDArray[np.float64]
    honest: NDArray[np.float64]
    nested: NDArray[np.float64]
    oracle_columns: NDArray[np.intp]
    honest_columns: NDArray[np.intp]


@dataclass(frozen=True)
class Prepared:
    """A language's hits in the form in which choices are made: only pairs that were evaluated on all facts.

    Attributes:
        columns: [C] their numbers in the stored table.
        hits, value: [F, C] hits and credits, column 0 the unmodified model.
        pairs: of columns 1 on.
        pivot: [F] whether the pivot has the fact right.
        elsewhere: facts that the pivot has right and the language does not have, with ``full`` reference.
        folds: [F] the fold of each fact.
        counts: tallies per fold.
    """

    columns: NDArray[np.intp]
    hits: NDArray[np.bool_]
    value: NDArray[np.float64]
    pairs: tuple[Pair, ...]
    pivot: NDArray[np.bool_]
    elsewhere: int
    folds: NDArray[np.intp]
    counts: Tally


def prepared(language: LanguageHits, pivot_hits: Mapping[str, bool], options: SelectionOptions) -> Prepared:
    """See `Prepared`; `pivot_hits` says for each fact of the pivot whether the unmodified model got it right."""
    pivot = np.array([pivot_hits.get(uuid, False) for uuid in language.uuids], dtype=np.bool_)
    here = set(language.uuids)
    full = options.pivot_reference == "full"
    elsewhere = sum(hit for uuid, hit in pivot_hits.items() if uuid not in here) if full else 0
    whole = np.flatnonzero(language.evaluated == len(language.uuids))
    hits = language.hits[:, whole]
    value = credit(hits, language.ties[:, whole], options.ties)
    folds = np.array([fold_of(subject, options.folds, options.seed) for subject in language.subjects], dtype=np.intp)
    pairs = tuple(language.pairs[column - 1] for column in whole[1:])
    counts = tally(value, hits, pivot, folds, options.folds)
    return Prepared(whole, hits, value, pairs, pivot, elsewhere, folds, counts)


def evaluate_language(
    language: LanguageHits,
    pivot_hits: Mapping[str, bool],
    pivot_credit: Mapping[str, float],
    options: SelectionOptions,
) -> tuple[LanguageOutcome, Answers]:
    """Scores of one language, and what each of its facts contributes.

    Args:
        language: its hits.
        pivot_hits: for each fact known in the pivot whether the unmodified model got it right.
        pivot_credit: the same as credits.
        options: see `SelectionOptions`.

    The verdict is that of a language on its own; `statistics.judged` corrects for having looked at several.
    """
    ready = prepared(language, pivot_hits, options)
    grid = _grid(language, ready, options)
    oracle = choose(ready.counts.total(), ready, options.criterion)
    honest_columns, pairs = _honest_columns(ready, options)
    nested_columns, choices = _nested_columns(ready, options)
    rows = np.arange(len(language.uuids))
    answers = Answers(
        uuids=language.uuids,
        subjects=language.subjects,
        baseline=ready.value[:, 0],
        oracle=ready.value[:, oracle],
        honest=ready.value[rows, honest_columns],
        nested=ready.value[rows, nested_columns],
        oracle_columns=np.full(len(rows), ready.columns[oracle]),
        honest_columns=ready.columns[honest_columns],
    )
    honest = _honest_score(answers, pairs, ready.hits[rows, honest_columns], ready, options)
    found = evidence(answers.honest - answers.baseline, language.subjects, options.seed)
    known = [pivot_credit[uuid] for uuid in language.uuids if uuid in pivot_credit]
    best = grid[language.pairs.index(ready.pairs[oracle - 1])]
    outcome = LanguageOutcome(
        language=language.language,
        facts=len(language.uuids),
        baseline_acc=float(acc(ready.value[:, 0])),
        baseline_trans=float(trans(ready.hits[:, 0], ready.pivot, ready.elsewhere)),
        oracle=best,
        honest=honest,
        grid=grid,
        english_acc=100.0 * float(np.mean(known)) if known else 0.0,
        ties=int((language.ties[:, 0] > 0).sum()),
        verdict=verdict(honest.gain, found, 1 - options.confidence),
        nested=_nested_score(answers, choices, options),
        evidence=found,
        baselines=_baselines(language, ready, options),
        relations=relation_scores(
            language.relations, ready.value, ready.hits, ready.pivot, ready.pairs, ready.folds, options
        ),
    )
    return outcome, answers


def choose(counts: Tally, ready: Prepared, criterion: Criterion) -> int:
    """The column of the pair that is best on the counted facts ([C] each)."""
    scores, accs = counts.trans(ready.elsewhere), counts.acc()
    return 1 + best_pair(scores[1:], accs[1:], ready.pairs, criterion)


def _grid(language: LanguageHits, ready: Prepared, options: SelectionOptions) -> tuple[PairScore, ...]:
    """Every pair's scores; a pair that a race dropped on the facts it was evaluated on."""
    total = ready.counts.total()
    scores = zip(total.acc()[1:].tolist(), total.trans(ready.elsewhere)[1:].tolist(), strict=True)
    known = dict(zip(ready.pairs, scores, strict=True))
    cells = []
    for column, pair in enumerate(language.pairs, start=1):
        if pair in known:
            cells.append(PairScore(*pair, *known[pair]))
            continue
        cells.append(PairScore(*pair, *_early(language, column, int(language.evaluated[column]), ready, options)))
    return tuple(cells)


def _baselines(
    language: LanguageHits, ready: Prepared, options: SelectionOptions
) -> dict[tuple[int, int], tuple[float, float]]:
    """The unmodified model beside each pair that a race dropped, on the facts which that pair was evaluated on."""
    evaluated = zip(language.pairs, language.evaluated[1:].tolist(), strict=True)
    return {
        pair: _early(language, 0, facts, ready, options) for pair, facts in evaluated if facts < len(language.uuids)
    }


def _early(
    language: LanguageHits, column: int, facts: int, ready: Prepared, options: SelectionOptions
) -> tuple[float, float]:
    """Accuracy and transferability of a column on the first facts."""
    hits, ties = language.hits[:facts, column], language.ties[:facts, column]
    return float(acc(credit(hits, ties, options.ties))), float(trans(hits, ready.pivot[:facts], ready.elsewhere))


def _honest_columns(ready: Prepared, options: SelectionOptions) -> tuple[NDArray[np.intp], tuple[Pair, ...]]:
    """The column that answers each fact [F], and the pair of each fold that has facts."""
    everything = ready.counts.total()
    columns = np.zeros(len(ready.folds), dtype=np.intp)
    pairs = []
    for fold in np.unique(ready.folds):
        best = choose(everything - ready.counts[int(fold)], ready, options.criterion)
        columns[ready.folds == fold] = best
        pairs.append(ready.pairs[best - 1])
    return columns, tuple(pairs)


def _nested_columns(ready: Prepared, options: SelectionOptions) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """As `_honest_columns`, with column 0 where the other folds advise against projecting."""
    columns = np.zeros(len(ready.folds), dtype=np.intp)
    choices = []
    for fold in np.unique(ready.folds):
        others = ready.counts[[other for other in range(options.folds) if other != fold]]
        everything = others.total()
        held: dict[Criterion | None, float] = {None: float(everything.value[0])}
        for criterion in get_args(Criterion):
            held[criterion] = sum(
                float(others.value[inner, choose(everything - others[inner], ready, criterion)])
                for inner in range(len(others.facts))
                if others.facts[inner]
            )
        order: Sequence[Criterion | None] = (None, options.criterion, *get_args(Criterion))
        winner = max(order, key=lambda criterion: held[criterion])
        if winner is None:
            choices.append("none")
            continue
        best = choose(everything, ready, winner)
        columns[ready.folds == fold] = best
        i, j = ready.pairs[best - 1]
        choices.append(f"{winner} {i}/{j}")
    return columns, tuple(choices)


def _honest_score(
    answers: Answers,
    pairs: tuple[Pair, ...],
    hits: NDArray[np.bool_],
    ready: Prepared,
    options: SelectionOptions,
) -> HonestScore:
    samples = bootstrap_means(np.stack([answers.honest, answers.baseline], 1), answers.subjects, options)
    acc_low, acc_high = _ends(samples[:, 0], options)
    gain_low, gain_high = _ends(samples[:, 0] - samples[:, 1], options)
    honest, baseline = float(acc(answers.honest)), float(acc(answers.baseline))
    return HonestScore(
        acc=honest,
        acc_low=acc_low,
        acc_high=acc_high,
        baseline_acc=baseline,
        gain=honest - baseline,
        gain_low=gain_low,
        gain_high=gain_high,
        pairs=pairs,
        trans=float(trans(hits, ready.pivot, ready.elsewhere)),
    )


def _nested_score(answers: Answers, choices: tuple[str, ...], options: SelectionOptions) -> NestedScore:
    difference = answers.nested - answers.baseline
    low, high = _ends(bootstrap_means(difference[:, None], answers.subjects, options)[:, 0], options)
    return NestedScore(float(acc(answers.nested)), float(acc(difference)), low, high, choices)


def _ends(samples: NDArray[np.float64], options: SelectionOptions) -> tuple[float, float]:
    """Both ends of the percentile interval."""
    tail = 50 * (1 - options.confidence)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)
