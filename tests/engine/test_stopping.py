"""A sweep that is stopped, killed and continued ends as if nothing had happened, every trial computed exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.engine.conftest import ToySweep, toy_sweep
from tests.engine.toy import process_of

JOB = Path(__file__).with_name("toy_job.py")
PATIENCE = 120.0


def start(toy: ToySweep) -> subprocess.Popen[str]:
    """Starts the toy job in a process group of its own, as a terminal does, and waits for its second trial to begin."""
    before = Counter(toy.counts())
    job = subprocess.Popen(
        [sys.executable, str(JOB), *toy.options(size=6, sleep=1.5, concurrent=1)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    limit = time.monotonic() + PATIENCE
    while True:
        new = Counter(toy.counts()) - before
        begun, done = (sum(new[f"{event}-{n}"] for n in range(6)) for event in ("try", "run"))
        if begun > done >= 1:
            return job
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < limit, "the job does not get on"
        time.sleep(0.05)


@pytest.mark.timeout(400)
def test_ctrl_c_kill_of_the_driver_and_kill_of_a_worker(tmp_path: Path) -> None:
    toy = toy_sweep(tmp_path)

    job = start(toy)
    os.killpg(job.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    out, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 130, out
    assert "Stopped. What is finished is kept; this continues it:" in out
    assert str(toy.marks) in out.splitlines()[-1], "the last line is the command"
    assert "Traceback" not in out

    job = start(toy)
    worker = psutil.Process(process_of(toy.marks, "try-*"))
    job.kill()
    job.communicate(timeout=PATIENCE)
    worker.wait(PATIENCE)  # a worker does not outlive its driver

    job = start(toy)
    psutil.Process(process_of(toy.marks, "try-*")).kill()
    out, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, out
    assert "6 numbers were squared." in out

    counts = toy.counts()
    assert [counts[f"run-{n}"] for n in range(6)] == [1] * 6
    assert sum(counts[f"try-{n}"] for n in range(6)) > 6, "what was interrupted was begun again"
    summary = json.loads((toy.workspace.folder / "summary.json").read_text())
    assert summary["squares"] == {str(n): float(n * n) for n in range(6)}
    trials = summary["trials"]
    assert (trials["planned"], trials["done"] + trials["reused"], trials["failed"]) == (6, 6, 0)
    assert not list(toy.workspace.scratch.glob("*"))
