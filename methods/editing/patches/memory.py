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
    """Queries of K memories: those of the beginning, and others that are appended, one edit at a time.

    Attributes:
        frozen: [K0, D], those of the beginning; shared by streams, never changed.
    """

    def __init__(self, frozen: Tensor) -> None:
        """`frozen`: [K0, D]; K0 may be 0."""
        self.frozen = frozen.detach()
        self._all = self.frozen
        self._number = len(frozen)

    def __len__(self) -> int:
        return self._number

    @property
    def all(self) -> Tensor:
        """All queries, [K, D], the appended ones last."""
        return self._all[: self._number]

    def append(self, queries: Tensor) -> None:
        """Remembers further queries [*, D]. Room for appended ones is doubled when it is used up."""
        needed = self._number + len(queries)
        if needed > len(self._all):
            first = len(self.frozen)
            room = self.frozen.new_empty(first + max(64, 2 * (needed - first)), self.frozen.shape[1])
            room[: self._number] = self.all
            self._all = room
        self._all[self._number : needed] = queries.detach()
        self._number = needed

    def nearest(self, neurons: PatchNeurons, top: int) -> Tensor:
        """The queries that excite each patch most, [min(top, K), N, D]: the only ones that its memory loss needs.

        One matrix product over all memories, outside every graph.
        """
        with torch.no_grad():
            if top >= self._number:
                return self.all[:, None].expand(-1, len(neurons), -1)
            chosen = (self.all @ neurons.keys.T).topk(top, dim=0, sorted=False).indices
            return self.all[chosen]


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
