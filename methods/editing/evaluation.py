"""How good an editor is: accuracy on what an edit should change, consistency on what it should leave alone.

Xu et al. 2023, section 4.1. Every edit starts from the unmodified model. For an edit (x_e, y_e): *acc*, whether the
edited model answers x_u, the request in the update language, with y_e, every label token right; *con*, for how many of
the unrelated texts x_r the edited model predicts what the unmodified one does. The paper's con on masked language
models counts every position of a text; the predictions that were asked for are those at its masks. Both are measured.

`judge` evaluates many edits at once. Each edit is computed once, whatever it is judged by; rows of different edits go
through the blocks together, sorted by length; states below the first edited block and predictions of the unmodified
model are computed once for each distinct text. `judge_one_by_one` is the plain loop: it writes one edit into the
weights and runs the whole model. Both give the same judgements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from methods.editing.batches import TOKENS_AT_ONCE, length_groups, lengths_of
from methods.editing.editors import Editor
from methods.editing.edits import Edits
from methods.editing.examples import EditSample, Encoded, Example
from methods.editing.losses import acc, con
from methods.editing.model import EditableModel
from methods.editing.outcome import harmonic
from methods.editing.predictions import Vocabulary
from methods.editing.retained import Retained

EDITS_AT_ONCE = 64
MEMORY_BYTES = 2 * 2**30
_TEXTS_AT_ONCE = 2048

SCHEMA = pa.schema(
    [
        pa.field("edit_language", pa.string(), nullable=False),
        pa.field("update_language", pa.string(), nullable=False),
        pa.field("edits", pa.int32(), nullable=False),
        pa.field("acc", pa.float64(), nullable=False),
        pa.field("retains", pa.int32(), nullable=False),
        pa.field("con", pa.float64(), nullable=False),
        pa.field("con_all", pa.float64(), nullable=False),
        pa.field("succ", pa.float64(), nullable=False),
        pa.field("succ_all", pa.float64(), nullable=False),
    ]
)
"""One row for each edit and update language, in percent: `acc` of `edits` requests; `con` of `retains` unrelated texts,
at their label positions, and `con_all` at every position; `succ` and `succ_all`, the harmonic means with either."""


@dataclass(frozen=True)
class Judgement:
    """One edit, seen from one update language.

    Attributes:
        uuid: of the request.
        edit_language, update_language: of x_e and x_u.
        acc: 1 if the edited model gives the wanted answer, else 0.
        con: share of the unrelated texts whose predictions at the label positions stayed.
        con_all: at every position; NaN where that was not asked for.
        retains: how many unrelated texts there were.
    """

    uuid: str
    edit_language: str
    update_language: str
    acc: float
    con: float
    con_all: float
    retains: int


def evaluate(
    editor: Editor, samples: Iterable[Sequence[EditSample]], *, progress: Callable[[float], None] | None = None
) -> pa.Table:
    """Scores of an editor for every edit and update language, SCHEMA; see `judge` for the arguments."""
    return score_table(judge(editor, samples, progress=progress))


def evaluate_one_by_one(editor: Editor, samples: Iterable[Sequence[EditSample]]) -> pa.Table:
    """The same by the plain loop: the slow reference."""
    return score_table(judge_one_by_one(editor, samples))


def score_table(judgements: Sequence[Judgement]) -> pa.Table:
    """Means of judgements by edit and update language, in the order in which these first occur."""
    cells: dict[tuple[str, str], list[Judgement]] = {}
    for one in judgements:
        cells.setdefault((one.edit_language, one.update_language), []).append(one)
    rows = []
    for (edit, update), found in cells.items():
        right, kept, kept_all = (100 * value for value in _means(found))
        scores = {"con": kept, "con_all": kept_all}
        scores |= {"succ": harmonic(right, kept), "succ_all": harmonic(right, kept_all)}
        counts = {"edits": len(found), "retains": sum(one.retains for one in found)}
        rows.append({"edit_language": edit, "update_language": update, "acc": right, **counts, **scores})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@dataclass(frozen=True)
class Overall:
    """acc, con and succ over all edit languages, in percent."""

    acc: float
    con: float
    succ: float


def overall(judgements: Sequence[Judgement], *, all_positions: bool = False, per_step: bool = False) -> Overall:
    """Means over edit languages, each counting the same, and their harmonic mean (the paper, section 4.1).

    Args:
        judgements: at least one.
        all_positions: con at every position, not only at the label positions.
        per_step: succ as the released training goes by: the mean of each edit's own harmonic mean, which is 0 for every
            edit that fails, instead of the harmonic mean of the averages.
    """
    languages: dict[str, list[Judgement]] = {}
    for one in judgements:
        languages.setdefault(one.edit_language, []).append(one)
    means = [_means(found) for found in languages.values()]
    right = 100 * fmean(each[0] for each in means)
    kept = 100 * fmean(each[2 if all_positions else 1] for each in means)
    if per_step:
        own = fmean(harmonic(one.acc, one.con_all if all_positions else one.con) for one in judgements)
        return Overall(right, kept, 100 * own)
    return Overall(right, kept, harmonic(right, kept))


@torch.no_grad()
def judge(
    editor: Editor,
    samples: Iterable[Sequence[EditSample]],
    *,
    all_positions: bool = True,
    edits_at_once: int = EDITS_AT_ONCE,
    tokens_at_once: int = TOKENS_AT_ONCE,
    memory_bytes: int = MEMORY_BYTES,
    progress: Callable[[float], None] | None = None,
) -> list[Judgement]:
    """Judges edits in batches.

    Args:
        editor: as it is; evaluated in evaluation mode.
        samples: as `EditTask.test_samples` yields them: samples of one list share edit and update, and each adds an
            unrelated text. Lists with the same edit share its computation.
        all_positions: also compare predictions at every position.
        edits_at_once: edits that are computed together.
        tokens_at_once: tokens of one forward pass, padding included.
        memory_bytes: for the edits themselves; an editor that gives whole matrices makes fewer at a time.
        progress: called with the share that is done.

    Returns:
        One judgement for each list, in their order.
    """
    model, tasks = editor.model, _tasks(samples)
    retained = Retained(model, all_positions, tokens_at_once)
    found: dict[int, Judgement] = {}
    at_once = edits_at_once if editor.trainable else min(edits_at_once, max(1, memory_bytes // _dense_bytes(model)))
    with _evaluating(editor):
        for chunk in _chunks(tasks, at_once):
            edits, places = _edits(editor, [task.edit for task in chunk], tokens_at_once)
            updates = [(place, draw.update) for place, task in zip(places, chunk, strict=True) for draw in task.draws]
            right = _accuracies(editor, edits, updates, tokens_at_once)
            retains = [
                (place, text)
                for place, task in zip(places, chunk, strict=True)
                for draw in task.draws
                for text in draw.retains
            ]
            kept, kept_all = map(iter, retained.consistencies(editor, edits, retains))
            for draw, correct in zip((draw for task in chunk for draw in task.draws), right, strict=True):
                found[draw.number] = draw.judged(
                    correct, [next(kept) for _ in draw.retains], [next(kept_all) for _ in draw.retains]
                )
            if progress is not None:
                progress(len(found) / sum(len(task.draws) for task in tasks))
    return [found[number] for number in sorted(found)]


@torch.no_grad()
def judge_one_by_one(editor: Editor, samples: Iterable[Sequence[EditSample]]) -> list[Judgement]:
    """The plain loop: one edit at a time, written into the weights, and whole forward passes of the model."""
    model, found = editor.model, []
    with _evaluating(editor):
        for task in _tasks(samples):
            for draw in task.draws:
                edits = editor.edit(model.encode([task.edit]), [task.edit.language])
                update = model.encode([draw.update])
                retain = model.encode(draw.retains)
                before = whole_logits(model, retain).argmax(-1)
                with editor.materialised(edits, 0):
                    answer = whole_logits(model, update).argmax(-1)
                    after = whole_logits(model, retain).argmax(-1)
                correct = acc(_labels(model, answer, update), update.targets, update.rows, 1)
                kept = con(_labels(model, before, retain), _labels(model, after, retain), retain.rows, len(retain))
                kept_all = kept
                if model.kind != "classifier":
                    rows, columns = retain.attention_mask.nonzero(as_tuple=True)
                    kept_all = con(before[rows, columns], after[rows, columns], rows, len(retain))
                found.append((draw.number, draw.judged(float(correct), kept.tolist(), kept_all.tolist())))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def whole_logits(model: EditableModel, batch: Encoded) -> Tensor:
    """The model's own forward pass: [B, T, V], or [B, classes] of a classifier."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None and (getattr(model.hf.config, "type_vocab_size", None) or 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    logits: Tensor = model.hf(**inputs).logits
    return logits


@dataclass(frozen=True)
class _Draw:
    """What one edit is judged by in one update language; `number` is its place among all lists of samples."""

    number: int
    first: EditSample
    retains: tuple[Example, ...]

    @property
    def update(self) -> Example:
        return self.first.update

    def judged(self, correct: float, kept: Sequence[float], kept_all: Sequence[float]) -> Judgement:
        edit, update = self.first.edit.language, self.update.language
        return Judgement(self.first.uuid, edit, update, correct, fmean(kept), fmean(kept_all), len(self.retains))


@dataclass(frozen=True)
class _Task:
    """An edit with all it is judged by."""

    edit: Example
    draws: list[_Draw] = field(default_factory=list)


def _tasks(samples: Iterable[Sequence[EditSample]]) -> list[_Task]:
    """Lists with the same edit, put together."""
    tasks: dict[tuple[str, Example], _Task] = {}
    for number, drawn in enumerate(samples):
        first = drawn[0]
        task = tasks.setdefault((first.uuid, first.edit), _Task(first.edit))
        task.draws.append(_Draw(number, first, tuple(sample.retain for sample in drawn)))
    return list(tasks.values())


def _chunks(tasks: Sequence[_Task], edits_at_once: int) -> list[list[_Task]]:
    """Edits that are computed and judged together: few enough, and with not too many texts."""
    chunks: list[list[_Task]] = []
    texts = 0
    for task in tasks:
        size = sum(1 + len(draw.retains) for draw in task.draws)
        if not chunks or len(chunks[-1]) == edits_at_once or texts + size > _TEXTS_AT_ONCE:
            chunks.append([])
            texts = 0
        chunks[-1].append(task)
        texts += size
    return chunks


def _edits(editor: Editor, requests: Sequence[Example], tokens_at_once: int) -> tuple[Edits, list[int]]:
    """Edits of all requests, and the place of each request's edit among them."""
    batch = editor.model.encode(requests)
    groups = length_groups(lengths_of(batch), tokens_at_once)
    parts = [editor.edit(batch.select(group), [requests[index].language for index in group]) for group in groups]
    order = [index for group in groups for index in group]
    places = {index: place for place, index in enumerate(order)}
    return type(parts[0]).cat(parts), [places[index] for index in range(len(requests))]


def _accuracies(
    editor: Editor, edits: Edits, updates: Sequence[tuple[int, Example]], tokens_at_once: int
) -> list[float]:
    """acc of every pair of an edit's place and a text; a pair that occurs twice is computed once."""
    model, pairs = editor.model, list(dict.fromkeys(updates))
    vocabulary = Vocabulary(*model.unembedding)
    batch = model.encode([text for _, text in pairs])
    right: dict[tuple[int, Example], float] = {}
    for group in length_groups(lengths_of(batch), tokens_at_once):
        part = batch.select(group)
        states = model.frozen(part)
        rows = torch.tensor([pairs[index][0] for index in group], device=model.device)
        with editor.applied(edits, rows):
            output = model.upper(part, states)
        answers = output[part.rows] if model.kind == "classifier" else output[part.rows, part.columns]
        predicted = vocabulary.best(model.transform(answers))
        correct = acc(predicted, part.targets, part.rows, len(part)).tolist()
        right.update(zip((pairs[index] for index in group), correct, strict=True))
    return [right[pair] for pair in updates]


def _labels(model: EditableModel, predicted: Tensor, batch: Encoded) -> Tensor:
    """Predictions at the label positions."""
    return predicted[batch.rows] if model.kind == "classifier" else predicted[batch.rows, batch.columns]


def _means(judgements: Sequence[Judgement]) -> tuple[float, float, float]:
    """acc over edits, con and con_all over unrelated texts."""
    retains = sum(one.retains for one in judgements)
    right = fmean(one.acc for one in judgements)
    kept = sum(one.con * one.retains for one in judgements) / retains
    return right, kept, sum(one.con_all * one.retains for one in judgements) / retains


@contextmanager
def _evaluating(editor: Editor) -> Iterator[None]:
    """The editor in evaluation mode, and afterwards in the mode it was in."""
    training = editor.training
    editor.eval()
    try:
        yield
    finally:
        editor.train(training)


def _dense_bytes(model: EditableModel) -> int:
    """Bytes of one edit that changes whole matrices; putting edits together holds them twice."""
    return 2 * model.dtype.itemsize * sum(module.out_features * module.in_features for module in model.modules)
