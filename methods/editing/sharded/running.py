"""One cell of the grid in one of several processes: its editor is built, trained, and tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepspeed
import pyarrow as pa
import torch
from accelerate import Accelerator

from methods.editing.editors import build_editor
from methods.editing.evaluation import evaluate
from methods.editing.results import Record, result_table
from methods.editing.running import TRAINING_SHARE, edit_languages, editor_config, test_samples, training_settings
from methods.editing.sharded.config import complete
from methods.editing.sharded.engine import open_accelerator
from methods.editing.sharded.model import ShardedModel, load_sharded
from methods.editing.sharded.training import ShardedTraining
from methods.editing.spec import Cell, EditorSpec
from methods.editing.tasks import EditTask
from methods.editing.training import TrainingSettings
from orchestrator.study import TrialContext


def open_sharded(
    spec: EditorSpec, address: str, config: Mapping[str, Any] | None, context: TrialContext
) -> tuple[Accelerator, ShardedModel]:
    """Joins the other processes of the trial and loads this one's share of the model.

    Args:
        spec: of the sweep.
        address: of the model.
        config: from `read_config`, if the user gave one.
        context: of the trial.

    Raises:
        UserError: it would train alone, or the model cannot be sharded.
    """
    accelerator = open_accelerator(
        complete(config, dtype=spec.dtype, on_gpu=context.device != "cpu"),
        edits_per_step=spec.edits_per_step,
        clip=TrainingSettings(()).clip,
        cache=context.cache,
    )
    return accelerator, load_sharded(address, dtype=getattr(torch, spec.dtype), device=accelerator.device)


def run_sharded_cell(
    spec: EditorSpec,
    cell: Cell,
    model: ShardedModel,
    task: EditTask,
    accelerator: Accelerator,
    context: TrialContext,
) -> pa.Table:
    """Trains and tests a cell's editor together with the other processes of the trial; see `run_cell`.

    Returns:
        The same table in every process.
    """
    with deepspeed.zero.GatheredParameters([model.hf.get_input_embeddings().weight]):
        editor = build_editor(editor_config(spec, cell), model, edit_languages(cell, task.languages))
    settings = training_settings(spec, cell, task.languages)
    training = ShardedTraining(editor, task, settings, context.scratch, accelerator)
    result = training.run(lambda share: context.progress(TRAINING_SHARE * share), context.report)
    with training.callable_editor():
        scores = evaluate(
            editor,
            test_samples(spec, cell, task, None),
            progress=lambda share: context.progress(TRAINING_SHARE + (1 - TRAINING_SHARE) * share),
        )
    return result_table(scores, Record(result.curve, result.best_step, result.validation, result.steps, None))
