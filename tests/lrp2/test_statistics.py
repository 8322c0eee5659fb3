"""Is a gain real? The test is exact, the correction keeps its promise, luck is not called a gain, and a gain is."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.lrp2.analysis.exchange import ExchangedLanguage, exchange_labels, exchanges, null_control, with_control
from methods.lrp2.analysis.language import evaluate_language
from methods.lrp2.analysis.statistics import (
    HINT_GAIN,
    HINT_LOSS,
    REAL_GAIN,
    REAL_LOSS,
    UNCLEAR,
    corrected,
    evidence,
    judged,
    sign_flip_p,
    subject_sums,
    verdict,
)
from methods.lrp2.outcome import LanguageOutcome
from methods.lrp2.selection import Criterion, LanguageHits, SelectionOptions
from tests.lrp2.hits import PIVOT, language_hits, null_hits, planted_hits

QUICK = SelectionOptions(bootstrap=100, draws=40)


def by_enumeration(sums: list[int]) -> float:
    """Every way to flip signs, counted."""
    totals = [sum(signs) for signs in itertools.product(*((value, -value) for value in sums))]
    return sum(abs(total) >= abs(sum(sums)) for total in totals) / len(totals)


def mcnemar(gained: int, lost: int) -> float:
    """The exact McNemar test: a fair coin for every fact on which the two differ."""
    tosses, most = gained + lost, max(gained, lost)
    return min(1.0, 2 * sum(math.comb(tosses, k) for k in range(most, tosses + 1)) / 2**tosses)


class TestSignFlips:
    @given(st.lists(st.integers(-4, 4), max_size=10))
    def test_it_counts_what_enumeration_counts(self, sums: list[int]) -> None:
        assert sign_flip_p(np.array(sums, dtype=float)) == pytest.approx(by_enumeration(sums), abs=1e-12)

    @given(st.integers(0, 60), st.integers(0, 60))
    def test_with_one_fact_per_subject_it_is_mcnemars_test(self, gained: int, lost: int) -> None:
        differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 5)
        found = evidence(differences, [f"s{n}" for n in range(len(differences))])
        assert found.p == pytest.approx(mcnemar(gained, lost), abs=1e-12)
        assert (found.gained, found.lost) == (gained, lost)

    def test_many_facts_are_no_burden_and_overwhelming_evidence_stays_positive(self) -> None:
        assert 0 < sign_flip_p(np.ones(20_000)) < 1e-9
        assert sign_flip_p(np.tile([1.0, -1.0, 2.0, -2.0], 3000)) == 1.0

    def test_ten_facts_of_one_subject_are_one_piece_of_evidence(self) -> None:
        differences = np.ones(10)
        assert evidence(differences, ["s"] * 10).p == 1.0
        assert evidence(differences, [f"s{n}" for n in range(10)]).p == pytest.approx(2 / 2**10)

    def test_a_wider_null_distribution_asks_for_more(self) -> None:
        sums = np.ones(16)
        assert sign_flip_p(sums, inflation=4.0) == pytest.approx(mcnemar(12, 4))
        assert sign_flip_p(0.5 * sums, inflation=4.0) == pytest.approx(mcnemar(12, 4), abs=0.01)

    def test_shared_credit_is_simulated(self) -> None:
        halves = np.full(12, 0.5)
        assert sign_flip_p(halves) == pytest.approx(2 / 2**12, abs=5e-4)
        assert sign_flip_p(halves) == sign_flip_p(halves)

    def test_sums_are_per_subject_in_any_order(self) -> None:
        sums = subject_sums(np.array([1.0, 2.0, 4.0, 8.0]), ["b", "a", "b", "c"])
        np.testing.assert_array_equal(sums, [2.0, 5.0, 8.0])


class TestCorrection:
    P = (0.01, 0.04, 0.03, 0.005)

    def test_holm(self) -> None:
        assert corrected(self.P, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_benjamini_hochberg(self) -> None:
        assert corrected(self.P, "bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])

    def test_none(self) -> None:
        assert corrected(self.P, "none") == list(self.P)
        assert corrected((), "holm") == []

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
    def test_a_correction_never_helps_and_keeps_the_order(self, values: list[float]) -> None:
        plain, bh, holm = (corrected(values, method) for method in ("none", "bh", "holm"))
        assert all(p <= q + 1e-12 <= r + 2e-12 for p, q, r in zip(plain, bh, holm, strict=True))
        order = np.argsort(values, kind="stable")
        assert all(np.diff(np.array(holm)[order]) >= -1e-12)


def outcomes(hits: list[np.ndarray], options: SelectionOptions = QUICK) -> tuple[LanguageOutcome, ...]:
    """The judged outcomes of several languages over the same facts."""
    found = []
    for number, table in enumerate(hits):
        language = language_hits(table, f"l{number}")
        outcome, answers = evaluate_language(language, PIVOT, {}, options)
        found.append(with_control(outcome, answers, exchange_labels(language, PIVOT, options), options))
    return judged(found, "holm", 0.05)


@pytest.mark.parametrize("criterion", ["trans", "acc"])
def test_a_null_model_yields_no_real_gain_in_95_percent_of_seeds(criterion: Criterion) -> None:
    wrong = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        hits = [null_hits(generator, 120, 28) for _ in range(2)]
        found = outcomes(hits, replace(QUICK, criterion=criterion))
        wrong += any(one.verdict == REAL_GAIN for one in found)
    assert wrong <= 0.05 * 200


def test_a_gain_of_5_points_on_500_facts_is_called_real_among_other_languages() -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        found = outcomes([planted_hits(generator), *(null_hits(generator, 500) for _ in range(7))])
        assert found[0].verdict == REAL_GAIN, seed
        assert (found[0].oracle.lirp, found[0].oracle.lsrp) == found[0].honest.pairs[0]
        assert found[0].honest.gain == pytest.approx(5.0, abs=0.8)


def test_the_words_of_a_verdict() -> None:
    found = evidence(np.array([1.0] * 8), [f"s{n}" for n in range(8)])
    assert verdict(2.0, found, 0.05) == REAL_GAIN
    assert verdict(-2.0, found, 0.05) == REAL_LOSS
    assert verdict(2.0, found, 0.001) == UNCLEAR
    assert verdict(2.0, replace(found, adjusted=0.2), 0.05) == HINT_GAIN
    assert verdict(-2.0, replace(found, adjusted=0.2), 0.05) == HINT_LOSS


class TestExchangedLabels:
    def table(self, hits: np.ndarray) -> LanguageHits:
        return language_hits(hits, subjects=[f"s{n // 2}" for n in range(len(hits))])

    def exchanged(self, hits: np.ndarray, draws: int, criterion: Criterion = "trans") -> ExchangedLanguage:
        return exchange_labels(self.table(hits), PIVOT, replace(QUICK, criterion=criterion, draws=draws))

    @pytest.mark.parametrize("criterion", ["trans", "acc"])
    def test_a_copy_is_the_plain_procedure_on_exchanged_hits_when_there_is_one_pair(self, criterion: Criterion) -> None:
        """With one pair the exchange is a plain change of places, so the slow way can be written down."""
        hits = null_hits(np.random.default_rng(5), 60, 1, churn=0.3)
        table, found = self.table(hits), self.exchanged(hits, 8, criterion)
        names = sorted(set(table.subjects))
        swapped = exchanges(names, 8, QUICK.seed)
        for draw in range(8):
            rows = np.array([swapped[draw, names.index(subject)] for subject in table.subjects])
            copy = language_hits(np.where(rows[:, None], hits[:, ::-1], hits), subjects=table.subjects)
            outcome, answers = evaluate_language(copy, PIVOT, {}, replace(QUICK, criterion=criterion))
            sums = subject_sums(answers.honest - answers.baseline, answers.subjects)
            assert found.gains[draw] == pytest.approx(outcome.honest.gain)
            assert found.p[draw] == pytest.approx(sign_flip_p(sums, inflation=found.inflation))
            assert found.oracle[draw] == pytest.approx(outcome.oracle.acc - outcome.baseline_acc)

    def test_the_oracle_gains_by_luck_and_the_honest_choice_does_not(self) -> None:
        found = self.exchanged(null_hits(np.random.default_rng(0), 200, 66), 200)
        assert found.oracle.mean() > 1.5
        assert abs(found.gains.mean()) < 0.5

    def test_a_real_gain_does_not_survive_the_exchange(self) -> None:
        control = null_control([self.exchanged(planted_hits(np.random.default_rng(1)), 200)], "holm", 0.05)
        assert control.draws == 200
        assert control.claimed <= 5.0
