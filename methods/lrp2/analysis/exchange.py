"""A null control from the hits alone: what the procedure finds where LRP2 does nothing.

The labels "with" and "without LRP2" are exchanged at random, subject by subject, and the whole procedure is repeated,
from the choice of pairs to the corrected verdict. In such a copy LRP2 does nothing; what is still called real is luck,
and so is what the oracle gains there.

Under one exchange every sum over facts that a choice needs is linear in the exchanged subjects, so all copies are a
few matrix products. Shape legend: F facts, S subjects, P pairs, K folds, R draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.analysis.language import Answers, prepared
from methods.lrp2.analysis.statistics import corrected, evidence, sign_flip_p, subject_sums
from methods.lrp2.outcome import LanguageOutcome, NullControl
from methods.lrp2.selection import Correction, Criterion, LanguageHits, SelectionOptions

PAIRS_AT_ONCE = 32
"""Pairs whose facts are in memory as numbers at a time."""


@dataclass(frozen=True)
class ExchangedLanguage:
    """A language in R copies whose labels were exchanged.

    Attributes:
        gains: [R] honest gain in points of accuracy.
        p: [R] its p value.
        oracle: [R] the oracle's gain.
        inflation: variance of the honest gain over the copies, divided by that of independent subjects; 1 at least.
    """

    gains: NDArray[np.float64]
    p: NDArray[np.float64]
    oracle: NDArray[np.float64]
    inflation: float


def exchange_labels(
    language: LanguageHits, pivot_hits: Mapping[str, bool], options: SelectionOptions
) -> ExchangedLanguage:
    """Repeats honest and oracle choice on copies in which a subject's answers with and without LRP2 change places.

    Args:
        language: its hits.
        pivot_hits: for each fact known in the pivot whether the unmodified model got it right.
        options: see `SelectionOptions`; `draws` is R. Exact ties between pairs go to the other score, then to the
            first pair.
    """
    ready = prepared(language, pivot_hits, options)
    names, first = np.unique(np.array(language.subjects, dtype=object).astype(str), return_index=True)
    fold_of_subject, present = ready.folds[first], [int(fold) for fold in np.unique(ready.folds)]
    swapped = exchanges([str(name) for name in names], options.draws, options.seed)
    pairs = len(ready.pairs)
    counts = {name: np.empty((len(present), options.draws, pairs)) for name in ("value", "both", "either")}
    gains = np.empty((len(first), pairs))
    for start in range(0, pairs, PAIRS_AT_ONCE):
        block = slice(start, min(pairs, start + PAIRS_AT_ONCE))
        columns = [0, *range(block.start + 1, block.stop + 1)]
        value, hits, known = ready.value[:, columns], ready.hits[:, columns], ready.pivot[:, None]
        for name, table in (("value", value), ("both", 1.0 * (hits & known)), ("either", 1.0 * (hits | known))):
            change = subject_sums(table[:, :1] - table[:, 1:], language.subjects)
            for place, fold in enumerate(present):
                inside = fold_of_subject == fold
                kept = table[ready.folds == fold, 1:].sum(0)
                counts[name][place, :, block] = kept + swapped[:, inside].astype(np.float64) @ change[inside]
        gains[:, block] = subject_sums(value[:, 1:] - value[:, :1], language.subjects)
    signs = 1.0 - 2.0 * swapped
    total = {name: table.sum(0) for name, table in counts.items()}
    picks = np.empty((options.draws, len(first)), dtype=np.intp)
    for place, fold in enumerate(present):
        others = {name: total[name] - counts[name][place] for name in counts}
        picks[:, fold_of_subject == fold] = _best(others, ready.elsewhere, options.criterion)[:, None]
    honest = signs * gains[np.arange(len(first)), picks]
    oracle = signs * gains[:, _best(total, ready.elsewhere, options.criterion)].T
    facts = len(language.uuids)
    independent = float((honest**2).sum(1).mean())
    inflation = max(1.0, float((honest.sum(1) ** 2).mean()) / independent) if independent else 1.0
    return ExchangedLanguage(
        gains=100.0 * honest.sum(1) / facts,
        p=np.array([sign_flip_p(draw, options.seed, inflation) for draw in honest]),
        oracle=100.0 * oracle.sum(1) / facts,
        inflation=inflation,
    )


def exchanges(subjects: Sequence[str], draws: int, seed: int) -> NDArray[np.bool_]:
    """[R, S] whether a subject's labels are exchanged in a draw: the same in every language and on every machine."""
    size = -(-draws // 8)
    bits = b"".join(hashlib.shake_256(f"{seed}|exchange|{subject}".encode()).digest(size) for subject in subjects)
    table = np.frombuffer(bits, np.uint8).reshape(len(subjects), size)
    return np.unpackbits(table, axis=1)[:, :draws].T.astype(bool)


def _best(counts: Mapping[str, NDArray[np.float64]], elsewhere: int, criterion: Criterion) -> NDArray[np.intp]:
    """The pair [R] that is best by the criterion, from counts [R, P] over facts."""
    either = counts["either"] + elsewhere
    transfers = np.divide(counts["both"], either, out=np.zeros_like(either), where=either > 0)
    accs = counts["value"] / max(1.0, float(counts["value"].max()))
    first, second = (transfers, accs) if criterion == "trans" else (accs, transfers)
    return np.argmax(first + 1e-11 * second, axis=1)


def null_control(languages: Sequence[ExchangedLanguage], correction: Correction, alpha: float) -> NullControl:
    """How often the procedure calls a gain real in copies of the sweep in which LRP2 does nothing."""
    draws = len(languages[0].p)
    claims = 0
    for draw in range(draws):
        adjusted = corrected([float(one.p[draw]) for one in languages], correction)
        claims += any(p <= alpha and one.gains[draw] > 0 for p, one in zip(adjusted, languages, strict=True))
    return NullControl(draws, 100.0 * claims / draws)


def with_control(
    one: LanguageOutcome, answers: Answers, exchanged: ExchangedLanguage, options: SelectionOptions
) -> LanguageOutcome:
    """The outcome with what luck alone gives the oracle, and with a p value that knows of the folds' shared facts."""
    change = answers.honest - answers.baseline
    found = evidence(change, answers.subjects, options.seed, exchanged.inflation)
    luck, high = float(exchanged.oracle.mean()), float(np.quantile(exchanged.oracle, 0.95))
    return replace(one, evidence=replace(found, luck=luck, luck_high=high))
