"""Where a model's neurons are: the activations that enter the last matrix of each block's feed-forward part.

Shape legend: B branches, N packed rows, M needed rows, F neurons of a layer (the feed-forward width), D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from methods.backbone import Backbone, Plan, pack_sequences
from orchestrator.errors import UserError


@torch.no_grad()
def neuron_sites(backbone: Backbone) -> tuple[nn.Module, ...]:
    """For each layer the matrix that reads its neurons: the last linear map that a block applies.

    That is the second feed-forward matrix of every block in which attention comes first (BERT, BLOOM, GPT-2, Llama). It
    is found by running a short sequence, not by its name.

    Raises:
        UserError: a block ends in something else, as with mixtures of experts.
    """
    called: list[list[nn.Module]] = [[] for _ in backbone.blocks]
    plan = backbone.plan(pack_sequences([(0, 1)])[0])
    with ExitStack() as stack:
        for seen, block in zip(called, backbone.blocks, strict=True):
            for part in block.modules():
                if isinstance(part, nn.Linear | Conv1D):
                    note = part.register_forward_hook(lambda part, _, __, seen=seen: seen.append(part))
                    stack.callback(note.remove)
        x = backbone.embed(plan)[None]
        for k in range(1, backbone.num_layers + 1):
            x = backbone.layer(k, x, plan)
    sites = [seen[-1] if seen else None for seen in called]
    shapes = {None if site is None else _shape(site) for site in sites}
    outputs = {None if shape is None else shape[1] for shape in shapes}
    if len(shapes) != 1 or outputs != {backbone.hidden_size}:
        raise UserError(
            f"The blocks of {backbone.description.architecture} do not end in one plain feed-forward matrix each, so "
            "its neurons cannot be found. Use a model with plain feed-forward layers, such as BERT, XLM-R, BLOOM, "
            "GPT-2, XGLM or Llama."
        )
    return tuple(site for site in sites if site is not None)


def neuron_count(site: nn.Module) -> int:
    """F, the neurons of a layer."""
    return _shape(site)[0]


def _shape(site: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear map; Conv1D holds its matrix transposed."""
    weight: Any = site.weight
    rows, columns = weight.shape
    return (rows, columns) if isinstance(site, Conv1D) else (columns, rows)


Change = Callable[[Tensor], Tensor]
"""What is done to the neurons at the needed rows of some branches, [b, M, F] to the same."""


@contextmanager
def changed_neurons(backbone: Backbone, site: nn.Module, plan: Plan, change: Change) -> Iterator[None]:
    """While a block runs, its neurons at the pack's needed rows are what `change` makes of them.

    A packed path hands all branches to `change` in one call; the generic path one branch after the other, and must be
    given packs of one segment. No weight is touched, and leaving undoes it, also on an exception.

    Raises:
        ValueError: on the generic path, for a pack of several segments.
    """
    pack = plan.pack
    if not backbone.fast and len(pack.segments) != 1:
        raise ValueError("on the generic path neurons can only be changed in packs of one segment")

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        neurons, needed = inputs[0], len(pack.need)
        width = neurons.shape[-1]
        whole = neurons.shape[-2] != needed or not backbone.fast
        rows = neurons.reshape(-1, pack.rows if whole else needed, width)
        if not whole:
            return (change(rows).reshape(neurons.shape),)
        return (rows.index_copy(1, pack.need, change(rows[:, pack.need])).reshape(neurons.shape),)

    handle = site.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def read_neurons(backbone: Backbone, sites: Sequence[nn.Module], plan: Plan, noted: list[Tensor]) -> ExitStack:
    """A context in which every block's neurons at the needed rows, [B, M, F], are added to `noted` once computed.

    Meant for one branch at a time.
    """
    stack = ExitStack()

    def note(neurons: Tensor) -> Tensor:
        noted.append(neurons.clone())
        return neurons

    for site in sites:
        stack.enter_context(changed_neurons(backbone, site, plan, note))
    return stack
