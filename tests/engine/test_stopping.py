"""A sweep that is stopped, killed and continued ends as if nothing had happened, every trial computed exactly once."""

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

from tests.engine.conftest import ToySweep, toy_sweep
from tests.engine.toy import process_of

JOB = Path(__file__).with_name("toy_job.py")
PATIENCE = 120.0


def start(toy: ToySweep, **options: object) -> subprocess.Popen[str]:
    """The toy job in a process group of its own, as a terminal starts it."""
    words = toy.options(size=5, sleep=1.5, concurrent=1, **options)
    return subprocess.Popen(
        [sys.executable, str(JOB), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until_finished(toy: ToySweep, trials: int) -> None:
    """Waits for so many trial files, then until the next trial is on its way."""
    limit = time.monotonic() + PATIENCE
    while len(list(toy.workspace.trials.glob("*.parquet"))) < trials:
        assert time.monotonic() < limit, "the job does not get on"
        time.sleep(0.05)
    time.sleep(0.5)


@pytest.mark.timeout(400)
def test_ctrl_c_kill_of_the_driver_and_kill_of_a_worker(tmp_path: Path) -> None:
    toy = toy_sweep(tmp_path)

    job = start(toy)
    wait_until_finished(toy, 1)
    os.killpg(job.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    out, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 130, out
    assert "Stopped. What is finished is kept; this continues it:" in out
    assert str(toy.marks) in out.splitlines()[-1], "the last line is the command"
    assert "Traceback" not in out

    job = start(toy)
    wait_until_finished(toy, 2)
    worker = psutil.Process(process_of(toy.marks, "load"))
    job.kill()
    job.communicate(timeout=PATIENCE)
    worker.wait(PATIENCE)  # a worker does not outlive its driver

    job = start(toy)
    wait_until_finished(toy, 3)
    psutil.Process(process_of(toy.marks, "load")).kill()
    out, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, out
    assert "5 numbers were squared." in out

    counts = toy.counts()
    assert {event: count for event, count in counts.items() if event.startswith("run-")} == {
        f"run-{n}": 1 for n in range(5)
    }
    assert counts["load"] == 4
    summary = json.loads((toy.workspace.folder / "summary.json").read_text())
    assert summary["squares"] == {str(n): float(n * n) for n in range(5)}
    assert summary["trials"] == {"planned": 5, "done": 3, "reused": 2, "failed": 0}
    assert not list(toy.workspace.scratch.glob("*"))
