"""Runs a study over its grid: what is finished is reused, the rest goes through Ray Tune, each trial exactly once.

A trial counts as finished when its Parquet file is in the sweep's folder, verified. The worker writes that file before
it reports, so neither a killed worker nor a killed driver loses or repeats a finished trial, and continuing a sweep
needs no state of Tune's: the same command computes what is missing.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import ray_session
from orchestrator.placement import Node, Placement
from orchestrator.progress import SweepProgress
from orchestrator.results import (
    DamagedTrial,
    FailedTrial,
    SweepOutcome,
    git_commit,
    read_trial,
)
from orchestrator.study import Study, Trial, TrialResult
from orchestrator.workspace import Workspace


def finished_trials(
    workspace: Workspace, trials: Sequence[Trial], *, mend: bool
) -> tuple[dict[str, TrialResult], list[str]]:
    """The trials that this sweep or another one under the same root has finished, by key, and notes on damaged files.

    Args:
        workspace: the sweep's folders.
        trials: the grid.
        mend: set damaged files aside and link other sweeps' trials into this one; else only look.
    """
    results: dict[str, TrialResult] = {}
    notes = []
    for trial in trials:
        path = workspace.trial_path(trial.key)
        other = None if path.exists() else workspace.elsewhere(trial.key)
        if other and mend:
            workspace.adopt(trial.key, other)
        elif other:
            path = other
        try:
            results[trial.key] = read_trial(path, trial)
        except FileNotFoundError:
            continue
        except DamagedTrial as error:
            notes.append(f"The file of trial {trial.label} is damaged ({error}) and was set aside; it is run again.")
            if mend:
                os.replace(path, path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
    return results, notes


def run_sweep(
    study: Study[Any],
    trials: Sequence[Trial],
    workspace: Workspace,
    placement: Placement,
    nodes: Sequence[Node],
    console: Console,
    on_ray_ready: Callable[[], None] = lambda: None,
) -> SweepOutcome:
    """Runs what is missing of the grid. The caller holds `workspace.locked()`.

    Args:
        study: prepared.
        trials: the grid, most expensive first.
        workspace: the sweep's folders.
        placement: what each trial may use.
        nodes: the machines `placement` was derived from.
        console: where progress is shown.
        on_ray_ready: called when Ray is up (Ray installs signal handlers of its own).

    Returns:
        What finished, now and before, and what failed. Interrupted, it raises KeyboardInterrupt; finished trials stay.
    """
    started = time.monotonic()
    by_key = {trial.key: trial for trial in trials}
    if len(by_key) != len(trials):
        raise ValueError(f"study {study.name!r} lists {len(trials) - len(by_key)} trial(s) twice: keys must differ")
    before, notes = finished_trials(workspace, trials, mend=True)
    pending = [trial for trial in trials if trial.key not in before]
    failed: dict[str, FailedTrial] = {}
    if pending:
        with ray_session.connected(ray_session.cluster_address(), nodes[0]):
            on_ray_ready()
            with SweepProgress(console, trials, pending) as progress:
                failed = _run_with_tune(study, pending, workspace, placement, progress)
    results = dict(before)
    for trial in pending:
        if trial.key not in failed:
            results[trial.key] = read_trial(workspace.trial_path(trial.key), trial)
    return SweepOutcome(
        results=[results[trial.key] for trial in trials if trial.key in results],
        done=len(results) - len(before),
        reused=len(before),
        failed=[failed[trial.key] for trial in trials if trial.key in failed],
        seconds=time.monotonic() - started,
        notes=notes,
    )


def _run_with_tune(
    study: Study[Any], pending: Sequence[Trial], workspace: Workspace, placement: Placement, progress: SweepProgress
) -> dict[str, FailedTrial]:
    """Runs `pending` and returns those that failed for good."""
    from ray import tune

    from orchestrator.trial import Job, TrialWorker
    from orchestrator.tune_callback import TuneCallback

    bookkeeping = workspace.folder / ".tune"
    shutil.rmtree(bookkeeping, ignore_errors=True)  # of a run that was killed
    bookkeeping.mkdir()
    token = bookkeeping / f"shared-{uuid.uuid4().hex}"
    commit = git_commit()
    job = Job(
        study=study,
        trials={trial.key: trial for trial in pending},
        workspace=workspace,
        token=token,
        placement=placement,
        origin={"commit": commit} if commit else {},
        folder=Path.cwd(),
    )
    callback = TuneCallback(job.trials, workspace, progress)
    trainable = tune.with_resources(
        tune.with_parameters(TrialWorker, job=job), {"cpu": placement.cpus, "gpu": placement.gpus}
    )
    token.touch()
    try:
        tune.Tuner(
            trainable,
            param_space={"key": tune.grid_search([trial.key for trial in pending])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=placement.concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: str(trial.trial_id),
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(bookkeeping),
                failure_config=tune.FailureConfig(max_failures=study.spec.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[callback],
                verbose=0,
            ),
        ).fit()
    finally:
        shutil.rmtree(bookkeeping, ignore_errors=True)
    return callback.failed
