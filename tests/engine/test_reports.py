"""Reports of a trial and what early stopping makes of them, without a cluster."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.early_stopping import RungScheduler
from orchestrator.reports import (
    REPORTS_FILE,
    Report,
    Reporter,
    as_history,
    as_reports,
    at_rungs,
    decided,
    read_reports,
    rungs,
)
from orchestrator.study import EarlyStopping, Trial, TrialStopped

RULES = EarlyStopping(metric="acc", max_step=9, grace=2, reduction_factor=2)


def test_rungs_lie_below_the_last_step() -> None:
    assert rungs(RULES) == [2, 4, 8]
    assert rungs(EarlyStopping(metric="acc", max_step=8, grace=2, reduction_factor=2)) == [2, 4]
    assert rungs(EarlyStopping(metric="acc", max_step=1)) == rungs(None) == []


def test_who_reports_seldom_is_judged_at_the_first_report_beyond_a_rung() -> None:
    reports: list[Report] = [(1, {"acc": 1}), (3, {"loss": 1}), (5, {"acc": 5}), (7, {"acc": 7}), (9, {"acc": 9})]
    assert at_rungs(reports, RULES) == [(5, {"acc": 5}), (9, {"acc": 9})]


def test_an_interrupted_trial_is_judged_again_at_the_rung_where_it_waited() -> None:
    reports: list[Report] = [(1, {"acc": 1}), (2, {"acc": 2}), (3, {"acc": 3}), (4, {"acc": 4})]
    assert decided(reports, RULES) == [(2, {"acc": 2})]
    assert decided([*reports, (5, {"acc": 5})], RULES) == [(2, {"acc": 2}), (4, {"acc": 4})]
    assert decided([], RULES) == []


def test_reports_survive_a_half_written_line_and_the_later_one_counts(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, None)
    for step in (1, 2, 3):
        reporter.report(step, {"acc": step / 10})
    with (tmp_path / REPORTS_FILE).open("a") as file:
        file.write('[4, {"ac')
    again = Reporter(tmp_path, None)
    again.report(3, {"acc": 0.5, "loss": math.nan})
    reports = read_reports(tmp_path)
    assert [step for step, _ in reports] == [1, 2, 3]
    assert reports[2][1]["acc"] == 0.5
    assert as_history(reports)["acc"] == [(1, 0.1), (2, 0.2), (3, 0.5)]
    assert as_reports(as_history(reports[:2])) == reports[:2]
    with pytest.raises(ValueError, match="whole numbers from 1"):
        again.report(0, {})


@pytest.mark.parametrize("passed", [True, False])
def test_a_trial_waits_at_a_rung_until_it_is_decided(tmp_path: Path, passed: bool) -> None:
    reporter = Reporter(tmp_path, RULES)

    def compute() -> int:
        for step in range(1, 4):
            reporter.report(step, {"acc": 0.0})
        return step

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(compute)
        running.add_done_callback(lambda future: reporter.end())
        reporter.wait(30)
        reporter.go_on()
        assert reporter.at_rung, "a rung that the scheduler has not seen is not passed"
        assert reporter.look() == ((2, {"acc": 0.0}), [(1, {"acc": 0.0}), (2, {"acc": 0.0})])
        assert not running.done()
        if passed:
            reporter.go_on()
            assert running.result(30) == 3
        else:
            reporter.stop()
            with pytest.raises(TrialStopped):
                running.result(30)
            with pytest.raises(TrialStopped):
                reporter.report(3, {})
    # Where it got beyond the rung, the next try does not wait there again; else nobody knows what was decided.
    assert Reporter(tmp_path, RULES).ahead == ([4, 8] if passed else [2, 4, 8])


def decisions(rules: EarlyStopping, trials: list[Trial], values: list[float], before: int = 0) -> list[str]:
    """What becomes of trials that reach the first rung in turn; the first `before` of them did so in another run."""
    reports = [[(rules.grace, {"acc": value})] for value in values]
    known = [(trial, reports[index] if index < before else []) for index, trial in enumerate(trials)]
    scheduler = RungScheduler(rules, known)
    return [
        scheduler.on_trial_result(None, SimpleNamespace(config={"key": trial.key}), {"rung": reports[index]})
        for index, trial in enumerate(trials)
        if index >= before
    ]


def test_the_scheduler_stops_who_lags_behind() -> None:
    trials = [Trial({"language": language, "rate": n}, {}, 1.0) for n, language in enumerate(["de", "de", "sw", "sw"])]
    values = [0.9, 0.5, 0.3, 0.4]
    go, stop = "CONTINUE", "STOP"
    assert decisions(RULES, trials, values) == [go, stop, stop, stop]
    within = EarlyStopping(metric="acc", max_step=9, grace=2, reduction_factor=2, within=("language",))
    assert decisions(within, trials, values) == [go, stop, go, go], "languages are not played off against each other"
    smaller = EarlyStopping(metric="acc", max_step=9, grace=2, reduction_factor=2, mode="min")
    assert decisions(smaller, trials, values) == [go, go, go, go]
    assert decisions(RULES, trials, values, before=2) == [stop, stop], "an earlier run counts"
    assert decisions(RULES, trials, [math.nan, 0.5, math.nan, 0.6]) == [go, go, stop, go], "no number is the worst"


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="1 <= grace <= max_step"):
        EarlyStopping(metric="acc", max_step=3, grace=4)
