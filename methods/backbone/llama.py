"""Llama and models with the same blocks: Mistral, Qwen2, SmolLM2 (Touvron et al. 2023).

Pre-norm blocks with root-mean-square norms, rotary positions, grouped key heads, gated feed-forward layers.

Shape legend: B branches, N packed rows, M needed rows, D hidden size, H heads, K key heads, d head size.

Hugging Face computes these norms in float32 whatever the model's dtype. This file does not, so in float64 the two agree
to about 1e-6 only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone.activations import activate_
from methods.backbone.attention import AttentionPlan, attend
from methods.backbone.base import packed_path
from methods.backbone.packed import PackedBackbone, linear_into, needed_rows, rotate, split_heads

# Rotary variants whose angles depend on a row's position alone, not on the longest sequence in the batch.
_ROTARY_BY_POSITION = {"default", "linear", "llama3", "yarn"}


@packed_path("LlamaForCausalLM")
class LlamaBackbone(PackedBackbone):
    """The packed path of Llama-like models."""

    accepts_trees = True

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        rotary = config.rope_parameters["rope_type"]
        if rotary not in _ROTARY_BY_POSITION:
            return f"its rotary positions are of type {rotary!r}"
        return None

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        # The first argument only tells dtype and device.
        states = torch.empty(0, dtype=self.dtype, device=positions.device)
        cos, sin = self.model.model.rotary_emb(states, positions[None])
        return cos[0], sin[0]

    def embed(self, plan: AttentionPlan) -> Tensor:
        embeddings: Tensor = self.model.model.embed_tokens(plan.pack.ids)
        return embeddings

    def layer(self, k: int, x: Tensor, plan: AttentionPlan, need: bool = False) -> Tensor:
        assert plan.rotary is not None
        cos, sin = plan.rotary
        block = self.blocks[k - 1]
        attention, size = block.self_attn, block.self_attn.head_dim
        normed = _norm(block.input_layernorm, x)
        q_cos, q_sin = (cos[plan.pack.need], sin[plan.pack.need]) if need else (cos, sin)
        attended = attend(
            rotate(split_heads(attention.q_proj(needed_rows(normed, plan, need)), size), q_cos, q_sin),
            rotate(split_heads(attention.k_proj(normed), size), cos, sin),
            split_heads(attention.v_proj(normed), size),
            plan,
            need,
            attention.scaling,
        )
        y = linear_into(attention.o_proj, attended, needed_rows(x, plan, need))
        normed = _norm(block.post_attention_layernorm, y)
        inner = activate_(block.mlp.act_fn, block.mlp.gate_proj(normed)).mul_(block.mlp.up_proj(normed))
        return linear_into(block.mlp.down_proj, inner, y)

    def final(self, x: Tensor) -> Tensor:
        return _norm(self.model.model.norm, x)


@packed_path("MistralForCausalLM", "Qwen2ForCausalLM")
class MistralBackbone(LlamaBackbone):
    """Llama's blocks with attention that may be limited to a sliding window."""

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        if len(set(getattr(config, "layer_types", None) or ())) > 1:
            return "only some of its layers have a sliding window"
        return super().obstacle(config)

    def window(self) -> int | None:
        config = self.model.config
        if getattr(config, "layer_types", None) and config.layer_types[0] == "full_attention":
            return None
        window: int | None = config.sliding_window
        return window


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    """Root-mean-square norm in one kernel (the module itself makes five passes over x)."""
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
