"""Runs the trials of a study in this process, as one worker would: without Ray, stage after stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.study import Study, Summary, TrialContext, TrialResult


def context(cache: Path, scratch: Path) -> TrialContext:
    """What a worker hands to a trial, with a folder of its own."""
    scratch.mkdir(parents=True, exist_ok=True)
    return TrialContext(cache, scratch, threads=1, device="cpu", memory_bytes=4 * 10**9, progress=lambda share: None)


def results(made: Study[Any], scratch: Path | None = None) -> list[TrialResult]:
    """Runs every trial; `scratch` is for what trials leave behind when they are stopped, by default the cache."""
    scratch = scratch or made.cache
    loaded = made.load(context(made.cache, scratch))
    trials = sorted(made.trials(), key=lambda trial: trial.stage)
    return [
        TrialResult(trial, made.run(trial, loaded, context(made.cache, scratch / trial.key)), 1.0, 1, {})
        for trial in trials
    ]


def answer(made: Study[Any], scratch: Path | None = None) -> Summary:
    """What the study makes of all its trials."""
    return made.summarize(results(made, scratch))
