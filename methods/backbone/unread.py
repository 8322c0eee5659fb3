"""A model whose weights are still in its files: structure on the meta device, and where each weight lies.

Streaming (streaming.py) reads its blocks again and again, dispatch (dispatch.py) reads each once, onto its device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights

from methods.backbone.structure import find_blocks
from methods.backbone.weight_files import WeightFiles
from orchestrator.errors import UserError


@dataclass(frozen=True)
class Weight:
    """One parameter: the module and attribute that hold it, its name in the files, its dtype and shape in the model."""

    module: nn.Module
    attribute: str
    stored: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class UnreadModel:
    """A model without weights, and its weights by where they are used.

    Attributes:
        model: the Hugging Face model; parameters are on the meta device, buffers are real.
        files: where the weights are.
        blocks: of each block.
        embedding, vocabulary: the two matrices over the vocabulary, [V, D] each; stored once where they are tied.
        rest: everything else: position tables, norms, what the head does before the vocabulary.
    """

    model: Any
    files: WeightFiles
    blocks: tuple[tuple[Weight, ...], ...]
    embedding: Weight
    vocabulary: Weight
    rest: tuple[Weight, ...]

    def place_rest(self, device: torch.device) -> None:
        """Reads everything but the blocks and the two matrices onto a device, and moves the buffers there."""
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
        read: dict[str, nn.Parameter] = {}
        for weight in self.rest:
            if weight.stored not in read:
                read[weight.stored] = nn.Parameter(self.tensor(weight).to(device), requires_grad=False)
            weight.module._parameters[weight.attribute] = read[weight.stored]

    def tensor(self, weight: Weight) -> Tensor:
        """Reads one weight, on the CPU."""
        values = torch.empty(weight.shape, dtype=weight.dtype)
        self.files.read(weight.stored, values)
        return values


def unread_model(
    auto: Any, config: Any, files: WeightFiles, address: str, needed: str, dtype: torch.dtype
) -> UnreadModel:
    """Builds a model's structure and finds its weights, without reading one.

    Args:
        auto: the transformers class to build with, such as ``AutoModelForMaskedLM``.
        config: the model's configuration.
        files, address: its weights, and how the user named it.
        needed: ends the message about weights that the files lack.
        dtype: of the weights in the model.

    Raises:
        UserError: some weights are not in the files, or have another shape.
    """
    with no_init_weights(), torch.device("meta"):
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    # Buffers that are computed, such as rotary frequencies, are in no file: transformers fills them.
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.zeros_like(buffer, device="cpu")
    model.initialize_weights()
    model.eval().requires_grad_(False)
    stored = _stored_names(model, files)
    for name, buffer in model.named_buffers():
        if name in stored and files.tensors[stored[name]].shape == tuple(buffer.shape):
            files.read(stored[name], buffer)
    found = _find_weights(model, files, stored, address, needed)
    at = {(id(weight.module), weight.attribute): weight for weight in found}
    embedding = at[id(model.get_input_embeddings()), "weight"]
    vocabulary = at[id(model.get_output_embeddings()), "weight"]
    block_of = {id(part): k for k, block in enumerate(find_blocks(model)) for part in block.modules()}
    blocks: list[list[Weight]] = [[] for _ in find_blocks(model)]
    rest = []
    for weight in found:
        if id(weight.module) in block_of:
            blocks[block_of[id(weight.module)]].append(weight)
        elif weight.stored not in (embedding.stored, vocabulary.stored):
            rest.append(weight)
    return UnreadModel(model, files, tuple(map(tuple, blocks)), embedding, vocabulary, tuple(rest))


def _stored_names(model: Any, files: WeightFiles) -> dict[str, str]:
    """What each of a model's tensors is called in its files, by transformers' own rules for older checkpoints.

    A tensor that would have to be made of several stored ones is left out.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    conversions = [rule for rule in rules if isinstance(rule, WeightConverter)]
    wanted = model.state_dict()
    names = {}
    for stored in files.tensors:
        name, made_of = rename_source_key(stored, renamings, conversions, model.base_model_prefix, wanted)
        if name not in wanted:
            name, made_of = rename_source_key(stored, [], [], model.base_model_prefix, wanted)
        if made_of is None:
            names[name] = stored
    return names


def _find_weights(
    model: Any, files: WeightFiles, stored_names: Mapping[str, str], address: str, needed: str
) -> list[Weight]:
    """All parameters with their names in the files; tied ones share a name."""
    names: dict[int, list[str]] = defaultdict(list)
    places: list[tuple[str, nn.Module, str, nn.Parameter]] = []
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{attribute}" if path else attribute
                names[id(parameter)].append(name)
                places.append((name, module, attribute, parameter))
    found, missing = [], []
    for name, module, attribute, parameter in places:
        stored = next((stored_names[tied] for tied in names[id(parameter)] if tied in stored_names), None)
        if stored is None or files.tensors[stored].shape != tuple(parameter.shape):
            missing.append(name)
            continue
        found.append(Weight(module, attribute, stored, parameter.dtype, tuple(parameter.shape)))
    if missing:
        raise UserError(
            f"Model {address!r}: {len(missing)} weights of {type(model).__name__} are not in its files, or not in the "
            f"shape that its configuration says, first {min(missing)}; they would be random and {needed} A checkpoint "
            "of an older layout can be converted: load it with transformers and save it with save_pretrained()."
        )
    return found


@contextmanager
def at_hand(weights: Sequence[Weight], tensors: Iterable[Tensor]) -> Iterator[None]:
    """Lets a model use tensors as its weights; leaving the block takes them away again."""
    before = [weight.module._parameters[weight.attribute] for weight in weights]
    try:
        for weight, tensor in zip(weights, tensors, strict=True):
            weight.module._parameters[weight.attribute] = nn.Parameter(tensor, requires_grad=False)
        yield
    finally:
        for weight, parameter in zip(weights, before, strict=True):
            weight.module._parameters[weight.attribute] = parameter
