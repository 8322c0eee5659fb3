"""One language measured: prompts in tiles that fit the memory, their attributions, sets, effects and likeness.

Shape legend: L layers, Q prompts, F neurons of a layer, S points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.backbone import Backbone, ModelDescription
from methods.backbone.resident import taken_bytes
from methods.neurons.attribution import Projection, attribute
from methods.neurons.effects import TREATMENTS, treated_probabilities, treatments
from methods.neurons.prompts import Prompt
from methods.neurons.refine import NeuronCounts, Selection

# Numbers that go through a block at a time (rows times hidden size): on a CPU what the caches hold, on a GPU what keeps
# it busy.
STATES_AT_ONCE = {"cpu": 2**20, "cuda": 2**25}
# A worker process with its libraries, before it has read a weight.
PROCESS_BYTES = 600 * 2**20
Progress = Callable[[float], None]


@dataclass
class Attributed:
    """What attribution says of a language under one variant, with or without LRP2.

    Attributes:
        counts: in how many prompts each neuron stands out.
        probability: sum over the prompts of the right object's probability.
        error: [L] sum over the prompts of |sum of attributions - (p(w) - p(0))|.
        moved: [L] sum over the prompts of |p(w) - p(0)|.
    """

    counts: NeuronCounts
    probability: float
    error: NDArray[np.float64]
    moved: NDArray[np.float64]


@dataclass(frozen=True)
class Runner:
    """Runs prompts on a model in tiles.

    Attributes:
        sites: from `neuron_sites`.
        memory_bytes: bound on the process's memory (on a GPU: on the device's), weights included; None for none.
    """

    backbone: Backbone
    sites: Sequence[nn.Module]
    memory_bytes: int | None = field(default=None)

    def attribute(
        self,
        prompts: Sequence[Prompt],
        relations: Sequence[str],
        points: Tensor,
        projection: Projection | None,
        selection: Selection,
        top: int,
        progress: Progress = lambda fraction: None,
    ) -> Attributed:
        """Attributes all prompts; `relations` has the relation of each."""
        layers = self.backbone.num_layers
        found = Attributed(NeuronCounts(selection, top), 0.0, np.zeros(layers), np.zeros(layers))
        done = 0
        for members in self.tiles(prompts, 1 + len(points)):
            part = attribute(self.backbone, self.sites, [prompts[n] for n in members], points, projection)
            found.counts.add(part.scores, [relations[n] for n in members])
            found.probability += float(part.probability.double().sum())
            found.error += part.gaps().abs().double().sum(-1).cpu().numpy()
            found.moved += (part.probability - part.without).abs().double().sum(-1).cpu().numpy()
            done += len(members)
            progress(done / len(prompts))
        return found

    def effects(
        self, prompts: Sequence[Prompt], relations: Sequence[str], sets: dict[str, NDArray[np.bool_]], seed: int
    ) -> dict[str, list[float]]:
        """For each relation the mean probability of the right object under each of `TREATMENTS`."""
        names = list(sets)
        factors = treatments(sets, names, seed)
        total = torch.zeros(len(TREATMENTS), len(names), dtype=torch.float64)
        for members in self.tiles(prompts, len(TREATMENTS)):
            places = [names.index(relations[n]) for n in members]
            found = treated_probabilities(self.backbone, self.sites, [prompts[n] for n in members], factors, places)
            total.index_add_(1, torch.tensor(places), found.double().cpu())
        counts = torch.tensor([relations.count(name) for name in names])
        return dict(zip(names, (total / counts).T.tolist(), strict=True))

    def tiles(self, prompts: Sequence[Prompt], branches: int) -> list[list[int]]:
        """The places of prompts that are run together, likes beside likes; one prompt at least.

        On the generic path the prompts of a tile are equally long and ask for equally many tokens.
        """
        most = self._most_rows() // branches
        shape = [(len(prompt.ids), len(prompt.positions)) for prompt in prompts]
        tiles: list[list[int]] = []
        rows = 0
        for place in sorted(range(len(prompts)), key=lambda place: (shape[place], place)):
            alike = self.backbone.fast or (tiles and shape[tiles[-1][0]] == shape[place])
            if not tiles or rows + shape[place][0] > most or not alike:
                tiles.append([])
                rows = 0
            tiles[-1].append(place)
            rows += shape[place][0]
        return tiles

    def _most_rows(self) -> int:
        """Rows, over all branches, of what is run together."""
        description, device = self.backbone.description, self.backbone.device.type
        most = STATES_AT_ONCE[device] // description.hidden_size
        if self.memory_bytes is None:
            return most
        free = self.memory_bytes - (self.backbone.mapped_bytes if device == "cuda" else taken_bytes())
        return min(most, max(1, int(0.8 * free) // bytes_per_row(description, self.backbone.dtype)))


def bytes_per_row(description: ModelDescription, dtype: torch.dtype) -> int:
    """What the backward pass keeps for a row in all blocks: their input, norms, queries, keys, values and neurons."""
    inner = description.block_weights // description.hidden_size
    return description.num_layers * (6 * description.hidden_size + 2 * inner) * dtype.itemsize


def least_memory(description: ModelDescription, dtype: torch.dtype, branches: int, rows: int = 32) -> int:
    """Bytes below which nothing can be attributed: the process, the weights, and one prompt of `rows` tokens."""
    prompt = branches * rows * bytes_per_row(description, dtype)
    return PROCESS_BYTES + description.weight_bytes(dtype) + prompt
