"""How the distance between the two projections matters: for each gap j - i the best pair (Xu et al. 2023, figure 3).

A curve is a maximum over the pairs of a gap, chosen on the facts it is reported on: an upper bound, and higher for
small gaps, of which there are more pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from methods.lrp2.outcome import LanguageOutcome, PairScore


def gap_curve(one: LanguageOutcome) -> dict[int, PairScore]:
    """The pair with the highest Trans for each gap, gaps growing; ties go to Acc, then to the smaller i."""
    best: dict[int, PairScore] = {}
    for score in sorted(one.grid, key=lambda score: (-score.trans, -score.acc, score.lirp)):
        best.setdefault(score.lsrp - score.lirp, score)
    return dict(sorted(best.items()))


def mean_change(languages: Sequence[LanguageOutcome]) -> Mapping[int, float]:
    """For each gap the change of Trans against the unmodified model at the best pair, mean over the languages."""
    changes: dict[int, list[float]] = {}
    for one in languages:
        for gap, score in gap_curve(one).items():
            changes.setdefault(gap, []).append(one.trans_change(score))
    return {gap: sum(values) / len(values) for gap, values in sorted(changes.items())}
