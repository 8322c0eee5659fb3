"""A sweep's folder read back without its study.

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

from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.results import METADATA_KEY, SUMMARY, DamagedTrial, read_trial
from orchestrator.study import Trial, TrialResult

SPEC, TRIALS = "spec.yaml", "trials"


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


def _trial(key: str, cell: Mapping[str, Any]) -> Trial:
    """A trial under the key it was stored with: what the key was made of is not known any more."""
    trial = Trial(cell, {}, 0.0)
    object.__setattr__(trial, "key", key)
    return trial


def _twice(results: Sequence[TrialResult]) -> list[str]:
    labels = [result.trial.label for result in results]
    return sorted({label for label in labels if labels.count(label) > 1})
