"""Knowledge attribution: integrated gradients of the right object's probability over the neurons of each layer.

Dai et al. (2022), equation 3: with w the neurons of one layer where the object is predicted, and p(w) the probability
of the object when w is put in place of them and everything after is computed anew,

    Attr_k = w_k * integral from 0 to 1 of  dp(a w) / dw_k  da

so that the attributions of a layer add up to p(w) - p(0). The integral is a mean over points; `integration_points` has
the rules in use. An object of several tokens is predicted at several rows: p is the mean of its tokens' probabilities,
each at its own row, all these rows are scaled together, and a neuron's attribution is the sum over them.

With LRP2 the same is done on the shifted states (Xu et al. 2023, appendix C); a shift has the identity as Jacobian.

Shape legend: S points, Q prompts, N packed rows, M needed rows, L layers, F neurons of a layer, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.backbone import Backbone, Plan, pack_sequences
from methods.backbone.projection import LastLayer, Pair
from methods.neurons.feed_forward import changed_neurons, read_neurons
from methods.neurons.prompts import Prompt

Rule = Literal["midpoint", "left", "right", "inclusive"]
# Logits that are in memory at a time.
LOGITS_AT_ONCE = 2**25


def integration_points(rule: Rule, steps: int) -> Tensor:
    """The points at which gradients are taken, [S] float64; all weigh 1/S.

    ``left`` 0, 1/S .. (S-1)/S and ``inclusive`` 0 .. 1 with both ends are those of the two public implementations,
    ``right`` 1/S .. 1 is what Dai et al. write, and ``midpoint`` has the smallest error, O(1/S^2).
    """
    if rule == "inclusive":
        return torch.linspace(0, 1, steps, dtype=torch.float64)
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (torch.arange(steps, dtype=torch.float64) + offset) / steps


@dataclass(frozen=True)
class Projection:
    """LRP2 at one pair.

    Attributes:
        shift: ``v_en - v_l``, [L + 1, D].
        pair: (i, j).
        last_layer: on which side of a final norm layer L lies.
    """

    shift: Tensor
    pair: Pair
    last_layer: LastLayer = "normed"

    def to(self, backbone: Backbone) -> Projection:
        """The same where the backbone's states are."""
        return Projection(self.shift.to(backbone.device, backbone.dtype), self.pair, self.last_layer)


@dataclass(frozen=True)
class Attributions:
    """What the neurons of some prompts contribute to the right object's probability.

    Attributes:
        scores: [L, Q, F] float32.
        probability: [Q] with the neurons as they are.
        without: [L, Q] with the neurons of one layer at zero.
    """

    scores: Tensor
    probability: Tensor
    without: Tensor

    def gaps(self) -> Tensor:
        """[L, Q] how far the sum of a layer's attributions is from p(w) - p(0): the rule's error."""
        return self.scores.sum(-1) - (self.probability - self.without)


@dataclass(frozen=True)
class PackedPrompts:
    """Prompts laid out for a backbone; a needed row belongs to the prompt and wants the token at its place.

    Attributes:
        prompt_of: [M] long.
        tokens: [M] long.
        share: [M] one over the number of the prompt's rows, in the dtype of the logits.
        count: Q.
    """

    plan: Plan
    prompt_of: Tensor
    tokens: Tensor
    share: Tensor
    count: int

    def per_prompt(self, rows: Tensor, dim: int) -> Tensor:
        """Sums over the rows of each prompt: M entries along `dim` become Q."""
        shape = list(rows.shape)
        shape[dim] = self.count
        return rows.new_zeros(shape).index_add(dim, self.prompt_of, rows)


def pack_prompts(backbone: Backbone, prompts: Sequence[Prompt]) -> PackedPrompts:
    """Packs prompts; on the generic path they must be equally long and ask for equally many tokens."""
    pack, order = pack_sequences([prompt.ids for prompt in prompts], [prompt.positions for prompt in prompts])
    rows = [(number, token) for number in order for token in prompts[number].tokens]
    prompt_of = torch.tensor([number for number, _ in rows], device=backbone.device)
    lengths = torch.tensor([len(prompt.tokens) for prompt in prompts], device=backbone.device)
    return PackedPrompts(
        plan=backbone.plan(pack),
        prompt_of=prompt_of,
        tokens=torch.tensor([token for _, token in rows], device=backbone.device),
        share=1.0 / lengths[prompt_of].to(_head_dtype(backbone)),
        count=len(prompts),
    )


def attribute(
    backbone: Backbone,
    sites: Sequence[nn.Module],
    prompts: Sequence[Prompt],
    points: Tensor,
    projection: Projection | None = None,
) -> Attributions:
    """Attributions of all layers for some prompts that are run together.

    The states that enter a layer are computed once; from there on all points of a layer are one batch.

    Args:
        backbone: the model.
        sites: from `neuron_sites`.
        prompts: Q of them.
        points: from `integration_points`, [S].
        projection: LRP2, or None for the model as it is.
    """
    packed = pack_prompts(backbone, prompts)
    if projection is not None:
        projection = projection.to(backbone)
    entering, neurons, states = _unscaled(backbone, sites, packed, projection)
    with torch.no_grad():
        probability = packed.per_prompt(row_probabilities(backbone, states, packed)[0] * packed.share, 0)
    scores, without = [], []
    for k, (x, own) in enumerate(zip(entering, neurons, strict=True), start=1):
        gradient, empty = _mean_gradient(backbone, sites[k - 1], k, x, own, packed, points, projection)
        scores.append(packed.per_prompt((own * gradient).float(), 0))
        without.append(packed.per_prompt(empty * packed.share, 0))
    return Attributions(torch.stack(scores), probability, torch.stack(without))


@torch.no_grad()
def _unscaled(
    backbone: Backbone, sites: Sequence[nn.Module], packed: PackedPrompts, projection: Projection | None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """One pass: what enters each block [1, N, D], each layer's neurons [M, F], the states for the head [1, M, D]."""
    noted: list[Tensor] = []
    entering = []
    x = backbone.embed(packed.plan)[None]
    with read_neurons(backbone, sites, packed.plan, noted):
        for k in range(1, backbone.num_layers + 1):
            entering.append(x)
            x = advance(backbone, k, x, packed.plan, projection)
    return entering, [one[0] for one in noted], x


def _mean_gradient(
    backbone: Backbone,
    site: nn.Module,
    k: int,
    x: Tensor,
    own: Tensor,
    packed: PackedPrompts,
    points: Tensor,
    projection: Projection | None,
) -> tuple[Tensor, Tensor]:
    """The mean over the points of dp/dw at layer k, [M, F], and the tokens' probabilities at zero, [M]."""
    scales = torch.cat([points.new_zeros(1), points]).to(own)
    neurons = (scales[:, None, None] * own).requires_grad_()
    served = 0

    def scaled(rows: Tensor) -> Tensor:
        """The next branches' neurons, in place of what the block has computed."""
        nonlocal served
        served += rows.shape[0]
        return neurons[served - rows.shape[0] : served]

    with torch.enable_grad():
        states = x.expand(len(scales), -1, -1)
        with changed_neurons(backbone, site, packed.plan, scaled):
            states = advance(backbone, k, states, packed.plan, projection)
        for layer in range(k + 1, backbone.num_layers + 1):
            states = advance(backbone, layer, states, packed.plan, projection)
    empty, slope = _head_gradient(backbone, states.detach(), packed)
    # The first branch, at zero, is there for the check of completeness and has no say in the integral.
    slope[0] = 0
    states.backward(slope)
    assert neurons.grad is not None
    return neurons.grad.sum(0) / len(points), empty


def advance(backbone: Backbone, k: int, x: Tensor, plan: Plan, projection: Projection | None) -> Tensor:
    """Block k with what LRP2 does after it; after the last one the needed rows, after a final norm: [B, M, D]."""
    last = k == backbone.num_layers
    y = backbone.layer(k, x, plan, need=last)
    if projection is None:
        return backbone.final(y) if last else y
    (i, j), shift = projection.pair, projection.shift
    if k == i:
        y = y + shift[i]
    if k == j and not (last and projection.last_layer == "normed"):
        y = y - shift[j]
    if not last:
        return y
    y = backbone.final(y)
    return y - shift[j] if k == j and projection.last_layer == "normed" else y


def _head_gradient(backbone: Backbone, states: Tensor, packed: PackedPrompts) -> tuple[Tensor, Tensor]:
    """The probabilities of the wanted tokens in the first branch, [M], and dp/dstates of all branches, [B, M, D]."""
    slopes = torch.empty_like(states)
    first = None
    at_once = max(1, LOGITS_AT_ONCE // (backbone.vocab_size * states.shape[1]))
    for start in range(0, len(states), at_once):
        with torch.enable_grad():
            part = states[start : start + at_once].requires_grad_()
            found = row_probabilities(backbone, part, packed)
            (slopes[start : start + at_once],) = torch.autograd.grad((found * packed.share).sum(), part)
        first = found[0].detach() if first is None else first
    assert first is not None
    return first, slopes


def row_probabilities(backbone: Backbone, states: Tensor, packed: PackedPrompts) -> Tensor:
    """The probability of the wanted token at every needed row, [B, M], in float32 at least."""
    weight, bias = backbone.unembedding
    logits = nn.functional.linear(backbone.transform(states), weight, bias).to(_head_dtype(backbone))
    wanted = packed.tokens[None, :, None].expand(len(states), -1, 1)
    return (logits.gather(-1, wanted).squeeze(-1) - logits.logsumexp(-1)).exp()


def _head_dtype(backbone: Backbone) -> torch.dtype:
    return torch.float64 if backbone.dtype == torch.float64 else torch.float32
