"""A study small enough to see through: trial n squares n, and every load and run leaves a mark in a folder."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from orchestrator.errors import UserError
from orchestrator.report.blocks import Section, Table
from orchestrator.spec import SweepSpec
from orchestrator.study import Estimate, Study, Summary, TrackedRun, Trial, TrialContext, TrialResult


class ToySpec(SweepSpec):
    marks: Path = Field(description="folder in which every load and run leaves a mark")
    size: int = Field(4, ge=1, description="number of trials")
    factor: float = Field(1.0, description="the squares are multiplied by it")
    sleep: float = Field(0.0, ge=0, description="seconds a trial takes")
    fail_first: tuple[str, ...] = Field((), description="n:times, trial n fails that many times")
    kill_first: tuple[int, ...] = Field((), description="trial n's process kills itself the first time")
    refuse: tuple[int, ...] = Field((), description="trial n finds a mistake of the user's")


class ToyStudy(Study[ToySpec]):
    name = "toy"
    result_version = 1
    spec_type: ClassVar[type[SweepSpec]] = ToySpec

    def prepare(self) -> None:
        if self.spec.size == 13:
            raise UserError("size 13 brings bad luck.", "Choose another size.")

    def describe(self) -> Mapping[str, str]:
        return {"model": "squares", "data": "numbers"}

    def trials(self) -> Sequence[Trial]:
        return [
            Trial({"n": n}, {"factor": self.spec.factor, "version": self.result_version}, cost=float(n + 1))
            for n in reversed(range(self.spec.size))
        ]

    def memory_bytes(self) -> int:
        return 10**6

    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        return Estimate(sum(trial.cost for trial in trials), self.spec.sleep * len(trials), ["toy numbers"])

    def load(self, context: TrialContext) -> Any:
        self._mark("load")
        return "loaded"

    def run(self, trial: Trial, loaded: Any, context: TrialContext) -> pa.Table:
        assert loaded == "loaded"
        n = int(trial.cell["n"])
        tries = self._mark(f"try-{n}")
        if n in self.spec.kill_first and tries == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for rule in self.spec.fail_first:
            which, times = (int(part) for part in rule.split(":"))
            if n == which and tries <= times:
                raise ValueError(f"trial {n} fails on purpose")
        if n in self.spec.refuse:
            raise UserError(f"{n} is not a number this model knows. Choose another.")
        for part in range(10):
            time.sleep(self.spec.sleep / 10)
            context.progress(part / 10)
        self._mark(f"run-{n}")
        table = {"n": [n], "square": [n * n * self.spec.factor], "threads": [context.threads], "pid": [os.getpid()]}
        return pa.table(table | {"omp": [os.environ["OMP_NUM_THREADS"]]})

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        table = pa.concat_tables([result.table for result in results]).select(["n", "square"]).sort_by("n")
        squares = dict(zip(table["n"].to_pylist(), table["square"].to_pylist(), strict=True))
        answer = Table("Squares", ["n", "square"], [[n, square] for n, square in squares.items()])
        return Summary(
            document={"squares": {str(n): square for n, square in squares.items()}},
            table=table,
            sections=[Section("Squares", "What the numbers squared are.", [answer])],
            runs=[
                TrackedRun(
                    key=result.trial.key,
                    name=f"n={result.trial.cell['n']}",
                    params=dict(result.trial.cell),
                    metrics={"square": float(result.table["square"][0].as_py())},
                )
                for result in results
            ],
            metrics={"sum": float(sum(squares.values()))},
            headline=f"{len(squares)} numbers were squared.",
        )

    def _mark(self, event: str) -> int:
        return mark(self.spec.marks, event)


def mark(folder: Path, event: str) -> int:
    """Leaves a mark with the process's number and returns how many marks of this event there are now."""
    (folder / f"{event}.{uuid.uuid4().hex}").write_text(str(os.getpid()))
    return marks(folder)[event]


def process_of(folder: Path, event: str) -> int:
    """The process that left the latest mark of this event."""
    return int(max(folder.glob(f"{event}.*"), key=lambda path: path.stat().st_mtime_ns).read_text())


def marks(folder: Path) -> Counter[str]:
    """How often each event happened."""
    return Counter(path.name.split(".")[0] for path in folder.iterdir())
