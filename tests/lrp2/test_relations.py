"""Relations and gaps: the fast counts equal plain ones, and the honest version is not passed by luck."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.lrp2.analysis.gaps import gap_curve, mean_change
from methods.lrp2.analysis.language import evaluate_language, prepared
from methods.lrp2.analysis.relations import summarize_relations
from methods.lrp2.analysis.tallies import tally
from methods.lrp2.outcome import LanguageOutcome
from methods.lrp2.selection import SelectionOptions, acc, best_pair, trans
from tests.lrp2.hits import PIVOT, language_hits, null_hits

QUICK = SelectionOptions(bootstrap=100)


def outcome(hits: np.ndarray, relations: list[str] | None = None, language: str = "de") -> LanguageOutcome:
    return evaluate_language(language_hits(hits, language, relations=relations), PIVOT, {}, QUICK)[0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_tallies_add_up_to_the_formulas(seed: int, facts: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    hits, pivot = generator.random((facts, 4)) < 0.4, generator.random(facts) < 0.5
    value, sets = hits + 0.25 * generator.random((facts, 4)), generator.integers(0, count, facts)
    counts = tally(value, hits, pivot, sets, count)
    np.testing.assert_allclose(counts.total().acc(), acc(value))
    np.testing.assert_allclose(counts.total().trans(3), trans(hits, pivot, 3))
    for number in range(count):
        others = counts.total() - counts[number]
        np.testing.assert_allclose(others.acc(), acc(value[sets != number]), atol=1e-9)
        np.testing.assert_allclose(others.trans(), trans(hits[sets != number], pivot[sets != number]), atol=1e-9)


def test_a_relations_scores_are_those_of_its_facts_alone() -> None:
    hits = null_hits(np.random.default_rng(0), 90, 10)
    table = language_hits(hits)
    ready = prepared(table, PIVOT, QUICK)
    found = {score.relation: score for score in evaluate_language(table, PIVOT, {}, QUICK)[0].relations}
    assert set(found) == {"P0", "P1", "P2"}
    for relation, score in found.items():
        rows = np.array([name == relation for name in table.relations])
        transfers = trans(hits[rows], ready.pivot[rows])
        accs = acc(hits[rows].astype(float))
        best = best_pair(transfers[1:], accs[1:], table.pairs, "trans")
        assert score.facts == 30
        assert score.baseline == pytest.approx(transfers[0])
        assert (score.oracle.lirp, score.oracle.lsrp) == table.pairs[best]
        assert score.oracle.trans == pytest.approx(transfers[1:].max())
        answers = np.zeros(90, dtype=bool)
        for fold in range(QUICK.folds):
            others = rows & (ready.folds != fold)
            choice = best_pair(
                trans(hits[others], ready.pivot[others])[1:], acc(hits[others].astype(float))[1:], table.pairs, "trans"
            )
            answers |= rows & (ready.folds == fold) & hits[:, 1 + choice]
        assert score.honest == pytest.approx(float(trans(answers[rows], ready.pivot[rows])))


def test_any_pair_is_passed_by_luck_where_the_honest_version_is_not() -> None:
    generator = np.random.default_rng(1)
    relations = [f"P{n % 10}" for n in range(400)]
    found = summarize_relations([outcome(null_hits(generator, 400), relations, f"l{n}") for n in range(12)])
    assert np.mean([one.any_pair for one in found]) > 90
    assert np.mean([one.honest for one in found]) < 60
    assert all(one.languages == 12 and one.facts == 40 for one in found)


def test_a_relation_counts_only_languages_that_have_facts_of_it() -> None:
    generator = np.random.default_rng(2)
    found = summarize_relations(
        [outcome(null_hits(generator, 20), ["P1"] * 20), outcome(null_hits(generator, 20), ["P1"] * 10 + ["P2"] * 10)]
    )
    assert {one.relation: one.languages for one in found} == {"P1": 2, "P2": 1}


def test_a_gap_curve_takes_the_best_pair_of_each_gap() -> None:
    one = outcome(null_hits(np.random.default_rng(3), 60, 66))
    curve = gap_curve(one)
    for gap, best in curve.items():
        rivals = [score for score in one.grid if score.lsrp - score.lirp == gap]
        assert best in rivals
        assert best.trans == max(score.trans for score in rivals)
    assert list(curve) == sorted({score.lsrp - score.lirp for score in one.grid})
    changes = mean_change([one, one])
    assert changes[1] == pytest.approx(curve[1].trans - one.baseline_trans)
