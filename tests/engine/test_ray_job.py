"""The sweep as a Ray job: submitted to a running cluster, killed in the middle, submitted again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engine.conftest import ToySweep, toy_sweep
from tests.engine.toy import process_of

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """A cluster of one node with two cores; yields where jobs are submitted."""
    port = free_port()
    ports = [
        "--port",
        free_port(),
        "--ray-client-server-port",
        free_port(),
        "--dashboard-agent-listen-port",
        free_port(),
    ]
    own = ["--dashboard-host", "127.0.0.1", "--dashboard-port", port, "--num-cpus", "2", "--disable-usage-stats"]
    with tempfile.TemporaryDirectory(prefix="rj-", ignore_cleanup_errors=True) as folder:
        with (Path(folder) / "head.log").open("w") as log:
            head = subprocess.Popen(
                [BIN / "ray", "start", "--head", "--block", "--temp-dir", f"{folder}/ray", *ports, *own],
                env=ENVIRONMENT,
                stdout=log,
                stderr=log,
            )
        try:
            limit = time.monotonic() + 120
            while "--block" not in (Path(folder) / "head.log").read_text():
                assert head.poll() is None, (Path(folder) / "head.log").read_text()
                assert time.monotonic() < limit
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)


def submit(dashboard: str, toy: ToySweep) -> subprocess.Popen[str]:
    job = ["python", "tests/engine/toy_job.py", *toy.options(size=5, sleep=2, concurrent=1)]
    return subprocess.Popen(
        [BIN / "ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *job],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(toy: ToySweep, event: str) -> None:
    limit = time.monotonic() + 120
    while event not in toy.counts():
        assert time.monotonic() < limit, f"{event} does not happen: {toy.counts()}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_whose_driver_and_worker_are_killed_is_submitted_again(tmp_path: Path, dashboard: str) -> None:
    toy = toy_sweep(tmp_path)
    job = submit(dashboard, toy)
    wait_until(toy, "try-3")
    (driver,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(toy.marks) in (process.info["cmdline"] or [])
        and "submit" not in process.info["cmdline"]
        and "python" in process.info["cmdline"][0]
    ]
    worker = psutil.Process(process_of(toy.marks, "try-3"))
    assert "_ray_pkg_" in driver.cwd(), "the job runs in its own copy of the project"
    driver.kill()
    out, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    worker.wait(60)

    job = submit(dashboard, toy)
    wait_until(toy, "try-2")
    psutil.Process(process_of(toy.marks, "try-2")).kill()
    out, _ = job.communicate(timeout=180)
    assert job.returncode == 0, out
    assert f"Report: {(toy.workspace.folder / 'report.html').as_uri()}" in out
    counts = toy.counts()
    assert [counts[f"run-{n}"] for n in range(5)] == [1] * 5
    summary = json.loads((toy.workspace.folder / "summary.json").read_text())
    assert summary["squares"] == {str(n): float(n * n) for n in range(5)}
    assert summary["trials"] == {"planned": 5, "done": 4, "reused": 1, "failed": 0}
