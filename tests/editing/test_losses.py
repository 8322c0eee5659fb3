"""Losses and metrics against sums by hand, and their tiled forms against whole logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.editing.edits import FactoredEdits, applied
from methods.editing.locality import locality, raw_side, reliability
from methods.editing.losses import Direction, acc, con, kl, nll
from methods.editing.model import EditableModel
from methods.editing.vocabulary import partition
from tests.editing.test_edits import random_edits
from tests.editing.tiny import cached_editable, requests, tiny_editable


def logits(*probabilities: tuple[float, ...]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_the_loss_of_a_row_is_the_mean_over_its_label_tokens() -> None:
    given_logits = logits((0.5, 0.5), (0.25, 0.75), (0.1, 0.9))
    losses = nll(given_logits, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 2]), 3)
    expected = [(math.log(2) + math.log(4)) / 2, 0.0, -math.log(0.9)]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


def test_positions_without_a_label_do_not_count() -> None:
    given_logits = logits((0.5, 0.5), (0.25, 0.75))
    rows = torch.zeros(2, dtype=torch.long)
    assert nll(given_logits, torch.tensor([-1, 1]), rows, 1).item() == pytest.approx(-math.log(0.75))
    assert acc(torch.tensor([1, 1]), torch.tensor([-1, 1]), rows, 1).item() == 1


def test_divergence_has_its_known_value_in_either_direction() -> None:
    raw, edited = logits((0.5, 0.5)), logits((0.25, 0.75))
    row = torch.zeros(1, dtype=torch.long)
    forward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    backward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert forward != pytest.approx(backward)
    assert kl(raw, edited, row, 1).item() == pytest.approx(forward)
    assert kl(raw, edited, row, 1, direction="edited||raw").item() == pytest.approx(backward)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_divergence_is_zero_only_between_equals(values: list[float]) -> None:
    raw, edited = torch.tensor(values, dtype=torch.float64).view(2, 1, 3)
    row = torch.zeros(1, dtype=torch.long)
    assert kl(raw, raw, row, 1).item() == 0
    assert kl(raw, edited, row, 1).item() >= -1e-12


def test_accuracy_is_all_or_nothing_over_the_masks_of_a_row() -> None:
    right = acc(torch.tensor([4, 5, 6, 7]), torch.tensor([4, 5, 6, 0]), torch.tensor([0, 0, 1, 1]), 2)
    assert right.tolist() == [1, 0]


def test_consistency_at_the_masks_and_everywhere_are_two_metrics() -> None:
    raw, edited = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 9])
    rows = torch.zeros(3, dtype=torch.long)
    assert con(raw, edited, rows, 1).item() == 0
    assert con(raw[1:2], edited[1:2], rows[1:2], 1).item() == 1


def test_ten_equal_micro_batches_give_the_gradient_of_one() -> None:
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    x, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    rows = torch.arange(5)
    (whole,) = torch.autograd.grad(nll(x @ weight, targets, rows, 5).mean(), weight)
    for _ in range(10):
        (nll(x @ weight, targets, rows, 5).mean() / 10).backward()
    torch.testing.assert_close(weight.grad, whole)


def random_head(tokens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((7, 5), (tokens, 5), (tokens,))
    hidden, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return hidden, weight, bias


@pytest.mark.parametrize("tokens", [3, 4096, 9000])
@pytest.mark.parametrize("biased", [True, False])
def test_the_vocabulary_in_tiles_equals_whole_logits(tokens: int, biased: bool) -> None:
    hidden, weight, bias = random_head(tokens, seed=1)
    z = torch.nn.functional.linear(hidden, weight, bias if biased else None)
    tiled = partition(hidden, weight, bias if biased else None, expected=True)
    torch.testing.assert_close(tiled.normaliser, z.logsumexp(1))
    torch.testing.assert_close(tiled.expected, z.softmax(1) @ weight)


def test_both_gradients_of_the_tiled_vocabulary_are_right() -> None:
    hidden, weight, bias = random_head(6, seed=2)

    def both(states: Tensor) -> tuple[Tensor, Tensor]:
        tiled = partition(states, weight, bias, expected=True)
        return tiled.normaliser, tiled.expected

    assert torch.autograd.gradcheck(both, hidden.requires_grad_())


@pytest.mark.parametrize("direction", ["raw||edited", "edited||raw"])
def test_locality_equals_the_plain_formulas_and_their_gradient(exact: EditableModel, direction: Direction) -> None:
    batch = exact.encode(requests(exact.kind, 4, answered=False))
    exact.raw_store.clear()
    edits = random_edits(exact, FactoredEdits, 4)
    deltas = [part.requires_grad_() for parts in edits.tensors.values() for part in parts]
    with applied(exact, edits, torch.arange(4)):
        edited = exact.upper(batch, exact.frozen(batch))
    raw = exact.upper(batch, exact.frozen(batch))
    if exact.kind == "classifier":
        rows, before, after = batch.rows, raw, edited
    else:
        rows, columns = batch.attention_mask.nonzero(as_tuple=True)
        before, after = exact.head(raw[rows, columns]), exact.head(edited[rows, columns])
    expected = kl(before, after, rows, 4, direction=direction)
    found = locality(exact, batch, edited, raw_side(exact, batch), direction=direction)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)
    ours = torch.autograd.grad(found.sum(), deltas, retain_graph=True)
    for mine, theirs in zip(ours, torch.autograd.grad(expected.sum(), deltas), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-6)


def test_an_unedited_model_is_local(exact: EditableModel) -> None:
    batch = exact.encode(requests(exact.kind, 3, answered=False))
    found = locality(exact, batch, exact.upper(batch, exact.frozen(batch)), raw_side(exact, batch))
    assert found.abs().max() < 1e-12


def test_reliability_equals_the_plain_formulas(exact: EditableModel) -> None:
    batch = exact.encode(requests(exact.kind, 5))
    output = exact.upper(batch, exact.frozen(batch))
    whole = exact.logits(batch)
    found = reliability(exact, batch, output)
    torch.testing.assert_close(found, nll(whole, batch.targets, batch.rows, 5))


def test_the_raw_side_is_computed_once_for_each_text() -> None:
    model = tiny_editable("bert")
    runs: list[int] = []
    model.blocks[-1].register_forward_hook(lambda _, __, output: runs.append(len(output)))
    runs.clear()
    a, b, c = requests("masked", 3, answered=False)
    first = raw_side(model, model.encode([a, b, a]))
    again = raw_side(model, model.encode([a, c, b, a]))
    assert runs == [2, 1]
    torch.testing.assert_close(again.normaliser[again.rows == 2], first.normaliser[first.rows == 1])


def test_the_raw_side_of_an_edited_model_is_refused() -> None:
    model = cached_editable("bert", torch.float64)
    batch = model.encode(requests("masked", 1))
    with applied(model, random_edits(model, FactoredEdits, 1), torch.arange(1)), pytest.raises(RuntimeError):
        raw_side(model, batch)
