"""The closed forms of the patch losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.editing.patches.losses import activation_loss, memory_loss, position_weights, task_loss, top_mean

NUMBERS = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


def test_the_activation_loss_is_one_over_e_at_the_start() -> None:
    assert activation_loss(torch.ones(1)).item() == pytest.approx(math.exp(-1))
    assert activation_loss(torch.ones(1), copies=8).item() == pytest.approx(math.exp(-1))


def test_a_memory_at_zero_contributes_27_47_when_the_edit_is_at_one() -> None:
    found = memory_loss(torch.ones(1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64))
    assert found.item() == pytest.approx(math.exp(2) + math.exp(3))
    assert found.item() == pytest.approx(27.47, abs=0.01)


def test_a_memory_far_below_contributes_nothing() -> None:
    assert memory_loss(torch.ones(1), torch.full((4, 1), -200.0)).item() == 0


def test_no_memory_no_loss() -> None:
    assert memory_loss(torch.ones(2), torch.zeros(0, 2)).item() == 0


def test_fewer_values_than_asked_for_are_all_averaged() -> None:
    assert top_mean(torch.tensor([1.0, 2.0, 6.0]), top=1000).item() == pytest.approx(3)
    assert top_mean(torch.tensor([1.0, 2.0, 6.0]), top=2).item() == pytest.approx(4)


@given(NUMBERS, st.integers(1, 20), st.integers(1, 9))
def test_copies_count_as_if_values_were_repeated(numbers: list[float], top: int, copies: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    repeated = values.repeat(copies)
    expected = repeated.topk(min(top, len(repeated))).values.mean()
    torch.testing.assert_close(top_mean(values, top, copies), expected)


def test_the_margins_are_where_the_losses_are_one() -> None:
    at_margin = memory_loss(torch.tensor([0.0]), torch.tensor([[-3.0]]))
    assert at_margin.item() == pytest.approx(2)
    assert activation_loss(torch.tensor([0.5]), margin=0.5).item() == pytest.approx(1)


def test_entropy_is_taken_off_the_cross_entropy() -> None:
    logits, target, weight = torch.zeros(1, 4), torch.tensor([2]), torch.ones(1)
    plain = task_loss(logits, target, weight, "none", 0.1)
    assert plain.item() == pytest.approx(math.log(4))
    assert task_loss(logits, target, weight, "entropy", 0.1).item() == pytest.approx(0.9 * math.log(4))


def test_label_smoothing_gives_every_other_answer_its_share() -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1]])
    found = task_loss(shares.log(), torch.tensor([0]), torch.ones(1), "label smoothing", 0.1)
    expected = -(0.9 * math.log(0.7) + 0.05 * math.log(0.2) + 0.05 * math.log(0.1))
    assert found.item() == pytest.approx(expected)


def test_every_text_has_the_same_weight_however_long_its_answer() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    weights = position_weights(torch.tensor([0, 1, 1]), 2)
    assert weights.tolist() == [0.5, 0.25, 0.25]
    found = task_loss(logits, torch.tensor([1, 0, 0]), weights, "none", 0.0)
    first = math.log(1 + math.exp(2))
    assert found.item() == pytest.approx((first + math.log(2)) / 2, rel=1e-5)
