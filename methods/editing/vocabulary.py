"""The vocabulary in tiles: normaliser, best token and expected row of a softmax that is never whole in memory.

For a transformed state h, logits z = W h + b and p = softmax(z), everything that losses over all positions need is

    A(h) = log sum_v exp z_v  (the log partition function),    its gradient  e(h) = sum_v p_v W_v,    argmax_v z_v.

The divergence of two states' softmax distributions is the Bregman divergence of A,

    KL(p_1 || p_2) = A(h_2) - A(h_1) - e(h_1) . (h_2 - h_1),

so once A and e of the unmodified model are known, its logits are never needed again.

Shape legend: N states, D hidden size, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

# Logits of a tile stay in the processor's caches: about 512 states x 2,048 tokens.
_STATES, _TOKENS = 512, 2048


class Partition(NamedTuple):
    """What a softmax over the vocabulary comes to, for N states.

    Attributes:
        normaliser: A, [N]; differentiable.
        expected: e, the mean row of W under p, [N, D]; differentiable. Empty [N, 0] where it was not asked for.
        best: the most likely token, the first of equals, [N].
    """

    normaliser: Tensor
    expected: Tensor
    best: Tensor


def partition(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, expected: bool = False) -> Partition:
    """Log partition function, expected row and best token.

    Differentiable once in `hidden`, by tiles as well: the gradient of A is e, and that of g . e is
    sum_v p_v (W_v . g - e . g) W_v.

    Args:
        hidden: transformed states, [N, D].
        weight: [V, D], frozen.
        bias: [V] or None, frozen.
        expected: whether e is wanted; without it and without a gradient it is not computed.
    """
    wanted = expected or (torch.is_grad_enabled() and hidden.requires_grad)
    normaliser, mean, best = _Partition.apply(hidden, weight, bias, wanted)
    return Partition(normaliser, mean if expected else mean[:, :0], best)


class _Partition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, expected: bool) -> tuple[Tensor, ...]:
        parts = [_stream(rows, weight, bias, expected) for rows in hidden.split(_STATES)]
        normaliser, mean, best = (torch.cat(columns) for columns in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, normaliser, mean)
        ctx.mark_non_differentiable(best)
        ctx.set_materialize_grads(False)
        return normaliser, mean, best

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, for_normaliser: Tensor | None, for_mean: Tensor | None, *__: None) -> Any:
        hidden, weight, bias, normaliser, mean = ctx.saved_tensors
        gradient = torch.zeros_like(hidden)
        if for_normaliser is not None:
            gradient += for_normaliser[:, None] * mean
        if for_mean is not None:
            for start in range(0, len(hidden), _STATES):
                rows = slice(start, start + _STATES)
                pull = for_mean[rows]
                centre = (mean[rows] * pull).sum(1, keepdim=True)
                for _, tile, offsets in _tiles(weight, bias):
                    logits = linear(hidden[rows], tile, offsets)
                    probability = logits.sub_(normaliser[rows, None]).exp_()
                    gradient[rows] += (probability * (pull @ tile.T - centre)) @ tile
        return gradient, None, None, None


def _stream(hidden: Tensor, weight: Tensor, bias: Tensor | None, expected: bool) -> tuple[Tensor, ...]:
    """A, e and argmax of a few states: the sums are rescaled whenever a larger logit is met."""
    count = len(hidden)
    top = hidden.new_full((count,), float("-inf"))
    total = hidden.new_zeros(count)
    mean = hidden.new_zeros(count, weight.shape[1] if expected else 0)
    best = torch.zeros(count, dtype=torch.long, device=hidden.device)
    for start, tile, offsets in _tiles(weight, bias):
        logits = linear(hidden, tile, offsets)
        highest, where = logits.max(1)
        best = torch.where(highest > top, where + start, best)
        raised = torch.maximum(top, highest)
        shrink = (top - raised).exp_()
        top = raised
        shares = logits.sub_(top[:, None]).exp_()
        total = total * shrink + shares.sum(1)
        if expected:
            mean.mul_(shrink[:, None]).addmm_(shares, tile)
    return top + total.log(), mean / total[:, None], best


def _tiles(weight: Tensor, bias: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """The vocabulary in tiles: first token, rows of W, entries of b."""
    for start in range(0, len(weight), _TOKENS):
        stop = start + _TOKENS
        yield start, weight[start:stop], None if bias is None else bias[start:stop]
