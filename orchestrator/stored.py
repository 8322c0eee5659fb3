"""A sweep's folder read back without its study, and answers written where no sweep was run.

With this an answer can be derived again, or several sweeps compared, on any machine that has their folders: the trial
files and spec.yaml suffice, no model and no data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import tracking
from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.results import (
    METADATA_KEY,
    DamagedTrial,
    git_commit,
    read_trial,
    versions,
    write_json,
    write_table,
)
from orchestrator.spec import ENGINE_FIELDS, SweepSpec
from orchestrator.study import Summary, Trial, TrialResult

SPEC, SUMMARY, TRIALS = "spec.yaml", "summary.json", "trials"


@dataclass(frozen=True)
class StoredSweep:
    """What a sweep's folder holds.

    Attributes:
        folder: the folder; its name is the sweep's.
        summary: summary.json, empty for a sweep that has not come to its end yet.
        results: the finished trials, by key.
        notes: what could not be read.
    """

    folder: Path
    summary: Mapping[str, Any]
    results: Sequence[TrialResult]
    notes: Sequence[str]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def spec_path(self) -> Path:
        return self.folder / SPEC


def open_sweep(folder: Path, study: str, belongs: Sequence[str] | None = None) -> StoredSweep:
    """Reads a sweep of a study.

    Args:
        folder: the sweep's folder.
        study: the name of the study it must be of.
        belongs: keys of the sweep's trials; default: all in the folder, of which no two may be of one cell.

    Raises:
        UserError: there is no such sweep, it is of another study, or nothing of it is finished.
    """
    problems = Problems()
    if not (folder / TRIALS).is_dir() or not (folder / SPEC).is_file():
        beside = [path.parent.name for path in folder.parent.glob(f"*/{SPEC}")] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, beside)
        raise UserError(f"{folder} is not the folder of a sweep: it has no {SPEC} with {TRIALS}/ beside it.{hint}")
    results: list[TrialResult] = []
    notes: list[str] = []
    strangers: set[str] = set()
    for path in sorted((folder / TRIALS).glob("*.parquet")):
        if belongs is not None and path.stem not in belongs:
            continue
        try:
            record = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
            if record["study"] != study:
                strangers.add(record["study"])
                continue
            results.append(read_trial(path, _trial(record["key"], record["cell"])))
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, DamagedTrial) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            notes.append(f"{path.name} cannot be read ({reason}) and is left out; running the sweep again mends it")
    if strangers:
        problems.add(f"{folder} is a sweep of {', '.join(sorted(strangers))}, not of {study}: name a sweep of {study}.")
    elif not results:
        problems.add(f"{folder} has no finished trial of {study} yet, so nothing can be told. Run the sweep first.")
    if belongs is not None and (missing := len(belongs) - len(results) - len(notes)):
        notes.append(f"{missing} of {len(belongs)} trials have no file any more and are left out")
    if belongs is None and (twice := _twice(results)):
        problems.add(
            f"{folder} holds trials of several runs with different options ({', '.join(twice)} more than once) and no "
            f"{SUMMARY} that tells which belong together. Run the sweep's command again: it finishes what is missing."
        )
    problems.raise_if_any()
    return StoredSweep(folder, read_summary(folder), results, notes)


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of summary.json; empty where there is none that can be read."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def publish(
    folder: Path,
    summary: Summary,
    document: Mapping[str, Any],
    *,
    title: str,
    facts: Mapping[str, str],
    commands: Sequence[str],
) -> None:
    """Writes report, pictures, tables, summary.parquet and summary.json of an answer into a folder.

    Args:
        document: what comes before the answer's own keys in summary.json.
        title: of the report.
        facts: what the answer is of, for "How it was run".
        commands: what to type to get it again.
    """
    from orchestrator.report.render import render_report

    folder.mkdir(parents=True, exist_ok=True)
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    commit = git_commit()
    render_report(
        folder,
        title=title,
        headline=summary.headline,
        sections=summary.sections,
        provenance={**facts, "results": str(folder), "versions": libraries} | ({"commit": commit} if commit else {}),
        commands=commands,
    )
    write_table(folder / "summary.parquet", summary.table)
    write_json(folder / SUMMARY, {**document, **summary.document})


def track(
    folder: Path, study: str, trials: Sequence[Trial], summary: Summary, params: Mapping[str, Any], uri: str
) -> str | None:
    """Sends an answer to MLflow as a run of its study's experiment, one child run for each thing compared.

    Returns:
        Why the server did not take it, or None. It can be sent later from `folder`.
    """
    tracking.write_tracking(folder, study, trials, summary, params, 0)
    if uri == tracking.OFF:
        return None
    try:
        tracking.send(folder, uri)
    except tracking.TrackingUnavailable as error:
        return str(error)
    return None


def asked(spec: SweepSpec) -> dict[str, Any]:
    """What a specification asks for, without where and how it runs: a sweep's parameters in MLflow."""
    values = spec.model_dump(mode="json", exclude_none=True, exclude=set(ENGINE_FIELDS))
    return {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}


def _trial(key: str, cell: Mapping[str, Any]) -> Trial:
    """A trial under the key it was stored with: what the key was made of is not known any more."""
    trial = Trial(cell, {}, 0.0)
    object.__setattr__(trial, "key", key)
    return trial


def _twice(results: Sequence[TrialResult]) -> list[str]:
    labels = [result.trial.label for result in results]
    return sorted({label for label in labels if labels.count(label) > 1})
