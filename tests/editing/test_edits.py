"""Edits applied by hooks, row by row, equal edits written into the weights, and leave no trace."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.editing.edits import DenseEdits, Edits, FactoredEdits, applied, materialised, replaced
from methods.editing.model import EditableModel
from tests.editing.tiny import attached, cached_editable, requests, weights


def random_edits(model: EditableModel, kind: type[Edits], size: int, tokens: int = 4, seed: int = 0) -> Edits:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator, dtype=model.dtype)

    if kind is DenseEdits:
        return DenseEdits({m.name: (draw(size, m.out_features, m.in_features),) for m in model.modules})
    return FactoredEdits(
        {m.name: (draw(size, tokens, m.in_features), draw(size, tokens, m.out_features)) for m in model.modules}
    )


@pytest.mark.parametrize("kind", [FactoredEdits, DenseEdits])
def test_every_row_sees_its_own_edit_as_if_it_were_written_into_the_weights(
    exact: EditableModel, kind: type[Edits]
) -> None:
    edits = random_edits(exact, kind, 3)
    batch = exact.encode(requests(exact.kind, 4))
    rows = torch.tensor([2, 0, 2, 1])
    with applied(exact, edits, rows):
        together = exact.logits(batch)
    raw = exact.logits(batch)
    for row, edit in enumerate(rows.tolist()):
        with materialised(exact, edits, edit):
            alone = exact.logits(batch)
        here = batch.rows == row
        torch.testing.assert_close(together[here], alone[here], atol=1e-9, rtol=1e-9)
        assert (together[here] - raw[here]).abs().max() > 1e-3, "the edit should do something"


@pytest.mark.parametrize("way", ["applied", "materialised", "replaced"])
def test_the_model_is_restored_bit_for_bit_also_after_an_error(exact: EditableModel, way: str) -> None:
    edits = random_edits(exact, FactoredEdits, 2)
    batch = exact.encode(requests(exact.kind, 2))
    before, hooks, said = weights(exact), attached(exact), exact.logits(batch)
    name = exact.modules[0].name
    context = {
        "applied": lambda: applied(exact, edits, torch.arange(2)),
        "materialised": lambda: materialised(exact, edits, 0),
        "replaced": lambda: replaced(exact, {name: nn.Parameter(torch.zeros_like(exact.linear(name).weight))}),
    }[way]

    def fail_inside() -> None:
        with context():
            assert exact.edited
            assert not torch.equal(exact.logits(batch), said)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not exact.edited
    assert attached(exact) == hooks
    assert all(torch.equal(tensor, before[key]) for key, tensor in exact.hf.state_dict().items())
    assert torch.equal(exact.logits(batch), said)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.sampled_from([FactoredEdits, DenseEdits]))
def test_the_gain_is_the_input_times_the_change_of_the_weight(rows: list[int], kind: type[Edits]) -> None:
    model = cached_editable("bert", torch.float64)
    edits = random_edits(model, kind, 4)
    for module in model.modules[:2]:
        x = torch.randn(len(rows), 5, module.in_features, dtype=torch.float64)
        expected = torch.stack([x[row] @ edits.dense(module.name)[edit].T for row, edit in enumerate(rows)])
        gained = edits.gain(module.name, x, torch.tensor(rows))
        torch.testing.assert_close(gained, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [FactoredEdits, DenseEdits])
def test_gradients_reach_the_edits_and_the_input(kind: type[Edits]) -> None:
    model = cached_editable("bert", torch.float64)
    edits = random_edits(model, kind, 2)
    name = model.modules[0].name
    parts = tuple(part.requires_grad_() for part in edits.tensors[name])
    for rows in ([0, 1], [1, 1, 0]):
        x = torch.randn(len(rows), 3, model.modules[0].in_features, dtype=torch.float64, requires_grad=True)
        ours = torch.autograd.grad(edits.gain(name, x, torch.tensor(rows)).square().sum(), (x, *parts))
        plain = torch.stack([x[row] @ edits.dense(name)[edit].T for row, edit in enumerate(rows)])
        for mine, expected in zip(ours, torch.autograd.grad(plain.square().sum(), (x, *parts)), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", [FactoredEdits, DenseEdits])
def test_edits_are_taken_joined_and_stored_without_loss(kind: type[Edits]) -> None:
    model = cached_editable("bert", torch.float64)
    edits, more = random_edits(model, kind, 3), random_edits(model, kind, 2, tokens=6, seed=1)
    joined = kind.cat([edits, more])
    assert joined.size == len(joined) == 5
    stored = kind.from_tensors(joined[[4, 0]].to_tensors())
    for module in model.modules:
        expected = torch.stack([more.dense(module.name)[1], edits.dense(module.name)[0]])
        torch.testing.assert_close(stored.dense(module.name), expected, atol=1e-12, rtol=1e-12)
        assert torch.equal(joined[1:3].dense(module.name), joined.dense(module.name)[1:3])


def test_edits_in_nested_blocks_add_up() -> None:
    model = cached_editable("bert", torch.float64)
    first, second = random_edits(model, FactoredEdits, 2), random_edits(model, DenseEdits, 1, seed=1)
    batch = model.encode(requests("masked", 2))
    both = DenseEdits({name: (first.dense(name) + second.dense(name),) for name in first.modules})
    with applied(model, both, torch.arange(2)):
        expected = model.logits(batch)
    with applied(model, first, torch.arange(2)), applied(model, second, torch.zeros(2, dtype=torch.long)):
        torch.testing.assert_close(model.logits(batch), expected, atol=1e-9, rtol=1e-9)
