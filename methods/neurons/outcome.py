"""What a study of knowledge neurons found, as plain numbers: the input of its report.

Overlaps are percentages, 0 to 100, between a language and the pivot, means over layers unless a layer is named.
"Without" and "with" are without and with LRP2 in the language; the pivot is never projected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from methods.neurons.effects import TREATMENTS
from methods.neurons.overlap import Measure, Overlap, languages_sharing, mean, overlap, same_overlap
from methods.neurons.results import LRP2, PLAIN, VARIANTS, LanguageNeurons, LanguageRecord
from orchestrator.report.blocks import Interval

MORE, LESS, UNCLEAR = "more in common", "less in common", "no clear change"


@dataclass(frozen=True)
class LanguageOverlap:
    """What a language has in common with the pivot.

    Attributes:
        record: the language as measured.
        overlaps: variant -> overlap with the pivot.
        change: of the mean overlap of the same relations by LRP2, with a 95% bootstrap interval over relations.
        verdict: in a few words, what LRP2 does to it.
        effects: mean probability of the right object, over relations, under each treatment of its neurons.
    """

    record: LanguageRecord
    overlaps: Mapping[str, Overlap]
    change: Interval
    verdict: str
    effects: Sequence[float]

    @property
    def language(self) -> str:
        """Its code."""
        return self.record.language

    def same(self, variant: str) -> float:
        """Mean overlap of a relation with itself."""
        return mean(self.overlaps[variant].same)

    def different(self, variant: str) -> float:
        """Mean overlap of different relations."""
        return mean(self.overlaps[variant].different)


@dataclass(frozen=True)
class RelationOverlap:
    """A relation over all languages.

    Attributes:
        same: variant -> mean overlap with the pivot.
        neurons: how many knowledge neurons, over all layers, it has in at least one language, the pivot included.
        half, everywhere: how many of them it has in at least half of the languages, and in all.
    """

    relation: str
    same: Mapping[str, float]
    neurons: int
    half: int
    everywhere: int


@dataclass(frozen=True)
class NeuronOutcome:
    """A whole study.

    Attributes:
        pivot: the pivot as measured; None if its trial is missing, and then no language is compared with it.
        languages: the others, in the order of the sweep.
        codes: all languages with neurons, the pivot first: the axes of `matrices`.
        matrices: variant -> overlap of every two of `codes`, mean over relations and layers.
        chance: overlap of two random sets of the same size, nan where sets have no fixed size.
        notes: warnings worth keeping.
    """

    pivot_code: str
    pivot: LanguageRecord | None
    layers: int
    width: int
    languages: Sequence[LanguageOverlap]
    relations: Sequence[RelationOverlap]
    codes: Sequence[str]
    matrices: Mapping[str, Sequence[Sequence[float]]]
    chance: float
    notes: Sequence[str]


def evaluate(
    found: Sequence[LanguageNeurons],
    pivot: str,
    *,
    measure: Measure,
    top: int | None,
    bootstrap: int,
    seed: int,
    notes: Sequence[str] = (),
) -> NeuronOutcome:
    """Compares the languages that were measured.

    Args:
        found: one for each finished trial, in the order of the sweep.
        pivot: its code.
        measure: how overlap is counted.
        top: the size of a set in a layer, None where it is not fixed.
        bootstrap: resamples of relations.
        seed: of the resamples.
        notes: warnings worth keeping.
    """
    by_code = {one.record.language: one for one in found}
    centre = by_code.pop(pivot, None)
    said = list(notes)
    if centre is None:
        said.append(f"{pivot} has no results, so no language can be compared with it")
    others = [] if centre is None else [_compare(one, centre, measure, bootstrap, seed) for one in by_code.values()]
    first = found[0].record
    everyone = [*([centre] if centre else []), *by_code.values()]
    return NeuronOutcome(
        pivot_code=pivot,
        pivot=None if centre is None else centre.record,
        layers=first.layers,
        width=first.width,
        languages=others,
        relations=_relations(others, everyone),
        codes=[one.record.language for one in everyone],
        matrices={variant: _matrix(everyone, variant, measure) for variant in VARIANTS},
        chance=_chance(top, first.width, measure),
        notes=said,
    )


def _compare(
    one: LanguageNeurons, pivot: LanguageNeurons, measure: Measure, bootstrap: int, seed: int
) -> LanguageOverlap:
    overlaps = {variant: overlap(one.sets[variant], pivot.sets[PLAIN], measure) for variant in VARIANTS}
    with np.errstate(invalid="ignore"):
        gains = np.array([mean(column) for column in (overlaps[LRP2].same - overlaps[PLAIN].same).T])
    change = _interval(gains[~np.isnan(gains)], bootstrap, seed)
    verdict = MORE if change.low > 0 else LESS if change.high < 0 else UNCLEAR
    effects = [mean(column) for column in np.array(list(one.record.effects.values())).reshape(-1, len(TREATMENTS)).T]
    return LanguageOverlap(one.record, overlaps, change, verdict, effects)


def _interval(values: NDArray[np.float64], resamples: int, seed: int) -> Interval:
    """The mean of some values with its 95% bootstrap interval."""
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def _relations(others: Sequence[LanguageOverlap], everyone: Sequence[LanguageNeurons]) -> list[RelationOverlap]:
    names = dict.fromkeys(relation for one in others for relation in one.overlaps[PLAIN].relations)
    rows = []
    for relation in names:
        same = {
            variant: mean(
                [
                    mean(found.same[:, found.relations.index(relation)])
                    for found in (one.overlaps[variant] for one in others)
                    if relation in found.relations
                ]
            )
            for variant in VARIANTS
        }
        having = [one.sets[PLAIN] for one in everyone if relation in one.sets[PLAIN]]
        count = languages_sharing(having, relation)
        everywhere = int((count == len(having)).sum())
        rows.append(
            RelationOverlap(relation, same, int((count > 0).sum()), int((2 * count >= len(having)).sum()), everywhere)
        )
    return rows


def _matrix(everyone: Sequence[LanguageNeurons], variant: str, measure: Measure) -> list[list[float]]:
    """Overlap of every two languages; the pivot has no LRP2 and is compared as it is."""
    sets = [one.sets.get(variant, one.sets[PLAIN]) for one in everyone]
    matrix = np.full((len(sets), len(sets)), 100.0)
    for row, first in enumerate(sets):
        for column in range(row):
            matrix[row, column] = matrix[column, row] = same_overlap(first, sets[column], measure)
    return matrix.tolist()


def _chance(top: int | None, width: int, measure: Measure) -> float:
    """Expected overlap of two independent random sets; for Jaccard of the expected number of common neurons."""
    if top is None:
        return float("nan")
    common = top * top / width
    return 100.0 * common / (top if measure == "share" else 2 * top - common)
