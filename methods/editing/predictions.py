"""The most likely token of many states, and whether an edit changed it, with as little of the vocabulary as decides it.

Consistency at every position asks of each token of a text whether its most likely token is still the unmodified
model's. Three things make that cheap, and none changes an answer:

1. Logits are formed a tile of the vocabulary at a time and never kept.
2. A text whose label positions changed has changed; its other positions need not be looked at. Of the others the
   position that is most in danger goes first.
3. Let v be a position's best token in the unmodified model, z_t the largest logit of any other token of a tile t of the
   vocabulary, and let the edit move the state by d, and so v's logit to z'_v. With w the mean row of the vocabulary
   matrix W and r the largest |W_i - w|, no token of the tile can have a larger logit than

       z_t + w . d + r |d|,

   so where that is below z'_v, the tile is not looked at.

Shape legend: N states, D hidden size, V vocabulary, C tiles of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from methods.editing.vocabulary import STATES, TOKENS, tile_logits, tiles

# Logits that rounding could exchange are never taken for settled.
_MARGIN = 1e-3


class Leaders(NamedTuple):
    """The most likely tokens [N], and the largest logit of any other token in each tile [N, C]."""

    best: Tensor
    rivals: Tensor


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
        return self.leaders(hidden).best

    @torch.no_grad()
    def leaders(self, hidden: Tensor) -> Leaders:
        """The most likely token of each transformed state [N, D], the first of equals, and its rivals."""
        parts = [self._leaders(rows) for rows in hidden.split(STATES)]
        return Leaders(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def slack(self, leaders: Leaders, raw: Tensor, edited: Tensor) -> Tensor:
        """By how much a best token surely stays ahead of every other one, [N]; the arguments are those of `kept`."""
        return self._logits_of(leaders.best, edited) - self._reach(raw, edited) - leaders.rivals.amax(1)

    @torch.no_grad()
    def kept(self, leaders: Leaders, raw: Tensor, edited: Tensor) -> Tensor:
        """Whether the edited model's most likely tokens are still the unmodified model's, [N].

        Args:
            leaders: of `raw`.
            raw, edited: transformed states of the unmodified and of the edited model, [N, D].
        """
        own = self._logits_of(leaders.best, edited)
        # Asked the other way round, so that nothing is settled where an edit has made numbers that are none.
        in_reach = ~(leaders.rivals + self._reach(raw, edited)[:, None] <= own[:, None])
        same = torch.ones_like(own, dtype=torch.bool)
        for place, start in enumerate(range(0, len(self.weight), TOKENS)):
            rows = (in_reach[:, place] & same).nonzero()[:, 0]
            if len(rows):
                logits = self._tile(start, edited[rows])
                column = leaders.best[rows] - start
                inside = ((column >= 0) & (column < logits.shape[1])).nonzero()[:, 0]
                logits[inside, column[inside]] = float("-inf")
                same[rows] = logits.amax(1) <= own[rows]
        return same

    @cached_property
    def centre(self) -> tuple[Tensor, Tensor]:
        """The mean row w of the matrix, [D], and the largest distance r of a row from it."""
        mean = self.weight.mean(0)
        return mean, torch.stack([(tile - mean).norm(dim=1).max() for tile in self.weight.split(TOKENS)]).max()

    def _leaders(self, hidden: Tensor) -> Leaders:
        best, leading = torch.zeros(2, len(hidden), dtype=torch.long, device=hidden.device)
        highest, second = hidden.new_full((2, len(hidden)), float("-inf"))
        tops = []
        for place, (start, _, logits) in enumerate(tiles(hidden, self.weight, self.bias)):
            tops.append(logits.amax(1))
            # Of most tiles the largest logit is all that is wanted: only few states meet a new best token there.
            rows = (tops[-1] > highest).nonzero()[:, 0]
            ahead = logits[rows]
            where = ahead.argmax(1, keepdim=True)
            best[rows], leading[rows] = where[:, 0] + start, place
            second[rows] = ahead.scatter_(1, where, float("-inf")).amax(1)
            highest = torch.maximum(highest, tops[-1])
        return Leaders(best, torch.stack(tops, 1).scatter_(1, leading[:, None], second[:, None]))

    def _reach(self, raw: Tensor, edited: Tensor) -> Tensor:
        """What the edit can add to any logit at most, [N]."""
        mean, radius = self.centre
        moved = edited - raw
        return moved @ mean + radius * moved.norm(dim=1) + _MARGIN

    def _logits_of(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """One logit of each state, [N]."""
        logits = (self.weight[tokens] * hidden).sum(1)
        return logits if self.bias is None else logits + self.bias[tokens]

    def _tile(self, start: int, hidden: Tensor) -> Tensor:
        return tile_logits(start, hidden, self.weight, self.bias)
