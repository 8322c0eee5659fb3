"""How alike a model represents the same query in two languages, layer by layer (Xu et al. 2023, section 5.1).

A query is represented by the mean of its hidden states over its tokens. The paper takes the cosine of parallel queries.
States of one model lie in a narrow cone, so that the cosine of any two queries is high; two further measures do not see
the cone:

- the *centred* cosine, after the mean over the unmodified queries of both languages is taken away. A shift between
  languages still counts in it;
- linear CKA (Kornblith et al. 2019), which compares the geometry of the two sets of queries, each around its own mean.
  LRP2 adds one vector to all queries, which CKA cannot see at the layer itself, only what becomes of it later.

Shape legend: L layers, Q parallel queries, D hidden, N packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.backbone import Backbone, pack_sequences
from methods.backbone.projection import LastLayer
from methods.neurons.attribution import Projection
from methods.neurons.prompts import Prompt
from methods.neurons.results import Likeness


@torch.no_grad()
def query_states(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    projection: Projection | None = None,
    *,
    last_layer: LastLayer = "normed",
    rows_at_once: int = 4096,
) -> Tensor:
    """The mean state of every query after every layer, [L, Q, D] float32 on the CPU.

    Of a causal prompt the tokens before the object are taken, of a masked one all, masks and special tokens included.
    Layer L is after the model's final norm, or before it with ``last_layer="raw"``.
    """
    projection = None if projection is None else projection.to(backbone)
    found = torch.empty(backbone.num_layers, len(prompts), backbone.hidden_size)
    for members in _tiles(prompts, rows_at_once):
        pack, order = pack_sequences([prompts[n].ids[: prompts[n].context] for n in members])
        plan = backbone.plan(pack)
        lengths = torch.tensor([prompts[members[place]].context for place in order])
        owner = torch.arange(len(order)).repeat_interleave(lengths).to(backbone.device)
        x = backbone.embed(plan)[None]
        for k in range(1, backbone.num_layers + 1):
            x = backbone.layer(k, x, plan)
            if projection is not None and k == projection.pair[0]:
                x = x + projection.shift[k]
            h = backbone.final(x) if k == backbone.num_layers and last_layer == "normed" else x
            if projection is not None and k == projection.pair[1]:
                h = x = h - projection.shift[k]
            sums = h.new_zeros(len(order), h.shape[-1]).index_add(0, owner, h[0])
            found[k - 1, [members[place] for place in order]] = (sums.cpu() / lengths[:, None]).float()
    return found


def _tiles(prompts: Sequence[Prompt], rows_at_once: int) -> list[list[int]]:
    """Prompts of similar length together, about `rows_at_once` tokens at a time."""
    tiles: list[list[int]] = [[]]
    rows = 0
    for number in sorted(range(len(prompts)), key=lambda n: prompts[n].context):
        if tiles[-1] and rows + prompts[number].context > rows_at_once:
            tiles.append([])
            rows = 0
        tiles[-1].append(number)
        rows += prompts[number].context
    return tiles if prompts else []


def compare_states(language: Tensor, pivot: Tensor, centre: Tensor) -> Likeness:
    """Compares parallel queries of two languages.

    Args:
        language, pivot: [L, Q, D], query q of both is the same fact.
        centre: [L, D], what is taken away for the centred cosine.
    """
    one, other, centre = language.double(), pivot.double(), centre.double()[:, None]
    cosine = torch.cosine_similarity(one, other, dim=-1).mean(-1)
    centred = torch.cosine_similarity(one - centre, other - centre, dim=-1).mean(-1)
    cka = [linear_cka(x, y) for x, y in zip(one, other, strict=True)]
    return Likeness(cosine.tolist(), centred.tolist(), cka)


def centre_of(language: Tensor, pivot: Tensor) -> Tensor:
    """The mean of the queries of two languages, each language weighing the same: [L, D]."""
    return (language.double().mean(1) + pivot.double().mean(1)) / 2


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two sets of states [Q, D] of the same queries, 0 to 1 (Kornblith et al. 2019, equation 4).

    It does not change when either set is rotated, scaled or shifted; nan where a set has no spread.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    own = torch.linalg.matrix_norm(x @ x.T) * torch.linalg.matrix_norm(y @ y.T)
    return float(((x @ x.T) * (y @ y.T)).sum() / own)
