"""What a person sees while a sweep runs: a live bar on a terminal, plain lines now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from orchestrator.console import duration, say
from orchestrator.study import Trial

LINE_SECONDS = 10.0
SHOWN_TRIALS = 8


class SweepProgress:
    """Counts trials and the work they stand for; a trial's share of the bar is its share of the sweep's cost.

    Args:
        console: where to show it; a terminal gets a live bar.
        planned: the grid.
        pending: the trials still to run, of all stages.
        stopped: how many of the others were stopped early.
    """

    def __init__(self, console: Console, planned: Sequence[Trial], pending: Sequence[Trial], stopped: int = 0) -> None:
        self.console = console
        self.costs = {trial.key: max(trial.cost, 1e-9) for trial in planned}
        self.labels = {trial.key: trial.label for trial in planned}
        self.pending_cost = sum(self.costs[trial.key] for trial in pending)
        self.total_cost = sum(self.costs.values())
        self.planned, self.stopped = len(planned), stopped
        self.reused = len(planned) - len(pending) - stopped
        self.done = self.failed = self.retried = 0
        self.work = 0.0
        self.fractions: dict[str, float] = {}
        self.last_line = time.monotonic()
        self.first: tuple[float, float] | None = None  # time of the first report, and the work done by then
        self.bars: Bars | None = None
        self.overall: TaskID | None = None
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> SweepProgress:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self.bars = Bars(*columns, TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=self.console)
            self.overall = self.bars.add_task("sweep", total=self.total_cost, note="")
            self.bars.start()
        self._show(force=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(force=True)
        if self.bars is not None:
            for task in self.tasks.values():
                self.bars.remove_task(task)
            self.bars.stop()

    def start(self, key: str) -> None:
        self.fractions[key] = 0.0
        self._show()

    def advance(self, key: str, fraction: float) -> None:
        """A running trial has done this fraction of its work."""
        if key in self.fractions:
            self.fractions[key] = fraction
            self.first = self.first or (time.monotonic(), self._work_done())
            self._show()

    def finish(self, key: str) -> None:
        self.done += 1
        self._leave(key)

    def fail(self, key: str) -> None:
        self.failed += 1
        self._leave(key)

    def stop(self, key: str) -> None:
        """A trial was stopped early: the rest of its work is not done, and no longer counts as work to do."""
        left = self.costs[key] * (1 - self.fractions.get(key, 0.0))
        self.stopped += 1
        self.costs[key] -= left
        self.pending_cost -= left
        self.total_cost -= left
        if self.bars is not None and self.overall is not None:
            self.bars.update(self.overall, total=self.total_cost)
        self._leave(key)

    def retry(self, key: str) -> None:
        """A trial failed and starts again."""
        self.retried += 1
        self.fractions[key] = 0.0
        self._show()

    @property
    def seconds_left(self) -> float | None:
        """From the work done per second since the first report; None before there is enough to tell."""
        if self.first is None:
            return None
        begun, before = self.first
        elapsed, done = time.monotonic() - begun, self._work_done()
        return (self.pending_cost - done) * elapsed / (done - before) if elapsed >= 1 and done > before else None

    def _work_done(self) -> float:
        return self.work + sum(self.costs[key] * fraction for key, fraction in self.fractions.items())

    def _leave(self, key: str) -> None:
        self.work += self.costs[key]
        self.fractions.pop(key, None)
        if self.bars is not None and key in self.tasks:
            self.bars.remove_task(self.tasks.pop(key))
        self._show()

    def _note(self) -> str:
        parts = [f"{self.done + self.reused + self.stopped} of {self.planned} trials"]
        counts = ((self.reused, "reused"), (self.stopped, "stopped early"), (self.failed, "failed"))
        parts += [f"{count} {word}" for count, word in counts if count]
        parts += [f"{self.retried} tried again"] if self.retried else []
        left = self.seconds_left
        if left is not None and self.fractions:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _show(self, force: bool = False) -> None:
        reused_cost = self.total_cost - self.pending_cost
        completed = reused_cost + self._work_done()
        if self.bars is not None:
            assert self.overall is not None
            self.bars.update(self.overall, completed=completed, note=self._note())
            for key, fraction in list(self.fractions.items())[:SHOWN_TRIALS]:
                if key not in self.tasks:
                    self.tasks[key] = self.bars.add_task(f"  {self.labels[key]}", total=1.0, note="")
                self.bars.update(self.tasks[key], completed=fraction)
            return
        now = time.monotonic()
        if force or now - self.last_line >= LINE_SECONDS:
            self.last_line = now
            percent = 100 * completed / self.total_cost if self.total_cost else 100.0
            running = ", ".join(self.labels[key] for key in list(self.fractions)[:SHOWN_TRIALS])
            say(self.console, f"[{percent:3.0f}%] {self._note()}" + (f"; running: {running}" if running else ""))
