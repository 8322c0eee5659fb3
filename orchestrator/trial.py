"""One worker process: loads the model once, computes one trial after the other, writes each before it reports it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.errors import UserError
from orchestrator.peak import peak, peak_gpu, reset_peak
from orchestrator.placement import Placement
from orchestrator.process_group import THREAD_VARIABLES, Outcome, Task, run_together
from orchestrator.reports import Reporter, as_history
from orchestrator.results import DamagedTrial, encode_trial, read_trial, save_trial, versions
from orchestrator.study import EarlyStopping, Study, Trial, TrialContext, TrialStopped
from orchestrator.weights import Offer, at_hand
from orchestrator.workspace import Workspace

REPORT_SECONDS = 1.0

# Keys of what a worker reports to the driver.
FRACTION = "fraction"
STEP, METRICS = "step", "metrics"  # the newest report
RUNG = "rung"  # all reports up to a rung; the trial waits there for the scheduler's decision
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
        early_stopping: when trials are stopped early, if they are.
        origin: provenance that only the driver knows (git commit).
        offer: model folders for nodes that lack them.
        folder: the driver's working directory, from which relative paths count.
    """

    study: Study[Any]
    trials: Mapping[str, Trial]
    workspace: Workspace
    token: Path
    placement: Placement
    early_stopping: EarlyStopping | None
    origin: Mapping[str, Any]
    offer: Offer
    folder: Path


class TrialWorker(tune.Trainable):
    """Ray Tune's view of a worker; with ``reuse_actors`` one process runs many trials.

    The computation runs in a thread of its own, so that `step` can report to Tune every second: the fraction done and
    the newest metrics. That thread is one and the same for all trials: the next trial begins when the one before it has
    really ended, also one that was stopped early.
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
        self.reporter: Reporter | None = None
        self.fraction = 0.0
        self.loaded: Any = None
        self.is_loaded = False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._stop()
        self.key = new_config["key"]
        self.running = None
        return True

    def step(self) -> dict[str, Any]:
        if self.running is None or self.reporter is None:
            self._start()
        else:
            self.reporter.go_on()  # Tune asks for another step of a trial only when it has decided that it goes on
        assert self.running is not None
        assert self.reporter is not None
        self.reporter.wait(REPORT_SECONDS)
        if self.running.done():
            return {FRACTION: 1.0, "done": True, **self.running.result()}
        report: dict[str, Any] = {FRACTION: self.fraction, "done": False}
        newest, up_to_rung = self.reporter.look()
        if newest is not None:
            report[STEP], report[METRICS] = newest
        if up_to_rung is not None:
            report[RUNG] = up_to_rung
        return report

    def cleanup(self) -> None:
        self._stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        trial = self.job.trials[self.key]
        shared = self.job.token.exists()
        workspace = self.job.workspace
        if not shared:
            own = f"babelsweep-{os.getuid()}"  # users of a node share its temporary folder
            workspace = replace(workspace, root=Path(tempfile.gettempdir()) / own)
        scratch = workspace.scratch / trial.key
        scratch.mkdir(parents=True, exist_ok=True)
        workspace.cache.mkdir(parents=True, exist_ok=True)
        self.fraction = 0.0
        self.reporter = reporter = Reporter(scratch, self.job.early_stopping)
        self.running = self.pool.submit(self._run, trial, workspace.cache, scratch, shared, reporter)
        self.running.add_done_callback(lambda future: reporter.end())

    def _stop(self) -> None:
        """Lets a trial that waits at a rung end there; one that has ended, or that never reports, does not notice."""
        if self.reporter is not None:
            self.reporter.stop()

    def _run(self, trial: Trial, cache: Path, scratch: Path, shared: bool, reporter: Reporter) -> dict[str, Any]:
        """Computes a trial; what it returns carries the file only when this node cannot write it in its place."""
        path = self.job.workspace.trial_path(trial.key)
        try:
            if not (shared and _is_finished(path, trial)):
                data = self._compute(trial, self._context(cache, scratch, reporter), reporter)
                if shared:
                    save_trial(path, data)
        except UserError as error:
            return {REFUSAL: list(error.problems)}
        except TrialStopped:
            if not shared:
                shutil.rmtree(scratch, ignore_errors=True)  # elsewhere the driver removes it with its record
            return {}
        shutil.rmtree(scratch, ignore_errors=True)
        return {} if shared else {TABLE: data}

    def _context(self, cache: Path, scratch: Path, reporter: Reporter) -> TrialContext:
        placement = self.job.placement
        own_gpu = placement.gpus > 0 and placement.workers == 1
        return TrialContext(
            cache=cache,
            scratch=scratch,
            threads=placement.cpus,
            device="cuda:0" if placement.gpus else "cpu",
            memory_bytes=min(placement.memory, _gpu_memory(placement.gpus)) if own_gpu else placement.memory,
            progress=self._note_progress,
            report=reporter.report,
            placement=placement.kind,
        )

    def _note_progress(self, fraction: float) -> None:
        self.fraction = min(max(float(fraction), 0.0), 1.0)

    def _compute(self, trial: Trial, context: TrialContext, reporter: Reporter) -> bytes:
        study, workers = self.job.study, self.job.placement.workers
        started = time.perf_counter()
        if workers > 1:
            outcome = self._run_together(trial, context)
        else:
            reset_peak()
            known_warnings = len(study.warnings)
            if not self.is_loaded:
                at_hand(study, self.job.offer, context.cache)
                self.loaded = study.load(context)
                self.is_loaded = True
            started = time.perf_counter()
            table = study.run(trial, self.loaded, context)
            outcome = Outcome(table, tuple(study.warnings[known_warnings:]), peak(), peak_gpu())
        seconds = time.perf_counter() - started
        assert outcome.table is not None
        record = {
            "key": trial.key,
            "cell": dict(trial.cell),
            "study": study.name,
            "result_version": study.result_version,
            "seconds": seconds,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_bytes": outcome.peak_bytes,
            "peak_gpu_bytes": outcome.peak_gpu_bytes,
            "threads": context.threads,
            "workers": workers,
            "device": context.device,
            "host": socket.gethostname(),
            "versions": versions(),
            "warnings": list(outcome.warnings),
            "history": as_history(reporter.all()),
            **self.job.origin,
        }
        return encode_trial(outcome.table, record)

    def _run_together(self, trial: Trial, context: TrialContext) -> Outcome:
        """Has a trial computed by several processes; they load the model anew for each."""
        job = self.job
        task = Task(
            study=job.study,
            trial=trial,
            cache=context.cache,
            scratch=context.scratch,
            memory_bytes=context.memory_bytes,
            placement=job.placement,
            offer=job.offer,
            folder=job.folder,
        )
        return run_together(task, context)


def _is_finished(path: Path, trial: Trial) -> bool:
    """Whether an earlier try wrote the trial's file and died before it could say so."""
    with suppress(FileNotFoundError, DamagedTrial):
        read_trial(path, trial)
        return True
    return False


def _limit_threads(threads: int) -> None:
    """Limits a torch that is already imported; one imported later reads the environment variables.

    OpenMP's thread count belongs to the calling thread, so this runs in the one that computes.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _gpu_memory(share: float) -> int:
    """Bytes a trial with this share of a GPU may use; 10% is left to CUDA itself."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory * 0.9 * min(share, 1.0))
