"""GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, matrices stored transposed.

Shape legend: B branches, N packed rows, M needed rows, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.backbone.activations import activate_
from methods.backbone.attention import AttentionPlan, attend
from methods.backbone.base import packed_path
from methods.backbone.packed import PackedBackbone, linear_into, needed_rows, split_heads


@packed_path("GPT2LMHeadModel")
class Gpt2Backbone(PackedBackbone):
    """The packed path of GPT-2."""

    accepts_trees = True

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        return "it has cross-attention" if config.add_cross_attention else None

    def embed(self, plan: AttentionPlan) -> Tensor:
        base = self.model.transformer
        embeddings: Tensor = base.wte(plan.pack.ids).add_(base.wpe(plan.pack.positions))
        return embeddings

    def layer(self, k: int, x: Tensor, plan: AttentionPlan, need: bool = False) -> Tensor:
        block = self.blocks[k - 1]
        attention = block.attn
        normed = block.ln_1(x)
        if need:
            q = _columns(attention.c_attn, needed_rows(normed, plan, True), 0, attention.embed_dim)
            keys_values = _columns(attention.c_attn, normed, attention.embed_dim, 3 * attention.embed_dim)
            keys, values = keys_values.chunk(2, dim=-1)
        else:
            q, keys, values = attention.c_attn(normed).chunk(3, dim=-1)
        size = attention.head_dim
        attended = attend(
            split_heads(q, size), split_heads(keys, size), split_heads(values, size), plan, need, attention.scaling
        )
        y = linear_into(attention.c_proj, attended, needed_rows(x, plan, need))
        inner = activate_(block.mlp.act, block.mlp.c_fc(block.ln_2(y)))
        return linear_into(block.mlp.c_proj, inner, y)

    def final(self, x: Tensor) -> Tensor:
        normed: Tensor = self.model.transformer.ln_f(x)
        return normed


def _columns(layer: nn.Module, x: Tensor, start: int, stop: int) -> Tensor:
    """The outputs start..stop of a layer whose weight is stored [in, out]: [B, N, stop - start]."""
    product = torch.addmm(layer.bias[start:stop], x.flatten(0, 1), layer.weight[:, start:stop])
    return product.unflatten(0, x.shape[:2])
