"""RankC of a layer search: whether LRP2 makes languages rank a fact's candidates alike, and as the pivot does.

The pair that answers a fact is the search's: the oracle's, or the honest choice's, made on other facts by what it gets
right. RankC itself has no say in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from methods.lrp2.analysis.language import Answers
from methods.lrp2.analysis.statistics import corrected, sign_flip_p, subject_sums
from methods.lrp2.consistency import consistency_matrix, fact_consistency
from methods.lrp2.outcome import Consistency, LanguageOutcome, PivotConsistency
from methods.lrp2.results import has_rankings, language_rankings
from methods.lrp2.selection import SelectionOptions, bootstrap_means

CLOSER, FURTHER, AS_BEFORE = "more alike", "less alike", "no clear change"


def rank_consistency(
    tables: Mapping[str, Sequence[pa.Table]],
    pivot: str,
    languages: Sequence[LanguageOutcome],
    answers: Mapping[str, Answers],
    options: SelectionOptions,
) -> Consistency | None:
    """RankC between all languages without LRP2 and at their best pairs; None where not all scores were kept.

    Args:
        tables: the stored tables of every language, the pivot's among them.
        pivot: the language whose rankings stay those of the unmodified model.
        languages: those searched.
        answers: by which pairs their facts are answered.
        options: see `SelectionOptions`.
    """
    names = [pivot, *(one.language for one in languages)]
    if not all(tables.get(name) and has_rankings(tables[name]) for name in names):
        return None
    numbers: dict[str, int] = {}
    without, oracle, honest = (
        [language_rankings(tables[name], column, numbers) for name, column in zip(names, columns, strict=True)]
        for columns in _columns(tables[pivot], [answers[name] for name in names[1:]])
    )
    found = []
    for row, one in enumerate(languages, start=1):
        sides = [fact_consistency(side[row], without[0]) for side in (without, oracle, honest)]
        if len(sides[0].rows):
            change = sides[2].values - sides[0].values
            subjects = [answers[one.language].subjects[fact] for fact in sides[0].rows]
            means = [100.0 * float(values.mean()) for values in (sides[0].chance, *(side.values for side in sides))]
            found.append(_against_pivot(one, means, change, subjects, options))
    return Consistency(
        languages=tuple(names),
        baseline=100.0 * consistency_matrix(without),
        oracle=100.0 * consistency_matrix(oracle),
        with_pivot=_judged(found, options),
    )


def _columns(pivot: Sequence[pa.Table], answers: Sequence[Answers]) -> list[list[NDArray[np.intp]]]:
    """For each way to answer the stored column of every fact, the pivot first: its only one is the unmodified model."""
    first = np.zeros(sum(map(len, pivot)), dtype=np.intp)
    return [
        [first, *(np.zeros(len(one.uuids), dtype=np.intp) for one in answers)],
        [first, *(one.oracle_columns for one in answers)],
        [first, *(one.honest_columns for one in answers)],
    ]


def _against_pivot(
    one: LanguageOutcome,
    means: Sequence[float],
    change: NDArray[np.float64],
    subjects: Sequence[str],
    options: SelectionOptions,
) -> PivotConsistency:
    """One language beside the pivot; `change` is that of each fact under the honest choice."""
    tail = 50 * (1 - options.confidence)
    low, high = np.percentile(bootstrap_means(change[:, None], subjects, options), [tail, 100 - tail])
    p = sign_flip_p(subject_sums(change, subjects), options.seed, one.evidence.inflation if one.evidence else 1.0)
    chance, baseline, oracle, honest = means
    ends = float(low), float(high)
    return PivotConsistency(
        one.language, len(change), chance, baseline, oracle, honest - baseline, *ends, p, p, AS_BEFORE
    )


def _judged(found: Sequence[PivotConsistency], options: SelectionOptions) -> tuple[PivotConsistency, ...]:
    """With p values corrected over the languages, and the verdicts that follow."""
    judged = []
    for one, adjusted in zip(found, corrected([one.p for one in found], options.correction), strict=True):
        real = adjusted <= 1 - options.confidence
        verdict = AS_BEFORE if not real else CLOSER if one.change > 0 else FURTHER
        judged.append(replace(one, adjusted=adjusted, verdict=verdict))
    return tuple(judged)
