"""One worker process: loads the model once, computes one trial after the other, writes each before it reports it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.errors import UserError
from orchestrator.placement import Placement
from orchestrator.results import DamagedTrial, encode_trial, read_trial, save_trial, versions
from orchestrator.study import Study, Trial, TrialContext
from orchestrator.workspace import Workspace

REPORT_SECONDS = 1.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")

# Keys of what a worker reports to the driver.
FRACTION = "fraction"
REFUSAL = "refusal"
TABLE = "table"


@dataclass(frozen=True)
class Job:
    """What every worker of a sweep is handed.

    Attributes:
        study: the study, prepared on the driver.
        trials: the trials to run, by key.
        workspace: the sweep's folders as the driver sees them.
        token: a file the driver made there; a node that sees it shares the driver's file system.
        placement: what each trial may use.
        origin: provenance that only the driver knows (git commit).
        folder: the driver's working directory, from which relative paths count.
    """

    study: Study[Any]
    trials: Mapping[str, Trial]
    workspace: Workspace
    token: Path
    placement: Placement
    origin: Mapping[str, Any]
    folder: Path


class TrialWorker(tune.Trainable):
    """Ray Tune's view of a worker; with ``reuse_actors`` one process runs many trials.

    The computation runs in a thread of its own, so that `step` can report to Tune every second: the fraction done
    today, a metric for early stopping tomorrow, without a change in any study.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:
        threads = job.placement.cpus
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the driver decides
        for variable in THREAD_VARIABLES:
            os.environ[variable] = str(threads)
        if job.folder.is_dir():
            os.chdir(job.folder)
        self.job = job
        self.key: str = config["key"]
        self.pool = ThreadPoolExecutor(max_workers=1, initializer=_limit_threads, initargs=(threads,))
        self.running: Future[dict[str, Any]] | None = None
        self.fraction = 0.0
        self.loaded: Any = None
        self.is_loaded = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.key = new_config["key"]
        self.running = None
        return True

    def step(self) -> dict[str, Any]:
        if self.running is None:
            self.fraction = 0.0
            self.running = self.pool.submit(self._run)
        wait([self.running], timeout=REPORT_SECONDS)
        if not self.running.done():
            return {FRACTION: self.fraction, "done": False}
        return {FRACTION: 1.0, "done": True, **self.running.result()}

    def cleanup(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> dict[str, Any]:
        """Computes the current trial; the report carries the file only when this node cannot write it in its place."""
        trial = self.job.trials[self.key]
        path = self.job.workspace.trial_path(trial.key)
        shared = self.job.token.exists()
        with suppress(FileNotFoundError, DamagedTrial):
            if shared:
                read_trial(path, trial)  # an earlier try wrote it and died before it could say so
                return {}
        try:
            context = self._context(trial, shared)
            data = self._compute(trial, context)
            if shared:
                save_trial(path, data)
            shutil.rmtree(context.scratch, ignore_errors=True)
        except UserError as error:
            return {REFUSAL: list(error.problems)}
        return {} if shared else {TABLE: data}

    def _context(self, trial: Trial, shared: bool) -> TrialContext:
        placement = self.job.placement
        workspace = self.job.workspace
        if not shared:
            workspace = replace(workspace, root=Path(tempfile.gettempdir()) / "babelsweep")
        scratch = workspace.scratch / trial.key
        scratch.mkdir(parents=True, exist_ok=True)
        workspace.cache.mkdir(parents=True, exist_ok=True)
        return TrialContext(
            cache=workspace.cache,
            scratch=scratch,
            threads=placement.cpus,
            device="cuda:0" if placement.gpus else "cpu",
            memory_bytes=min(placement.memory, _gpu_memory(placement.gpus)) if placement.gpus else placement.memory,
            progress=self._note_progress,
        )

    def _note_progress(self, fraction: float) -> None:
        self.fraction = min(max(float(fraction), 0.0), 1.0)

    def _compute(self, trial: Trial, context: TrialContext) -> bytes:
        study = self.job.study
        _reset_peak()
        known_warnings = len(study.warnings)
        if not self.is_loaded:
            self.loaded = study.load(context)
            self.is_loaded = True
        started = time.perf_counter()
        table = study.run(trial, self.loaded, context)
        seconds = time.perf_counter() - started
        record = {
            "key": trial.key,
            "cell": dict(trial.cell),
            "study": study.name,
            "result_version": study.result_version,
            "seconds": seconds,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_bytes": _peak(),
            "peak_gpu_bytes": _peak_gpu(),
            "threads": context.threads,
            "device": context.device,
            "host": socket.gethostname(),
            "versions": versions(),
            "warnings": study.warnings[known_warnings:],
            **self.job.origin,
        }
        return encode_trial(table, record)


def _limit_threads(threads: int) -> None:
    """Limits a torch that is already imported; one imported later reads the environment variables.

    OpenMP's thread count belongs to the calling thread, so this runs in the one that computes.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _reset_peak() -> None:
    """Starts a new peak, so that a trial does not inherit the one of the trial before it in the same process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def _peak() -> int:
    """Peak resident memory in bytes since `_reset_peak`; since the start of the process where Linux cannot say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gpu_memory(share: float) -> int:
    """Bytes a trial with this share of a GPU may use; 10% is left to CUDA itself."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory * 0.9 * min(share, 1.0))


def _peak_gpu() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_initialized() else 0
