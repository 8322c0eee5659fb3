"""MLflow: one parent run per sweep and one child run for each thing compared, written by the driver alone.

What is sent stands in ``tracking.json`` in the sweep's folder, so it can be sent later, or again, to any server. Runs
are looked up before they are created: sending twice adds no run. `MlflowClient` is used throughout, because the
functions at MLflow's top level export an experiment that later runs of the same process would inherit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from orchestrator.errors import UserError, did_you_mean
from orchestrator.results import write_json
from orchestrator.study import History, Summary, Trial

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

TRACKING_FILE = "tracking.json"
OFF = "none"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
SWEEP_TAG = "babelsweep.sweep"
KEY_TAG = "trial_key"
PARENT_TAG = "mlflow.parentRunId"
ARTIFACTS = ("report.html", "summary.json", "summary.parquet", "spec.yaml", "figures")
MAX_METRICS, MAX_PARAMS = 1000, 100

PRIVATE = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
# Only for our calls: a server that is down should cost seconds, not MLflow's usual minutes of patience.
KNOCKING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
SENDING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class TrackingUnavailable(ConnectionError):
    """The tracking server did not take the runs; they can be sent later from the sweep's folder."""


def tracking_uri(asked: str | None, root: Path) -> str:
    """`asked`, else ``$MLFLOW_TRACKING_URI``, else a database beside the results; ``"none"`` turns tracking off.

    Raises:
        UserError: it is not an address that MLflow can write to.
    """
    uri = asked or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    scheme = uri.split("://", 1)[0].split("+", 1)[0]
    if uri != OFF and ("://" not in uri or scheme not in SCHEMES):
        raise UserError(
            f"The tracking address {uri!r} is none that MLflow can write to: use http://HOST:PORT for a server, "
            f"sqlite:////FOLDER/mlflow.db for a file, or 'none'.{did_you_mean(scheme, SCHEMES)}"
        )
    return uri


def write_tracking(
    folder: Path, study: str, trials: Sequence[Trial], summary: Summary, params: Mapping[str, Any], failed: int
) -> None:
    """Writes what is to be tracked of a sweep into its folder.

    Args:
        folder: the sweep's folder; its name is the sweep's.
        study: the study's name; all its sweeps are in one experiment, so that they can be compared.
        trials: the grid; a sweep is the same sweep as long as name, grid and parameters are the same.
        summary: the answer.
        params: the parent run's parameters.
        failed: trials that failed.
    """
    identity = [study, folder.name, sorted(trial.key for trial in trials), {key: str(params[key]) for key in params}]
    content = {
        "experiment": f"babelsweep-{study}",
        "sweep": folder.name,
        "sweep_id": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20],
        "status": "FAILED" if failed else "FINISHED",
        "headline": summary.headline,
        "params": dict(params),
        "metrics": dict(summary.metrics),
        "runs": [
            {"key": run.key, "name": run.name, "params": dict(run.params), "metrics": dict(run.metrics)}
            | ({"history": _finite(run.history)} if run.history else {})
            for run in summary.runs
        ],
    }
    write_json(folder / TRACKING_FILE, content)


def _finite(history: History) -> dict[str, list[tuple[int, float]]]:
    """Curves without the values that are not numbers, which MLflow does not draw."""
    return {name: [(step, value) for step, value in values if math.isfinite(value)] for name, values in history.items()}


def send(folder: Path, uri: str) -> None:
    """Sends the sweep in `folder` to MLflow, updating the runs that are already there.

    Raises:
        UserError: the folder holds no sweep, or tracking is turned off.
        TrackingUnavailable: the server or database did not take it, within seconds.
    """
    if uri == OFF:
        raise UserError(
            f"Tracking is turned off ({OFF!r}), so {folder} was not sent. Name a server or a database with --tracking, "
            "or unset MLFLOW_TRACKING_URI."
        )
    try:
        content = json.loads((folder / TRACKING_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {TRACKING_FILE}, so there is nothing to send. Name the folder of a finished sweep."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / TRACKING_FILE} cannot be read ({error}). Run the sweep again to renew it."
        ) from error
    os.environ.update(PRIVATE)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Several sweeps may end at once, also of several outputs, and MLflow's migration of a fresh database does not bear
    # company. The lock makes the folder of a database that is not there yet.
    database = _database(uri)
    try:
        with FileLock(database.with_name(f".{database.name}.lock")) if database else nullcontext():
            client = MlflowClient(tracking_uri=uri)
            place = None if uri.startswith("http") else (folder.parent / "mlartifacts").as_uri()
            with _environment(KNOCKING):
                client.search_experiments(max_results=1)
            with _environment(SENDING):
                _send(client, _experiment(client, content["experiment"], place), content, folder)
    except (MlflowException, OSError) as error:  # the errors of requests are OSErrors
        raise TrackingUnavailable(_first_line(error)) from error


def _database(uri: str) -> Path | None:
    """The file of an sqlite address, the same however it is written; None for a server, or a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = uri.partition(":///")[2].partition("?")[0]
    return Path(name).resolve() if name not in ("", ":memory:") else None


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _send(client: MlflowClient, experiment: str, content: Mapping[str, Any], folder: Path) -> None:
    own = f"tags.`{SWEEP_TAG}` = '{content['sweep_id']}'"
    parents = client.search_runs([experiment], filter_string=own, max_results=1)
    parent = _update(
        client,
        experiment,
        parents[0] if parents else None,
        name=content["sweep"],
        params=content["params"],
        metrics=content["metrics"],
        tags={SWEEP_TAG: content["sweep_id"], "mlflow.note.content": content["headline"]},
        status=content["status"],
    )
    children = _children(client, experiment, parent)
    for run in content["runs"]:
        _update(
            client,
            experiment,
            children.get(run["key"]),
            name=run["name"],
            params=run["params"],
            metrics=run["metrics"],
            tags={KEY_TAG: run["key"], PARENT_TAG: parent},
            status="FINISHED",
            history=run.get("history", {}),
        )
    for name in ARTIFACTS:
        path = folder / name
        if path.is_dir():
            client.log_artifacts(parent, str(path), artifact_path=name)
        elif path.exists():
            client.log_artifact(parent, str(path))


def _children(client: MlflowClient, experiment: str, parent: str) -> dict[str, Run]:
    """The sweep's child runs by trial key."""
    found: dict[str, Run] = {}
    page = None
    while True:
        runs = client.search_runs([experiment], filter_string=f"tags.`{PARENT_TAG}` = '{parent}'", page_token=page)
        found |= {run.data.tags[KEY_TAG]: run for run in runs if KEY_TAG in run.data.tags}
        page = runs.token
        if not page:
            return found


def _update(
    client: MlflowClient,
    experiment: str,
    run: Run | None,
    *,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    status: str,
    history: History = MappingProxyType({}),
) -> str:
    """Creates the run or brings it up to date; only what differs is written. Returns the run's id."""
    import mlflow.entities as entities

    wanted = {key: str(value) for key, value in params.items()}
    if run is not None and any(run.data.params.get(key, text) != text for key, text in wanted.items()):
        client.delete_run(run.info.run_id)  # MLflow's parameters cannot be changed
        run = None
    if run is None:
        run = client.create_run(experiment, run_name=name, tags=dict(tags))
    run_id = str(run.info.run_id)
    new_params = [entities.Param(key, text) for key, text in wanted.items() if key not in run.data.params]
    now = int(time.time() * 1000)
    changed = [
        entities.Metric(key, float(value), timestamp=now, step=step)
        for key, values in history.items()
        for step, value in _missing(client, run, key, values)
    ]
    for key, value in metrics.items():
        # MLflow shows the value of the highest step, and there the latest: for a metric with a history, its end.
        step, newest = history[key][-1] if history.get(key) else (0, None)
        if run.data.metrics.get(key, newest) != float(value):
            changed.append(entities.Metric(key, float(value), timestamp=now + 1, step=step))
    for start in range(0, len(new_params), MAX_PARAMS):
        client.log_batch(run_id, params=new_params[start : start + MAX_PARAMS])
    for start in range(0, len(changed), MAX_METRICS):
        client.log_batch(run_id, metrics=changed[start : start + MAX_METRICS])
    for key, text in tags.items():
        if run.data.tags.get(key) != text:
            client.set_tag(run_id, key, text)
    if run.info.status != status:
        client.set_terminated(run_id, status=status)
    return run_id


def _missing(client: MlflowClient, run: Run, key: str, values: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The steps of a metric that the run does not have yet, or has with another value."""
    if key not in run.data.metrics:
        return list(values)
    there = {(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)}
    return [(step, value) for step, value in values if (step, float(value)) not in there]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the length of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
