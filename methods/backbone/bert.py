"""BERT and models with the same blocks: mBERT, RoBERTa, XLM-R, CamemBERT (Devlin et al. 2019; Conneau et al. 2020).

Shape legend: B branches, N packed rows, M needed rows, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods.backbone.activations import activate_
from methods.backbone.attention import AttentionPlan, attend
from methods.backbone.base import packed_path
from methods.backbone.packed import PackedBackbone, linear_into, needed_rows, split_heads


@packed_path("BertForMaskedLM")
class BertBackbone(PackedBackbone):
    """Post-norm blocks, learned positions, a dense layer before the vocabulary."""

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        return "it is configured as a decoder" if config.is_decoder else None

    def embed(self, plan: AttentionPlan) -> Tensor:
        embeddings: Tensor = self.model.base_model.embeddings(
            input_ids=plan.pack.ids[None], position_ids=self.position_ids(plan.pack.positions)[None]
        )
        return embeddings[0]

    def position_ids(self, positions: Tensor) -> Tensor:
        """Rows of the position table."""
        return positions

    def layer(self, k: int, x: Tensor, plan: AttentionPlan, need: bool = False) -> Tensor:
        block = self.blocks[k - 1]
        attention, size = block.attention.self, block.attention.self.attention_head_size
        rows = needed_rows(x, plan, need)
        attended = attend(
            split_heads(attention.query(rows), size),
            split_heads(attention.key(x), size),
            split_heads(attention.value(x), size),
            plan,
            need,
            attention.scaling,
        )
        output = block.attention.output
        y: Tensor = output.LayerNorm(linear_into(output.dense, attended, rows))
        inner = activate_(block.intermediate.intermediate_act_fn, block.intermediate.dense(y))
        z: Tensor = block.output.LayerNorm(linear_into(block.output.dense, inner, y))
        return z

    def transform(self, x: Tensor) -> Tensor:
        transformed: Tensor = self.model.cls.predictions.transform(x)
        return transformed


@packed_path("RobertaForMaskedLM", "XLMRobertaForMaskedLM", "CamembertForMaskedLM")
class RobertaBackbone(BertBackbone):
    """RoBERTa counts positions from the padding id plus one, and names its head differently."""

    def position_ids(self, positions: Tensor) -> Tensor:
        padding: int = self.model.base_model.embeddings.padding_idx
        return positions + padding + 1

    def transform(self, x: Tensor) -> Tensor:
        head = self.model.lm_head
        transformed: Tensor = head.layer_norm(torch.nn.functional.gelu(head.dense(x)))
        return transformed
