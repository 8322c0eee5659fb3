"""Where a Hugging Face model keeps its blocks and its head, and what it costs to run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from orchestrator.errors import UserError

Kind = Literal["masked", "causal"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), "causal"),
    **dict.fromkeys(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values(), "masked"),
}


@dataclass(frozen=True)
class ModelDescription:
    """What is known of a model before its weights are read; enough to estimate time and memory.

    Attributes:
        family: the configuration's model type, e.g. ``"bert"``.
        architecture: the Hugging Face class, e.g. ``"BertForMaskedLM"``.
        kind: masked or causal.
        fast: whether a packed path exists; otherwise the generic path calls the model's own blocks.
        num_layers, hidden_size, num_heads, vocab_size: L, D, attention heads, V.
        max_length: tokens that fit into one sequence, special tokens included; None when there is no limit.
        parameters: number of weights, tied ones counted once.
        block_weights: matrix entries of one block (mean over the blocks).
        attention_size, key_value_size: width of the queries, and of the keys (smaller with grouped heads).
        transform_weights: matrix entries of the head before the vocabulary matrix.
    """

    family: str
    architecture: str
    kind: Kind
    fast: bool
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    max_length: int | None
    parameters: int
    block_weights: int
    attention_size: int
    key_value_size: int
    transform_weights: int

    def weight_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of all weights in `dtype`."""
        return self.parameters * dtype.itemsize

    def block_flops(self, length: float, needed: float = 1.0) -> float:
        """Floating-point operations of one block per packed row (two for each multiply-add).

        Args:
            length: keys that each query meets.
            needed: share of the rows that are needed (the last block computes keys and values for all rows, the
                rest only for these). The generic path computes every row.
        """
        if not self.fast:
            needed = 1.0
        key_value = 2 * self.hidden_size * self.key_value_size
        attention = 2 * length * self.attention_size
        return 2.0 * (key_value + needed * (self.block_weights - key_value + attention))

    def head_flops(self) -> float:
        """Floating-point operations per row for the whole vocabulary."""
        return 2.0 * (self.transform_weights + self.vocab_size * self.hidden_size)


def kind_of(architecture: str) -> Kind | None:
    """Whether transformers lists a class as a masked or a causal language model; None when as neither."""
    return _KINDS.get(architecture)


def find_blocks(model: Any) -> nn.ModuleList:
    """The model's list of transformer blocks.

    That is the outermost ``nn.ModuleList`` that has as many entries as the configuration has layers.

    Raises:
        UserError: there is no such list.
    """
    wanted = getattr(model.config, "num_hidden_layers", None)
    lists = [(name, part) for name, part in model.base_model.named_modules() if isinstance(part, nn.ModuleList)]
    fitting = [(name.count("."), part) for name, part in lists if len(part) == wanted]
    if fitting:
        return min(fitting, key=lambda pair: pair[0])[1]
    seen = ", ".join(f"{name} ({len(part)})" for name, part in lists) or "none"
    raise UserError(
        f"{type(model).__name__} has no list of its {wanted} transformer blocks, so its layers cannot be addressed one "
        f"by one (lists found: {seen}). Use a model that keeps each layer as its own block, such as BERT, XLM-R, "
        "BLOOM, GPT-2, XGLM or Llama."
    )


def describe(model: Any, fast: bool) -> ModelDescription:
    """Sizes of a model, from its configuration and the shapes of its weights.

    Args:
        model: a Hugging Face masked or causal language model; its weights are not read and may be on the meta device.
        fast: whether a packed path will run it.
    """
    config, architecture = model.config, type(model).__name__
    kind = kind_of(architecture)
    output = model.get_output_embeddings()
    if kind is None or output is None or config.is_encoder_decoder:
        raise UserError(
            f"{architecture} is not a plain masked or causal language model with a vocabulary matrix, so its layers "
            "and scores cannot be seen. Use a ...ForMaskedLM or ...ForCausalLM model without a separate encoder."
        )
    blocks = find_blocks(model)
    heads = getattr(config, "num_attention_heads", None) or 1
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    outside = {id(weight) for part in (model.base_model, output) for weight in part.parameters()}
    return ModelDescription(
        family=config.model_type,
        architecture=architecture,
        kind=kind,
        fast=fast,
        num_layers=len(blocks),
        hidden_size=config.hidden_size,
        num_heads=heads,
        vocab_size=output.weight.shape[0],
        max_length=max_length(model),
        parameters=sum(weight.numel() for weight in model.parameters()),
        block_weights=_matrix_entries(blocks.parameters()) // len(blocks),
        attention_size=heads * head_size,
        key_value_size=(getattr(config, "num_key_value_heads", None) or heads) * head_size,
        transform_weights=_matrix_entries(weight for weight in model.parameters() if id(weight) not in outside),
    )


def _matrix_entries(weights: Any) -> int:
    return sum(weight.numel() for weight in weights if weight.dim() >= 2)


def max_length(model: Any) -> int | None:
    """Positions a sequence may have; a table that reserves the padding id's row and those before it has fewer."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, part in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return part.num_embeddings - part.padding_idx - 1
    return limit
