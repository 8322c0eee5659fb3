"""RankC by hand, against the definition with sets, and its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.lrp2.consistency import chance_consistency, consistency_matrix, fact_consistency, rank_consistency

WEIGHTS = [
    math.exp(2) / (math.exp(2) + math.e + 1),
    math.e / (math.exp(2) + math.e + 1),
    1 / (math.exp(2) + math.e + 1),
]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([3.0, 2.0, 1.0], [30.0, 20.0, 10.0], 1.0),
        # P@1 = 0, P@2 = 1/2, P@3 = 1
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], WEIGHTS[1] / 2 + WEIGHTS[2]),
        # P@1 = 1, P@2 = 1/2, P@3 = 1
        ([3.0, 2.0, 1.0], [3.0, 1.0, 2.0], WEIGHTS[0] + WEIGHTS[1] / 2 + WEIGHTS[2]),
        ([0.5], [0.1], 1.0),
        # Equal scores rank in the order of the candidates.
        ([1.0, 1.0, 1.0], [3.0, 2.0, 1.0], 1.0),
    ],
)
def test_one_fact_by_hand(first: list[float], second: list[float], expected: float) -> None:
    assert fact_consistency(first, second) == pytest.approx(expected)


def by_definition(first: list[float], second: list[float]) -> float:
    """Equations 1 and 2 with sorted lists and sets."""
    count = len(first)
    orders = [sorted(range(count), key=lambda c, s=scores: (-s[c], c)) for scores in (first, second)]
    total = sum(math.exp(count - k) for k in range(1, count + 1))
    return sum(
        math.exp(count - k) / total * len(set(orders[0][:k]) & set(orders[1][:k])) / k for k in range(1, count + 1)
    )


@given(st.lists(st.tuples(st.floats(-9, 0), st.floats(-9, 0)), min_size=1, max_size=30))
def test_it_is_the_definition_symmetric_and_between_0_and_1(pairs: list[tuple[float, float]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    value = fact_consistency(first, second)
    assert value == pytest.approx(by_definition(first, second))
    assert value == pytest.approx(fact_consistency(second, first))
    assert 0 < value <= 1 + 1e-12


def test_thousands_of_candidates_do_not_overflow() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5_000))
    assert 0 < fact_consistency(*scores) < 0.1


@pytest.mark.parametrize("candidates", [1, 3, 10])
def test_random_orders_reach_chance_on_average(candidates: int) -> None:
    random = np.random.default_rng(candidates)
    values = [fact_consistency(*random.normal(size=(2, candidates))) for _ in range(4_000)]
    assert np.mean(values) == pytest.approx(chance_consistency(candidates), abs=0.012)


def test_languages_are_compared_on_the_facts_and_candidates_that_both_have() -> None:
    english = {"a": {"Q1": 3.0, "Q2": 2.0, "Q3": 1.0, "Q9": 9.0}, "only English": {"Q1": 1.0}}
    german = {"a": {"Q3": 1.0, "Q2": 2.0, "Q1": 3.0}, "b": {"Q1": 1.0}}
    turned = {"a": {"Q1": 1.0, "Q2": 2.0, "Q3": 3.0}, "b": {"Q1": 1.0}}
    assert rank_consistency(english, german) == pytest.approx(1.0)
    assert rank_consistency(german, turned) == pytest.approx((WEIGHTS[1] / 2 + WEIGHTS[2] + 1) / 2)
    assert math.isnan(rank_consistency(english, {"c": {"Q1": 1.0}}))
    languages, matrix = consistency_matrix({"en": english, "de": german, "xx": turned})
    assert languages == ["en", "de", "xx"]
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(1.0)
    assert np.array_equal(np.diag(matrix), np.ones(3))


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0])])
def test_scores_of_other_candidates_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="same candidates"):
        fact_consistency(first, second)
