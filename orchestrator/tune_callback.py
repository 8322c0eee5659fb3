"""What Ray Tune tells the driver about its trials, turned into progress, records, logs and reasons for failures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from orchestrator.progress import SweepProgress
from orchestrator.results import FailedTrial, save_stopped, save_trial, stopped_trial
from orchestrator.study import EarlyStopping, StoppedTrial, Trial
from orchestrator.trial import FRACTION, REFUSAL, RUNG, TABLE
from orchestrator.workspace import Workspace

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class TuneCallback(tune.Callback):
    """Follows the trials of one stage; by key, `failed` holds those that failed for good, `stopped` those that the
    scheduler stopped by `rules`."""

    def __init__(
        self,
        trials: Mapping[str, Trial],
        workspace: Workspace,
        progress: SweepProgress,
        rules: EarlyStopping | None = None,
    ) -> None:
        self.trials = trials
        self.workspace = workspace
        self.progress = progress
        self.rules = rules
        self.failed: dict[str, FailedTrial] = {}
        self.stopped: dict[str, StoppedTrial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores its callbacks for a restore that is never made, and a console cannot be stored."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.progress.start(_key(trial))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        key = _key(trial)
        self.progress.advance(key, result[FRACTION])
        if REFUSAL in result:
            reason = " ".join(result[REFUSAL])
            self._log(key, reason)
            self.failed[key] = FailedTrial(self.trials[key], reason, self.workspace.log_path(key), refused=True)
        reports = result.pop(RUNG, None)
        if reports and result["done"]:  # a worker is never done at a rung: the scheduler has decided
            assert self.rules is not None
            self.stopped[key] = stopped_trial(self.trials[key], reports)
            save_stopped(self.workspace.stopped_path(key), self.stopped[key], self.rules)
            shutil.rmtree(self.workspace.scratch / key, ignore_errors=True)
        # Tune lets a callback change the result in place: the bytes are taken out before Tune keeps a copy.
        data = result.pop(TABLE, None)
        if data is not None:
            save_trial(self.workspace.trial_path(key), data)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        key = _key(trial)
        if key in self.failed:
            self.progress.fail(key)
        elif key in self.stopped:
            self.progress.stop(key)
        else:
            self.progress.finish(key)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._log(_key(trial), _story(trial))
        self.progress.retry(_key(trial))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        key = _key(trial)
        self._log(key, _story(trial))
        self.failed[key] = FailedTrial(self.trials[key], _reason(trial), self.workspace.log_path(key))
        self.progress.fail(key)

    def _log(self, key: str, story: str) -> None:
        path = self.workspace.log_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(f"{story.rstrip()}\n\n")


def _key(trial: TuneTrial) -> str:
    return str(trial.config["key"])


def _error(trial: TuneTrial) -> Exception | None:
    """The latest failure, from the file Tune keeps beside the driver until it copies it to its storage."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    with open(path, "rb") as file:
        error: Exception = cloudpickle.load(file)
    return error


def _story(trial: TuneTrial) -> str:
    error = _error(trial)
    if error is not None:
        return ANSI_COLOUR.sub("", str(error)).strip() or type(error).__name__
    path = trial.error_file
    return Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else "no reason given"


def _reason(trial: TuneTrial) -> str:
    """One line: the exception the trial raised, or how its process ended."""
    error = _error(trial)
    if isinstance(error, OutOfMemoryError):
        return "the node ran out of memory and Ray ended the trial's process; lower --concurrent"
    if isinstance(error, RayTaskError):
        cause = error.cause
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    if isinstance(error, RayActorError):
        return "its process died (killed, out of memory, or a crash in native code)"
    return _story(trial).strip().splitlines()[-1]
