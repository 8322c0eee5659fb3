"""Transferability relation by relation (Xu et al. 2023, appendix B.4).

The paper calls a relation transferable to a language if its Trans improves under *any* pair: the maximum of many tries,
which luck alone passes often. The honest version asks whether it improves on facts that had no say: the pair is chosen
for the relation on its facts in the other folds of subjects.

R_en is restricted to the language's facts of the relation. Shape legend: F facts, C columns, K folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.analysis.tallies import Tally, tally
from methods.lrp2.outcome import LanguageOutcome, PairScore, RelationScore
from methods.lrp2.selection import SelectionOptions, best_pair

if TYPE_CHECKING:
    from methods.backbone.projection import Pair


# fmt: off
RELATION_NAMES: dict[str, str] = {
    "P17": "country", "P19": "place of birth", "P20": "place of death", "P27": "citizenship", "P30": "continent",
    "P31": "instance of", "P36": "capital", "P37": "official language", "P38": "currency", "P39": "position held",
    "P47": "shares border with", "P101": "field of work", "P103": "native language", "P106": "occupation",
    "P108": "employer", "P127": "owned by", "P131": "located in", "P136": "genre", "P138": "named after",
    "P140": "religion", "P159": "headquarters", "P176": "manufacturer", "P178": "developer", "P190": "twin city",
    "P264": "record label", "P276": "location", "P279": "subclass of", "P282": "writing system", "P361": "part of",
    "P364": "original language of film", "P407": "language of work", "P413": "position played",
    "P449": "original broadcaster", "P463": "member of", "P495": "country of origin", "P527": "has part",
    "P530": "diplomatic relation", "P740": "location of formation", "P937": "work location",
    "P1001": "applies to jurisdiction", "P1303": "instrument", "P1376": "capital of", "P1412": "languages spoken",
    "P2341": "indigenous to",
}
"""Short English names of the Wikidata properties of mLAMA's T-REx part and of the built-in facts."""
# fmt: on


def relation_label(relation: str) -> str:
    """The relation's name with its identifier; an unknown one stands alone.

    >>> relation_label("P17"), relation_label("P9999")
    ('country (P17)', 'P9999')
    """
    name = RELATION_NAMES.get(relation)
    return f"{name} ({relation})" if name else relation


@dataclass(frozen=True)
class RelationSummary:
    """One relation over the languages.

    Attributes:
        languages: those with facts of the relation.
        facts: mean number of facts in them.
        baseline: mean Trans without LRP2.
        any_pair: share of the languages, in percent, in which Trans improves under any pair, as in the paper.
        honest: share in which it improves at pairs chosen on other facts.
        gain: mean change of Trans at pairs chosen on other facts.
    """

    relation: str
    languages: int
    facts: float
    baseline: float
    any_pair: float
    honest: float
    gain: float


def relation_scores(
    relations: Sequence[str],
    value: NDArray[np.float64],
    hits: NDArray[np.bool_],
    pivot: NDArray[np.bool_],
    pairs: Sequence[Pair],
    folds: NDArray[np.intp],
    options: SelectionOptions,
) -> tuple[RelationScore, ...]:
    """The scores of every relation of a language, by name.

    Args:
        relations: [F] the relation of each fact.
        value, hits: [F, C] credits and hits, column 0 the unmodified model.
        pivot: [F] the pivot's hits.
        pairs: of columns 1 on.
        folds: [F] the fold of each fact.
        options: see `SelectionOptions`; pairs are compared by Trans whatever the criterion of the search.
    """
    names, number = np.unique(np.array(relations, dtype=object).astype(str), return_inverse=True)
    counts = tally(value, hits, pivot, number * options.folds + folds, len(names) * options.folds)
    found = []
    for index, name in enumerate(names):
        own = counts[np.arange(index * options.folds, (index + 1) * options.folds)]
        total = own.total()
        accs, transfers = total.acc(), total.trans()
        best = 1 + best_pair(transfers[1:], accs[1:], pairs, "trans")
        oracle = PairScore(*pairs[best - 1], float(accs[best]), float(transfers[best]))
        score = RelationScore(str(name), int(total.facts), float(transfers[0]), oracle, _honest(own, total, pairs))
        found.append(score)
    return tuple(found)


def _honest(own: Tally, total: Tally, pairs: Sequence[Pair]) -> float:
    """Trans in percent of a relation when each fold is answered with the pair that is best on the relation's others.

    Where the other folds have no facts of the relation, nothing speaks for any pair and the model is left alone.
    """
    both = either = 0.0
    for fold in np.flatnonzero(own.facts):
        others = total - own[int(fold)]
        column = 1 + best_pair(others.trans()[1:], others.acc()[1:], pairs, "trans") if others.facts else 0
        both += own.both[fold, column]
        either += own.either[fold, column]
    return 100.0 * both / either if either else 0.0


def summarize_relations(languages: Sequence[LanguageOutcome]) -> tuple[RelationSummary, ...]:
    """Every relation over the languages, the most transferable first (honest, then any pair, then by name)."""
    by_name: dict[str, list[RelationScore]] = {}
    for one in languages:
        for score in one.relations:
            by_name.setdefault(score.relation, []).append(score)
    found = [
        RelationSummary(
            relation=name,
            languages=len(scores),
            facts=float(np.mean([score.facts for score in scores])),
            baseline=float(np.mean([score.baseline for score in scores])),
            any_pair=100.0 * float(np.mean([score.oracle.trans > score.baseline for score in scores])),
            honest=100.0 * float(np.mean([score.honest > score.baseline for score in scores])),
            gain=float(np.mean([score.honest - score.baseline for score in scores])),
        )
        for name, scores in by_name.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.honest, -one.any_pair, one.relation)))
