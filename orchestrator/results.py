"""Trial files and what is derived from them.

A finished trial is one Parquet file with its provenance in the schema's metadata; these files are the truth. The
summary, the figures, the report and the MLflow runs are derived from them and can be derived again.
"""

from __future__ import annotations

import io
import json
import math
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.atomic import write_atomically
from orchestrator.reports import Report, as_history
from orchestrator.study import EarlyStopping, History, StoppedTrial, Study, Trial, TrialResult

SUMMARY = "summary.json"
METADATA_KEY = b"babelsweep"
LIBRARIES = ("babelsweep", "torch", "transformers", "ray", "pyarrow")


class DamagedTrial(Exception):
    """A trial file that cannot be read, or that is not what its name says."""


@dataclass(frozen=True)
class FailedTrial:
    """A trial that did not finish: why in one line, the full story in `log`; `refused` when a retry could not help."""

    trial: Trial
    reason: str
    log: Path
    refused: bool = False


@dataclass(frozen=True)
class SweepOutcome:
    """What a run of a sweep came to.

    Attributes:
        results: all finished trials in the order of the grid.
        done: how many of them this run computed.
        reused: how many were there before.
        failed: the trials that did not finish.
        seconds: wall time of this run.
        notes: what the engine has to say, such as a damaged file set aside.
        stopped: the trials that were stopped early, now and before, in the order of the grid.
    """

    results: Sequence[TrialResult]
    done: int
    reused: int
    failed: Sequence[FailedTrial]
    seconds: float
    notes: Sequence[str]
    stopped: Sequence[StoppedTrial] = ()

    @property
    def warnings(self) -> list[str]:
        """The engine's notes and the trials' warnings, each once."""
        found = [*self.notes]
        for result in self.results:
            found.extend(result.provenance.get("warnings", ()))
        return list(dict.fromkeys(found))

    @property
    def counts(self) -> str:
        """How many trials came to what, in words."""
        stopped = f", {len(self.stopped)} stopped early" if self.stopped else ""
        return f"{self.done} computed, {self.reused} reused{stopped}, {len(self.failed)} failed"


def encode_trial(table: pa.Table, record: Mapping[str, Any]) -> bytes:
    """The Parquet file of a trial: its table, and `record` as JSON in the metadata; pages carry checksums."""
    labelled = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(record, ensure_ascii=False).encode()}
    )
    sink = io.BytesIO()
    pq.write_table(labelled, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def save_trial(path: Path, data: bytes) -> None:
    """Writes an encoded trial; `path` is whole or absent whatever happens.

    Raises:
        UserError: the disk is full or may not be written to.
    """
    _save(path, data)


def _save(path: Path, data: bytes) -> None:
    def write(file: BinaryIO) -> None:
        file.write(data)

    write_atomically(path, write)


def read_trial(path: Path, trial: Trial) -> TrialResult:
    """Reads and verifies the file of a finished trial.

    Raises:
        DamagedTrial: it is not readable to the last page, or belongs to another trial.
        FileNotFoundError: there is none.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True, memory_map=False)
        record = json.loads((table.schema.metadata or {})[METADATA_KEY])
        if record["key"] != trial.key:
            raise DamagedTrial(f"it holds trial {record['key']}")
        history = _history(record.get("history", {}))
        return TrialResult(trial, table, float(record["seconds"]), int(record["peak_bytes"]), record, history)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DamagedTrial(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _history(stored: Mapping[str, Any]) -> History:
    return {name: [(int(step), float(value)) for step, value in values] for name, values in stored.items()}


def stopped_trial(trial: Trial, reports: Sequence[Report]) -> StoppedTrial:
    """A trial that was stopped at the last of its reports."""
    step, metrics = reports[-1]
    return StoppedTrial(trial, step, metrics, as_history(reports))


def save_stopped(path: Path, stopped: StoppedTrial, rules: EarlyStopping) -> None:
    """Writes the record of a trial that was stopped early, with the rules that stopped it."""
    trial = stopped.trial
    record = {"key": trial.key, "cell": dict(trial.cell), "step": stopped.step, "metrics": dict(stopped.metrics)}
    write_json(path, record | {"early_stopping": asdict(rules), "history": stopped.history})


def read_stopped(path: Path, trial: Trial, rules: EarlyStopping) -> StoppedTrial | None:
    """The record of a trial that was stopped early; None without a whole record, or if other rules stopped it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = record["key"] == trial.key and record["early_stopping"] == json.loads(json.dumps(asdict(rules)))
        return (
            StoppedTrial(trial, int(record["step"]), dict(record["metrics"]), _history(record["history"]))
            if same
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries an answer depends on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of the project's checkout, with ``-dirty`` when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def document(study: Study[Any], name: str, outcome: SweepOutcome) -> dict[str, Any]:
    """What the engine says in summary.json, before the study's own keys."""
    return {
        "sweep": name,
        "study": study.name,
        **study.describe(),
        "seconds": round(outcome.seconds, 3),
        "trials": {
            "planned": len(outcome.results) + len(outcome.failed) + len(outcome.stopped),
            "done": outcome.done,
            "reused": outcome.reused,
            "failed": len(outcome.failed),
            **({"stopped_early": len(outcome.stopped)} if outcome.stopped else {}),
        },
        **({"stopped_early": [_stopped(trial) for trial in outcome.stopped]} if outcome.stopped else {}),
    }


def _stopped(stopped: StoppedTrial) -> dict[str, Any]:
    """A trial that was stopped early, in plain JSON: a metric that is not a number is null."""
    metrics = {name: value if math.isfinite(value) else None for name, value in stopped.metrics.items()}
    return {"cell": dict(stopped.trial.cell), "step": stopped.step, "metrics": metrics}


def provenance(study: Study[Any], outcome: SweepOutcome, command: str) -> dict[str, str]:
    """How it was run, in words, for the report."""
    compute = sum(result.seconds for result in outcome.results)
    peak = max((result.peak_bytes for result in outcome.results), default=0)
    return {
        **study.describe(),
        "command": command,
        "trials": outcome.counts,
        "time": f"{outcome.seconds:.1f} s for this run, {compute:.1f} s of computing in all trials",
        "peak memory of a trial": f"{peak / 1e6:.0f} MB",
        "machine": socket.gethostname(),
    }


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically, readable by people."""
    save_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n")


def save_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    _save(path, text.encode())


def _plain(value: Any) -> Any:
    """NumPy scalars and paths as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet table atomically."""
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
