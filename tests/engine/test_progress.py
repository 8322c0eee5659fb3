"""Progress: the bar is weighted by cost, and a log gets a line now and then instead of a bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator import progress
from orchestrator.console import duration
from orchestrator.progress import SweepProgress
from orchestrator.study import Trial

GRID = [Trial({"language": name}, {}, cost) for name, cost in (("zh", 60.0), ("de", 30.0), ("en", 10.0))]
ZH, DE, EN = (trial.key for trial in GRID)


class Clock:
    """Time that passes only when told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_log_gets_lines_with_what_is_done_what_runs_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(), io.StringIO()
    monkeypatch.setattr(progress, "time", clock)
    with SweepProgress(Console(file=log), GRID, pending=GRID[:2]) as shown:
        for key in (ZH, DE):
            shown.start(key)
            shown.advance(key, 0.0)
        clock.now += 30
        shown.advance(ZH, 0.5)
        assert shown.seconds_left == 60, "30 of 90 units of work took 30 seconds"
        shown.retry(ZH)
        shown.advance(ZH, 0.75)
        shown.finish(DE)
        clock.now += 30
        shown.fail(ZH)
    assert log.getvalue().splitlines() == [
        "[ 10%] 1 of 3 trials, 1 reused",
        "[ 40%] 1 of 3 trials, 1 reused, about 60 s left; running: zh, de",
        "[100%] 2 of 3 trials, 1 reused, 1 failed, 1 tried again",
        "[100%] 2 of 3 trials, 1 reused, 1 failed, 1 tried again",
    ]


def test_a_terminal_gets_a_bar_for_the_sweep_and_one_for_each_running_trial() -> None:
    screen = io.StringIO()
    with SweepProgress(Console(file=screen, force_terminal=True, width=100), GRID, pending=GRID) as shown:
        shown.start(ZH)
        shown.advance(ZH, 0.5)
        assert shown.bars is not None
        assert [(task.description, task.percentage) for task in shown.bars.tasks] == [("sweep", 30.0), ("  zh", 50.0)]
        shown.finish(ZH)
        assert [task.percentage for task in shown.bars.tasks] == [60.0]


def test_a_trial_that_is_stopped_early_takes_the_rest_of_its_work_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(), io.StringIO()
    monkeypatch.setattr(progress, "time", clock)
    with SweepProgress(Console(file=log), GRID, pending=GRID[:2], stopped=1) as shown:
        for key in (ZH, DE):
            shown.start(key)
            shown.advance(key, 0.0)
        clock.now += 30
        shown.advance(ZH, 0.5)
        shown.stop(ZH)
        assert shown.seconds_left == 30, "30 units of work took 30 seconds, and 30 are left"
    assert log.getvalue().splitlines()[-1] == "[ 57%] 2 of 3 trials, 2 stopped early, about 30 s left; running: de"


def test_durations_for_people() -> None:
    assert [duration(seconds) for seconds in (4.2, 99, 300, 7500)] == ["4 s", "99 s", "5 min", "2 h 05 min"]
    assert [duration(3600 * hours) for hours in (59, 61, 2169)] == ["59 h 00 min", "3 days", "90 days"]
