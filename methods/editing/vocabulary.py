"""The vocabulary in tiles: normaliser and expected row of a softmax that is never whole in memory.

For a transformed state h, logits z = W h + b and p = softmax(z), everything that losses over all positions need is

    A(h) = log sum_v exp z_v  (the log partition function)    and its gradient  e(h) = sum_v p_v W_v.

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

# Logits of a tile stay in the processor's caches.
STATES, TOKENS = 512, 1024


class Partition(NamedTuple):
    """What a softmax over the vocabulary comes to, for N states.

    Attributes:
        normaliser: A, [N]; differentiable.
        expected: e, the mean row of W under p, [N, D]; differentiable. Empty [N, 0] where it was not asked for.
    """

    normaliser: Tensor
    expected: Tensor


def partition(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, expected: bool = False) -> Partition:
    """Log partition function and expected row.

    Differentiable once in `hidden`, by tiles as well: the gradient of A is e, and that of g . e is
    sum_v p_v (W_v . g - e . g) W_v.

    Args:
        hidden: transformed states, [N, D].
        weight: [V, D], frozen.
        bias: [V] or None, frozen.
        expected: whether e is wanted; without it and without a gradient it is not computed.
    """
    wanted = expected or (torch.is_grad_enabled() and hidden.requires_grad)
    normaliser, mean = _Partition.apply(hidden, weight, bias, wanted)
    return Partition(normaliser, mean if expected else mean[:, :0])


def tiles(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The vocabulary tile by tile: its first token, its rows of W, and logits [N, tile], which may be overwritten."""
    for start in range(0, len(weight), TOKENS):
        yield start, weight[start : start + TOKENS], tile_logits(start, hidden, weight, bias)


def tile_logits(start: int, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits of the tile that begins with token `start`, [N, tile]."""
    chosen = slice(start, start + TOKENS)
    return linear(hidden, weight[chosen], None if bias is None else bias[chosen])


class _Partition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, expected: bool) -> tuple[Tensor, ...]:
        parts = [_stream(rows, weight, bias, expected) for rows in hidden.split(STATES)]
        normaliser, mean = (torch.cat(columns) for columns in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, normaliser, mean)
        ctx.set_materialize_grads(False)
        return normaliser, mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, for_normaliser: Tensor | None, for_mean: Tensor | None) -> Any:
        hidden, weight, bias, normaliser, mean = ctx.saved_tensors
        gradient = torch.zeros_like(hidden)
        if for_normaliser is not None:
            gradient += for_normaliser[:, None] * mean
        if for_mean is not None:
            for start in range(0, len(hidden), STATES):
                rows = slice(start, start + STATES)
                pull = for_mean[rows]
                centre = (mean[rows] * pull).sum(1, keepdim=True)
                for _, tile, logits in tiles(hidden[rows], weight, bias):
                    probability = logits.sub_(normaliser[rows, None]).exp_()
                    gradient[rows] += (probability * (pull @ tile.T - centre)) @ tile
        return gradient, None, None, None


def _stream(hidden: Tensor, weight: Tensor, bias: Tensor | None, expected: bool) -> tuple[Tensor, Tensor]:
    """A and e of a few states: the sums are rescaled whenever a larger logit is met."""
    count = len(hidden)
    top = hidden.new_full((count,), float("-inf"))
    total = hidden.new_zeros(count)
    mean = hidden.new_zeros(count, weight.shape[1] if expected else 0)
    for _, tile, logits in tiles(hidden, weight, bias):
        raised = torch.maximum(top, logits.amax(1))
        shrink = (top - raised).exp_()
        top = raised
        shares = logits.sub_(top[:, None]).exp_()
        total = total * shrink + shares.sum(1)
        if expected:
            mean.mul_(shrink[:, None]).addmm_(shares, tile)
    return top + total.log(), mean / total[:, None]
