"""XGLM (Lin et al. 2022): pre-norm blocks, sinusoidal positions that start at two, scaled embeddings.

Shape legend: B branches, N packed rows, M needed rows, D hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.backbone.activations import activate_
from methods.backbone.attention import AttentionPlan, attend
from methods.backbone.base import packed_path
from methods.backbone.packed import PackedBackbone, linear_into, needed_rows, split_heads


@packed_path("XGLMForCausalLM")
class XglmBackbone(PackedBackbone):
    """The packed path of XGLM."""

    accepts_trees = True

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        return "it has cross-attention" if config.add_cross_attention else None

    def embed(self, plan: AttentionPlan) -> Tensor:
        base = self.model.model
        table = base.embed_positions
        embeddings: Tensor = base.embed_tokens(plan.pack.ids)
        return embeddings.add_(table.weights.index_select(0, plan.pack.positions + table.offset))

    def layer(self, k: int, x: Tensor, plan: AttentionPlan, need: bool = False) -> Tensor:
        block = self.blocks[k - 1]
        attention = block.self_attn
        normed = block.self_attn_layer_norm(x)
        attended = attend(
            split_heads(attention.q_proj(needed_rows(normed, plan, need)), attention.head_dim),
            split_heads(attention.k_proj(normed), attention.head_dim),
            split_heads(attention.v_proj(normed), attention.head_dim),
            plan,
            need,
            attention.scaling,
        )
        y = linear_into(attention.out_proj, attended, needed_rows(x, plan, need))
        inner = activate_(block.activation_fn, block.fc1(block.final_layer_norm(y)))
        return linear_into(block.fc2, inner, y)

    def final(self, x: Tensor) -> Tensor:
        normed: Tensor = self.model.model.layer_norm(x)
        return normed
