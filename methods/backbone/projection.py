"""Language representation projection (Xu et al. 2023, section 3): LIRP at layer i, LSRP at layer j.

LIRP adds ``v_en[i] - v_l[i]`` to the output of block i at every position; LSRP adds ``v_l[j] - v_en[j]`` to the output
of block j, 1 <= i < j <= L (equations 2 and 3). A `shift` is ``v_en - v_l``, [L + 1, D] (row 0 unused),
so LIRP adds ``shift[i]`` and LSRP subtracts ``shift[j]``.

At j = L a model may have a norm after its last block (BLOOM's ln_f). `LastLayer` says on which side of it layer L is:
``normed`` shifts the normed state with vectors of normed states; ``raw`` shifts before the norm with vectors taken
there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from methods.backbone.base import Backbone
from orchestrator.errors import UserError

LastLayer = Literal["normed", "raw"]
Pair = tuple[int, int]


def all_pairs(num_layers: int) -> tuple[Pair, ...]:
    """Every (i, j) with 1 <= i < j <= L, L(L-1)/2 of them, i slowest."""
    return tuple((i, j) for i in range(1, num_layers) for j in range(i + 1, num_layers + 1))


def parse_pairs(texts: tuple[str, ...] | None, num_layers: int) -> tuple[Pair, ...]:
    """Layer pairs written as ``4/10``; all of them for None.

    Raises:
        UserError: for everything that is not a pair with 1 <= i < j <= L, all at once; or if there is no pair at all.
    """
    if num_layers < 2:
        raise UserError(f"A layer pair needs two layers, and this model has {num_layers}: choose another model.")
    if texts is None:
        return all_pairs(num_layers)
    if not texts:
        raise UserError("No layer pair is named, so there is nothing to do: name some, for example 4/10.")
    pairs: dict[Pair, None] = {}
    wrong = []
    for text in texts:
        first, slash, second = text.partition("/")
        if not (slash and first.strip().isdigit() and second.strip().isdigit()):
            wrong.append(f"layer pair {text!r} is not written as i/j, for example 4/10")
            continue
        pair = int(first), int(second)
        if not 1 <= pair[0] < pair[1] <= num_layers:
            wrong.append(
                f"layer pair {text!r} is outside 1 <= i < j <= {num_layers}: this model has {num_layers} layers, so i "
                f"is 1 to {num_layers - 1} and j is i + 1 to {num_layers}"
            )
            continue
        pairs.setdefault(pair)
    if wrong:
        raise UserError(*wrong)
    return tuple(sorted(pairs))


@contextmanager
def projected(backbone: Backbone, shift: Tensor, pair: Pair, last_layer: LastLayer = "normed") -> Iterator[None]:
    """Runs the model's own forward with LIRP at i and LSRP at j; leaving the block undoes it, also on an exception.

    Args:
        backbone: its Hugging Face model gets two forward hooks; no weight is touched.
        shift: ``v_en - v_l``, [L + 1, D].
        pair: (i, j).
        last_layer: where layer L is in a model with a final norm.
    """
    i, j = pair
    at_end = j == backbone.num_layers and last_layer == "normed"
    target = backbone.model.base_model if at_end else backbone.blocks[j - 1]
    handles = [
        backbone.blocks[i - 1].register_forward_hook(_adding(shift[i]), prepend=True),
        target.register_forward_hook(_adding(-shift[j]), prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(vector: Tensor) -> Any:
    """A forward hook that adds `vector` to the states, as a block returns them or as the whole trunk does."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, ModelOutput):
            output.last_hidden_state = output.last_hidden_state + vector
            return output
        if isinstance(output, tuple):
            return (output[0] + vector, *output[1:])
        return output + vector

    return hook


def shift_between(pivot: Tensor, language: Tensor) -> Tensor:
    """``v_en - v_l`` with an unused row 0 so that row k belongs to layer k: two [L, D] tables to [L + 1, D]."""
    return torch.cat([torch.zeros_like(pivot[:1]), pivot - language])
