"""From hits to scores: the formulas, the oracle's tie rules, and an honest choice that is not fooled by luck."""

from __future__ import annotations

import numpy as np
import pytest

from methods.backbone.projection import all_pairs
from methods.lrp2.analysis.language import evaluate_language
from methods.lrp2.selection import (
    LanguageHits,
    SelectionOptions,
    acc,
    best_pair,
    bootstrap_means,
    credit,
    fold_of,
    trans,
)


def language(hits: np.ndarray, subjects: tuple[str, ...] | None = None, layers: int = 4) -> LanguageHits:
    facts = len(hits)
    pairs = all_pairs(layers)[: hits.shape[1] - 1]
    return LanguageHits(
        language="de",
        uuids=tuple(f"u{n}" for n in range(facts)),
        subjects=subjects or tuple(f"s{n}" for n in range(facts)),
        relations=("r",) * facts,
        pairs=pairs,
        hits=hits.astype(bool),
        ties=np.zeros(hits.shape, dtype=np.int16),
        evaluated=np.full(hits.shape[1], facts, dtype=np.int64),
    )


def test_acc_is_the_share_of_facts_got_right() -> None:
    np.testing.assert_allclose(acc(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])), [75.0, 25.0])


@pytest.mark.parametrize(
    ("mine", "english", "expected"),
    [
        ([1, 1, 0], [1, 1, 0], 100.0),
        ([1, 0, 0], [0, 1, 1], 0.0),
        ([1, 1, 0], [0, 1, 1], 100 / 3),
        ([0, 0, 0], [0, 0, 0], 0.0),
    ],
    ids=["same", "disjoint", "overlapping", "both empty"],
)
def test_trans_is_intersection_over_union(mine: list[int], english: list[int], expected: float) -> None:
    assert trans(np.array(mine, dtype=bool), np.array(english, dtype=bool)) == pytest.approx(expected)


def test_english_hits_outside_the_language_count_only_when_asked() -> None:
    """With R_en unrestricted a language with few facts cannot reach 100."""
    case = language(np.ones((4, 2)))
    english = {f"u{n}": True for n in range(4)} | {"elsewhere": True}
    credits = dict.fromkeys(english, 1.0)
    restricted, _ = evaluate_language(case, english, credits, SelectionOptions(bootstrap=100))
    full, _ = evaluate_language(case, english, credits, SelectionOptions(pivot_reference="full", bootstrap=100))
    assert restricted.baseline_trans == pytest.approx(100.0)
    assert full.baseline_trans == pytest.approx(80.0)


def test_a_shared_top_rank_counts_nothing_or_its_share() -> None:
    hits, ties = np.array([[True], [False], [False]]), np.array([[0], [1], [0]], dtype=np.int16)
    assert credit(hits, ties, "strict").sum() == 1.0
    assert credit(hits, ties, "fractional").sum() == 1.5


def test_the_best_pair_is_decided_by_trans_then_acc_then_small_layers() -> None:
    pairs = [(1, 3), (1, 2), (2, 3)]
    assert best_pair(np.array([5.0, 5.0, 4.0]), np.array([1.0, 2.0, 9.0]), pairs, "trans") == 1
    assert best_pair(np.array([5.0, 5.0, 4.0]), np.array([1.0, 2.0, 9.0]), pairs, "acc") == 2
    assert best_pair(np.array([5.0, 5.0, 5.0]), np.array([1.0, 1.0, 1.0]), pairs, "trans") == 1


def test_the_oracle_finds_luck_where_the_honest_choice_finds_nothing() -> None:
    """276 pairs that are coin flips: the best of them looks like a gain, chosen on other facts it is none."""
    generator = np.random.default_rng(0)
    hits = generator.random((400, 277)) < 0.3
    case = LanguageHits(
        "zz",
        tuple(f"u{n}" for n in range(400)),
        tuple(f"s{n}" for n in range(400)),
        ("r",) * 400,
        all_pairs(24),
        hits,
        np.zeros(hits.shape, dtype=np.int16),
        np.full(277, 400),
    )
    english = {f"u{n}": bool(generator.random() < 0.5) for n in range(400)}
    outcome, _ = evaluate_language(case, english, {u: float(v) for u, v in english.items()}, SelectionOptions())
    assert outcome.oracle.trans - outcome.baseline_trans > 3
    assert outcome.honest.gain_low < 0 < outcome.honest.gain_high
    assert outcome.verdict == "no clear change"


def test_a_planted_gain_is_called_real() -> None:
    """One pair repairs a tenth of the facts: oracle and honest choice both find it."""
    generator = np.random.default_rng(1)
    hits = np.repeat(generator.random((500, 1)) < 0.4, 7, axis=1)
    hits[:, 3] |= generator.random(500) < 0.1
    case = language(hits)
    english = dict.fromkeys(case.uuids, True)
    outcome, _ = evaluate_language(case, english, dict.fromkeys(english, 1.0), SelectionOptions())
    assert (outcome.oracle.lirp, outcome.oracle.lsrp) == case.pairs[2]
    assert set(outcome.honest.pairs) == {case.pairs[2]}
    assert outcome.verdict == "real gain"


def test_a_subject_is_in_one_fold_in_every_language() -> None:
    folds = [fold_of(f"Q{n}", 5, seed=0) for n in range(1000)]
    assert folds == [fold_of(f"Q{n}", 5, seed=0) for n in range(1000)]
    assert min(np.bincount(folds)) > 150


def test_the_bootstrap_resamples_subjects_not_facts() -> None:
    """Ten facts of each subject that are all alike carry the information of one."""
    values = np.repeat(np.random.default_rng(0).random((30, 1)) < 0.5, 10, axis=0).astype(float)
    by_subject = bootstrap_means(values, [f"s{n // 10}" for n in range(300)], SelectionOptions())
    by_fact = bootstrap_means(values, [f"f{n}" for n in range(300)], SelectionOptions())
    assert by_subject.std() > 2.5 * by_fact.std()
