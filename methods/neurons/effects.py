"""What becomes of the right object's probability when a relation's knowledge neurons are switched off or doubled.

Dai et al. (2022, section 4.2): the neurons are multiplied by 0 or by 2 where the object is predicted, in all layers at
once. As many random neurons of each layer are treated alike: knowledge neurons that matter change more than they do.

Shape legend: B treatments, Q prompts, M needed rows, L layers, F neurons of a layer, R relations, D hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.neurons.attribution import advance, pack_prompts, row_probabilities
from methods.neurons.feed_forward import changed_neurons
from methods.neurons.prompts import Prompt

TREATMENTS = ("unchanged", "off", "doubled", "random off", "random doubled")
FACTORS = (1.0, 0.0, 2.0, 0.0, 2.0)


def random_neurons(members: NDArray[np.bool_], seed: int, relation: str) -> NDArray[np.bool_]:
    """As many neurons of each layer drawn at random, [L, F]; the same for the same seed and relation everywhere."""
    digest = hashlib.sha256(f"{seed}|{relation}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = np.zeros_like(members)
    for layer, row in enumerate(members):
        drawn[layer, draw.permutation(row.size)[: int(row.sum())]] = True
    return drawn


def treatments(sets: Mapping[str, NDArray[np.bool_]], relations: Sequence[str], seed: int) -> Tensor:
    """What every neuron is multiplied by, [L, B, R, F], for each of `TREATMENTS` and each relation."""
    tables = []
    for relation in relations:
        own = torch.from_numpy(sets[relation])
        drawn = torch.from_numpy(random_neurons(sets[relation], seed, relation))
        chosen = [own, own, own, drawn, drawn]
        tables.append(
            torch.stack([torch.where(who, factor, 1.0) for who, factor in zip(chosen, FACTORS, strict=True)], dim=1)
        )
    return torch.stack(tables, dim=2)


@torch.no_grad()
def treated_probabilities(
    backbone: Backbone,
    sites: Sequence[nn.Module],
    prompts: Sequence[Prompt],
    factors: Tensor,
    relation_of: Sequence[int],
) -> Tensor:
    """The right object's probability under every treatment, [B, Q].

    Args:
        prompts: Q of them, run together.
        factors: from `treatments`, [L, B, R, F].
        relation_of: Q places on the axis R.
    """
    packed = pack_prompts(backbone, prompts)
    places = torch.tensor(relation_of, device=backbone.device)[packed.prompt_of]
    x = backbone.embed(packed.plan)[None].expand(factors.shape[1], -1, -1)
    with ExitStack() as stack:
        for site, layer in zip(sites, factors, strict=True):
            rows = layer.to(backbone.device, backbone.dtype)[:, places]
            stack.enter_context(changed_neurons(backbone, site, packed.plan, _multiplied(rows)))
        for k in range(1, backbone.num_layers + 1):
            x = advance(backbone, k, x, packed.plan, None)
    return packed.per_prompt(row_probabilities(backbone, x, packed) * packed.share, 1)


def _multiplied(factors: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplies the neurons of the branches that come next with theirs of `factors`, [B, M, F]."""
    served = 0

    def change(rows: Tensor) -> Tensor:
        nonlocal served
        served += rows.shape[0]
        return rows * factors[served - rows.shape[0] : served]

    return change
