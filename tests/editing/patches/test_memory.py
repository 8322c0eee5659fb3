"""Memories: a shared beginning, what edits append, and the queries that excite a patch most."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.editing.patches.memory import Memory, Queries, excitement
from methods.editing.patches.neuron import PatchNeurons


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patches(number: int) -> PatchNeurons:
    return PatchNeurons(random(number, 4, seed=1), random(number, seed=2), random(number, 4, seed=3), torch.relu)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 3), st.integers(1, 12))
def test_the_nearest_queries_are_the_largest_preactivations(frozen: int, added: int, number: int, top: int) -> None:
    queries = Queries(random(frozen, 4))
    queries.append(random(added, 4, seed=5))
    neurons = patches(number)
    found = excitement(neurons, queries.nearest(neurons, top))
    everything = torch.cat([random(frozen, 4), random(added, 4, seed=5)])
    expected = neurons.preactivations(everything).topk(min(top, frozen + added), dim=0).values
    torch.testing.assert_close(found.sort(0, descending=True).values, expected)


def test_appending_never_touches_the_shared_queries() -> None:
    frozen = random(5, 4)
    memory = Memory.of(frozen, frozen[:2])
    for index in range(200):
        memory.append(random(1, 4, seed=index))
    assert memory.sizes() == [205, 202]
    assert torch.equal(frozen, random(5, 4))
    added = torch.cat([random(1, 4, seed=index) for index in range(200)])
    assert torch.equal(memory.train.all, torch.cat([frozen, added]))
    assert torch.equal(memory.validation.all, torch.cat([frozen[:2], added]))
    assert memory.restarted().sizes() == [5, 2]
    assert memory.restarted().train.all.data_ptr() == frozen.data_ptr()
