"""Where a sweep's files live: one output root for all sweeps, one folder per sweep.

<root>/cache/                    prepared data and vectors, shared by all sweeps
<root>/mlflow.db  mlartifacts/   the default MLflow store
<root>/<sweep>/spec.yaml         what was asked, readable as --config
<root>/<sweep>/trials/<key>.parquet  <key>.stopped.json
<root>/<sweep>/scratch/<key>/    a running trial's checkpoints, removed when it is finished
<root>/<sweep>/summary.parquet  summary.json  report.html  figures/  tables/  .report-files
<root>/<sweep>/tracking.json  logs/
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.data.atomic import explained, write_atomically
from orchestrator.errors import UserError
from orchestrator.spec import Request

BESIDE_SWEEPS = ("cache", "mlartifacts", "mlflow.db")
"""What else lies in the output root; no sweep may have these names."""


def output_root(output: Path | None) -> Path:
    """`output`, else ``$BABELSWEEP_HOME``, else ``~/babelsweep``; always absolute.

    Absolute because a Ray job runs in a temporary copy of the project: what is written beside it is lost.
    """
    chosen = output or os.environ.get("BABELSWEEP_HOME") or Path.home() / "babelsweep"
    return Path(chosen).expanduser().resolve()


def usable_root(output: Path | None) -> Path:
    """The output root, made if need be and known to be writable before anything starts.

    Raises:
        UserError: it cannot be written to.
    """
    root = output_root(output)
    try:
        (root / "cache").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(
            f"The output folder {root} cannot be written to ({error.strerror}), so results would be lost and nothing "
            "was started. Choose another with --output FOLDER or BABELSWEEP_HOME."
        ) from error
    return root


def sweep_name(request: Request, study: str) -> str:
    """``--name``, else the preset's ``name`` or file name (without a preset the study's name).

    Options that change the answer add a short digest to all but ``--name``, so that a trial run on two languages does
    not overwrite the report of the full sweep.

    Raises:
        UserError: something else has this name in the output root.
    """
    name = request.spec.name or (_plain(request.config.stem) if request.config else study)
    if request.asked_beyond_preset and not request.named:
        name += f"-{_digest(request.asked_beyond_preset)}"
    if name in BESIDE_SWEEPS:
        raise UserError(
            f"A sweep cannot be named {name!r}: that is where all sweeps under one output folder keep something else. "
            "Choose another --name."
        )
    return name


def _plain(stem: str) -> str:
    """A preset's file name as `SweepSpec.name` allows it; a digest tells apart what becomes alike."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")
    return plain if plain == stem else f"{plain or 'preset'}-{_digest({'preset': stem})}"


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(dict(options), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Workspace:
    """The folders of one sweep. `root` is the output root, `name` the sweep's name."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def trial_path(self, key: str) -> Path:
        return self.trials / f"{key}.parquet"

    def stopped_path(self, key: str) -> Path:
        """The record of a trial that was stopped early."""
        return self.trials / f"{key}.stopped.json"

    def log_path(self, key: str) -> Path:
        return self.logs / f"{key}.log"

    def elsewhere(self, key: str) -> Path | None:
        """The file of a trial that another sweep under this root has finished.

        Keys are content addresses, so a sweep over 53 languages need not repeat the two tried before.
        """
        found = sorted(self.root.glob(f"*/trials/{key}.parquet"))
        return next((path for path in found if path.parent != self.trials), None)

    def adopt(self, key: str, other: Path) -> None:
        """Links another sweep's trial into this sweep. Raises UserError: it would be a copy, and the disk is full."""
        try:
            os.link(other, self.trial_path(key))
        except OSError:  # a file system without hard links
            with other.open("rb") as source:
                write_atomically(self.trial_path(key), lambda file: shutil.copyfileobj(source, file))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the sweep's folders and keeps a second run of the same sweep out while the block runs.

        The lock belongs to the process: it is gone however the process ends.
        """
        for folder in (self.trials, self.scratch, self.logs):
            with explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another run of this sweep is at work in {self.folder}; two would do every trial twice. Wait for it, "
                "or give this one another --name."
            ) from error
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):
                self.scratch.rmdir()
