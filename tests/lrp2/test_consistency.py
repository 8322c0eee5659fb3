"""RankC by hand, against the definition with sets, and its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.lrp2.consistency import Rankings, chance_consistency, consistency_matrix, fact_consistency

WEIGHTS = [
    math.exp(2) / (math.exp(2) + math.e + 1),
    math.e / (math.exp(2) + math.e + 1),
    1 / (math.exp(2) + math.e + 1),
]


def rankings(facts: Mapping[str, Sequence[int]]) -> Rankings:
    """Of each fact its candidates, the best first."""
    orders = np.full((len(facts), max(map(len, facts.values()))), -1, dtype=np.int32)
    for row, order in enumerate(facts.values()):
        orders[row, : len(order)] = order
    return Rankings(tuple(facts), orders)


def of_one_fact(first: Sequence[int], second: Sequence[int]) -> float:
    return float(fact_consistency(rankings({"a": first}), rankings({"a": second})).values[0])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], 1.0),
        # P@1 = 0, P@2 = 1/2, P@3 = 1
        ([0, 1, 2], [2, 1, 0], WEIGHTS[1] / 2 + WEIGHTS[2]),
        # P@1 = 1, P@2 = 1/2, P@3 = 1
        ([0, 1, 2], [0, 2, 1], WEIGHTS[0] + WEIGHTS[1] / 2 + WEIGHTS[2]),
        # What only one of them ranks does not count.
        ([7, 0, 1, 2], [2, 1, 0, 8, 9], WEIGHTS[1] / 2 + WEIGHTS[2]),
    ],
)
def test_one_fact_by_hand(first: list[int], second: list[int], expected: float) -> None:
    assert of_one_fact(first, second) == pytest.approx(expected)


def by_definition(first: Sequence[int], second: Sequence[int]) -> float:
    """Equations 1 and 2 with lists and sets, over the candidates that both have."""
    one, other = ([c for c in order if c in first and c in second] for order in (first, second))
    count = len(one)
    total = sum(math.exp(count - k) for k in range(1, count + 1))
    return sum(math.exp(count - k) / total * len(set(one[:k]) & set(other[:k])) / k for k in range(1, count + 1))


orders = st.lists(st.integers(0, 20), min_size=1, unique=True)


@given(st.lists(st.tuples(orders, orders), min_size=1, max_size=8))
def test_it_is_the_definition_symmetric_and_between_0_and_1(pairs: list[tuple[list[int], list[int]]]) -> None:
    one, other = (rankings({str(n): pair[side] for n, pair in enumerate(pairs)}) for side in (0, 1))
    found = fact_consistency(one, other)
    told = [n for n, (first, second) in enumerate(pairs) if len({*first} & {*second}) >= 2]
    assert found.rows.tolist() == told
    assert found.values == pytest.approx([by_definition(*pairs[n]) for n in told])
    assert found.values == pytest.approx(fact_consistency(other, one).values)
    assert ((found.values > 0) & (found.values <= 1 + 1e-12)).all()


def test_thousands_of_candidates_do_not_overflow() -> None:
    first, second = (np.random.default_rng(seed).permutation(5_000).tolist() for seed in (0, 1))
    assert 0 <= of_one_fact(first, second) < 0.1


@pytest.mark.parametrize("candidates", [2, 3, 10])
def test_random_orders_reach_chance_on_average(candidates: int) -> None:
    random = np.random.default_rng(candidates)
    one, other = (
        Rankings(tuple(map(str, range(4_000))), np.argsort(random.normal(size=(4_000, candidates))).astype(np.int32))
        for _ in range(2)
    )
    found = fact_consistency(one, other)
    assert found.values.mean() == pytest.approx(float(chance_consistency(candidates)), abs=0.012)
    assert np.allclose(found.chance, chance_consistency(candidates))


def test_languages_are_compared_on_the_facts_and_candidates_that_both_have() -> None:
    english = rankings({"only English": [1, 2], "a": [9, 1, 2, 3]})
    german = rankings({"a": [1, 2, 3], "b": [1, 2]})
    turned = rankings({"b": [1, 2], "a": [3, 2, 1]})
    stranger = rankings({"c": [1, 2]})
    matrix = consistency_matrix([english, german, turned, stranger])
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(1.0)
    assert matrix[1, 2] == pytest.approx((WEIGHTS[1] / 2 + WEIGHTS[2] + 1) / 2)
    assert np.isnan(matrix[0, 3])
    assert np.array_equal(np.diag(matrix), np.ones(4))
