"""Runs a study over its grid: what is finished is reused, the rest goes through Ray Tune, each trial exactly once.

Stage by stage: a stage starts when the one before it is finished.

A trial counts as finished when its Parquet file is in the sweep's folder, verified. The worker writes that file before
it reports, so neither a killed worker nor a killed driver loses or repeats a finished trial, and continuing a sweep
needs no state of Tune's: the same command computes what is missing.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator import ray_session
from orchestrator.placement import Node, Placement
from orchestrator.progress import SweepProgress
from orchestrator.reports import Report, as_reports, at_rungs, decided, read_reports
from orchestrator.results import (
    DamagedTrial,
    FailedTrial,
    SweepOutcome,
    git_commit,
    read_stopped,
    read_trial,
)
from orchestrator.study import EarlyStopping, StoppedTrial, Study, Trial, TrialResult
from orchestrator.workspace import Workspace

if TYPE_CHECKING:
    from orchestrator.tune_callback import TuneCallback


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
            aside = "was set aside" if mend else "will be set aside"
            notes.append(f"The file of trial {trial.label} is damaged ({error}) and {aside}; it is run again.")
            if mend:
                os.replace(path, path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
    return results, notes


def stopped_trials(
    workspace: Workspace, trials: Sequence[Trial], rules: EarlyStopping | None
) -> dict[str, StoppedTrial]:
    """The trials that this sweep has stopped early by the same rules, by key; none without rules.

    Another sweep's are not asked: who is stopped depends on who else runs.
    """
    found = {trial.key: read_stopped(workspace.stopped_path(trial.key), trial, rules) for trial in trials if rules}
    return {key: stopped for key, stopped in found.items() if stopped is not None}


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
        What finished, now and before, what was stopped early, and what failed. Interrupted, it raises
        KeyboardInterrupt; finished trials stay.
    """
    started = time.monotonic()
    by_key = {trial.key: trial for trial in trials}
    if len(by_key) != len(trials):
        raise ValueError(f"study {study.name!r} lists {len(trials) - len(by_key)} trial(s) twice: keys must differ")
    before, notes = finished_trials(workspace, trials, mend=True)
    rules = study.early_stopping()
    stopped = stopped_trials(workspace, [trial for trial in trials if trial.key not in before], rules)
    pending = [trial for trial in trials if trial.key not in before and trial.key not in stopped]
    failed: dict[str, FailedTrial] = {}
    if pending:
        judged: dict[str, list[Report]] = {}
        if rules:
            ended = {key: result.history for key, result in before.items()}
            ended |= {key: record.history for key, record in stopped.items()}
            judged = {key: at_rungs(as_reports(history), rules) for key, history in ended.items()}
            judged |= {trial.key: decided(read_reports(workspace.scratch / trial.key), rules) for trial in pending}
        with ray_session.connected(ray_session.cluster_address(), nodes[0]):
            on_ray_ready()
            with SweepProgress(console, trials, pending, stopped=len(stopped)) as progress:
                for stage in sorted({trial.stage for trial in pending}):
                    chosen = [trial for trial in pending if trial.stage == stage]
                    if failed:
                        failed |= _refuse(chosen, list(failed.values()), progress)
                        continue
                    rivals = [(trial, judged.get(trial.key, [])) for trial in trials if trial.stage == stage]
                    callback = _run_with_tune(study, chosen, workspace, placement, progress, rules, rivals)
                    failed |= callback.failed
                    stopped |= callback.stopped
    results = dict(before)
    for trial in pending:
        if trial.key not in failed and trial.key not in stopped:
            results[trial.key] = read_trial(workspace.trial_path(trial.key), trial)
    _clean_up(workspace, results, stopped)
    return SweepOutcome(
        results=[results[trial.key] for trial in trials if trial.key in results],
        done=len(results) - len(before),
        reused=len(before),
        failed=[failed[trial.key] for trial in trials if trial.key in failed],
        seconds=time.monotonic() - started,
        notes=notes,
        stopped=[stopped[trial.key] for trial in trials if trial.key in stopped],
    )


def _refuse(trials: Sequence[Trial], failed: Sequence[FailedTrial], progress: SweepProgress) -> dict[str, FailedTrial]:
    """Trials that are not started because some of an earlier stage failed; they share one reason."""
    causes = [each for each in failed if each.trial.stage == failed[0].trial.stage]  # the first stage that failed
    names = ", ".join(cause.trial.label for cause in causes[:10]) + (" ..." if len(causes) > 10 else "")
    reason = f"not started, because it builds on the stage of {names}, which failed"
    for trial in trials:
        progress.fail(trial.key)
    refused = all(cause.refused for cause in causes)
    return {trial.key: FailedTrial(trial, reason, causes[0].log, refused) for trial in trials}


def _clean_up(workspace: Workspace, results: Collection[str], stopped: Collection[str]) -> None:
    """Removes what trials no longer need: scratch folders, and records of trials that have been finished after all."""
    for key in results:
        workspace.stopped_path(key).unlink(missing_ok=True)
    for key in (*results, *stopped):
        shutil.rmtree(workspace.scratch / key, ignore_errors=True)


def _run_with_tune(
    study: Study[Any],
    pending: Sequence[Trial],
    workspace: Workspace,
    placement: Placement,
    progress: SweepProgress,
    rules: EarlyStopping | None,
    rivals: Sequence[tuple[Trial, Sequence[Report]]],
) -> TuneCallback:
    """Runs the pending trials of a stage and returns what became of them.

    Args:
        rules: how trials are stopped early, if they are.
        rivals: the trials of the whole stage, with the reports by which they were judged in earlier runs.
    """
    import ray
    from ray import tune

    from orchestrator.early_stopping import RungScheduler
    from orchestrator.process_group import resources
    from orchestrator.trial import Job, TrialWorker
    from orchestrator.tune_callback import TuneCallback
    from orchestrator.weights import offer

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
        early_stopping=rules,
        origin={"commit": commit} if commit else {},
        offer=offer(study, len(ray.nodes())),
        folder=Path.cwd(),
    )
    callback = TuneCallback(job.trials, workspace, progress, rules)
    trainable = tune.with_resources(tune.with_parameters(TrialWorker, job=job), resources(placement))
    token.touch()
    try:
        tune.Tuner(
            trainable,
            param_space={"key": tune.grid_search([trial.key for trial in pending])},
            tune_config=tune.TuneConfig(
                scheduler=RungScheduler(rules, rivals) if rules else None,
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
    return callback
