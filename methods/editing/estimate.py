"""What a sweep of editors will cost: operations from the model's sizes, seconds from a few real steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from methods.backbone import ModelDescription
from methods.editing.outcome import ALL, Method
from orchestrator.needs import ModelNeeds
from orchestrator.study import Estimate, Trial, TrialContext

if TYPE_CHECKING:
    from methods.editing.spec import Cell
    from methods.editing.study import EditorStudy

EDITED_BLOCKS = 3
TOKENS = 24
"""Tokens of a text, about, where none has been read."""
PROCESS_BYTES = 700 * 2**20
TUNING_STEPS = 40
"""Steps of fine-tuning until an edit holds, about."""
UNEDITED_TEST = 400
"""Edits per language that a test without a limit has, about; only ratios between trials hang on it."""


def trial_flops(study: EditorStudy, cell: Cell) -> float:
    """Floating-point operations of a trial, roughly: only ratios between trials matter, and `estimate_sweep` measures.

    A pass forward through the edited blocks counts 1, one with gradients 3; the lower blocks are computed once for each
    text and left out.
    """
    spec, model = study.spec, study.description
    forward = TOKENS * (EDITED_BLOCKS * model.block_flops(TOKENS) + model.head_flops())
    languages = len(study.languages) if cell.method.edits_in == ALL else 1
    updates = len(study.languages) if spec.test_updates == "all" else 1
    judged = (spec.test_edits or UNEDITED_TEST) * languages
    test = judged * (_edit_passes(cell.method) + updates * (1 + spec.test_retains))
    if cell.method.training == "none":
        return forward * test
    step = spec.edits_per_step * (_edit_passes(cell.method) * 2 + 3 * (1 + spec.retains_per_edit))
    validations = 1 + spec.steps // spec.validate_every
    validated = validations * spec.validation_edits * languages * (_edit_passes(cell.method) + 1 + spec.test_retains)
    return forward * (spec.steps * step + validated + test)


def _edit_passes(method: Method) -> float:
    """Forward passes that an edit costs."""
    return 3.0 * TUNING_STEPS if method.editor == "fine-tuning" else 4.0


def least_memory(study: EditorStudy) -> int:
    """Bytes that a trial in one process needs at least."""
    needs = needs_of(study)
    return needs.process + needs.weights + needs.training


def needs_of(study: EditorStudy) -> ModelNeeds:
    """What a trial asks of a machine: the model, and for training the largest editor with its gradient and two moments.

    Every process of a sharded training keeps the vocabulary matrix whole beside its share, in float32; and what is
    trained in bfloat16 is trained on float32 copies.
    """
    spec, model = study.spec, study.description
    dtype = getattr(torch, spec.dtype)
    largest = max(editor_weights(model, editor) for editor in spec.editors)
    trained = 12 + 2 * dtype.itemsize if dtype == torch.bfloat16 else 4 * dtype.itemsize
    vocabulary = 4 * model.vocab_size * model.hidden_size if spec.placement == "zero3" else 0
    weights, block = model.weight_bytes(dtype), model.block_weights * dtype.itemsize
    return ModelNeeds(
        weights=weights,
        outside=max(0, weights - model.num_layers * block),
        block=block,
        blocks=model.num_layers,
        process=PROCESS_BYTES,
        working={"cpu": vocabulary, "cuda": vocabulary},
        training=largest * trained,
        flops=sum(trial.cost for trial in study.trials()),
        model=spec.model,
    )


def editor_weights(model: ModelDescription, editor: str, rank: int = 1920) -> int:
    """Parameters of an editor with its published sizes, about."""
    hidden = model.hidden_size
    inner = max(hidden, (model.block_weights - 4 * hidden**2) // (2 * hidden))
    blocks = min(EDITED_BLOCKS, model.num_layers)
    if editor == "fine-tuning":
        return 2 * blocks * hidden * inner
    if editor == "editable-training":
        return 2 * blocks * hidden * inner
    width = hidden + inner
    if editor == "mend":
        return 2 * 4 * min(rank, width) * width
    return model.vocab_size * hidden + 8 * 512 * (hidden + 512) + 2 * blocks * 512 * (768 + 2 * width)


def estimate_sweep(study: EditorStudy, trials: Sequence[Trial], threads: int) -> Estimate:
    """Times a few training steps and a few test edits of one method of each editor with the model itself.

    For a classifier that is not trained yet there is nothing to time: the note says so, and only operations are given.
    """
    from methods.editing.running import time_cell

    planned = {trial.key: cell for trial, cell in study.planned()}
    wanted = [(trial, cell) for trial in trials if (cell := planned[trial.key]) is not None]
    flops = sum(trial.cost for trial in trials)
    if not wanted:
        return Estimate(flops, 0.0)
    if study.kind == "classifier" and len(wanted) < len(trials):
        note = "the classifier is not trained yet, so no time can be measured: ask again once its trial is finished"
        return Estimate(flops, 0.0, (note,))
    torch.set_num_threads(threads)
    device = "cuda" if study.spec.gpus_per_trial != 0 and torch.cuda.is_available() else "cpu"
    seconds, measured = 0.0, {}
    with TemporaryDirectory() as scratch:
        context = TrialContext(
            cache=study.cache,
            scratch=Path(scratch),
            threads=threads,
            device=device,
            memory_bytes=study.memory_bytes(),
            progress=lambda fraction: None,
        )
        loaded = study.load(context)
        for _, cell in wanted:
            kind = (cell.method.editor, cell.method.mask)
            if kind not in measured:
                measured[kind] = time_cell(study.spec, cell, loaded.model, loaded.task, loaded.classifier)
            seconds += measured[kind].seconds(study, cell, loaded.task)
    said = [f"{editor} {1e3 * one.step:.0f} ms a step" for (editor, mask), one in measured.items() if mask == "none"]
    return Estimate(flops, seconds, ("measured on this machine: " + ", ".join(said), "patience may end trials earlier"))
