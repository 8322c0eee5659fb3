"""Measures patch neurons: a stream of edits on cached inputs against the plain loop, in one process.

The plain loop is what a careful researcher writes (methods/editing/patches/plain.py): the whole model runs for every
step of every patch and for every answer, texts of similar length in one batch. It runs twice: once as it is careful
not to compute a text twice, and once with the edit repeated in the batch, as the released code has it. All contenders
take turns on the same requests and take the same number of steps; the plain ones get fewer requests, since each needs
the same time. What patches are kept silent on is drawn around states that the model computes, as many as in the paper:
it costs both the same, and making it is not timed.

Hundreds of steps of Adam magnify the rounding of float32, so that both ways give the same answers there but not the
same digits. That they compute the same is shown in float64, on a few steps.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from methods.editing.benchmark.measure import Contender, alternate, environment
from methods.editing.benchmark.patching_cases import PatchingCase, PatchingSettings, make_patching_case
from methods.editing.patches.cache import AnswerCache
from methods.editing.patches.journal import TENSORS
from methods.editing.patches.memory import Memory
from methods.editing.patches.metrics import EditRecord
from methods.editing.patches.mpn import StreamEdit
from methods.editing.patches.plain import PlainResult, plain_answers, plain_rights, plain_stream
from methods.editing.patches.stream import Evaluation, StreamResult, run_stream

CACHED, PLAIN, REPEATED = "cached inputs", "plain loop", "plain loop, texts repeated"
_SETTLED = 0.1  # share of a stream after which the process should grow by what the stream keeps alone
_LONG = 100  # requests from which growth says anything
_COMPARED, _COMPARED_STEPS, _COMPARED_STATES = 2, 30, 4000  # requests, steps of each and states, in float64
_EQUAL = 1e-6
_REPEATS, _PATIENCE = 2, 220.0  # runs in turn, and seconds that all of them may take


@dataclass(frozen=True)
class Growth:
    """By how much a long stream grew, from its first tenth to its end.

    Attributes:
        edits: how many were made in between.
        process: bytes of the process, with what its allocator holds back and the kernels that oneDNN keeps, one for
            every number of patches, 1,024 at most.
        tensors: bytes of all tensors that are alive.
        patches, remembered: bytes of the patches that were added, and of the queries that joined the memories.
        journal: bytes on the disk.
    """

    edits: int
    process: int
    tensors: int
    patches: int
    remembered: int
    journal: int

    def figures(self) -> dict[str, Any]:
        sizes = {f"{name}_mb": value / 1e6 for name, value in vars(self).items() if name != "edits"}
        return {"edits": self.edits, **sizes}


def run_patching(settings: PatchingSettings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measures and returns what ``--json`` writes.

    The main keys: `editing_ratio` (the careful plain loop to cached inputs, time for each edit),
    `editing_ratio_repeated` (the plain loop with repeated texts to cached inputs), `evaluation_ratio` (a point of the
    accuracy curve), `equal` (all answers are the same, and in float64 patches and logits too), `patch_difference` and
    `answer_difference` (in float64, relative to the largest entry), and `growth`, for a long stream.

    Raises:
        UserError: the settings make no sense, or the model cannot be patched.
    """
    settings.check()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    start = time.perf_counter()
    repeats, patience = settings.repeats or _REPEATS, math.inf if settings.repeats else _PATIENCE
    say(f"Making {settings.shape}, {settings.edits} requests and {settings.memory:,} memories ...")
    case = make_patching_case(settings)
    few = case.edits[: settings.plain_edits]

    def plain(edits: Sequence[StreamEdit], repeat: bool) -> PlainResult:
        return plain_stream(case.site, case.memories, edits, settings.stream(settings.steps), repeat=repeat)

    editing = [
        Contender(CACHED, settings.edits, lambda: _cached(case, settings)),
        Contender(PLAIN, len(few), lambda: plain(few, False)),
        Contender(REPEATED, 1, lambda: plain(few[:1], True)),
    ]
    alternate("editing", editing, repeats, settings.device, say, until=start + patience)
    (ours, growth), careful, repeated = (contender.answer for contender in editing)
    steps = [record.steps for record in _edited(ours)], careful.steps, repeated.steps
    for contender, taken in zip(editing, steps, strict=True):
        contender.edits = len(taken)
    evaluation = _evaluation(case, ours)
    alternate("evaluation", evaluation, repeats, settings.device, say, until=start + patience)
    pairs = [(mine.success, theirs) for mine, theirs in zip(_edited(ours), careful.success, strict=False)]
    pairs += zip(*(one.answer for one in evaluation), strict=True)
    differ = sum(mine != theirs for mine, theirs in pairs)
    say("Comparing both ways in float64 ...")
    patches, answers = _compare(case, settings)
    return {
        "editing_ratio": _ratio(editing[1], editing[0]),
        "editing_ratio_repeated": _ratio(editing[2], editing[0]),
        "evaluation_ratio": _ratio(evaluation[1], evaluation[0]),
        "equal": differ == 0 and max(patches, answers) < _EQUAL,
        "answers_differ": differ,
        "patch_difference": patches,
        "answer_difference": answers,
        "growth": growth and growth.figures(),
        "settings": vars(settings),
        "editing": {one.name: _edits(one, taken) for one, taken in zip(editing, steps, strict=True)},
        "evaluation": {one.name: _texts(one) for one in evaluation},
        "environment": environment(settings.device),
    }


def _cached(case: PatchingCase, settings: PatchingSettings) -> tuple[StreamResult, Growth | None]:
    """One stream that has computed nothing yet, journal and all, and how it grew, if it is long."""
    cache, memory = AnswerCache(case.site), Memory.of(*case.memories)
    settled = max(1, round(_SETTLED * settings.edits))
    sizes: list[tuple[int, int, int]] = []

    with tempfile.TemporaryDirectory() as scratch:

        def note(share: float) -> None:
            if settings.edits >= _LONG and round(share * settings.edits) in (settled, settings.edits):
                journal = (Path(scratch) / TENSORS).stat().st_size
                sizes.append((psutil.Process().memory_info().rss, _alive(), journal))

        config = settings.stream(settings.steps)
        result = run_stream(cache, memory, case.edits, Evaluation(), config, scratch=Path(scratch), progress=note)
    if not sizes:
        return result, None
    later = [record for record in _edited(result) if record.index >= settled]
    process, tensors, journal = (last - first for first, last in zip(*sizes, strict=True))
    patch = sum(tensor.nbytes for tensor in result.neurons[:1].to_tensors().values())
    queries = sum(states.nbytes // len(states) for states in case.memories)
    return result, Growth(
        edits=len(later),
        process=process,
        tensors=tensors,
        patches=patch * sum(record.patches for record in later),
        remembered=queries * sum(len(record.languages) for record in later),
        journal=journal,
    )


def _evaluation(case: PatchingCase, result: StreamResult) -> list[Contender]:
    """A point of the accuracy curve, all patches in; the cached states are there since the first point."""
    cache = AnswerCache(case.site)
    cache.states(case.texts)

    def plain() -> list[bool]:
        with case.site.merged(result.neurons):
            return plain_rights(case.site, case.texts)

    number = len(case.texts)
    return [
        Contender(CACHED, number, lambda: cache.right(cache.states(case.texts), result.neurons).tolist()),
        Contender(PLAIN, number, plain),
    ]


def _compare(case: PatchingCase, settings: PatchingSettings) -> tuple[float, float]:
    """The largest differences of patches and of logits between both ways, in float64, which the model then stays in."""
    case.site.model.hf.double()
    edits = case.edits[:_COMPARED]
    train, validation = (states[:_COMPARED_STATES].double() for states in case.memories)
    cache, config = AnswerCache(case.site), settings.stream(_COMPARED_STEPS)
    with tempfile.TemporaryDirectory() as scratch:
        ours = run_stream(cache, Memory.of(train, validation), edits, Evaluation(), config, scratch=Path(scratch))
    plain = plain_stream(case.site, (train, validation), edits, config, repeat=False)
    if len(ours.neurons) != len(plain.neurons):
        return math.inf, math.inf
    texts = [text for edit in edits for text in edit.texts.values()]
    with case.site.merged(plain.neurons):
        expected, _ = plain_answers(case.site, texts)
    pairs = zip(ours.neurons.to_tensors().values(), plain.neurons.to_tensors().values(), strict=True)
    patches = max(_difference(one, other) for one, other in pairs)
    return patches, _difference(cache.logits(cache.states(texts), ours.neurons), expected)


def _alive() -> int:
    """Bytes of all tensors that are alive, each piece of memory once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def _edited(result: StreamResult) -> list[EditRecord]:
    return [record for record in result.records if record.edited]


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest, relative to the largest entry."""
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))


def _ratio(slow: Contender, fast: Contender) -> float:
    ratio: float = slow.figures()["seconds_per_edit"] / fast.figures()["seconds_per_edit"]
    return ratio


def _edits(contender: Contender, steps: Sequence[int]) -> dict[str, Any]:
    figures = contender.figures()
    return {"edits_per_minute": 60 * figures.pop("edits_per_second"), "steps": sum(steps), **figures}


def _texts(contender: Contender) -> dict[str, Any]:
    """The figures of evaluation, which are about texts."""
    return {name.replace("edit", "text"): value for name, value in contender.figures().items()}
