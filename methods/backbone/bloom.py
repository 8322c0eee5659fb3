"""BLOOM (Scao et al. 2022): pre-norm blocks, ALiBi, queries, keys and values in one matrix laid out [head, 3, size].

Shape legend: B branches, N packed rows, M needed rows, D hidden size, H heads, d head size.

Hugging Face computes BLOOM's softmax in float32 whatever the model's dtype and cuts its GELU constant to eight digits.
This file does neither, so in float64 the two agree to about 4e-7 only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from methods.backbone.activations import gelu_tanh_
from methods.backbone.attention import AttentionPlan, attend
from methods.backbone.base import packed_path
from methods.backbone.packed import PackedBackbone, linear_into, needed_rows


@packed_path("BloomForCausalLM")
class BloomBackbone(PackedBackbone):
    """The packed path of BLOOM."""

    accepts_trees = True

    def alibi_slopes(self) -> Tensor:
        return alibi_slopes(self.description.num_heads)

    def embed(self, plan: AttentionPlan) -> Tensor:
        base = self.model.transformer
        embeddings: Tensor = base.word_embeddings_layernorm(base.word_embeddings(plan.pack.ids))
        return embeddings

    def layer(self, k: int, x: Tensor, plan: AttentionPlan, need: bool = False) -> Tensor:
        block = self.blocks[k - 1]
        attention = block.self_attention
        normed = block.input_layernorm(x)
        q, k_, v = self._needed_qkv(attention, normed, plan) if need else self._qkv(attention, normed)
        attended = attend(q, k_, v, plan, need, attention.inv_norm_factor)
        post_norm = block.apply_residual_connection_post_layernorm
        y = linear_into(attention.dense, attended, needed_rows(normed if post_norm else x, plan, need))
        normed = block.post_attention_layernorm(y)
        inner = gelu_tanh_(block.mlp.dense_h_to_4h(normed))
        return linear_into(block.mlp.dense_4h_to_h, inner, normed if post_norm else y)

    def final(self, x: Tensor) -> Tensor:
        normed: Tensor = self.model.transformer.ln_f(x)
        return normed

    def _qkv(self, attention: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of all rows, each [B, N, H, d]: views of one product."""
        fused = attention.query_key_value(x).unflatten(-1, (attention.num_heads, 3, attention.head_dim))
        return fused.unbind(-2)

    def _needed_qkv(self, attention: nn.Module, x: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, M, H, d] of the needed rows only; keys and values [B, N, H, d] of all."""
        heads, size = attention.num_heads, attention.head_dim
        weight = attention.query_key_value.weight.view(heads, 3 * size, -1)
        bias = attention.query_key_value.bias.view(heads, 1, 3 * size)
        q = _per_head(needed_rows(x, plan, True), weight[:, :size], bias[..., :size])
        keys_values = _per_head(x, weight[:, size:], bias[..., size:])
        return q, keys_values[..., :size], keys_values[..., size:]


def _per_head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, N, D] times each head's rows of a fused matrix, weight [H, d, D] and bias [H, 1, d]: [B, N, H, d].

    A batched product reads the rows where they lie; selecting them first would copy the weights.
    """
    flat = x.flatten(0, 1).expand(weight.shape[0], -1, -1)
    product = torch.baddbmm(bias, flat, weight.transpose(1, 2))
    return product.transpose(0, 1).unflatten(0, x.shape[:2])


def alibi_slopes(heads: int) -> Tensor:
    """Slopes of ALiBi (Press et al. 2022), float32 [H]: a geometric sequence, interleaved when H is no power of two."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
    return torch.tensor(slopes, dtype=torch.float32)
