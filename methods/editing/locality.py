"""What an edit does to text that it should leave alone, over all attended tokens and without whole logits.

The unmodified model's side of the comparison is computed once for each text and kept (`RawSide`): its states before
the vocabulary, their normaliser and expected row. From then on a comparison costs the edited side alone.

Shape legend: B rows, N tokens that are compared, D hidden size, V vocabulary or classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.editing.examples import Encoded
from methods.editing.losses import Direction, row_mean
from methods.editing.model import EditableModel
from methods.editing.vocabulary import partition


@dataclass(frozen=True)
class RawSide:
    """The unmodified model on a batch: for language models every attended token, for classifiers one class decision.

    Attributes:
        rows, columns: [N], which tokens.
        hidden, expected: [N, D], transformed states and the expected rows of the vocabulary matrix.
        normaliser: [N], log partition function.
    """

    rows: Tensor
    columns: Tensor
    hidden: Tensor
    expected: Tensor
    normaliser: Tensor


@torch.no_grad()
def raw_side(model: EditableModel, batch: Encoded) -> RawSide:
    """The unmodified model's side, computed once for every distinct text as long as the store keeps it.

    Raises:
        RuntimeError: an edit is in force, so the model is not the unmodified one.
    """
    if model.edited:
        raise RuntimeError("the raw side belongs to the unmodified model: compute it outside of applied edits")
    found = {key: model.raw_store.get(key) for key in dict.fromkeys(batch.keys)}
    missing = [key for key, entry in found.items() if entry is None]
    if missing:
        part = batch.select([batch.keys.index(key) for key in missing])
        rows, columns = _compared(model, part)
        hidden = model.transform(_at(model, model.upper(part, model.frozen(part)), rows, columns))
        computed = partition(hidden, *model.unembedding, expected=True)
        lengths = torch.bincount(rows, minlength=len(part)).tolist()
        pieces = [hidden, computed.expected, computed.normaliser]
        for key, *entry in zip(missing, *(piece.split(lengths) for piece in pieces), strict=True):
            found[key] = tuple(entry)
            model.raw_store.put(key, entry)
    entries = [found[key] for key in batch.keys]
    rows, columns = _compared(model, batch)
    hidden, expected, normaliser = (
        torch.cat([entry[place].to(model.device) for entry in entries if entry is not None]) for place in range(3)
    )
    return RawSide(rows, columns, hidden, expected, normaliser)


def locality(
    model: EditableModel, batch: Encoded, output: Tensor, raw: RawSide, *, direction: Direction = "raw||edited"
) -> Tensor:
    """How far an edited model is from the unmodified one: the mean divergence over all attended tokens of each row.

    Args:
        model: the model.
        batch: texts that should stay as they are.
        output: what `EditableModel.upper` made of them with the edits applied.
        raw: from `raw_side`, of the same batch.
        direction: KL(raw || edited) as in the released code, or KL(edited || raw) as in the paper.

    Returns:
        [B], in nats; differentiable once.
    """
    hidden = model.transform(_at(model, output, raw.rows, raw.columns))
    edited = partition(hidden, *model.unembedding, expected=direction == "edited||raw")
    moved = hidden - raw.hidden
    if direction == "raw||edited":
        divergence = edited.normaliser - raw.normaliser - (raw.expected * moved).sum(1)
    else:
        divergence = raw.normaliser - edited.normaliser + (edited.expected * moved).sum(1)
    return row_mean(divergence, raw.rows, len(batch))


def reliability(model: EditableModel, batch: Encoded, output: Tensor) -> Tensor:
    """How well the labels are predicted: the mean negative log-likelihood of each row's label tokens, as `nll` of whole
    logits.

    Args:
        model: the model.
        batch: texts with their labels.
        output: what `EditableModel.upper` made of them, with the edits applied.

    Returns:
        [B], in nats; differentiable once.
    """
    labelled = batch.targets >= 0
    rows, targets = batch.rows[labelled], batch.targets[labelled]
    hidden = model.transform(_at(model, output, rows, batch.columns[labelled]))
    weight, bias = model.unembedding
    computed = partition(hidden, weight, bias)
    scores = (hidden * weight[targets]).sum(1)
    scores = scores if bias is None else scores + bias[targets]
    return row_mean(computed.normaliser - scores, rows, len(batch))


def _compared(model: EditableModel, batch: Encoded) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is compared, row by row."""
    if model.kind == "classifier":
        rows = torch.arange(len(batch), device=batch.input_ids.device)
        return rows, torch.zeros_like(rows)
    rows, columns = batch.attention_mask.nonzero(as_tuple=True)
    return rows, columns


def _at(model: EditableModel, output: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Final states or class logits at the given places, [N, D]."""
    return output[rows] if model.kind == "classifier" else output[rows, columns]
