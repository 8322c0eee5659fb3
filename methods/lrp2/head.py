"""The head of a model over its vocabulary, and log-normalisers computed only as far as they are needed.

A row's log-normaliser is ``lse = log sum_v exp z_v`` over the vocabulary. After the first w entries of the vocabulary
there is an exact lower bound, which costs one dot product more than what has been computed,

    lse >= log( sum_{v < w} exp z_v + (V - w) exp( mean_{v >= w} z_v ) )

(Jensen's inequality on the rest, whose mean logit is the state times the mean row of the rest of the matrix). So a
normaliser is computed level by level, each level a longer part of the vocabulary, until its bound decides what is asked
or the last level makes it exact.

Shape legend: n branches, M needed rows, R rows, K levels, V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.backbone.cores import at_a_time, side_by_side

# Rows and vocabulary entries of a tile of logits: on a CPU what its caches hold, on a GPU what keeps it busy.
ROW_TILE = {"cpu": 1024, "cuda": 2048}
VOCABULARY_TILE = {"cpu": 1024, "cuda": 4096}
# Parts of the vocabulary after which a normaliser may rest.
LEVELS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
SAMPLED_ROWS = 8192


@dataclass(frozen=True)
class Head:
    """The vocabulary matrix and what bounds and estimates of a normaliser are made of.

    Attributes:
        weight, bias: the matrix [V, D] and its bias [V], or None.
        edges: where the levels end in the vocabulary; 0 first, V last, K + 1 in all.
        rest_weight, rest_bias: [K, D] and [K], the means of both from each edge on to the end, in the dtype that scores
            are added up in.
        spread: [D, D], a square root of the rows' covariance: ``|h @ spread|^2`` is about the variance of a state's
            logits. It only serves an estimate, so a sample of the rows gives it.
        swept: whether all normalisers are computed in one go, because to read the matrix is dear.
    """

    swept: ClassVar[bool] = False

    weight: Tensor
    bias: Tensor | None
    edges: tuple[int, ...]
    rest_weight: Tensor
    rest_bias: Tensor
    spread: Tensor

    @classmethod
    def of(cls, unembedding: tuple[Tensor, Tensor | None], dtype: torch.dtype) -> Head:
        """Prepares a backbone's unembedding; logits are computed in `dtype`."""
        weight, bias = (None if part is None else part.to(dtype) for part in unembedding)
        assert weight is not None
        vocabulary, tile = len(weight), VOCABULARY_TILE[weight.device.type]
        grain = tile if vocabulary > tile / LEVELS[0] else 1  # levels of whole tiles
        edges = sorted({0, vocabulary, *(round(part * vocabulary / grain) * grain for part in LEVELS[:-1])})
        left = torch.tensor([vocabulary - edge for edge in edges[:-1]], device=weight.device).double()
        # One buffer for all parts: what an allocator is handed back in between it may never use again.
        wide_part = torch.empty(tile, weight.shape[1], dtype=torch.float64, device=weight.device)
        sums = torch.zeros(len(left), weight.shape[1], dtype=torch.float64, device=weight.device)
        for level, (a, b) in enumerate(pairwise(edges)):
            for part in weight[a:b].split(tile):
                sums[level] += wide_part[: len(part)].copy_(part).sum(0)
        rest_weight = sums.flip(0).cumsum(0).flip(0) / left[:, None]
        rest_bias = torch.zeros_like(left)
        if bias is not None:
            rest_bias = torch.stack([bias[edge:].double().mean() for edge in edges[:-1]])
        sample = weight[:: 1 + vocabulary // SAMPLED_ROWS].float()
        spread = torch.linalg.qr(sample - sample.mean(0), mode="r").R.T / len(sample) ** 0.5
        wide = torch.promote_types(dtype, torch.float32)
        return cls(weight, bias, tuple(edges), rest_weight.to(wide), rest_bias.to(wide), spread.to(dtype))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype logits are computed in."""
        return self.weight.dtype

    @property
    def accumulator(self) -> torch.dtype:
        """Scores are added up in float32 at least."""
        return torch.promote_types(self.dtype, torch.float32)

    def lowered(self, bound: Tensor, rest_mean: Tensor) -> Tensor:
        """A bound less what rounding may have added to it: it must never turn into a claim that is false.

        A logit in bfloat16 is off by up to eps/2 of itself, and two products of matrices may round it apart by eps. So
        the likeliest logits are allowed eps of the bound, the mean of the rest eps of itself, and the logits' spread
        around it 32 eps.

        Args:
            bound: any shape.
            rest_mean: the mean logit of the rest that is in it.
        """
        eps = torch.finfo(self.dtype).eps
        if self.dtype == self.accumulator:
            return bound - 1e4 * eps
        return bound - eps * (32 + bound.abs() + rest_mean.abs())

    def rows(self, tokens: Tensor) -> Tensor:
        """The rows of some tokens, [..., D]."""
        return self.weight[tokens]

    def normalisers(self, states: Tensor, bound: Tensor, estimate: Tensor) -> Normalisers:
        """Normalisers of which only a bound and an estimate are known: [n, M, D], [n, M] and [n, M]."""
        return Normalisers.start(self, states, bound, estimate)

    def strongest(self, states: Tensor, count: int) -> Tensor:
        """The tokens with the largest logits: states [R, D] to [R, count]; no [R, V] matrix is ever held."""
        width = VOCABULARY_TILE[states.device.type]
        rows = states.to(self.dtype)
        best = torch.empty(len(rows), 0, dtype=self.dtype, device=rows.device)
        tokens = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device)
        for v in range(0, len(self.weight), width):
            logits = F.linear(rows, self.weight[v : v + width], None if self.bias is None else self.bias[v : v + width])
            numbers = torch.arange(v, v + logits.shape[1], device=rows.device).expand_as(logits)
            best, place = torch.cat([best, logits], 1).topk(min(count, best.shape[1] + logits.shape[1]))
            tokens = torch.cat([tokens, numbers], 1).gather(1, place)
        return tokens

    def rest_mean(self, states: Tensor, level: int) -> Tensor:
        """Mean logit over the vocabulary beyond a level: states [..., D] to [...]."""
        rows = states.to(self.dtype).to(self.accumulator)
        return rows @ self.rest_weight[level] + self.rest_bias[level]

    def variance(self, states: Tensor) -> Tensor:
        """About the variance of the logits over the vocabulary: states [..., D] to [...]."""
        return (states.to(self.dtype) @ self.spread).to(self.accumulator).square().sum(-1)

    def exponentials(self, states: Tensor, shift: Tensor, before: int, after: int) -> Tensor:
        """Sum of exp(z_v - shift) over the vocabulary between two levels; no [R, V] matrix is ever held.

        Args:
            states: [R, D].
            shift: [R], keeps the exponentials in range.
            before, after: the levels.
        """
        first, stop = self.edges[before], self.edges[after]
        number = at_a_time(states.device)
        rows, total = states.to(self.dtype), torch.zeros_like(shift)
        width = VOCABULARY_TILE[states.device.type]
        span = width * -(-(stop - first) // (width * number))

        def over(part: slice) -> Tensor:
            bias = None if self.bias is None else self.bias[part]
            return summed_exponentials(rows, self.weight[part], bias, shift, ROW_TILE[states.device.type] // number)

        parts = [slice(v, min(v + span, stop)) for v in range(first, stop, span)]
        side_by_side(parts, over, lambda _, summed: total.add_(summed), number)
        return total


def summed_exponentials(rows: Tensor, weight: Tensor, bias: Tensor | None, shift: Tensor, height: int) -> Tensor:
    """Sum of exp(logits - shift) over a part of the vocabulary, tile by tile: [R, D], [v, D], [v], [R] to [R].

    Args:
        height: rows of a tile.
    """
    width = VOCABULARY_TILE[rows.device.type]
    total = torch.zeros_like(shift)
    buffer = torch.empty(min(height, len(rows)), width, dtype=rows.dtype, device=rows.device)
    for start in range(0, len(rows), height):
        at = slice(start, start + height)
        for v in range(0, len(weight), width):
            part = slice(v, v + width)
            own = None if bias is None else bias[part]
            total[at] += exponentials(rows[at], weight[part], own, shift[at, None], buffer).sum(-1)
    return total


def exponentials(rows: Tensor, weight: Tensor, bias: Tensor | None, shift: Tensor, buffer: Tensor) -> Tensor:
    """exp(logits - shift) over a part of the vocabulary: [R, D], [v, D], [v], [R, 1] to [R, v].

    Args:
        buffer: [R, v] or larger in the logits' dtype; the result lies in it if that is also the dtype of `shift`.
    """
    if buffer.dtype != shift.dtype:
        return F.linear(rows, weight, bias).to(shift.dtype).sub_(shift).exp_()
    logits = buffer[: len(rows), : len(weight)]
    if bias is None:
        logits.copy_(-shift.expand_as(logits))
    else:
        torch.sub(bias, shift, out=logits)
    return logits.addmm_(rows, weight.T).exp_()


@dataclass(frozen=True)
class Normalisers:
    """What is known of the log-normalisers of all rows; all tables are [n, M].

    Attributes:
        head: of the model.
        states: what the vocabulary matrix is applied to, [n, M, D].
        bound: a lower bound, exact once the last level is reached.
        estimate: a guess, exact once the last level is reached.
        level: how many levels of the vocabulary have been summed up.
        shift: the bound at level 0: what the sums are relative to.
        total: the sum of exp(z_v - shift) over these levels.
    """

    head: Head
    states: Tensor
    bound: Tensor
    estimate: Tensor
    level: Tensor
    shift: Tensor
    total: Tensor

    @classmethod
    def start(cls, head: Head, states: Tensor, bound: Tensor, estimate: Tensor) -> Normalisers:
        """Nothing computed yet."""
        level = torch.zeros(bound.shape, dtype=torch.long, device=bound.device)
        return cls(head, states, bound, estimate, level, bound.clone(), torch.zeros_like(bound))

    @property
    def last(self) -> int:
        """The level at which a normaliser is exact."""
        return len(self.head.edges) - 1

    @property
    def exact(self) -> Tensor:
        """Which are exact, [n, M] bool."""
        return self.level == self.last

    @property
    def computed(self) -> float:
        """How many normalisers' worth of work has been done."""
        edges = torch.tensor(self.head.edges, device=self.level.device)
        return float(edges[self.level].double().sum()) / self.head.edges[-1]

    def level_of(self, part: Tensor) -> Tensor:
        """The first level that covers so large a part (0 to 1) of the vocabulary."""
        ends = torch.tensor(self.head.edges[1:], device=part.device) / self.head.edges[-1]
        return (torch.searchsorted(ends.to(part.dtype), part.contiguous()) + 1).clamp(max=self.last)

    def raise_to(self, target: Tensor) -> None:
        """Computes on to the levels `target` [n, M], where these are higher than what has been reached."""
        states = self.states.reshape(-1, self.states.shape[-1])
        level, total, shift, target = (t.view(-1) for t in (self.level, self.total, self.shift, target.contiguous()))
        moved = (target > level).nonzero()[:, 0]
        for step in range(self.last):
            here = moved[(level[moved] == step) & (target[moved] > step)]
            to_the_end = target[here] == self.last
            for index, reached in ((here[to_the_end], self.last), (here[~to_the_end], step + 1)):
                if len(index):
                    total[index] += self.head.exponentials(states[index], shift[index], step, reached)
                    level[index] = reached
                    self._renew(index, states[index], reached)

    def _renew(self, index: Tensor, states: Tensor, level: int) -> None:
        """Bounds and estimates of rows that have reached a level."""
        bound, estimate = self.bound.view(-1), self.estimate.view(-1)
        total, shift = self.total.view(-1)[index], self.shift.view(-1)[index]
        value = shift + total.log()
        if level == self.last:
            bound[index] = estimate[index] = value
        else:
            count = self.head.edges[-1] - self.head.edges[level]
            mean = self.head.rest_mean(states, level)
            value = self.head.lowered(torch.logaddexp(value, mean + math.log(count)), mean)
            bound[index] = torch.maximum(bound[index], value)
            estimate[index] = torch.maximum(estimate[index], bound[index])
        # Where the first bound was too far below, the exponentials left their range.
        for row in (~total.isfinite() | (total == 0)).nonzero()[:, 0].tolist():
            logits = F.linear(states[row : row + 1].to(self.head.dtype), self.head.weight, self.head.bias)
            bound[index[row]] = estimate[index[row]] = logits.to(self.head.accumulator).logsumexp(-1)[0]
            self.level.view(-1)[index[row]] = self.last
