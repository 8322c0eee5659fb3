"""MLflow: a parent run per sweep, a child run per key, and never one twice; a server that is down costs a warning."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pyarrow as pa
import pytest
from filelock import FileLock
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.cli import main
from orchestrator.errors import UserError
from orchestrator.study import Summary, TrackedRun, Trial
from orchestrator.tracking import TrackingUnavailable, send, tracking_uri, write_tracking
from tests.engine.conftest import ToySweep
from tests.engine.toy import ToySpec, ToyStudy

ROOT = Path(__file__).resolve().parents[2]
TRIALS = [Trial({"n": n}, {}, 1.0) for n in range(2)]


def write(folder: Path, sum_of_squares: float = 1.0, model: str = "squares") -> None:
    """What a finished sweep leaves in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text("<p>report</p>")
    (folder / "summary.json").write_text("{}")
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "gain.png").write_bytes(b"png")
    runs = [
        TrackedRun(trial.key, f"n={n}", {"n": n, "model": model}, {"square": n * sum_of_squares})
        for n, trial in enumerate(TRIALS)
    ]
    summary = Summary({}, pa.table({}), [], runs, {"sum": sum_of_squares}, "Two numbers were squared.")
    write_tracking(folder, "toy", TRIALS, summary, {"model": model}, failed=0)


def runs(uri: str) -> tuple[list[Run], list[Run]]:
    """Parents and children."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("babelsweep-toy")
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in found if run not in parents]


def check_that_sending_twice_adds_nothing(root: Path, uri: str) -> None:
    folder = root / "mine"
    write(folder)
    send(folder, uri)
    send(folder, uri)
    (parent,), children = runs(uri)
    assert parent.info.run_name == "mine"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"model": "squares"}
    assert parent.data.metrics == {"sum": 1.0}
    assert parent.data.tags["mlflow.note.content"] == "Two numbers were squared."
    assert {run.data.tags["trial_key"] for run in children} == {trial.key for trial in TRIALS}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {(run.data.params["n"], run.data.metrics["square"]) for run in children} == {("0", 0.0), ("1", 1.0)}
    artifacts = {item.path for item in MlflowClient(tracking_uri=uri).list_artifacts(parent.info.run_id)}
    assert artifacts == {"report.html", "summary.json", "figures"}

    write(folder, sum_of_squares=2.0)
    send(folder, uri)
    (parent,), children = runs(uri)
    assert parent.data.metrics == {"sum": 2.0}, "a metric that changed is brought up to date"
    assert len(children) == 2

    write(root / "other", model="cubes")
    send(root / "other", uri)
    parents, children = runs(uri)
    assert {run.data.params["model"] for run in parents} == {"squares", "cubes"}, "two sweeps can be compared"
    assert len(children) == 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *store], env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        limit = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < limit, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_a_database_beside_the_results(tmp_path: Path) -> None:
    check_that_sending_twice_adds_nothing(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlartifacts").is_dir()


def test_who_shares_a_database_waits_for_others_wherever_their_output_is(tmp_path: Path) -> None:
    """MLflow's migration of a fresh database does not bear company."""
    database = tmp_path / "shared" / "mlflow.db"
    write(tmp_path / "output" / "mine")
    with ThreadPoolExecutor(1) as pool:
        with FileLock(database.with_name(".mlflow.db.lock")):
            sending = pool.submit(send, tmp_path / "output" / "mine", f"sqlite:///{database}")
            assert not wait([sending], timeout=0.5).done
            assert not database.exists()
        sending.result()
    assert len(runs(f"sqlite:///{database}")[0]) == 1


def test_a_server(tmp_path: Path, server: str) -> None:
    check_that_sending_twice_adds_nothing(tmp_path, server)


def test_a_run_whose_parameters_changed_is_replaced(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mine"
    write(folder)
    send(folder, uri)
    text = (folder / "tracking.json").read_text()
    (folder / "tracking.json").write_text(text.replace('"n": 1', '"n": 11'))
    send(folder, uri)
    _, children = runs(uri)
    assert sorted(run.data.params["n"] for run in children) == ["0", "11"]


def test_a_curve_grows_and_its_end_is_what_is_shown(tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mine"
    write(folder)
    client = MlflowClient(tracking_uri=uri)
    curve = [(1, 0.5), (2, 0.9), (3, float("nan"))]
    for end in (curve, [*curve, (4, 0.8)]):
        trained = TrackedRun(TRIALS[0].key, "n=0", {"n": 0}, {"acc": 0.7}, {"acc": end})
        summary = Summary({}, pa.table({}), [], [trained], {}, "One model was trained.")
        write_tracking(folder, "toy", TRIALS, summary, {}, failed=0)
        send(folder, uri)
        send(folder, uri)
        _, (child,) = runs(uri)
        assert child.data.metrics == {"acc": 0.7}, "the final value, reported after the last step"
        there = [(metric.step, metric.value) for metric in client.get_metric_history(child.info.run_id, "acc")]
        assert there.count((1, 0.5)) == there.count((2, 0.9)) == 1, "no step twice"
    assert (4, 0.8) in there


def test_a_server_that_accepts_and_never_answers_costs_seconds(tmp_path: Path) -> None:
    write(tmp_path / "mine")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TrackingUnavailable):
            send(tmp_path / "mine", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 20
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_sweep_outlives_its_tracking_server_and_is_sent_later(
    toy: ToySweep, capsys: pytest.CaptureFixture[str]
) -> None:

    words = toy.options(size=2, tracking="http://127.0.0.1:9")
    assert main(ToySpec, ToyStudy, description="", argv=words) == 0
    out, errors = capsys.readouterr()
    assert "2 numbers were squared." in out
    assert "MLflow at http://127.0.0.1:9 did not take the runs" in errors
    assert f"jobs/track.py {toy.workspace.folder} --tracking http://127.0.0.1:9" in errors

    uri = f"sqlite:///{toy.root / 'later.db'}"
    track = [sys.executable, str(ROOT / "jobs" / "track.py"), str(toy.workspace.folder), "--tracking", uri]
    done = subprocess.run(track, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Sent toy to {uri}" in done.stdout
    (parent,), children = runs(uri)
    assert parent.data.metrics == {"sum": 1.0}
    assert len(children) == 2


def test_a_folder_that_holds_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Name the folder of a finished sweep"):
        send(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(UserError, match="Tracking is turned off"):
        send(tmp_path, "none")


def test_where_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab:5000")
    assert tracking_uri(None, tmp_path) == "http://lab:5000"
    assert tracking_uri("none", tmp_path) == "none"
    for wrong in ("localhost:5000", "file:///tmp/mlruns", "htp://lab:5000"):
        with pytest.raises(UserError, match="none that MLflow can write to"):
            tracking_uri(wrong, tmp_path)
