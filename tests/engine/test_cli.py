"""The command line from end to end: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.cli import StopSignals, guarded, main
from orchestrator.console import duration
from orchestrator.errors import UserError
from orchestrator.plan import START_SECONDS
from orchestrator.ray_session import cluster_address
from tests.engine.conftest import ToySweep, toy_sweep
from tests.engine.toy import ToySpec, ToyStudy

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls the toy job with these words; returns exit code, output and errors."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(ToySpec, ToyStudy, description="Squares numbers.", argv=words)
        out, errors = capsys.readouterr()
        return code, out, errors

    return call


def test_a_sweep_says_what_it_found_and_where(toy: ToySweep, cli: Cli) -> None:
    code, out, errors = cli(*toy.options(size=3))
    assert (code, errors) == (0, "")
    folder = toy.workspace.folder
    assert "3 numbers were squared." in out
    assert "3 trials computed, 0 reused, 0 failed" in out
    assert out.splitlines()[-1] == f"Report: {(folder / 'report.html').as_uri()}"

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["sweep"], summary["study"]) == ("toy", "toy")
    assert (summary["model"], summary["data"]) == ("squares", "numbers")
    assert summary["trials"] == {"planned": 3, "done": 3, "reused": 0, "failed": 0}
    assert summary["squares"] == {"0": 0.0, "1": 1.0, "2": 4.0}
    assert pq.read_table(folder / "summary.parquet")["square"].to_pylist() == [0.0, 1.0, 4.0]
    assert "3 numbers were squared." in (folder / "report.html").read_text()

    code, out, _ = cli("--config", str(folder / "spec.yaml"))
    assert code == 0, "the sweep's own specification runs it again"
    assert "0 trials computed, 3 reused" in out
    assert json.loads((folder / "summary.json").read_text())["squares"] == summary["squares"]


def test_failed_trials_are_listed_and_the_answer_is_derived_from_the_others(toy: ToySweep, cli: Cli) -> None:
    code, out, errors = cli(*toy.options(size=2, retries=0, fail_first="1:9"))
    assert code == 1
    assert "1 numbers were squared." in out
    assert "1 trials failed" in errors
    assert "- n=1: ValueError: trial 1 fails on purpose" in errors
    assert f"log: {toy.workspace.logs}" in errors
    assert json.loads((toy.workspace.folder / "summary.json").read_text())["trials"]["failed"] == 1
    assert "trial 1 fails on purpose" in (toy.workspace.folder / "report.html").read_text()

    code, _, errors = cli(*toy.options(size=2, refuse=1))
    assert code == 2, "all that failed is a mistake of the user's"
    assert "1 is not a number this model knows. Choose another." in errors


def test_a_dry_run_shows_the_plan_and_runs_nothing(tmp_path: Path, cli: Cli) -> None:
    toy = toy_sweep(tmp_path)
    code, out, _ = cli(*toy.options(size=4, sleep=100), "--dry-run")
    assert code == 0
    for part in ("40.0%", "to run", "4 planned, 0 finished, 4 to run", "at a time, each with", "toy numbers", "about "):
        assert part in out
    assert not toy.workspace.folder.exists()
    assert toy.counts() == {}


def test_a_dry_run_says_so_where_it_cannot_tell_how_long(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyStudy, "prepare", lambda self: setattr(self, "can_measure", False))
    _, out, _ = cli(*toy_sweep(tmp_path).options(size=2), "--dry-run")
    assert len(re.findall("(?:work|time) +not known, as it cannot be measured on this machine", out)) == 2
    assert "0.00e+00" not in out


def test_a_dry_run_counts_whole_trials(tmp_path: Path, cli: Cli) -> None:
    _, out, _ = cli(*toy_sweep(tmp_path).options(size=2, sleep=90), "--dry-run")
    both_at_once = "2 at a time" in out
    trials = 120 if both_at_once else 180
    assert f"about {duration(START_SECONDS + trials)}" in out, "the larger trial is two thirds of 180 seconds"


def test_the_same_sweep_started_twice_is_refused(tmp_path: Path, cli: Cli) -> None:
    toy = toy_sweep(tmp_path)
    with toy.workspace.locked():
        code, _, errors = cli(*toy.options())
    assert code == 2
    assert "Another run of this sweep is at work" in errors
    assert toy.counts() == {}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_with_the_command_that_goes_on_and_a_second_one_does_not_disturb(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before, cleaned = signal.getsignal(number), []

    def run(console: Console, errors: Console, signals: StopSignals) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(signals.received)
        return 0

    assert guarded(run, "python toy_job.py --size 3") == code
    assert cleaned == [number]
    said = ["Stopped. What is finished is kept; this continues it:", "  python toy_job.py --size 3"]
    assert capsys.readouterr().err.splitlines() == said
    assert signal.getsignal(number) is before


def test_where_jobs_are_submitted_is_no_cluster_to_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match=r"ray job submit.*or unset RAY_ADDRESS"):
        cluster_address()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sise", "3"], "There is no option --sise. Did you mean '--size'"),
        (["--size", "13"], "- size 13 brings bad luck.\n- Choose another size."),
        (["--cpus-per-trial", "999"], "--cpus-per-trial 999 can never be met"),
        (["--memory", "900TB"], "--memory 900.0 TB a trial can never be met"),
        (["--tracking", "localhost:5000"], "use http://HOST:PORT for a server"),
        (["--output", "/dev/null/results"], "cannot be written to"),
    ],
)
def test_mistakes_end_with_exit_code_2_before_anything_is_written(
    tmp_path: Path, cli: Cli, words: list[str], message: str
) -> None:
    toy = toy_sweep(tmp_path)
    given = toy.options()
    if words[0] in given:
        place = given.index(words[0])
        del given[place : place + 2]
    code, _, errors = cli(*given, *words)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not toy.workspace.folder.exists()
    assert toy.counts() == {}
