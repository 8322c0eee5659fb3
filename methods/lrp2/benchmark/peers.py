"""The layer search as users of pyvene and nnsight write it: for every pair one intervened forward pass.

pyvene: Wu et al. 2024, https://github.com/stanfordnlp/pyvene. nnsight: Fiotto-Kaufman et al. 2024, https://nnsight.net.
Both are imported only when asked for. Everything but the forward pass is shared with the naive loop.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.backbone.projection import Pair
from methods.backbone.structure import find_blocks
from methods.lrp2.naive import naive_scores
from methods.lrp2.probes import Query
from orchestrator.errors import UserError

# Module path -> what is added to its output.
Changes = Mapping[str, Tensor]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class _Intervened:
    """What the naive loop asks of a backbone, with another forward pass."""

    model: Forward
    backbone: Backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)


def peer_scores(
    name: str,
    backbone: Backbone,
    queries: Sequence[Query],
    shift: Tensor,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
) -> list[Tensor]:
    """Scores of all candidates for the unmodified model and for every pair, for each query [1 + P, candidates].

    Args:
        name: a key of `PEERS`.
        backbone: its model is left as it is: the library works on modules of its own that share the weights.
        queries, shift, pairs, batch_size: as for the naive loop; layer L is after a final norm.
    """
    shift = shift.to(backbone.device, backbone.dtype)
    intervene = PEERS[name](_sharing_weights(backbone.model))
    tables = []
    for pair in [None, *pairs]:
        changes = {} if pair is None else _changes(backbone, shift, pair)
        view = cast(Backbone, _Intervened(intervene(changes), backbone))
        tables.append(naive_scores(view, queries, None, (), batch_size=batch_size))
    return [torch.cat(rows) for rows in zip(*tables, strict=True)]


def check_peer(name: str) -> None:
    """Raises UserError when a library is not installed or cannot be imported."""
    try:
        importlib.import_module(name)
    except Exception as error:
        raise UserError(
            f"--against {name}: the library cannot be imported here ({error}), so there is nothing to compare with; "
            "install it with pip install 'babelsweep[peers]', or leave it out"
        ) from error


def _changes(backbone: Backbone, shift: Tensor, pair: Pair) -> Changes:
    """LIRP at i and LSRP at j as additions to the outputs of two modules."""
    i, j = pair
    names = {id(module): name for name, module in backbone.model.named_modules()}
    last = _final_norm(backbone.model) if j == backbone.num_layers else None
    return {
        names[id(backbone.blocks[i - 1])]: shift[i],
        names[id(last or backbone.blocks[j - 1])]: -shift[j],
    }


def _final_norm(model: Any) -> nn.Module | None:
    """The norm that follows the blocks, if the model has one: a part beside them, after them, with a weight vector."""
    blocks = find_blocks(model)
    for module in model.base_model.modules():
        parts = list(module.children())
        if any(part is blocks for part in parts):
            after = parts[parts.index(blocks) + 1 :]
            norms = [part for part in after if getattr(part, "weight", torch.empty(0, 0)).dim() == 1]
            return norms[-1] if norms else None
    return None


def _sharing_weights(model: Any) -> Any:
    """The same modules anew with the very same weights: nnsight leaves traces on the modules it wraps."""
    kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, kept)


def _pyvene(model: Any) -> Callable[[Changes], Forward]:
    pyvene = importlib.import_module("pyvene")

    def intervene(changes: Changes) -> Forward:
        if not changes:
            return model
        configuration = [
            {"component": f"{path}.output", "intervention": lambda base, source, vector=vector: base + vector}
            for path, vector in changes.items()
        ]
        intervened = pyvene.IntervenableModel(configuration, model)
        return lambda use_cache=None, **inputs: intervened(inputs, use_cache=use_cache)[1]

    return intervene


def _nnsight(model: Any) -> Callable[[Changes], Forward]:
    nnsight = importlib.import_module("nnsight")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BERT has submodules called "output", as it warns for each of them
        traced = nnsight.NNsight(model)

    def intervene(changes: Changes) -> Forward:
        targets = [(_at(traced, path), vector) for path, vector in changes.items()]

        def forward(**inputs: Any) -> Any:
            with traced.trace(**inputs):
                for target, vector in targets:
                    states = target.output
                    if isinstance(states, tuple):
                        target.output = (states[0] + vector, *states[1:])
                    else:
                        target.output = states + vector
                output = traced.output.save()
            return output

        return forward

    return intervene


def _at(traced: Any, path: str) -> Any:
    for part in path.split("."):
        traced = traced[int(part)] if part.isdigit() else getattr(traced, part)
    return traced


PEERS: Mapping[str, Callable[[Any], Callable[[Changes], Forward]]] = {
    "pyvene": _pyvene,
    "nnsight": _nnsight,
}
"""Libraries that intervene on hidden states, by the name under which they are imported."""
