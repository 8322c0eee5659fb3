"""The gradient of one training step: many edits, each with its own edited model, in a few passes.

Xu et al. 2023, section 3.2, per edit: L = c_edit NLL(y_e | x_u) + c_loc KL(raw || edited on x_r) + c_l0 L_0.

The edits are computed once, with their graph. Texts then go through the upper blocks in groups of similar length, rows
of different edits side by side, and every group's gradient is collected at the edits themselves; one last backward pass
carries the sum from the edits to the editor. So a step needs the memory of one group, whatever the number of edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from methods.editing.batches import TOKENS_AT_ONCE, length_groups, lengths_of, rows_of_output
from methods.editing.editors import Editor
from methods.editing.edits import Edits
from methods.editing.evaluation import whole_logits
from methods.editing.examples import EditSample, Encoded, Example
from methods.editing.locality import locality, raw_side, reliability
from methods.editing.losses import Direction, kl, nll
from methods.editing.model import EditableModel
from methods.editing.store import FrozenStates


@dataclass(frozen=True)
class LossWeights:
    """What the parts of the loss count.

    Attributes:
        edit: c_edit, of the wanted answer.
        locality: c_loc, of the divergence on unrelated texts.
        masks: c_l0, of the editor's own penalty.
        direction: of the divergence.
    """

    edit: float = 0.1
    locality: float = 1.0
    masks: float = 1.0
    direction: Direction = "raw||edited"


class Losses(NamedTuple):
    """Means over the edits of a step, unweighted, and their weighted sum."""

    edit: float
    locality: float
    masks: float
    total: float


class JudgedText(NamedTuple):
    """A text that an edit is judged by: x_u (`wanted`) or x_r, and its share of the edit's loss."""

    place: int
    example: Example
    wanted: bool
    share: float


def step_gradients(
    editor: Editor,
    draws: Sequence[Sequence[EditSample]],
    weights: LossWeights,
    *,
    scale: float | None = None,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> Losses:
    """Adds the gradient of a step to the editor's parameters.

    Args:
        editor: in training mode.
        draws: one list for each edit: samples that share edit and update, each with an unrelated text.
        weights: of the parts of the loss.
        scale: what every edit counts; default: 1 / edits, which makes the loss a mean.
        tokens_at_once: tokens of one forward pass, padding included.
    """
    scale = 1 / len(draws) if scale is None else scale
    languages = [drawn[0].edit.language for drawn in draws]
    edits, places = _edits_with_graph(editor, draws, languages, tokens_at_once)
    leaves = type(edits)({name: tuple(map(_leaf, parts)) for name, parts in edits.tensors.items()})
    texts = texts_of(draws, places)
    batch = editor.model.encode([text.example for text in texts])
    edit = away = 0.0
    for group in length_groups(lengths_of(batch), tokens_at_once):
        losses = text_losses(editor, leaves, batch.select(group), [texts[index] for index in group], weights)
        (scale * (weights.edit * losses[0] + weights.locality * losses[1])).backward()
        edit, away = edit + float(losses[0].detach()), away + float(losses[1].detach())
    penalty = editor.regularizer(languages)
    _to_the_editor(edits, leaves, None if penalty is None else scale * len(draws) * weights.masks * penalty)
    means = edit / len(draws), away / len(draws), 0.0 if penalty is None else float(penalty.detach())
    return Losses(*means, weights.edit * means[0] + weights.locality * means[1] + weights.masks * means[2])


def plain_gradients(editor: Editor, draws: Sequence[Sequence[EditSample]], weights: LossWeights) -> Losses:
    """The same by the plain loop: one edit at a time, whole forward and backward passes. The slow reference."""
    model = editor.model
    sums = [0.0, 0.0, 0.0]
    for drawn in draws:
        first = drawn[0]
        edits = editor.edit(model.encode([first.edit]), [first.edit.language], create_graph=True)
        update, retain = model.encode([first.update]), model.encode([sample.retain for sample in drawn])
        with torch.no_grad():
            before = whole_logits(model, retain)
        at = torch.zeros(len(drawn), dtype=torch.long, device=model.device)
        with editor.applied(edits, at[:1]):
            answer = whole_logits(model, update)
        with editor.applied(edits, at):
            after = whole_logits(model, retain)
        rows = torch.arange(len(drawn), device=model.device)
        if model.kind != "classifier":
            answer = answer[update.rows, update.columns]
            rows, columns = retain.attention_mask.nonzero(as_tuple=True)
            before, after = before[rows, columns], after[rows, columns]
        penalty = editor.regularizer([first.edit.language])
        losses = (
            nll(answer, update.targets, update.rows, 1).sum(),
            kl(before, after, rows, len(drawn), direction=weights.direction).mean(),
            answer.new_zeros(()) if penalty is None else penalty,
        )
        ((weights.edit * losses[0] + weights.locality * losses[1] + weights.masks * losses[2]) / len(draws)).backward()
        sums = [total + float(loss.detach()) for total, loss in zip(sums, losses, strict=True)]
    edit, away, masks = (total / len(draws) for total in sums)
    return Losses(edit, away, masks, weights.edit * edit + weights.locality * away + weights.masks * masks)


@contextmanager
def fresh_stores(model: EditableModel) -> Iterator[None]:
    """Inside the block the model remembers no text of before, and afterwards none of the block.

    What is computed for a text depends, in its last bits, on the texts beside it; so a training step that begins with
    empty stores is the same whatever was computed before it.
    """
    frozen, raw = (FrozenStates(store.limit, store.device) for store in (model.frozen_store, model.raw_store))
    with model.remembering((frozen, raw)):
        yield


def _edits_with_graph(
    editor: Editor, draws: Sequence[Sequence[EditSample]], languages: Sequence[str], tokens_at_once: int
) -> tuple[Edits, list[int]]:
    """All edits of a step, and the place of each draw's edit among them."""
    batch = editor.model.encode([drawn[0].edit for drawn in draws])
    groups = length_groups(lengths_of(batch), tokens_at_once)
    parts = [
        editor.edit(batch.select(group), [languages[index] for index in group], create_graph=True) for group in groups
    ]
    order = [index for group in groups for index in group]
    return type(parts[0]).cat(parts), [order.index(index) for index in range(len(draws))]


def texts_of(draws: Sequence[Sequence[EditSample]], places: Sequence[int]) -> list[JudgedText]:
    """What each draw's edit is judged by, at its place among the edits."""
    texts = []
    for place, drawn in zip(places, draws, strict=True):
        texts.append(JudgedText(place, drawn[0].update, True, 1.0))
        texts += [JudgedText(place, sample.retain, False, 1 / len(drawn)) for sample in drawn]
    return texts


def text_losses(
    editor: Editor, edits: Edits, batch: Encoded, texts: Sequence[JudgedText], weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood and divergence of texts that go through the model together.

    Args:
        editor: the edits' editor.
        edits: the edits.
        batch: the texts, encoded.
        texts: the texts.
        weights: of the parts of the loss; only the direction of the divergence counts here.
    """
    model = editor.model
    states = model.frozen(batch)
    updates = [row for row, text in enumerate(texts) if text.wanted]
    retains = [row for row, text in enumerate(texts) if not text.wanted]
    raw = raw_side(model, batch.select(retains)) if retains else None
    with editor.applied(edits, torch.tensor([text.place for text in texts], device=model.device)):
        output = model.upper(batch, states)
    edit = away = output.new_zeros(())
    if updates:
        edit = reliability(model, *rows_of_output(model, output, batch, updates)).sum()
    if raw is not None:
        shares = torch.tensor([texts[row].share for row in retains], dtype=output.dtype, device=model.device)
        part = rows_of_output(model, output, batch, retains)
        away = (shares * locality(model, *part, raw, direction=weights.direction)).sum()
    return edit, away


def _to_the_editor(edits: Edits, leaves: Edits, penalty: Tensor | None) -> None:
    """Carries the gradients that were collected at the edits on to the editor's parameters."""
    ends, gradients = [], []
    for name, parts in edits.tensors.items():
        for tensor, leaf in zip(parts, leaves.tensors[name], strict=True):
            if tensor.requires_grad and leaf.grad is not None:
                ends.append(tensor)
                gradients.append(leaf.grad)
    if penalty is not None and penalty.requires_grad:
        ends.append(penalty)
        gradients.append(torch.ones_like(penalty))
    if ends:
        torch.autograd.backward(ends, gradients)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()
