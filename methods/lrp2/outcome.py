"""What a layer search found, as plain numbers: the input of its report.

Everything here is derived from the hits bitmaps; accuracies and transferability are percentages, 0 to 100. A pair is
(i, j): project into the pivot language after layer i (LIRP), back after layer j (LSRP).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PairScore:
    """How one layer pair does: accuracy, and transferability |R_l & R_pivot| / |R_l | R_pivot|, both over D_l."""

    lirp: int
    lsrp: int
    acc: float
    trans: float


@dataclass(frozen=True)
class HonestScore:
    """Accuracy when every fact is answered with a pair chosen on other folds of subjects.

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


@dataclass(frozen=True)
class LanguageOutcome:
    """One language.

    Attributes:
        facts: |D_l|, the facts probed.
        oracle: the best pair by the search's criterion on the very facts that are reported, as in the paper.
        honest: the score of pairs chosen on other facts.
        grid: every pair, in any order.
        english_acc: the pivot's accuracy on the same facts.
        ties: facts for which the gold candidate shares the first rank with others in the unmodified model.
        verdict: in a few words, whether the gain is real.
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
    """

    pivot: str
    num_layers: int
    languages: tuple[LanguageOutcome, ...]
    pivot_acc: float
    skipped: tuple[tuple[str, str], ...]
    decisions: Mapping[str, str]
    notes: tuple[str, ...]
