"""The contract between the engine and a study: what a family of experiments must say to be swept."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pyarrow as pa

from orchestrator.needs import ModelNeeds
from orchestrator.placement import Placement
from orchestrator.report.blocks import Section
from orchestrator.spec import SweepSpec

SpecT = TypeVar("SpecT", bound=SweepSpec)


@dataclass(frozen=True)
class Trial:
    """One cell of a study's grid.

    Attributes:
        cell: the cell's coordinates, JSON scalars, e.g. ``{"language": "de", "part": 0}``.
        depends_on: everything else the answer depends on (model and data fingerprints, options), as JSON.
        cost: expected floating-point operations; only ratios between trials matter for the ETA.
        stage: all trials of a stage are finished before the next stage starts; when one fails, no trial of a later
            stage is started. What a trial leaves for later stages it puts into the shared cache under a content
            address; as the cache may be deleted between runs, a later trial that does not find it makes it anew.
            Not part of the key.
        key: content address: equal keys mean equal answers, so a finished key is never run again.
    """

    cell: Mapping[str, Any]
    depends_on: Mapping[str, Any]
    cost: float
    stage: int = 0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([dict(self.cell), dict(self.depends_on)], sort_keys=True, ensure_ascii=False)
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:20])

    @property
    def label(self) -> str:
        """Short name for progress lines: the cell's values, numbers with their names."""
        return " ".join(_spoken(name, value) for name, value in self.cell.items())


def _spoken(name: str, value: Any) -> str:
    """A coordinate of a cell; a number alone would not say what it is."""
    return f"{name}={value}" if isinstance(value, int | float) else str(value)


class TrialStopped(Exception):
    """Raised by `TrialContext.report`: the scheduler has stopped this trial early.

    A study lets it pass. On its way out `run` leaves `loaded` as it found it, for the next trial of the worker.
    """


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Asynchronous successive halving (ASHA, Li et al. 2020) over the trials of a stage.

    Rungs lie at the steps ``grace * reduction_factor ** k`` below `max_step`. A trial that reaches a rung goes on only
    if its metric is among the best 1/`reduction_factor` of those that reached the rung before it.

    Attributes:
        metric: name of a reported metric; trials that never report it are never stopped.
        max_step: the step at which a trial is finished.
        grace: no trial is stopped before this step; the first rung.
        reduction_factor: one in so many goes on.
        mode: whether larger (``"max"``) or smaller values are better.
        within: cell coordinates; only trials that agree in these compete, e.g. ``("language",)``, lest languages that
            are harder are stopped in favour of easier ones.
    """

    metric: str
    max_step: int
    grace: int = 1
    reduction_factor: float = 3.0
    mode: Literal["max", "min"] = "max"
    within: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.grace <= self.max_step and self.reduction_factor > 1):
            raise ValueError(f"1 <= grace <= max_step and reduction_factor > 1 must hold in {self}")


def _unheard(step: int, metrics: Mapping[str, float]) -> None:
    """Reports of a trial that no sweep listens to."""


@dataclass(frozen=True)
class TrialContext:
    """What the engine gives a trial on its worker.

    Attributes:
        cache: directory on this node for content-addressed intermediate results.
        scratch: directory of this trial alone, for its checkpoints. It is there again when the trial is started again
            after its worker or the driver was killed, in the same run or by the same command later (on a node that
            does not see the output folder: when it is started again on that node), and removed when the trial is
            finished or stopped early. Replace a checkpoint atomically (`orchestrator.data.atomic`), so that a kill
            leaves the one before. The file ``reports.jsonl`` in it is the engine's.
        threads: CPU cores this trial may use.
        device: torch device string, ``"cpu"`` or ``"cuda:0"``.
        memory_bytes: memory this trial may use, weights included.
        progress: call with the fraction done in [0, 1]; cheap, may be called often.
        report: call with a step (1, 2, ..., growing) and the metrics there, for early stopping and for curves in
            MLflow. Kept with the trial. Report a step before its checkpoint is written: a step that is computed again
            is reported again, and replaces the earlier report. Raises TrialStopped when the scheduler has stopped the
            trial.
        placement: how the model lies: ``"single"``, ``"dispatch"``, ``"stream"`` or ``"zero3"``.
    """

    cache: Path
    scratch: Path
    threads: int
    device: str
    memory_bytes: int
    progress: Callable[[float], None]
    report: Callable[[int, Mapping[str, float]], None] = _unheard
    placement: str = "single"


History = Mapping[str, Sequence[tuple[int, float]]]
"""Metrics over steps: for each name (step, value), steps growing."""


@dataclass(frozen=True)
class TrialResult:
    """A finished trial as read back from its Parquet file; `history` holds the metrics it reported on its way."""

    trial: Trial
    table: pa.Table
    seconds: float
    peak_bytes: int
    provenance: Mapping[str, Any]
    history: History = field(default_factory=dict)


@dataclass(frozen=True)
class StoppedTrial:
    """A trial that was stopped early: it has no table, only what it reported, last at `step`."""

    trial: Trial
    step: int
    metrics: Mapping[str, float]
    history: History


@dataclass(frozen=True)
class TrackedRun:
    """One child run in MLflow: `key` identifies it across re-runs; `history` becomes stepped metrics."""

    key: str
    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    history: History = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Everything derived from the trial files; can be derived again at any time.

    Attributes:
        document: what goes into summary.json beside the engine's own keys (sweep, study, seconds, trials).
        table: one row per unit the reader compares (for a layer search: language x layer pair).
        sections: the report; the first table of the first section is also printed at the end.
        runs: MLflow child runs.
        metrics: MLflow metrics of the sweep's parent run.
        headline: one or two sentences saying what was found.
    """

    document: Mapping[str, Any]
    table: pa.Table
    sections: Sequence[Section]
    runs: Sequence[TrackedRun]
    metrics: Mapping[str, float]
    headline: str


@dataclass(frozen=True)
class Estimate:
    """What trials will cost: floating-point operations, seconds of one worker doing them all, and notes in words."""

    flops: float
    seconds: float
    notes: Sequence[str] = ()


class Study(ABC, Generic[SpecT]):
    """One experiment family as the engine sees it.

    The life of a study:

    1. The driver parses the command line into `spec_type` and calls ``Study(spec, cache)``.
    2. ``prepare()`` on the driver reads and checks data and model; it raises UserError with every mistake found
       and must be quick when its results are cached.
    3. ``trials()`` lists the grid, ``needs()`` says what one trial asks of a machine, ``describe()`` what the sweep is
       of; ``check_placement()`` hears where trials will lie; ``estimate()`` says, for ``--dry-run``, what it will cost.
    4. The study itself is sent to the workers (it is pickled: keep it small, no models, no tables).
       ``load(context)`` runs once per worker process; ``run(trial, loaded, context)`` once per trial. The table
       that ``run`` returns is written by the engine as ``trials/<key>.parquet``.
    5. ``summarize(results)`` on the driver turns all finished trials into the answer, without the model.

    Class attributes:
        name: the study's name, e.g. ``"lrp2"``.
        result_version: raised whenever the same trial would now give another table; part of every key.
        placements: how its trials can lie on the machine, of the words of ``--placement``.
        checkpoints: fields of the specification that may name a model folder. On a node that does not see the driver's
            folder the engine brings it there, and the field names the node's copy.

    Attributes:
        warnings: what the user should know; printed, and part of the report.
        stopped: set by the engine before ``summarize``: the trials that were stopped early, in the order of the grid.
        only_plan: set by the engine before ``prepare``: nothing will run, so weights need not be at hand.
        can_measure: set by ``prepare``: whether ``estimate`` can run the model to measure it.
    """

    name: ClassVar[str]
    result_version: ClassVar[int]
    placements: ClassVar[frozenset[str]] = frozenset({"single"})
    checkpoints: ClassVar[tuple[str, ...]] = ()
    spec_type: ClassVar[type[SweepSpec]]

    def __init__(self, spec: SpecT, cache: Path) -> None:
        self.spec = spec
        self.cache = cache
        self.warnings: list[str] = []
        self.stopped: Sequence[StoppedTrial] = ()
        self.only_plan = False
        self.can_measure = True

    @abstractmethod
    def prepare(self) -> None:
        """Reads and checks data and model on the driver. Raises UserError with all mistakes."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """At least ``model`` and ``data``, then whatever identifies the sweep in a list of sweeps."""

    @abstractmethod
    def trials(self) -> Sequence[Trial]:
        """The grid, most expensive first."""

    def early_stopping(self) -> EarlyStopping | None:
        """How trials that lag behind are stopped early; None, the default, finishes them all."""
        return None

    @abstractmethod
    def memory_bytes(self) -> int:
        """The memory one trial needs at least, weights and process included. Called before every run: must be quick."""

    def needs(self) -> ModelNeeds:
        """What trials ask of a machine, so that the planner can place them; by default only `memory_bytes`.

        Called before every run, after `trials`: must be quick.
        """
        return ModelNeeds(weights=self.memory_bytes())

    def check_placement(self, placement: Placement) -> None:
        """Raises UserError where what was asked for cannot run as trials were placed; by default all can.

        Args:
            placement: what the planner took; called before anything starts.
        """

    @abstractmethod
    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        """What these trials cost on this machine, for --dry-run; may measure for some seconds.

        Args:
            trials: the trials still to run.
            threads: CPU cores of one trial.
        """

    @abstractmethod
    def load(self, context: TrialContext) -> Any:
        """Loads what all trials of a worker share (the model)."""

    @abstractmethod
    def run(self, trial: Trial, loaded: Any, context: TrialContext) -> pa.Table:
        """Computes one cell. Must be deterministic given the trial's key.

        Long trials keep checkpoints in ``context.scratch`` and continue from them.
        """

    @abstractmethod
    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        """The answer, from the trials' tables alone.

        Args:
            results: at least one, in the order of `trials`; trials that failed are missing, and the engine lists them.
        """
