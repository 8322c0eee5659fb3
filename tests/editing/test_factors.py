"""Token factors give the gradient of every row's own loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.editing.edits import replaced
from methods.editing.examples import Example
from methods.editing.factors import token_factors
from methods.editing.losses import nll
from methods.editing.model import EditableModel
from tests.editing.tiny import attached, cached_editable, requests


def test_factors_sum_to_the_gradient_of_each_row(exact: EditableModel) -> None:
    batch = exact.encode(requests(exact.kind, 4))
    factors = token_factors(exact, batch, exact.frozen(batch))
    copies = {m.name: nn.Parameter(exact.linear(m.name).weight.clone()) for m in exact.modules}
    for row in range(len(batch)):
        one = batch.select([row])
        with replaced(exact, copies):
            loss = nll(exact.logits(one), one.targets, one.rows, 1).sum()
            gradients = torch.autograd.grad(loss, list(copies.values()))
        for name, gradient in zip(copies, gradients, strict=True):
            x, delta = factors[name]
            torch.testing.assert_close(delta[row].T @ x[row], gradient, atol=1e-9, rtol=1e-7)


def test_factors_are_zero_where_a_row_is_padded(exact: EditableModel) -> None:
    batch = exact.encode(requests(exact.kind, 5))
    padded = batch.attention_mask == 0
    assert padded.any()
    for x, delta in token_factors(exact, batch, exact.frozen(batch)).values():
        assert not x[padded].any()
        assert not delta[padded].any()
        assert not x.requires_grad
        assert not delta.requires_grad


def test_in_the_last_matrix_of_a_classifier_only_the_first_token_has_a_gradient() -> None:
    model = cached_editable("bert-classifier", torch.float64)
    batch = model.encode(requests("classifier", 3))
    _, delta = token_factors(model, batch, model.frozen(batch))[model.modules[-1].name]
    assert delta[:, 0].any()
    assert not delta[:, 1:].any()


@pytest.mark.parametrize("family", ["bert", "bert-classifier", "bloom"])
def test_a_second_derivative_through_the_factors_equals_finite_differences(family: str) -> None:
    model = cached_editable(family, torch.float64)
    batch = model.encode(requests(model.kind, 2))
    states = model.frozen(batch)
    names = [module.name for module in model.modules]
    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(model.linear(n).weight.shape, generator=generator, dtype=torch.float64) for n in names}

    def squared_gradient(step: float) -> torch.Tensor:
        moved = {n: nn.Parameter(model.linear(n).weight + step * direction[n]) for n in names}
        with replaced(model, moved):
            factors = token_factors(model, batch, states, create_graph=True)
        value = sum((torch.bmm(d.transpose(1, 2), x).square().sum() for x, d in factors.values()), torch.zeros(()))
        if step:
            return value.detach()
        slopes = torch.autograd.grad(value, list(moved.values()))
        return sum((g * direction[n]).sum() for n, g in zip(names, slopes, strict=True))

    numeric = (squared_gradient(1e-4) - squared_gradient(-1e-4)) / 2e-4
    # Hugging Face's BLOOM computes its attention weights in float32 always.
    torch.testing.assert_close(squared_gradient(0.0), numeric, rtol=1e-3 if family == "bloom" else 1e-4, atol=0)


def test_an_edit_without_an_answer_is_an_error_and_leaves_no_hooks() -> None:
    model = cached_editable("bert", torch.float64)
    before = attached(model)
    batch = model.encode([Example("paris is [MASK]", "en")])
    with pytest.raises(ValueError, match="an edit needs an answer"):
        token_factors(model, batch, model.frozen(batch))
    assert attached(model) == before
