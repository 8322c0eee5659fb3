"""Queries of texts that patches must stay silent on: frozen examples, and everything that was edited before.

Shape legend: K memories, N patches, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.editing.patches.neuron import PatchNeurons


class Queries:
    """Queries of K memories. The first ones are shared and never copied; others are appended, one edit at a time.

    Attributes:
        frozen: [K0, D], those of the beginning.
    """

    def __init__(self, frozen: Tensor) -> None:
        """`frozen`: [K0, D]; K0 may be 0."""
        self.frozen = frozen.detach()
        self._appended = frozen.new_empty(0, frozen.shape[1])
        self._number = 0

    def __len__(self) -> int:
        return len(self.frozen) + self._number

    @property
    def appended(self) -> Tensor:
        """The queries that were appended, in that order."""
        return self._appended[: self._number]

    def append(self, queries: Tensor) -> None:
        """Remembers further queries [*, D]; room is doubled when it is used up."""
        needed = self._number + len(queries)
        if needed > len(self._appended):
            room = self.frozen.new_empty(max(needed, 2 * len(self._appended), 64), self.frozen.shape[1])
            room[: self._number] = self.appended
            self._appended = room
        self._appended[self._number : needed] = queries.detach()
        self._number = needed

    def nearest(self, neurons: PatchNeurons, top: int) -> Tensor:
        """The queries that excite each patch most, [min(top, K), N, D]: the only ones that its memory loss needs.

        One matrix product over all memories, outside every graph.
        """
        with torch.no_grad():
            parts = (self.frozen, self.appended)
            excitement = torch.cat([part @ neurons.keys.T for part in parts])
            chosen = excitement.topk(min(top, len(self)), dim=0, sorted=False).indices
            found = self.frozen.new_empty(*chosen.shape, self.frozen.shape[1])
            late = chosen >= len(self.frozen)
            found[~late] = self.frozen[chosen[~late]]
            found[late] = self.appended[chosen[late] - len(self.frozen)]
            return found


def excitement(neurons: PatchNeurons, queries: Tensor) -> Tensor:
    """Pre-activation of each patch on queries of its own, [K, N] for [K, N, D]; differentiable."""
    return torch.einsum("knd,nd->kn", queries, neurons.keys) + neurons.biases


@dataclass(frozen=True)
class Memory:
    """What one stream remembers.

    Attributes:
        train: what a patch is trained against (40,000 training texts in the paper).
        validation: what decides when its training stops.
    """

    train: Queries
    validation: Queries

    @classmethod
    def of(cls, train: Tensor, validation: Tensor) -> Memory:
        """A memory of frozen queries, [K, D] each; they may be shared by many streams."""
        return cls(Queries(train), Queries(validation))

    def append(self, queries: Tensor) -> None:
        """Remembers an edit's queries in both parts, as the released code does."""
        self.train.append(queries)
        self.validation.append(queries)

    def restarted(self) -> Memory:
        """The same frozen queries without what was appended."""
        return Memory.of(self.train.frozen, self.validation.frozen)

    def sizes(self) -> Sequence[int]:
        """How many queries there are to train against and to stop by."""
        return [len(self.train), len(self.validation)]
