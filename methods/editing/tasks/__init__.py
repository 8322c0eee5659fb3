"""What is edited: facts of a language model, and the mistakes of a classifier (NLI pairs, claims).

An address says which: ``atlas-facts`` or ``mlama:<zip or folder>``; ``atlas-claims``, ``xnli:<folder>`` or
``fever:<folder>``.

>>> data = prepare_task("atlas-facts", languages=None, cache=Path("cache"))
>>> task = build_task(spec, tokenizer, data, kind="masked")
>>> task.sample("train", "en", 0, rng, update_languages=task.languages, retain_languages=task.languages)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from methods.editing.examples import Kind
from methods.editing.tasks.base import EditTask, TaskOptions
from methods.editing.tasks.facts import FactTask
from methods.editing.tasks.labelled import LabelledTask
from orchestrator.data.editing_split import EditingSplit, prepare_editing_split
from orchestrator.data.facts import FactSelection, prepare_facts
from orchestrator.data.labelled import LabelledStore, prepare_labelled
from orchestrator.errors import UserError, did_you_mean

__all__ = [
    "EditTask",
    "FactTask",
    "LabelledTask",
    "TaskData",
    "TaskOptions",
    "build_task",
    "prepare_task",
    "task_is_labelled",
]

TaskData = EditingSplit | LabelledStore
"""The prepared data of a task: places, cheap to pickle."""

_FACTS = {"atlas-facts": "atlas", "mlama": "mlama"}
_LABELLED = {"atlas-claims": "atlas", "xnli": "xnli", "fever": "fever"}
_FORMS = "atlas-facts, mlama:<zip or folder>, atlas-claims, xnli:<folder or archive>, fever:<folder or file>"


def task_is_labelled(address: str) -> bool:
    """Whether a task corrects a classifier, rather than a language model's facts. Raises UserError for no address."""
    kind, colon, location = address.partition(":")
    if kind not in (*_FACTS, *_LABELLED) or bool(colon) == kind.startswith("atlas") or bool(colon) != bool(location):
        hint = did_you_mean(kind, [*_FACTS, *_LABELLED])
        raise UserError(f"{address!r} is no task.{hint} Tasks are written {_FORMS}.")
    return kind in _LABELLED


def prepare_task(
    address: str,
    *,
    languages: Sequence[str] | None = None,
    pools: str | None = None,
    cache: Path,
    progress: Callable[[str], None] = lambda message: None,
) -> TaskData:
    """Prepares a task's data once; on the driver.

    Args:
        address: of the task.
        languages: codes, in the order wanted; None: all of the source, sorted.
        pools: of mLAMA, the published object lists, which then decide how many masks unrelated sentences get.
        cache: folder for prepared data.
        progress: called with one sentence for each step.

    Raises:
        UserError: all mistakes in the address, the source or the languages.
    """
    labelled = task_is_labelled(address)
    kind, colon, location = address.partition(":")
    source = (_LABELLED if labelled else _FACTS)[kind] + colon + location
    if labelled and pools is not None:
        raise UserError(
            f"--pools {pools} has no use for {address}: object lists decide about masks, and a classifier is asked "
            "without. Leave it out."
        )
    if labelled:
        return prepare_labelled(source, languages=languages, cache=cache, progress=progress)
    selection = FactSelection(languages=None if languages is None else tuple(languages))
    facts = prepare_facts(source, pools=pools, selection=selection, cache=cache, progress=progress)
    return prepare_editing_split(facts, cache=cache, progress=progress)


def build_task(options: TaskOptions, tokenizer: Any, data: TaskData, kind: Kind) -> EditTask:
    """A task ready to draw from; in every process that needs one.

    Args:
        options: `parallel` and `locality`, as a specification has them.
        tokenizer: of the model to be edited.
        data: what `prepare_task` gave.
        kind: of the model.

    Raises:
        UserError: the model is not of the kind that the task needs.
    """
    if isinstance(data, LabelledStore):
        if kind != "classifier":
            raise UserError(f"{data.address} asks for classes, which a {kind} language model does not give. Use facts.")
        return LabelledTask(data, locality=options.locality)
    if kind == "classifier":
        raise UserError(f"{data.facts.address} asks for words, which a classifier does not give. Use claims or XNLI.")
    return FactTask(data, tokenizer, kind, parallel=options.parallel, locality=options.locality)
