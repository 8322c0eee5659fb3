"""From attributions to sets of knowledge neurons, for each relation, over all of its prompts in a language.

Two ways: that of Xu et al. (2023, appendix C), which looks at every layer by itself, and that of Dai et al. (2022,
section 3.3), which keeps what many prompts share. Both count, for each neuron, the prompts that it stands out in
(`NeuronCounts`), and then keep the neurons with high counts.

Shape legend: L layers, Q prompts, F neurons of a layer, R relations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Selection = Literal["frequent", "shared"]
# Dai et al.: a prompt's neurons reach this share of its largest attribution,
THRESHOLD = 0.2
# are kept where this share of the prompts, and so many of them, have them,
SHARE, FEWEST_PROMPTS = 0.7, 3
# and the share is moved until a set has between 2 and 5 neurons on average, at most so many times.
SHARE_STEP, MOST_STEPS, SET_SIZE = 0.05, 6, (2, 5)


def top_neurons(scores: Tensor, top: int) -> Tensor:
    """Each prompt's neurons with the largest attributions in each layer; equal ones in the order of their numbers.

    Args:
        scores: [L, Q, F].

    Returns:
        [L, Q, top] long.
    """
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :top]


def strong_neurons(scores: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Where an attribution reaches a share of the prompt's largest, over all layers: [L, Q, F] bool."""
    return scores >= threshold * scores.amax(dim=(0, 2), keepdim=True)


@dataclass
class NeuronCounts:
    """In how many prompts of each relation every neuron stands out.

    Attributes:
        selection: ``frequent``: among the `top` of its layer; ``shared``: above a share of the prompt's largest.
        counts: relation -> [L, F].
        prompts: relation -> their number.
    """

    selection: Selection
    top: int
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)

    def add(self, scores: Tensor, relations: list[str]) -> None:
        """Counts some prompts' attributions, [L, Q, F], with the relation of each."""
        if self.selection == "frequent":
            chosen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
            chosen.scatter_(-1, top_neurons(scores, self.top), True)
        else:
            chosen = strong_neurons(scores)
        for relation in dict.fromkeys(relations):
            mine = [place for place, name in enumerate(relations) if name == relation]
            found = chosen[:, mine].sum(1).cpu().numpy().astype(np.int64)
            self.counts[relation] = self.counts.get(relation, 0) + found
            self.prompts[relation] = self.prompts.get(relation, 0) + len(mine)

    def sets(self) -> dict[str, NDArray[np.bool_]]:
        """The knowledge neurons of every relation, [L, F]."""
        if self.selection == "frequent":
            return {relation: most_frequent(counts, self.top) for relation, counts in self.counts.items()}
        return shared_neurons(self.counts, self.prompts)


def most_frequent(counts: NDArray[np.int64], top: int) -> NDArray[np.bool_]:
    """In each layer the `top` neurons that stand out in most prompts; equal ones in the order of their numbers.

    Args:
        counts: [L, F].

    Returns:
        [L, F] with exactly `top` neurons in a layer.
    """
    kept = np.argsort(-counts, axis=-1, kind="stable")[:, :top]
    members = np.zeros(counts.shape, dtype=np.bool_)
    np.put_along_axis(members, kept, True, axis=-1)
    return members


def shared_neurons(counts: dict[str, NDArray[np.int64]], prompts: dict[str, int]) -> dict[str, NDArray[np.bool_]]:
    """The neurons that many prompts of a relation share, over all layers together.

    The paper's bag of prompts is a fact in several wordings. Facts come in one wording for each language, so a relation
    with all its facts is the bag here. One share serves all relations.

    Args:
        counts: relation -> [L, F], the prompts each neuron stands out in.
        prompts: relation -> number of prompts.
    """
    share = SHARE
    for _ in range(MOST_STEPS):
        sets = _sharing(counts, prompts, share)
        size = float(np.mean([members.sum() for members in sets.values()]))
        if SET_SIZE[0] <= size <= SET_SIZE[1]:
            return sets
        share += SHARE_STEP if size > SET_SIZE[1] else -SHARE_STEP
    return _sharing(counts, prompts, share)


def _sharing(
    counts: dict[str, NDArray[np.int64]], prompts: dict[str, int], share: float
) -> dict[str, NDArray[np.bool_]]:
    # The margin keeps 7 of 10 prompts above a share of 0.7 whatever the rounding of the steps.
    return {
        relation: found >= max(FEWEST_PROMPTS, share * prompts[relation] - 1e-6) for relation, found in counts.items()
    }
