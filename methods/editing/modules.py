"""Which linear modules of a model are edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from orchestrator.errors import Problems, UserError, did_you_mean


@dataclass(frozen=True)
class EditedModule:
    """A linear module y = W x + b whose W [out, in] is edited.

    Attributes:
        name: its path in the Hugging Face model.
        out_features, in_features: the shape of W.
        shape_group: modules of one shape share a group; groups are numbered by first appearance.
        mode: its place among the modules of its group.
    """

    name: str
    out_features: int
    in_features: int
    shape_group: int
    mode: int


def choose_modules(
    hf: Any, blocks: nn.ModuleList, names: Sequence[str] | None, edited_blocks: int
) -> tuple[tuple[EditedModule, ...], int]:
    """The modules to edit, in the order of computation, and the first block (0-based) that holds one.

    Without names these are the feed-forward matrices of the last `edited_blocks` blocks. They are known by their
    shape: the pair of matrices (F, D) and (D, F) with F other than the hidden size D.

    Raises:
        UserError: a name is no linear module of a block, or the shapes do not tell which matrices are the feed-forward
            ones.
    """
    found = {id(part): (path, part) for path, part in hf.named_modules()}
    linear = [{found[id(part)][0]: part for part in block.modules() if isinstance(part, nn.Linear)} for block in blocks]
    if names is None:
        first = max(len(blocks) - edited_blocks, 0)
        chosen = {
            name: part for block in linear[first:] for name, part in _feed_forward(hf, block, blocks[first]).items()
        }
    else:
        known = {name: part for block in linear for name, part in block.items()}
        problems = Problems()
        for name in names:
            if name not in known:
                problems.add(
                    f"{name!r} is no linear module inside a block of {type(hf).__name__}, so it cannot be edited."
                    + did_you_mean(name, known)
                )
        if not names:
            problems.add("No module was named, so nothing can be edited. Name at least one, or none for the default.")
        problems.raise_if_any()
        chosen = {name: part for name, part in known.items() if name in set(names)}
        first = min(index for index, block in enumerate(linear) if any(name in block for name in chosen))
    for name, part in chosen.items():
        if part.weight.is_meta:
            raise UserError(
                f"The weights of {name} are not in memory: the model is streamed or offloaded to disk, so an edit of "
                "them would be lost. Load the model in one piece, with --placement single."
            )
    groups: dict[tuple[int, int], list[str]] = {}
    modules = []
    for name, part in chosen.items():
        shape = (part.out_features, part.in_features)
        members = groups.setdefault(shape, [])
        modules.append(EditedModule(name, *shape, list(groups).index(shape), len(members)))
        members.append(name)
    return tuple(modules), first


def _feed_forward(hf: Any, linear: dict[str, nn.Linear], block: nn.Module) -> dict[str, nn.Linear]:
    """The feed-forward matrices of one block, by shape."""
    hidden = hf.config.hidden_size
    shapes = {(part.out_features, part.in_features) for part in linear.values()}
    inner = {out for out, into in shapes if into == hidden != out and (hidden, out) in shapes}
    if len(inner) == 1:
        (width,) = inner
        return {n: p for n, p in linear.items() if {p.out_features, p.in_features} == {hidden, width}}
    if any(isinstance(part, Conv1D) for part in block.modules()):
        raise UserError(
            f"{type(hf).__name__} keeps its matrices as Conv1D, transposed, and edits are written for linear modules. "
            "Use a model with linear modules, such as BERT, XLM-R, BLOOM, XGLM or Llama."
        )
    raise UserError(
        f"The shapes of {type(hf).__name__} do not tell which matrices of a block are its feed-forward ones. Name the "
        "modules to edit; the block has: " + ", ".join(f"{n} {tuple(p.weight.shape)}" for n, p in linear.items()) + "."
    )
