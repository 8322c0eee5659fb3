"""The head of a streamed model: its vocabulary matrix stays on disk and is read at most once for each tile of queries.

Logits of candidates need single rows of the matrix. Normalisers need all of it, so they are computed in one sweep:
every row that the ranking may still ask for is brought along, over all branches, while tile after tile of the
vocabulary passes by. That is more arithmetic than asking for one row after the other, and the same answer.

Shape legend: n branches, M needed rows, R rows, V vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.backbone.cores import at_a_time, side_by_side
from methods.backbone.streaming import StreamedVocabulary
from methods.lrp2.head import ROW_TILE, Head, Normalisers, summed_exponentials


@dataclass(frozen=True)
class StreamedHead(Head):
    """A head without its matrix: `weight` is only a shape, and there is one level, the whole vocabulary."""

    swept: ClassVar[bool] = True

    vocabulary: StreamedVocabulary = field(kw_only=True)

    @classmethod
    def over(cls, vocabulary: StreamedVocabulary, dtype: torch.dtype) -> StreamedHead:
        """Reads the vocabulary once, for the mean of its rows; logits are computed in `dtype`."""
        (size, width), bias, device = vocabulary.weight.shape, vocabulary.bias, vocabulary.device
        total = torch.zeros(width, dtype=torch.float64, device=device)
        for _, tile in vocabulary.tiles():
            total += tile.to(dtype).sum(0, dtype=torch.float64)
        mean_bias = torch.zeros(1, device=device) if bias is None else bias.to(dtype).double().mean()[None]
        wide = torch.promote_types(dtype, torch.float32)
        return cls(
            vocabulary.weight.to(dtype),
            None if bias is None else bias.to(dtype),
            (0, size),
            (total / size)[None].to(wide),
            mean_bias.to(wide),
            torch.zeros(width, 0, dtype=dtype, device=device),  # estimates order the questions, and here all are asked
            vocabulary=vocabulary,
        )

    def rows(self, tokens: Tensor) -> Tensor:
        return self.vocabulary.rows(tokens).to(self.dtype)

    def normalisers(self, states: Tensor, bound: Tensor, estimate: Tensor) -> Normalisers:
        return SweptNormalisers.start(self, states, bound, estimate)

    def log_normalisers(self, states: Tensor, index: Tensor, bound: Tensor) -> Tensor:
        """Streaming logsumexp over the vocabulary, which is read once.

        Args:
            states: [rows, D].
            index: the rows to normalise, R of them.
            bound: [R], at most the result and not far below it: it keeps the exponentials in range.

        Returns:
            [R].
        """
        number = at_a_time(states.device)
        height = ROW_TILE[states.device.type] // number
        places = [slice(start, start + height) for start in range(0, len(index), height)]
        total = torch.zeros_like(bound)
        for first, tile in self.vocabulary.tiles():
            part = tile.to(self.dtype)
            bias = None if self.bias is None else self.bias[first : first + len(part)]

            def over(at: slice, part: Tensor = part, bias: Tensor | None = bias) -> Tensor:
                return summed_exponentials(states[index[at]].to(self.dtype), part, bias, bound[at], height)

            side_by_side(places, over, lambda at, summed: total[at].add_(summed), number)
        return bound + total.log()

    def safe_log_normalisers(self, states: Tensor) -> Tensor:
        """The same for a few rows whose bound was too far off to keep the exponentials in range: [R, D] to [R]."""
        rows = states.to(self.dtype)
        total = torch.full((len(rows),), -torch.inf, dtype=self.accumulator, device=rows.device)
        for first, tile in self.vocabulary.tiles():
            bias = None if self.bias is None else self.bias[first : first + len(tile)]
            logits = F.linear(rows, tile.to(self.dtype), bias).to(self.accumulator)
            total = torch.logaddexp(total, logits.logsumexp(-1))
        return total


@dataclass(frozen=True)
class SweptNormalisers(Normalisers):
    """Normalisers that are either bounds or exact."""

    def raise_to(self, target: Tensor) -> None:
        """Computes the normalisers whose target is above 0, in one reading of the vocabulary."""
        assert isinstance(self.head, StreamedHead)
        states = self.states.reshape(-1, self.states.shape[-1])
        level, bound, estimate = self.level.view(-1), self.bound.view(-1), self.estimate.view(-1)
        index = (target.reshape(-1) > level).nonzero()[:, 0]
        if not len(index):
            return
        values = self.head.log_normalisers(states, index, bound[index])
        lost = (~values.isfinite()).nonzero()[:, 0]
        if len(lost):
            values[lost] = self.head.safe_log_normalisers(states[index[lost]])
        bound[index] = estimate[index] = values
        level[index] = 1
