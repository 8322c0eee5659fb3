"""What a layer search found, as plain numbers: the input of its report.

Everything here is derived from the hits bitmaps; accuracies and transferability are percentages, 0 to 100. A pair is
(i, j): project into the pivot language after layer i (LIRP), back after layer j (LSRP).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.analysis.groups import Group
from methods.lrp2.analysis.paper import Reference


@dataclass(frozen=True)
class PairScore:
    """How one layer pair does: accuracy, and transferability |R_l & R_pivot| / |R_l | R_pivot|, both over D_l."""

    lirp: int
    lsrp: int
    acc: float
    trans: float


@dataclass(frozen=True)
class HonestScore:
    """The scores when every fact is answered with a pair chosen on other folds of subjects.

    `acc_low` to `acc_high` and `gain_low` to `gain_high` are bootstrap intervals; `gain` is against `baseline_acc` on
    the same facts; `pairs` is the pair picked for each fold.
    """

    acc: float
    acc_low: float
    acc_high: float
    baseline_acc: float
    gain: float
    gain_low: float
    gain_high: float
    pairs: tuple[tuple[int, int], ...]
    trans: float = 0.0


@dataclass(frozen=True)
class NestedScore:
    """As `HonestScore`, where the other folds also decide by which criterion to choose, and whether to project at all.

    `choices` has for each fold ``"trans 4/10"``, ``"acc 1/2"`` or ``"none"``.
    """

    acc: float
    gain: float
    gain_low: float
    gain_high: float
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What speaks for a change of the honest score.

    Attributes:
        gained, lost: facts that only the honest choice, or only the unmodified model, has right.
        p: of the paired test, two-sided.
        adjusted: `p`, corrected over the languages of the sweep.
        inflation: how much wider than under independence the honest gain varies where LRP2 does nothing, as a ratio of
            variances, 1 at least: folds share the facts on which they choose. `p` takes it into account.
        luck: the accuracy gain that the oracle reports where the labels "with" and "without LRP2" are exchanged at
            random, mean over the draws; NaN without draws.
        luck_high: its 95% quantile.
    """

    gained: int
    lost: int
    p: float
    adjusted: float
    inflation: float
    luck: float
    luck_high: float


@dataclass(frozen=True)
class RelationScore:
    """Transferability of one relation in one language: unmodified, at its best pair, at pairs chosen on other folds."""

    relation: str
    facts: int
    baseline: float
    oracle: PairScore
    honest: float


@dataclass(frozen=True)
class LanguageOutcome:
    """One language.

    Attributes:
        facts: |D_l|, the facts probed.
        oracle: the best pair by the search's criterion on the very facts that are reported, as in the paper.
        honest: the score of pairs chosen on other facts.
        grid: every pair, in any order; one that a race dropped with its scores on the facts it was evaluated on.
        english_acc: the pivot's accuracy on the same facts.
        ties: facts for which the gold candidate shares the first rank with others in the unmodified model.
        verdict: in a few words, whether the gain is real.
        nested: the score when criterion and use of LRP2 are chosen on other facts as well.
        evidence: what `verdict` rests on.
        relations: one score for each relation.
        baselines: for each pair that a race dropped acc and trans of the unmodified model on that pair's facts.
    """

    language: str
    facts: int
    baseline_acc: float
    baseline_trans: float
    oracle: PairScore
    honest: HonestScore
    grid: tuple[PairScore, ...]
    english_acc: float
    ties: int
    verdict: str
    nested: NestedScore | None = None
    evidence: Evidence | None = None
    relations: tuple[RelationScore, ...] = ()
    baselines: Mapping[tuple[int, int], tuple[float, float]] = field(default_factory=dict)

    def gain(self, score: PairScore) -> float:
        """What a pair adds to the accuracy of the unmodified model on the same facts, in points."""
        return score.acc - self._baseline(score)[0]

    def trans_change(self, score: PairScore) -> float:
        """What a pair adds to transferability on the same facts, in points."""
        return score.trans - self._baseline(score)[1]

    def _baseline(self, score: PairScore) -> tuple[float, float]:
        return self.baselines.get((score.lirp, score.lsrp), (self.baseline_acc, self.baseline_trans))


@dataclass(frozen=True)
class NullControl:
    """The whole procedure on copies of the sweep in which LRP2 does nothing.

    Attributes:
        draws: copies; in each the labels "with" and "without LRP2" are exchanged at random, subject by subject.
        claimed: the share of copies in which any language's gain would be called real, in percent.
    """

    draws: int
    claimed: float


@dataclass(frozen=True)
class PivotConsistency:
    """RankC of one language with the pivot, 0 to 100, over `facts` facts.

    Attributes:
        chance: of two random orders of as many candidates.
        baseline, oracle: without LRP2, and at the language's best pair.
        change: of the honest choice against `baseline`, with its bootstrap interval `low` to `high`.
        p, adjusted: of the paired test of `change`, and corrected over the languages.
        verdict: in a few words.
    """

    language: str
    facts: int
    chance: float
    baseline: float
    oracle: float
    change: float
    low: float
    high: float
    p: float
    adjusted: float
    verdict: str


@dataclass(frozen=True)
class Consistency:
    """Whether languages rank a fact's candidates alike (RankC).

    Attributes:
        languages: G of them, the pivot first.
        baseline, oracle: [G, G] RankC of every two, 0 to 100, without LRP2 and at each language's best pair; NaN where
            two share no facts.
        with_pivot: the others beside the pivot.
    """

    languages: tuple[str, ...]
    baseline: NDArray[np.float64]
    oracle: NDArray[np.float64]
    with_pivot: tuple[PivotConsistency, ...]


@dataclass(frozen=True)
class SearchOutcome:
    """A whole search.

    Attributes:
        pivot: the language projected into, English in the paper.
        num_layers: L of the model.
        languages: without those that were skipped.
        pivot_acc: the pivot's accuracy on all its facts.
        skipped: (language, reason).
        decisions: every option of the probe, with the value it had.
        notes: warnings worth keeping, e.g. pairs that were dropped.
        groups: what averages are taken over, the average over all languages last.
        reference: the paper's numbers, where the model is one of the paper's.
        facts_kind: of which source the facts are, such as "mlama", the paper's, or "xfactr".
        null: the control, where it was drawn.
        correction: how p values are corrected over languages, in words.
        consistency: where all scores were kept.
    """

    pivot: str
    num_layers: int
    languages: tuple[LanguageOutcome, ...]
    pivot_acc: float
    skipped: tuple[tuple[str, str], ...]
    decisions: Mapping[str, str]
    notes: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    reference: Reference | None = None
    facts_kind: str = ""
    null: NullControl | None = None
    correction: str = "Holm"
    consistency: Consistency | None = None
