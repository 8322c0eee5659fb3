"""What a sweep of editors will cost: operations from the model's sizes, seconds from a few real steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from methods.backbone.footprint import Footprint
from methods.editing.footprint import TrialCost, training_needs, trial_cost
from methods.editing.raw import edited_model
from methods.editing.spec import cells
from orchestrator.needs import ModelNeeds
from orchestrator.study import Estimate, Study, Trial, TrialContext

if TYPE_CHECKING:
    from methods.editing.spec import Cell
    from methods.editing.study import EditorStudy


NO_CLASSIFIER = "the classifier is not trained yet, so no time can be measured: ask again once its trial is finished"


@contextmanager
def timing(study: Study[Any], threads: int) -> Iterator[TrialContext]:
    """A context to time trials in: of this process, on the device that they will have, with a folder that is removed
    afterwards."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as scratch:
        yield TrialContext(
            cache=study.cache,
            scratch=Path(scratch),
            threads=threads,
            device="cuda" if study.spec.gpus_per_trial != 0 and torch.cuda.is_available() else "cpu",
            memory_bytes=study.memory_bytes(),
            progress=lambda fraction: None,
        )


def cost_of(study: EditorStudy, cell: Cell | None) -> TrialCost:
    """What a trial costs; None, which trains the classifier, counts as the dearest of the others."""
    if cell is None:
        return max((cost_of(study, one) for one in cells(study.spec)[0]), key=lambda cost: cost.flops)
    return trial_cost(study.description, study.kind, study.spec, cell, languages=len(study.languages))


def needs_of(study: EditorStudy) -> ModelNeeds:
    """What a trial asks of a machine."""
    spec = study.spec
    dtype, trained = getattr(torch, spec.dtype), spec.classifier is not None
    footprint = Footprint.of(edited_model(spec), dtype, classifier=trained)
    grid = [cell for _, cell in study.planned()]
    costs = [cost_of(study, cell) for cell in grid]
    return training_needs(footprint, study.kind, spec, [cell for cell in grid if cell is not None], costs)


def least_memory(study: EditorStudy) -> int:
    """Bytes that a trial in one process needs at least."""
    return needs_of(study).least("single", "cpu")


def estimate_sweep(study: EditorStudy, trials: Sequence[Trial], threads: int) -> Estimate:
    """Times a few training steps and a few test edits of one method of each editor with the model itself.

    For a classifier that is not trained yet there is nothing to time: the note says so, and only operations are given.
    """
    from methods.editing.running import edit_languages, time_cell

    planned = {trial.key: cell for trial, cell in study.planned()}
    wanted = [(trial, cell) for trial in trials if (cell := planned[trial.key]) is not None]
    flops = sum(trial.cost for trial in trials)
    if not wanted:
        return Estimate(flops, 0.0)
    if study.kind == "classifier" and len(wanted) < len(trials):
        return Estimate(flops, 0.0, (NO_CLASSIFIER,))
    seconds, measured = 0.0, {}
    seen: set[str] = set()
    with timing(study, threads) as context:
        loaded = study.load(context)
        for _, cell in wanted:
            kind = (cell.method.editor, cell.method.mask)
            if kind not in measured:
                measured[kind] = time_cell(study.spec, cell, loaded.model, loaded.task, loaded.classifier)
            edited = set(edit_languages(cell, study.languages))
            seconds += measured[kind].seconds(study, cell, loaded.task, new=edited - seen)
            seen |= edited if context.device == "cpu" else set()
    said = [
        f"{editor} "
        + (f"{1e3 * one.step:.0f} ms a step, " if one.step else "")
        + f"{1e3 * one.known_edit:.0f} ms a test edit"
        for (editor, mask), one in measured.items()
        if mask == "none"
    ]
    return Estimate(flops, seconds, ("measured on this machine: " + "; ".join(said), "patience may end trials earlier"))
