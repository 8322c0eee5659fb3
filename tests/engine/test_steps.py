"""Trials that take steps, on a real Ray: checkpoints outlive kills, laggards are stopped early, stages wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from orchestrator.cli import main
from orchestrator.results import SweepOutcome
from tests.engine.conftest import ToySweep, toy_sweep
from tests.engine.steps import StepsSpec, StepsStudy, steps_taken
from tests.engine.toy import process_of

JOB = Path(__file__).with_name("steps_job.py")
PATIENCE = 120.0
ONCE = dict.fromkeys(range(1, 10), 1)


def content(outcome: SweepOutcome) -> list[object]:
    """What an interruption must not change."""
    return [(result.table.to_pylist(), result.history) for result in outcome.results]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray: None) -> list[object]:
    """What the trials of rates 3 and 1 come to."""
    return content(toy_sweep(tmp_path_factory.mktemp("undisturbed") / "toy").take_steps(rates=(3.0, 1.0)))


def test_a_killed_worker_continues_from_its_checkpoint_in_the_same_run_and_in_the_next(
    toy: ToySweep, undisturbed: list[object]
) -> None:
    first = toy.take_steps(rates=(3.0, 1.0), kill_at=("3:4", "1:9"), retries=0)
    assert [failed.reason.split(" (")[0] for failed in first.failed] == ["its process died"] * 2
    assert len(list(toy.workspace.scratch.iterdir())) == 2, "the checkpoints are kept"

    second = toy.take_steps(rates=(3.0, 1.0), kill_at=("3:6",), retries=1)
    assert (second.done, second.failed) == (2, [])
    assert content(second) == undisturbed
    assert steps_taken(toy.marks, 3) == steps_taken(toy.marks, 1) == ONCE
    assert not toy.workspace.scratch.exists(), "finished trials leave nothing there"


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_a_killed_driver_costs_no_step(toy: ToySweep, undisturbed: list[object]) -> None:
    words = toy.options(rates="3", sleep=0.5)
    job = subprocess.Popen([sys.executable, str(JOB), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    limit = time.monotonic() + PATIENCE
    while toy.counts().get("step-3-4", 0) == 0:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < limit, "the job does not get on"
        time.sleep(0.05)
    worker = psutil.Process(process_of(toy.marks, "step-*"))
    os.kill(job.pid, signal.SIGKILL)
    job.communicate(timeout=PATIENCE)
    worker.wait(PATIENCE)

    outcome = toy.take_steps(rates=(3.0,))
    assert content(outcome) == undisturbed[:1]
    taken = steps_taken(toy.marks, 3)
    assert list(taken) == list(ONCE)
    assert sum(taken.values()) <= 10, "at most the step that was interrupted is computed again"
    assert [taken[step] for step in (1, 2, 3)] == [1, 1, 1]


def test_laggards_are_stopped_their_worker_goes_on_and_the_record_is_believed(toy: ToySweep) -> None:
    assert toy.take_steps(rates=(3.0,), early=True).stopped == []
    outcome = toy.take_steps(rates=(3.0, 1.0, 4.0, 2.0), early=True)
    assert [result.trial.label for result in outcome.results] == ["rate=3.0", "rate=4.0"]
    assert (outcome.done, outcome.reused, outcome.failed) == (1, 1, [])
    assert [(each.trial.label, each.step) for each in outcome.stopped] == [("rate=1.0", 2), ("rate=2.0", 2)], (
        "the run before counts, and a trial goes on only if it is in the better half at step 2"
    )
    assert outcome.stopped[0].metrics == {"acc": 2.0, "loss": 0.5}
    assert outcome.stopped[0].history["acc"] == [(1, 1.0), (2, 2.0)]
    assert {rate: list(steps_taken(toy.marks, rate)) for rate in (1, 2)} == {1: [1, 2], 2: [1, 2]}
    assert toy.counts()["load"] == 2, "once in each run: the worker of a stopped trial takes the next one"
    assert not toy.workspace.scratch.exists()
    record = json.loads(toy.workspace.stopped_path(outcome.stopped[0].trial.key).read_text())
    assert record["early_stopping"]["grace"] == 2
    assert record["step"] == 2

    again = toy.take_steps(rates=(3.0, 1.0, 4.0, 2.0), early=True)
    assert (again.done, again.reused, again.stopped) == (0, 2, outcome.stopped)
    assert steps_taken(toy.marks, 1) == {1: 1, 2: 1}

    finished = toy.take_steps(rates=(3.0, 1.0), early=False)
    assert (finished.done, finished.reused, finished.stopped) == (1, 1, [])
    assert len(list(toy.workspace.trials.glob("*.stopped.json"))) == 1, "the record of 1.0 is gone, it was finished"


def test_the_end_says_who_was_stopped_and_mlflow_gets_the_curves(
    toy: ToySweep, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{toy.root / 'mlflow.db'}"
    words = [*toy.options(rates="3,1", concurrent=1, tracking=uri), "--early"]
    for _ in range(2):
        assert main(StepsSpec, StepsStudy, description="", argv=words) == 0
    out, _ = capsys.readouterr()
    assert "1 trials computed, 0 reused, 1 stopped early, 0 failed" in out
    assert "0 trials computed, 1 reused, 1 stopped early, 0 failed" in out
    assert "- rate=1.0 at step 2: acc 2, loss 0.5" in out
    summary = json.loads((toy.workspace.folder / "summary.json").read_text())
    assert summary["trials"] == {"planned": 2, "done": 0, "reused": 1, "failed": 0, "stopped_early": 1}
    assert summary["stopped_early"] == [{"cell": {"rate": 1.0}, "step": 2, "metrics": {"acc": 2.0, "loss": 0.5}}]
    assert summary["stopped_labels"] == ["rate=1.0"], "a study knows, too"
    assert "Stopped early" in (toy.workspace.folder / "report.html").read_text()

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("babelsweep-steps")
    assert experiment is not None
    (child,) = client.search_runs([experiment.experiment_id], filter_string="tags.trial_key != ''")
    for name, values in (("acc", [3.0 * step for step in ONCE]), ("loss", [1 / step for step in ONCE])):
        curve = client.get_metric_history(child.info.run_id, name)
        assert [(each.step, each.value) for each in curve] == list(enumerate(values, start=1)), "each step once"

    assert main(StepsSpec, StepsStudy, description="", argv=[*words, "--dry-run"]) == 0
    assert "2 planned, 1 finished, 1 stopped early, 0 to run" in capsys.readouterr().out


def test_a_stage_waits_for_the_one_before_it_and_is_refused_if_that_fails(toy: ToySweep) -> None:
    outcome = toy.take_steps(rates=(3.0, 1.0), base="bad", retries=0)
    first, second, base = outcome.failed
    assert base.reason == "ValueError: the base fails on purpose"
    assert first.reason == second.reason == "not started, because it builds on the stage of base, which failed"
    assert toy.counts() == {"load": 1, "base": 1}

    mended = toy.take_steps(rates=(3.0, 1.0), base="good")
    assert (mended.done, mended.failed) == (3, [])
    labels = [result.trial.label for result in mended.results]
    assert labels == ["rate=3.0", "rate=1.0", "base"], "in the order of the grid"
