"""Patch neurons: a key, a bias and a value beside the neurons of a feed-forward network (Huang et al. 2023).

A patch answers to a query q, the state that enters the FFN, with act(q . key + bias) value, and its answer is added to
the FFN's output: FFN'(q) = FFN(q) + sum over patches.

Shape legend: N patches, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PatchNeurons:
    """Finished patches.

    Attributes:
        keys: [N, D].
        biases: [N].
        values: [N, D].
        activation: of the FFN they stand beside.
    """

    keys: Tensor
    biases: Tensor
    values: Tensor
    activation: Activation

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: slice | Sequence[int]) -> PatchNeurons:
        """The patches at `index`, in that order."""
        chosen = index if isinstance(index, slice) else list(index)
        return PatchNeurons(self.keys[chosen], self.biases[chosen], self.values[chosen], self.activation)

    def preactivations(self, queries: Tensor) -> Tensor:
        """What enters the activation, [*, N], for queries [*, D]."""
        return queries @ self.keys.T + self.biases

    def gain(self, queries: Tensor) -> Tensor:
        """What the FFN's output gains, [*, D], for queries [*, D]."""
        return self.activation(self.preactivations(queries)) @ self.values

    def merge(self, others: PatchNeurons) -> PatchNeurons:
        """These patches with others after them."""
        return PatchNeurons(
            torch.cat([self.keys, others.keys]),
            torch.cat([self.biases, others.biases]),
            torch.cat([self.values, others.values]),
            self.activation,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Keys, biases and values by name, as safetensors stores them."""
        return {"keys": self.keys, "biases": self.biases, "values": self.values}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], activation: Activation) -> PatchNeurons:
        """The patches that `to_tensors` wrote."""
        return cls(tensors["keys"], tensors["biases"], tensors["values"], activation)


class NewPatches(nn.Module):
    """Patches in training. A value is the product of two trained vectors, as in the released code.

    Attributes:
        keys: [N, D], starting as q / |q|^2: each patch's pre-activation on its own query is 1.
        biases: [N], starting at 0.
        directions: [N, D], starting as standard normal numbers.
        scales: [N, D], starting at `scale`.
    """

    def __init__(self, queries: Tensor, activation: Activation, *, scale: float, seed: Sequence[int]) -> None:
        """
        Args:
            queries: the query that each patch is to answer to, [N, D].
            activation: of the FFN.
            scale: that values start with.
            seed: of the values; the same numbers in every process and on every device.
        """
        super().__init__()
        self.activation = activation
        self.keys = nn.Parameter(initial_keys(queries))
        self.biases = nn.Parameter(queries.new_zeros(len(queries)))
        self.directions = nn.Parameter(initial_values(len(queries), queries.shape[1], seed).to(queries))
        self.scales = nn.Parameter(torch.full_like(queries, scale))

    def current(self) -> PatchNeurons:
        """The patches as they are now, inside the graph of their parameters."""
        return PatchNeurons(self.keys, self.biases, self.directions * self.scales, self.activation)

    def finished(self) -> PatchNeurons:
        """The patches as they are now, frozen."""
        values = (self.directions * self.scales).detach()
        return PatchNeurons(self.keys.detach().clone(), self.biases.detach().clone(), values, self.activation)


def initial_keys(queries: Tensor) -> Tensor:
    """q / |q|^2 for each query, [N, D]: then q . key = 1."""
    return queries.detach() / queries.detach().square().sum(1, keepdim=True)


def initial_values(number: int, size: int, seed: Sequence[int]) -> Tensor:
    """Standard normal numbers [number, size] in float64; a function of the seed alone."""
    return torch.from_numpy(np.random.default_rng(list(seed)).standard_normal((number, size)))
