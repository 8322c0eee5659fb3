"""A causal language model whose weights are sharded over processes, to be edited like any other.

A sharded weight is whole only while its module runs: DeepSpeed gathers it before and lets it go afterwards. All
processes must therefore call the same modules in the same order. What reads the vocabulary matrix outside of a module
(`methods.editing.vocabulary`) gets a copy of it that every process keeps whole, in float32.

Shape legend: B rows, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from methods.backbone.addresses import check_folder, resolve
from methods.backbone.loading import read_model
from methods.editing.examples import Encoded
from methods.editing.model import EditableModel
from orchestrator.errors import UserError


class ShardedModel(EditableModel):
    """An `EditableModel` whose weights are sharded.

    Args:
        hf: made under ``deepspeed.zero.Init``; a causal language model.
        tokenizer: its tokenizer.
        device: of this process.
    """

    def __init__(self, hf: Any, tokenizer: Any, device: torch.device) -> None:
        self._device = device
        super().__init__(hf, tokenizer, "causal", store_device=str(device))
        output = hf.get_output_embeddings()
        weights = [weight for weight in (output.weight, output.bias) if weight is not None]
        with deepspeed.zero.GatheredParameters(weights):
            self._vocabulary = [weight.detach().to(device, torch.float32, copy=True) for weight in weights]

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._device

    @property
    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """This process's copy of matrix [V, D] and bias [V], float32."""
        weight, *bias = self._vocabulary
        return weight, bias[0] if bias else None

    def transform(self, hidden: Tensor) -> Tensor:
        """States as the vocabulary matrix takes them, [*, D]: in float32."""
        return hidden.float()

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [*, V] of final states [*, D], in float32."""
        return nn.functional.linear(hidden.float(), *self.unembedding)

    def check(self) -> None:
        """Compares the model in two parts, and its head, with its own forward pass, once modules gather their weights.

        Raises:
            UserError: they do not agree.
        """
        with deepspeed.zero.GatheredParameters([self.hf.get_input_embeddings().weight]):  # tells how many tokens are
            super()._check()

    def _check(self) -> None:
        """Nothing yet: before there is an engine no module can run."""

    def _lower(self, batch: Encoded) -> Tensor:
        """Runs embeddings and lower blocks, [B, T, D]. The pass goes on to its end: DeepSpeed follows which modules
        are running, and would lose count if one were left by an exception."""
        tap = _Tap()
        with self._cut(nn.ModuleList([*self.blocks[: self.first_edited_block], tap])):
            self.hf.base_model(**self._inputs(batch))
        return tap.caught


class _Tap(nn.Module):
    """Stands in a list of blocks for the first edited one, notes what enters it and hands it on."""

    caught: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.caught = args[0] if args else kwargs["hidden_states"]
        return self.caught


def load_sharded(address: str, *, dtype: torch.dtype, device: torch.device) -> ShardedModel:
    """Loads a model so that every process keeps its share of each weight; no process ever holds the whole.

    The process group must stand, and Accelerate must have been told of DeepSpeed's stage 3, which transformers asks.

    Args:
        address: built-in name, local folder or hub id.
        dtype: of weights and states.
        device: of this process.

    Raises:
        UserError: the model is not there, incomplete, or has a head that is more than a vocabulary matrix.
    """
    folder = resolve(address)
    check_folder(folder, address)
    needed = "every score meaningless. Pass a model that was saved with its language-model head."
    hf, tokenizer = read_model(AutoModelForCausalLM, folder, address, needed, dtype=dtype)
    head = hf.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"Model {address!r} is a {type(hf).__name__}, whose head is no plain vocabulary matrix, so its training "
            "cannot be sharded. Use --placement single, or a model such as BLOOM, XGLM or Llama."
        )
    return ShardedModel(hf, tokenizer, device)
