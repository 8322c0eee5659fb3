"""Early stopping: Ray's ASHA scheduler, one for each group of trials that compete, which also knows earlier runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from orchestrator.reports import Report, rungs
from orchestrator.study import EarlyStopping, Trial
from orchestrator.trial import RUNG

# Stands for a metric that is not a number: below all others, and finite, because ASHA interpolates between values.
WORST = -1e30


@dataclass(frozen=True)
class _Entrant:
    """A trial as ASHA knows it. Its name is its key, which is the same in every run."""

    trial_id: str


class RungScheduler(FIFOScheduler):
    """Trials start in the order of the grid; those that lag behind at a rung are stopped.

    Args:
        rules: the study's.
        trials: the trials of a stage, finished and stopped ones included, with the reports by which they were judged
            in earlier runs: these count as if the sweep had never been interrupted.
    """

    def __init__(self, rules: EarlyStopping, trials: Iterable[tuple[Trial, Sequence[Report]]]) -> None:
        super().__init__()
        self.rules = rules
        self.groups: dict[tuple[str, ...], ASHAScheduler] = {}
        self.group_of: dict[str, ASHAScheduler] = {}
        for trial, judged in trials if rungs(rules) else ():
            name = tuple(str(trial.cell.get(coordinate)) for coordinate in rules.within)
            group = self.groups.setdefault(name, self._group())
            group.on_trial_add(None, _Entrant(trial.key))
            self.group_of[trial.key] = group
            for report in judged:
                self._judge(trial.key, report)

    def _group(self) -> ASHAScheduler:
        rules = self.rules
        return ASHAScheduler(
            time_attr="step",
            metric="score",
            mode="max",
            max_t=rules.max_step - 1,  # at its last step a trial is finished, and not judged
            grace_period=rules.grace,
            reduction_factor=rules.reduction_factor,
            stop_last_trials=False,
        )

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        key = str(trial.config["key"])
        if RUNG not in result or key not in self.group_of:
            return TrialScheduler.CONTINUE
        step, metrics = result[RUNG][-1]
        return self._judge(key, (step, metrics))

    def _judge(self, key: str, report: Report) -> str:
        step, metrics = report
        value = metrics[self.rules.metric]
        score = (value if self.rules.mode == "max" else -value) if math.isfinite(value) else WORST
        decision = self.group_of[key].on_trial_result(None, _Entrant(key), {"step": step, "score": score})
        return str(decision)
