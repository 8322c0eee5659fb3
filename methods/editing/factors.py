"""The factors of an edit's gradient: what enters each edited module, and the gradient at its output.

For a linear module the gradient of a text's loss is sum_t delta_t x_t^T over its tokens (methods of Mitchell et al.
2022, section 3.1). Rows of a batch do not meet, so one backward pass through the upper blocks gives the factors of
every row's own loss.

Shape legend: B rows, T tokens, M label positions, V vocabulary or classes, I and O a module's features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.editing.examples import Encoded
from methods.editing.losses import nll
from methods.editing.model import EditableModel

Factors = dict[str, tuple[Tensor, Tensor]]


def token_factors(model: EditableModel, batch: Encoded, states: Tensor, *, create_graph: bool = False) -> Factors:
    """Per module the inputs x [B, T, I] and output gradients delta [B, T, O] of each row's own loss.

    The loss of a row is the mean negative log-likelihood of its label tokens. Both factors are zero where a row is
    padded.

    Args:
        model: as it is, with whatever edits are applied around the call.
        batch: texts whose every label position has a target.
        states: entering the first edited block, from `EditableModel.frozen`.
        create_graph: keep the graph, so that a later loss can be differentiated through the factors.
    """
    return factors_and_logits(model, batch, states, create_graph=create_graph)[0]


def factors_and_logits(
    model: EditableModel, batch: Encoded, states: Tensor, *, create_graph: bool = False
) -> tuple[Factors, Tensor]:
    """The factors of `token_factors`, and the logits [M, V] at the label positions of the same forward pass.

    Raises:
        ValueError: a label position has no target.
    """
    if bool((batch.targets < 0).any()):
        raise ValueError("an edit needs an answer: some texts of the batch have none")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.enable_grad(), _noted(model, seen), _differentiable_twice(create_graph):
        logits = model.logits(batch, states)
        loss = nll(logits, batch.targets, batch.rows, len(batch)).sum()
        gradients = torch.autograd.grad(loss, [output for _, output in seen.values()], create_graph=create_graph)
    attended = batch.attention_mask[..., None].to(gradients[0])
    factors = {}
    for (name, (x, _)), delta in zip(seen.items(), gradients, strict=True):
        shaped = x.reshape(*attended.shape[:2], -1), delta.reshape(*attended.shape[:2], -1)
        kept = (shaped[0] * attended, shaped[1] * attended)
        factors[name] = kept if create_graph else (kept[0].detach(), kept[1].detach())
    return factors, logits if create_graph else logits.detach()


@contextmanager
def _noted(model: EditableModel, seen: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Notes input and output of every edited module; the graph begins at the first of them."""

    def hook(name: str) -> Any:
        def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            seen[name] = (args[0], output)
            return output

        return note

    with ExitStack() as stack:
        for module in model.modules:
            stack.callback(model.linear(module.name).register_forward_hook(hook(module.name)).remove)
        yield


@contextmanager
def _differentiable_twice(wanted: bool) -> Iterator[None]:
    """Fused attention has no second derivative; the plain one has."""
    with ExitStack() as stack:
        if wanted:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
