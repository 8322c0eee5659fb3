"""The most likely token of many states, and whether an edit changed it, with as little of the vocabulary as decides it.

Consistency at every position asks of each token of a text whether its most likely token is still the unmodified
model's. Three things make that cheap, and none changes an answer:

1. Logits are formed a tile of the vocabulary at a time and never kept.
2. A text whose label positions changed has changed; its other positions need not be looked at. Of the others the
   position that is most in danger goes first.
3. Let z be a position's logits in the unmodified model, v its best token and u the runner-up, and let the edit move
   the state by d. With w the mean row of the vocabulary matrix W and r the largest |W_i - w|,

       z'_i - z'_v  <=  z_u - z_v - (W_v - w) . d + r |d|      for every other token i,

   so where the right side is negative, v is still the best and no other token is looked at.

Shape legend: N states, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

# Logits of a tile stay in the processor's caches.
_STATES, _TOKENS = 256, 2048
# Logits that rounding could exchange are never taken for settled.
_MARGIN = 1e-3


class Leaders(NamedTuple):
    """The most likely tokens [N], their logits [N] and those of the runners-up [N]."""

    best: Tensor
    highest: Tensor
    second: Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The matrix behind the last transformed states.

    Attributes:
        weight: W, [V, D].
        bias: [V] or None.
    """

    weight: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def best(self, hidden: Tensor) -> Tensor:
        """The most likely token of each transformed state [N, D], the first of equals, [N]."""
        return torch.cat([self._best(rows) for rows in hidden.split(_STATES)]) if len(hidden) else _none(hidden)

    @torch.no_grad()
    def leaders(self, hidden: Tensor) -> Leaders:
        """The two largest logits of each transformed state [N, D]."""
        if not len(hidden):
            return Leaders(_none(hidden), hidden[:, 0], hidden[:, 0])
        parts = [self._leaders(rows) for rows in hidden.split(_STATES)]
        return Leaders(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @cached_property
    def centre(self) -> tuple[Tensor, Tensor]:
        """The mean row w of the matrix, [D], and the largest distance r of a row from it."""
        mean = self.weight.mean(0)
        return mean, torch.stack([(tile - mean).norm(dim=1).max() for tile in self.weight.split(_TOKENS)]).max()

    def _best(self, hidden: Tensor) -> Tensor:
        best = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        highest = hidden.new_full((len(hidden),), float("-inf"))
        for start, logits in self._tiles(hidden):
            top, where = logits.max(1)
            best = torch.where(top > highest, where + start, best)
            highest = torch.maximum(top, highest)
        return best

    def _leaders(self, hidden: Tensor) -> Leaders:
        best = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        highest, second = (hidden.new_full((len(hidden),), float("-inf")) for _ in range(2))
        for start, logits in self._tiles(hidden):
            top, where = logits.max(1)
            logits.scatter_(1, where[:, None], float("-inf"))
            second = torch.maximum(torch.maximum(second, logits.amax(1)), torch.minimum(top, highest))
            best = torch.where(top > highest, where + start, best)
            highest = torch.maximum(top, highest)
        return Leaders(best, highest, second)

    def _tiles(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        """First token of every tile, and logits [N, tile], which the caller may overwrite."""
        for start in range(0, len(self.weight), _TOKENS):
            tile = self.weight[start : start + _TOKENS]
            if self.bias is None:
                yield start, hidden @ tile.T
            else:
                yield start, torch.addmm(self.bias[start : start + _TOKENS], hidden, tile.T)


@torch.no_grad()
def slack(vocabulary: Vocabulary, raw: Tensor, leaders: Leaders, edited: Tensor) -> Tensor:
    """By how much the best token surely stays ahead of every other one, [N]; above 0 it is still the best.

    Args:
        vocabulary: the matrix.
        raw, edited: transformed states of the unmodified and of the edited model, [N, D].
        leaders: of `raw`.
    """
    mean, radius = vocabulary.centre
    moved = edited - raw
    toward = ((vocabulary.weight[leaders.best] - mean) * moved).sum(1)
    return leaders.highest - leaders.second + toward - radius * moved.norm(dim=1) - _MARGIN


def _none(hidden: Tensor) -> Tensor:
    return torch.zeros(0, dtype=torch.long, device=hidden.device)
