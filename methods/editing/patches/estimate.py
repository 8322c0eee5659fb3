"""What a sweep of patch neurons will cost: operations from sizes, seconds from the first edits of a few streams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from methods.editing.estimate import NO_CLASSIFIER, timing
from methods.editing.patches.outcome import VariantName
from methods.editing.patches.requests import requests
from methods.editing.patches.spec import Cell, stream_config
from methods.editing.patches.stream import Evaluation, run_stream
from orchestrator.study import Estimate, Trial

if TYPE_CHECKING:
    from methods.editing.patches.study import Loaded, PatcherStudy

PROCESS_BYTES = 700 * 2**20
TOKENS = 24
"""Tokens of a text, about, where none has been read."""
STEPS = 200
"""Steps of a patch, about."""
TIMED_REQUESTS = 6
EDITED: dict[VariantName, float] = {
    "none": 0.0,
    "fine-tuning": 0.05,
    "transformer-patcher": 0.2,
    "mpn-only": 0.35,
    "mpn-all": 0.6,
}
"""The share of requests that becomes a patch, about; fine-tuning takes few steps where a patch takes many."""


def trial_flops(study: PatcherStudy, cell: Cell) -> float:
    """Floating-point operations of a stream, roughly: only ratios between trials matter.

    An edit costs its steps over the memory; what lies below the patches is computed once for each text.
    """
    spec, model = study.spec, study.description
    texts = study.requests * len(study.languages)
    forward = TOKENS * model.num_layers * model.block_flops(TOKENS)
    step = 6.0 * spec.memory_texts * model.hidden_size
    return forward * texts + step * STEPS * study.requests * EDITED[cell.variant.name]


def least_memory(study: PatcherStudy) -> int:
    """Bytes that a stream needs at least: the process, the model, and two vectors for each text."""
    spec, model = study.spec, study.description
    dtype = getattr(torch, spec.dtype)
    known = study.data
    counts = [known.count(split, spec.edit_language) for split in ("train", "dev", "test")]
    texts = min(counts[0], spec.memory_texts + spec.locality_texts) + counts[1] + counts[2]
    texts += 2 * study.requests * len(study.languages)
    return int(PROCESS_BYTES + model.weight_bytes(dtype) + 2 * texts * model.hidden_size * dtype.itemsize)


def estimate_streams(study: PatcherStudy, trials: Sequence[Trial], threads: int) -> Estimate:
    """Times the first edits of a stream of each variant.

    For a classifier that is not trained yet there is nothing to time: the note says so, and only operations are given.
    """
    planned = {trial.key: cell for trial, cell in study.planned()}
    wanted = [cell for trial in trials if (cell := planned[trial.key]) is not None]
    flops = sum(trial.cost for trial in trials)
    if not wanted:
        return Estimate(flops, 0.0)
    if len(wanted) < len(trials):
        return Estimate(flops, 0.0, (NO_CLASSIFIER,))
    seconds: dict[VariantName, float] = {}
    with timing(study, threads) as context:
        loaded = study.load(context)
        for cell in wanted:
            if cell.variant.name not in seconds:
                seconds[cell.variant.name] = _seconds_per_request(study, cell, loaded, context.scratch)
    total = study.requests * sum(seconds[cell.variant.name] for cell in wanted)
    said = [f"{name} {each:.2f} s a request" for name, each in seconds.items()]
    return Estimate(flops, total, ("measured on this machine: " + ", ".join(said), "edits differ in length"))


def _seconds_per_request(study: PatcherStudy, cell: Cell, loaded: Loaded, scratch: Path) -> float:
    """Of a stream's first requests, with the computation of its texts."""
    config = stream_config(study.spec, cell, study.languages)
    few = study.spec.model_copy(update={"edits": min(TIMED_REQUESTS, study.requests)})
    first = requests(few, loaded.task, cell)
    memory = loaded.memory
    started = time.perf_counter()
    run_stream(loaded.cache, memory, first, Evaluation(), config, scratch=scratch / cell.variant.name)
    return (time.perf_counter() - started) / max(1, len(first))
