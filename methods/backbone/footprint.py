"""What a model weighs, part by part, from its configuration alone: no weight is read, none need be at hand.

The model is made on PyTorch's meta device, where tensors have a shape and no content, and its parts are counted. So the
numbers are those of transformers' own classes, for every family, also at 176 billion parameters.

Shape legend: L layers, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BloomConfig, PretrainedConfig

from methods.backbone.addresses import CONFIG, resolve
from methods.backbone.base import FAMILIES
from methods.backbone.loading import read_configuration
from methods.backbone.structure import ModelDescription, describe, find_blocks, kind_of
from orchestrator.errors import UserError

# Operations per second to expect of a GPU: 40% of an A100's peak outside and inside its tensor cores.
GPU_RATE = {torch.float64: 0.4 * 9.7e12, torch.float32: 0.4 * 19.5e12, torch.bfloat16: 0.4 * 312e12}


def _bloom(hidden: int, layers: int, heads: int) -> Callable[[], PretrainedConfig]:
    return lambda: BloomConfig(
        vocab_size=250_880,
        hidden_size=hidden,
        n_layer=layers,
        n_head=heads,
        pad_token_id=3,
        architectures=["BloomForCausalLM"],
    )


# Published configurations (BLOOM: Scao et al. 2022, table 3), so that a model can be planned before it is downloaded.
PUBLISHED: Mapping[str, Callable[[], PretrainedConfig]] = {
    "mbert": lambda: BertConfig(vocab_size=119_547, architectures=["BertForMaskedLM"]),
    "bloom-560m": _bloom(1024, 24, 16),
    "bloom-1b1": _bloom(1536, 24, 16),
    "bloom-1b7": _bloom(2048, 24, 16),
    "bloom-3b": _bloom(2560, 30, 32),
    "bloom-7b1": _bloom(4096, 30, 32),
    "bloom-176b": _bloom(14336, 70, 112),
}
# The same by the names of the hub, so that a preset can be planned where the hub cannot be asked.
_ON_THE_HUB = {
    "google-bert/bert-base-multilingual-cased": "mbert",
    "bigscience/bloom": "bloom-176b",
    **{f"bigscience/{name}": name for name in PUBLISHED if name.startswith("bloom") and name != "bloom-176b"},
}


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's weights, tied ones counted once.

    Attributes:
        description: L, D, V and what blocks and head cost to run.
        dtype: of the weights.
        embeddings: what lies before the blocks, the norm after the last one included.
        block: the largest block; nearly always all are alike.
        blocks: all of them.
        head: what is only the head's: nothing where it shares the embedding matrix and does nothing else.
    """

    description: ModelDescription
    dtype: torch.dtype
    embeddings: int
    block: int
    blocks: int
    head: int

    @property
    def total(self) -> int:
        """All weights."""
        return self.embeddings + self.blocks + self.head

    @classmethod
    def from_config(cls, config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> Footprint:
        """Counts a model that exists only as a configuration.

        Args:
            config: of a masked or causal language model; its ``architectures`` name which.
            dtype: the weights are kept in.

        Raises:
            UserError: the configuration is not one of a masked or causal language model.
        """
        model = _shapes(config)
        architecture = type(model).__name__
        family = FAMILIES.get(architecture)
        description = describe(model, fast=family is not None and family.obstacle(config) is None)
        sizes = [_bytes(block.parameters(), dtype) for block in find_blocks(model)]
        body = _bytes(model.base_model.parameters(), dtype)
        return cls(
            description=description,
            dtype=dtype,
            embeddings=body - sum(sizes),
            block=max(sizes),
            blocks=sum(sizes),
            head=_bytes(model.parameters(), dtype) - body,
        )

    @classmethod
    def of(cls, address: str, dtype: torch.dtype = torch.float32, *, classifier: bool = False) -> Footprint:
        """Counts the model behind an address; see `configuration`."""
        return cls.from_config(configuration(address, classifier=classifier), dtype)


def configuration(address: str, *, classifier: bool = False) -> PretrainedConfig:
    """The configuration behind an address, without its weights.

    Args:
        address: a name of `PUBLISHED`, a ``config.json``, a model's folder, a built-in name or a hub id, which is not
            asked for where it is a published one.
        classifier: it is of a classifier of texts, and is returned as that of the language model with the same body.

    Raises:
        UserError: there is none, or it is not one of a masked or causal language model, or of a classifier.
    """
    published = _ON_THE_HUB.get(address, address)
    if published in PUBLISHED:
        return PUBLISHED[published]()
    path = Path(address).expanduser()
    if path.name == CONFIG and path.is_file():
        return read_configuration(path.parent, address, classifier=classifier)[1]
    return read_configuration(resolve(address, weights=False), address, classifier=classifier)[1]


def _shapes(config: PretrainedConfig) -> Any:
    """The model of a configuration, without content."""
    kinds = {kind_of(name) for name in config.architectures or ()} - {None}
    if len(kinds) != 1:
        raise UserError(
            f"The configuration names {', '.join(config.architectures or ()) or 'no architecture'}, which is no masked "
            "or causal language model, so there is nothing to plan. Use that of a ...ForMaskedLM or ...ForCausalLM."
        )
    auto = AutoModelForMaskedLM if kinds == {"masked"} else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config, trust_remote_code=False)


def _bytes(weights: Iterable[torch.Tensor], dtype: torch.dtype) -> int:
    return sum(weight.numel() for weight in weights) * dtype.itemsize
