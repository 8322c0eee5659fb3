"""The texts of a stream, from a task: requests in order, what patches stay silent on, and what locality is measured on.

Huang et al. 2023, section 5: requests come from a split of their own, memories and one half of the locality from the
training texts, without a text in common, and the dev split decides when a training stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from methods.editing.examples import Example
from methods.editing.patches.mpn import StreamEdit
from methods.editing.patches.spec import Cell, PatcherSpec
from methods.editing.patches.stream import Evaluation
from methods.editing.tasks import LabelledTask
from orchestrator.errors import Problems, UserError

# What the draws of one seed are for; every purpose has random numbers of its own.
_DEAL, _ORDER, _MEMORY = 11, 12, 13
_MOST_LOCALITY = 0.2
LOCALITY_SHARE = f"{_MOST_LOCALITY:.0%}"


@dataclass(frozen=True)
class StreamTexts:
    """What all streams of a sweep share.

    Attributes:
        memory: training texts that patches must stay silent on.
        validation: texts that decide when the training of a patch stops.
        evaluation: what locality is measured on.
    """

    memory: Sequence[Example]
    validation: Sequence[Example]
    evaluation: Evaluation


def edit_split(task: LabelledTask) -> str:
    """The split that requests come from: one set aside for edits, else the test split, as the paper does for XNLI."""
    return "edit" if "edit" in task.splits else "test"


def shared_texts(spec: PatcherSpec, task: LabelledTask) -> StreamTexts:
    """Memory, validation and locality.

    Of few training texts a fifth is for the locality. Where requests come from the test split, half of the dev split
    takes its place in the locality, and the other half stops.
    """
    language = spec.edit_language
    order = np.random.default_rng([spec.seed, _MEMORY]).permutation(task.size("train", language)).tolist()
    outside = min(spec.locality_texts, int(len(order) * _MOST_LOCALITY))
    languages = memory_languages(spec)
    rows = order[outside:][: max(1, spec.memory_texts // len(languages))]
    memory = [task.example("train", language, row) for row in rows] if language in languages else []
    others = [other for other in languages if other != language]
    for row in rows if others else ():
        found = task.translations("train", language, row)
        memory += [task.example("train", other, found[other]) for other in others if other in found]
    dev = task.examples("dev", language)
    test = task.examples("test", language)
    if edit_split(task) == "test":
        dev, test = dev[: len(dev) // 2], dev[len(dev) // 2 :]
    train = [task.example("train", language, row) for row in order[:outside]]
    return StreamTexts(memory, dev, Evaluation(train, test))


def memory_languages(spec: PatcherSpec) -> tuple[str, ...]:
    """The languages of the texts in memory."""
    return tuple(dict.fromkeys(spec.memory_languages or (spec.edit_language,)))


def requests(spec: PatcherSpec, task: LabelledTask, cell: Cell) -> list[StreamEdit]:
    """The requests of a stream, in its order: the same ones for every variant and seed of a folder."""
    split, language = edit_split(task), spec.edit_language
    dealt = np.random.default_rng([spec.seed, _DEAL]).permutation(task.size(split, language))
    part = np.array_split(dealt, spec.folders)[cell.folder - 1][: spec.edits]
    order = np.random.default_rng([cell.seed, _ORDER]).permutation(part)
    return [_request(task, split, language, row) for row in order.tolist()]


def stream_length(spec: PatcherSpec, task: LabelledTask) -> int:
    """The requests of the longest stream."""
    longest = -(-task.size(edit_split(task), spec.edit_language) // spec.folders)
    return min(longest, spec.edits or longest)


def check_texts(spec: PatcherSpec, task: LabelledTask) -> None:
    """Every part of a stream must have texts.

    Raises:
        UserError: all that is missing.
    """
    problems = Problems()
    language = spec.edit_language
    for split in ("train", "dev", "test"):
        if split not in task.splits or not task.size(split, language):
            problems.add(
                f"{spec.task} has nothing in its {split} split in {language}, so patches cannot be trained, stopped "
                "and measured on different texts. Choose another edit language, or another source."
            )
    problems.raise_if_any()
    for other in memory_languages(spec):
        if not task.size("train", other):
            problems.add(
                f"--memory-languages: {spec.task} has no training texts in {other!r}, so none can be remembered. "
                "Leave it out."
            )
    split = edit_split(task)
    if stream_length(spec, task) < 1 or task.size(split, language) < spec.folders:
        problems.add(
            f"{spec.task} has {task.size(split, language)} requests in {language}, too few for {spec.folders} "
            "folders. Give fewer --folders."
        )
    if any(name.startswith("mpn") for name in spec.variants):
        problems.collect(lambda: _check_parallel(spec, task, split))
    problems.raise_if_any()


def _check_parallel(spec: PatcherSpec, task: LabelledTask, split: str) -> None:
    lacking = [other for other in task.languages if not task.size(split, other)]
    if len(task.languages) - len(lacking) > 1 and not lacking:
        return
    if lacking:
        raise UserError(
            f"{spec.task} has no requests in {', '.join(lacking)}, so no edit can be drawn or seen there. Leave these "
            "languages out" + _translate(spec)
        )
    raise UserError(
        f"{spec.task} has its requests in {task.languages[0]} alone, so multilingual patches have no parallel texts to "
        "learn from. Give a task with several languages" + _translate(spec)
    )


def _translate(spec: PatcherSpec) -> str:
    if not spec.task.startswith("fever:"):
        return "."
    return ", or add machine-translated copies: jobs/prepare_translations.py writes them beside the English file."


def _request(task: LabelledTask, split: str, language: str, row: int) -> StreamEdit:
    places = task.translations(split, language, row)
    texts = {other: task.example(split, other, place) for other, place in places.items()}
    uuid: str = task.data.rows(split, language)["uuid"][row].as_py()
    return StreamEdit(uuid, texts, tuple(task.rephrasings(split, language, row)))
