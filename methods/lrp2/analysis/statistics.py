"""Whether a gain is real: a paired test per language, a correction over languages, a verdict in words.

The test flips signs. Facts come in subjects, and facts of one subject are not independent; so the differences between
two ways of answering are summed per subject, and under the null hypothesis (neither way is better) each sum is as
likely as its negative. Where no subject has two facts on which the two differ, this is the exact McNemar test.

The honest choice needs one thing more: its folds choose on overlapping facts, so that its gain varies more under the
null hypothesis than the sum of independent subjects. The label-exchanged copies of `exchange` measure by how much, and
the test allows for it.

Shape legend: F facts, S subjects, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.outcome import Evidence, LanguageOutcome
from methods.lrp2.selection import Correction

SIMULATED = 20_000
"""Sign flips that are drawn where the exact distribution is out of reach."""

REAL_GAIN, REAL_LOSS = "real gain", "real loss"
HINT_GAIN, HINT_LOSS = "hint of a gain", "hint of a loss"
UNCLEAR = "no clear change"

CORRECTIONS: dict[Correction, str] = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "no correction"}


def sign_flip_p(sums: NDArray[np.float64], seed: int = 0, inflation: float = 1.0) -> float:
    """The two-sided p value of the sum of `sums` when each is as likely as its negative.

    Args:
        sums: [S] differences per subject. Whole numbers give the exact p value, by the product of the characteristic
            functions cos(m t) of +-m; others (credit shared among ties) are simulated with `SIMULATED` flips.
        seed: of the simulation.
        inflation: variance of the sum over what independent signs give it; the observed sum shrinks by its root.
    """
    sizes = np.abs(sums[sums != 0])
    if not len(sizes):
        return 1.0
    observed = abs(float(sums.sum())) / math.sqrt(inflation)
    if not np.array_equal(sizes, np.round(sizes)):
        generator = np.random.default_rng(seed)
        hits = 0
        for start in range(0, SIMULATED, 1000):
            signs = generator.integers(0, 2, (min(1000, SIMULATED - start), len(sizes)), dtype=np.int8) * 2.0 - 1.0
            hits += int((np.abs(signs @ sizes) >= observed - 1e-9).sum())
        return (1 + hits) / (1 + SIMULATED)
    return _tail(np.bincount(sizes.astype(np.intp)), observed)


def _tail(counts: NDArray[np.intp], observed: float) -> float:
    """P(|sum| >= observed), where `counts[m]` terms are +m or -m.

    All sums are even or all are odd; between two of them the probability is interpolated, lest a sum that is shrunk by
    less than two counts for as much as before.
    """
    reach = int((counts * np.arange(len(counts))).sum())
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    spectrum = np.ones(len(angles))
    for size in np.flatnonzero(counts):
        spectrum *= np.cos(size * angles) ** int(counts[size])
    possible = np.arange(reach % 2, reach + 1, 2)
    mass = np.fft.ifft(spectrum).real[possible]
    tail = np.minimum(2 * np.cumsum(mass[::-1])[::-1], 1.0)
    return float(np.clip(np.interp(observed, possible, tail), 2.0 ** (1 - counts.sum()), 1.0))


def subject_sums(differences: NDArray[np.float64], subjects: Sequence[str]) -> NDArray[np.float64]:
    """Differences [F] or [F, P] summed per subject, [S] or [S, P], subjects sorted."""
    _, number = np.unique(np.array(subjects, dtype=object).astype(str), return_inverse=True)
    if not len(number):
        return np.zeros((0, *differences.shape[1:]))
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    return np.asarray(np.add.reduceat(differences[order], starts, axis=0))


def evidence(
    differences: NDArray[np.float64], subjects: Sequence[str], seed: int = 0, inflation: float = 1.0
) -> Evidence:
    """The paired test of one language from its differences [F], not yet corrected over languages."""
    p = sign_flip_p(subject_sums(differences, subjects), seed, inflation)
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return Evidence(gained, lost, p, p, inflation, math.nan, math.nan)


def corrected(values: Sequence[float], method: Correction) -> list[float]:
    """p values corrected for being a family of several.

    ``holm`` (Holm 1979) bounds the chance of any wrong claim, whatever the dependence between the languages; ``bh``
    (Benjamini and Hochberg 1995) the expected share of wrong ones among the claims.
    """
    if method == "none" or not len(values):
        return [float(value) for value in values]
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    count = len(p)
    if method == "holm":
        steps = np.maximum.accumulate(p[order] * (count - np.arange(count)))
    else:
        steps = np.minimum.accumulate((p[order] * count / (1 + np.arange(count)))[::-1])[::-1]
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def verdict(gain: float, found: Evidence, alpha: float) -> str:
    """What the tests say, in words: a *hint* is below `alpha` on its own, but not among so many languages."""
    if found.adjusted <= alpha:
        return REAL_GAIN if gain > 0 else REAL_LOSS
    if found.p <= alpha:
        return HINT_GAIN if gain > 0 else HINT_LOSS
    return UNCLEAR


def judged(outcomes: Sequence[LanguageOutcome], correction: Correction, alpha: float) -> tuple[LanguageOutcome, ...]:
    """The outcomes with p values corrected over them and the verdicts that follow."""
    found = [one.evidence for one in outcomes]
    assert all(found)
    adjusted = corrected([each.p for each in found if each], correction)
    judgements = []
    for one, each, value in zip(outcomes, found, adjusted, strict=True):
        assert each is not None
        each = replace(each, adjusted=value)
        judgements.append(replace(one, evidence=each, verdict=verdict(one.honest.gain, each, alpha)))
    return tuple(judgements)
