"""What a trial reports on its way: kept in its scratch folder, and handed over, rung by rung, for early stopping."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.study import EarlyStopping, History, TrialStopped

REPORTS_FILE = "reports.jsonl"

Report = tuple[int, dict[str, float]]


def rungs(rules: EarlyStopping | None) -> list[float]:
    """The steps, growing, at which `rules` decide who goes on; all below its last step, which needs no decision."""
    found: list[float] = []
    rung: float = rules.grace if rules else 0.0
    while rules and rung <= rules.max_step - 1:
        found.append(rung)
        rung = rules.grace * rules.reduction_factor ** len(found)
    return found


def at_rungs(reports: Sequence[Report], rules: EarlyStopping) -> list[Report]:
    """The reports that `rules` judge: of those with its metric, the first at or beyond each rung."""
    ahead = rungs(rules)
    judged = []
    for step, metrics in reports:
        if ahead and step >= ahead[0] and rules.metric in metrics:
            ahead = [rung for rung in ahead if rung > step]
            judged.append((step, metrics))
    return judged


def decided(reports: Sequence[Report], rules: EarlyStopping) -> list[Report]:
    """Of a trial that was interrupted, the reports that `rules` have judged.

    A trial goes no further than a rung until it is decided: of one whose last report is at a rung nobody knows what was
    decided there, if anything, so it is judged there again.
    """
    judged = at_rungs(reports, rules)
    return judged[:-1] if judged and judged[-1] == reports[-1] else judged


def read_reports(folder: Path) -> list[Report]:
    """The reports kept in a trial's scratch folder, steps growing; the latest of each step, without half-written lines.

    A trial that continues from a checkpoint reports some steps again: the later report counts.
    """
    try:
        lines = (folder / REPORTS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        try:
            step, metrics = json.loads(line)
        except ValueError:
            continue
        found[int(step)] = metrics
    return sorted(found.items())


def as_history(reports: Sequence[Report]) -> History:
    """The reports of a trial by metric."""
    history: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in reports:
        for name, value in metrics.items():
            history.setdefault(name, []).append((step, value))
    return history


def as_reports(history: History) -> list[Report]:
    """The inverse of `as_history`."""
    found: dict[int, dict[str, float]] = {}
    for name, values in history.items():
        for step, value in values:
            found.setdefault(step, {})[name] = value
    return sorted(found.items())


class Reporter:
    """Stands between the thread that computes a trial and the one that answers Ray Tune.

    A report is a line in the trial's scratch folder. At a rung the computing thread waits until Tune has decided: so
    no trial goes beyond a rung that it does not pass, and a trial that is stopped has finished nothing.

    Args:
        folder: the trial's scratch folder, which exists; reports of an earlier try are read from it.
        rules: when trials are stopped early, if they are.
    """

    def __init__(self, folder: Path, rules: EarlyStopping | None) -> None:
        self.path = folder / REPORTS_FILE
        self.metric = rules.metric if rules else None
        self.reports = dict(read_reports(folder))
        judged = decided(self.all(), rules) if rules else []
        self.ahead = [rung for rung in rungs(rules) if not judged or rung > judged[-1][0]]
        self.newest: Report | None = None
        self.at_rung = self.handed_over = self.stopped = self.ended = False
        self.changed = threading.Condition()
        if self.reports:  # a line that was cut off ends here
            self._append("\n")

    def all(self) -> list[Report]:
        return sorted(self.reports.items())

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """The study's `TrialContext.report`; called by the computing thread.

        Raises:
            TrialStopped: the scheduler has stopped the trial.
            ValueError: the step is not a whole number from 1 on.
        """
        if step != int(step) or step < 1:
            raise ValueError(f"a trial reported step {step!r}: steps are whole numbers from 1 on")
        values = {str(name): float(value) for name, value in metrics.items()}
        with self.changed:
            if not self.stopped:
                self.reports[int(step)] = values
                self._append(json.dumps([int(step), values]) + "\n")
                self.newest = int(step), values
                if self.ahead and step >= self.ahead[0] and self.metric in values:
                    self.ahead = [rung for rung in self.ahead if rung > step]
                    self.at_rung = True
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: self.stopped or not self.at_rung)
            if self.stopped:
                raise TrialStopped(f"stopped early at step {step}")

    def wait(self, seconds: float) -> None:
        """Returns when the trial has ended or waits at a rung, at the latest after so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.at_rung, timeout=seconds)

    def look(self) -> tuple[Report | None, list[Report] | None]:
        """The newest report, if any, and all up to the rung at which the trial waits, if it does."""
        with self.changed:
            self.handed_over = self.at_rung
            if self.newest is None or not self.at_rung:
                return self.newest, None
            last, _ = self.newest
            return self.newest, [(step, metrics) for step, metrics in self.all() if step <= last]

    def go_on(self) -> None:
        """The rung that `look` has shown is passed. One that was reached since then has not been judged yet."""
        with self.changed:
            if self.handed_over:
                self.at_rung = self.handed_over = False
                self.changed.notify_all()

    def stop(self) -> None:
        """Every report raises TrialStopped from now on."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def end(self) -> None:
        """The computing thread has ended."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
