"""The backbone: a Hugging Face masked or causal language model seen as embed, layers 1..L, head.

Shape legend: B branches (states of the same tokens that were shifted differently), N packed rows (packing.py),
M needed rows, D hidden size, L layers, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from methods.backbone.packing import Pack
from methods.backbone.structure import Kind, describe, find_blocks


@dataclass(frozen=True)
class Plan:
    """A pack on the backbone's device with everything that is the same for all branches and layers."""

    pack: Pack

    def tensors(self) -> Sequence[Tensor]:
        """The tensors this plan keeps alive beside the pack's."""
        return ()

    @property
    def bytes(self) -> int:
        """Bytes of the plan's own tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())


class Backbone(ABC):
    """A language model, layer by layer.

    The life of a pack of queries::

        with torch.no_grad():
            plan = backbone.plan(pack)                    # once per pack: masks, position biases, rotary angles
            x = backbone.embed(plan)[None]                # [1, N, D]
            for k in range(1, backbone.num_layers):
                with backbone.block(k) as device:         # its weights are at hand, on this device
                    x = backbone.layer(k, x.to(device), plan)   # [B, N, D]; shift it, grow or shrink B as you like
            y = backbone.layer(backbone.num_layers, x, plan, need=True)   # [B, M, D]
            h = backbone.transform(backbone.final(y))
            weight, bias = backbone.unembedding           # logits = h @ weight.T + bias

    Layer k in 1..L is the output of block k *before* any norm that follows the last block. Hugging Face's
    ``hidden_states[L]`` of models with such a norm (BLOOM, GPT-2, XGLM, Llama) is the output *after* it, that is
    ``final(layer(L, ...))``; for models without one (BERT, XLM-R) `final` is the identity and both are the same.

    A model need not lie in one piece (streaming.py, dispatch.py). `layer` finds its block wherever it is; who calls it
    several times for one block does so inside `block`, so that the block is fetched once.

    The model's weights are used in place, never copied and never changed: many processes may share one memory-mapped
    file. Callers switch gradients off.

    Attributes:
        accepts_trees: whether segments may bring their own ancestor masks.
        fast: whether this is a packed path.
        streamed: whether weights are read from disk while they are used.
        model, tokenizer: as transformers loaded them.
        description: the model's sizes.
        blocks: the model's own blocks, block k at index k - 1.
    """

    accepts_trees: bool = False
    fast: bool = True
    streamed: bool = False

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._device = device
        self.description = describe(model, self.fast)
        self.blocks = find_blocks(model)

    @classmethod
    def obstacle(cls, config: Any) -> str | None:
        """Why a configuration of a known class is outside this path, in words; None when nothing speaks against it."""
        return None

    @property
    def kind(self) -> Kind:
        """Masked or causal."""
        return self.description.kind

    @property
    def family(self) -> str:
        """The configuration's model type, e.g. ``"bert"``."""
        return self.description.family

    @property
    def num_layers(self) -> int:
        """L."""
        return self.description.num_layers

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.description.hidden_size

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.description.vocab_size

    @property
    def max_length(self) -> int | None:
        """Tokens that fit into one sequence, special tokens included; None when there is no limit."""
        return self.description.max_length

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and states."""
        return self.unembedding[0].dtype

    @property
    def device(self) -> torch.device:
        """Where embedding and head compute; of a model in one piece, where it is."""
        return self._device or self.unembedding[0].device

    @property
    def mapped_bytes(self) -> int:
        """Bytes of weights that one device holds at a time and that may be mapped, not the process's own."""
        return self.description.weight_bytes(self.dtype)

    @property
    def bytes_read(self) -> int:
        """Bytes of weights read from disk since the model was loaded; 0 unless it is streamed."""
        return 0

    @contextmanager
    def block(self, k: int) -> Iterator[torch.device]:
        """Holds block k's weights; gives the device where its states are expected."""
        yield self.device

    def block_flops(self, length: float, needed: float = 1.0) -> float:
        """Operations of one block per row; see `ModelDescription.block_flops`."""
        return self.description.block_flops(length, needed)

    def head_flops(self) -> float:
        """Operations of the head per row; see `ModelDescription.head_flops`."""
        return self.description.head_flops()

    @property
    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """The vocabulary matrix [V, D] and its bias [V] or None, as the model holds them.

        A few models (ELECTRA, OPT) have a narrower matrix; `final` or `transform` then brings states to its width.
        """
        output = self.model.get_output_embeddings()
        return output.weight, output.bias

    @abstractmethod
    def plan(self, pack: Pack, device: torch.device | None = None) -> Plan:
        """Prepares a pack, on the backbone's device unless another one is named.

        Raises ValueError for ancestor masks where `accepts_trees` is False.
        """

    @abstractmethod
    def embed(self, plan: Any) -> Tensor:
        """The input of block 1, [N, D]."""

    @abstractmethod
    def layer(self, k: int, x: Tensor, plan: Any, need: bool = False) -> Tensor:
        """Block k in 1..L.

        Args:
            k: the layer, counted from 1.
            x: the states that enter it, [B, N, D]; left unchanged.
            plan: from this backbone's `plan`.
            need: compute only the pack's needed rows. Meant for the last block: the other rows are gone then.

        Returns:
            [B, N, D], or [B, M, D] when `need`.
        """

    @abstractmethod
    def final(self, x: Tensor) -> Tensor:
        """The norm after the last block, [..., D] to [..., D]; identity where the model has none."""

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """What the head does before the vocabulary matrix, [..., D] to [..., D]; identity where it does nothing."""


class WrappedBackbone(Backbone):
    """A backbone whose weights lie elsewhere than in one piece in memory; another one does the computing.

    Args:
        inner: the packed or generic path.
    """

    def __init__(self, inner: Backbone) -> None:
        self.inner = inner
        self.model, self.tokenizer = inner.model, inner.tokenizer
        self.description, self.blocks = inner.description, inner.blocks
        self.accepts_trees, self.fast = inner.accepts_trees, inner.fast

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def plan(self, pack: Pack, device: torch.device | None = None) -> Plan:
        return self.inner.plan(pack, device)

    def embed(self, plan: Any) -> Tensor:
        return self.inner.embed(plan)

    def layer(self, k: int, x: Tensor, plan: Any, need: bool = False) -> Tensor:
        with self.block(k) as device:
            return self.inner.layer(k, x.to(device), plan, need)

    def final(self, x: Tensor) -> Tensor:
        return self.inner.final(x)

    def transform(self, x: Tensor) -> Tensor:
        return self.inner.transform(x)


FAMILIES: dict[str, type[Backbone]] = {}
"""Packed paths by the Hugging Face class they stand for; every other class takes the generic path."""

BackboneT = TypeVar("BackboneT", bound=type[Backbone])


def packed_path(*architectures: str) -> Callable[[BackboneT], BackboneT]:
    """Class decorator: this backbone is the packed path of these Hugging Face classes."""

    def register(backbone: BackboneT) -> BackboneT:
        FAMILIES.update(dict.fromkeys(architectures, backbone))
        return backbone

    return register
