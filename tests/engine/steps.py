"""A study of trials that take steps, report a metric at each, and keep a checkpoint, as training does."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from orchestrator.data.atomic import write_atomically
from orchestrator.report.blocks import Section, Table
from orchestrator.spec import SweepSpec
from orchestrator.study import EarlyStopping, Estimate, Study, Summary, TrackedRun, Trial, TrialContext, TrialResult
from tests.engine.toy import mark, marks


class StepsSpec(SweepSpec):
    marks: Path = Field(description="folder in which every step leaves a mark")
    rates: tuple[float, ...] = Field((3.0,), description="a trial for each: how much the accuracy grows in a step")
    steps: int = Field(9, ge=1, description="steps of a trial")
    sleep: float = Field(0.0, ge=0, description="seconds a step takes")
    early: bool = Field(False, description="stop trials that lag behind")
    kill_at: tuple[str, ...] = Field((), description="rate:step, the process kills itself after it, once")
    base: Literal["none", "good", "bad"] = Field("none", description="what the trials build on, made in a stage before")


class StepsStudy(Study[StepsSpec]):
    """Trial `rate` counts to `steps`; its accuracy is rate x step."""

    name = "steps"
    result_version = 1
    spec_type: ClassVar[type[SweepSpec]] = StepsSpec

    def prepare(self) -> None:
        pass

    def describe(self) -> Mapping[str, str]:
        return {"model": "steps", "data": "numbers"}

    def trials(self) -> Sequence[Trial]:
        base = [] if self.spec.base == "none" else [Trial({"base": "base"}, {}, cost=1.0, stage=0)]
        options = {"steps": self.spec.steps}
        return [Trial({"rate": rate}, options, cost=10.0, stage=1) for rate in self.spec.rates] + base

    def early_stopping(self) -> EarlyStopping | None:
        if not self.spec.early:
            return None
        return EarlyStopping(metric="acc", max_step=self.spec.steps, grace=2, reduction_factor=2)

    def memory_bytes(self) -> int:
        return 10**6

    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        return Estimate(1.0, 1.0)

    def load(self, context: TrialContext) -> Any:
        mark(self.spec.marks, "load")
        return None

    def run(self, trial: Trial, loaded: Any, context: TrialContext) -> pa.Table:
        if trial.stage == 0:
            mark(self.spec.marks, "base")
            if self.spec.base == "bad":
                raise ValueError("the base fails on purpose")
            write_atomically(context.cache / "base", lambda file: file.write(b"7"))
            return pa.table({"rate": [0.0]})
        if self.spec.base != "none":
            assert (context.cache / "base").read_bytes() == b"7", "the stage before has left it in the cache"
        rate = float(trial.cell["rate"])
        checkpoint = context.scratch / "checkpoint.json"
        done, total = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 0.0)
        for step in range(done + 1, self.spec.steps + 1):
            time.sleep(self.spec.sleep)
            total += rate / step
            mark(self.spec.marks, f"step-{rate:g}-{step}")
            context.progress(step / self.spec.steps)
            context.report(step, {"acc": rate * step, "loss": 1 / step})
            content = json.dumps([step, total]).encode()
            if os.environ.get("RANK", "0") == "0":  # the first of a trial's processes
                write_atomically(checkpoint, lambda file, content=content: file.write(content))  # type: ignore[misc]
            if f"{rate:g}:{step}" in self.spec.kill_at and mark(self.spec.marks, f"kill-{rate:g}-{step}") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"rate": [rate], "total": [total]})

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        finished = [result for result in results if result.trial.stage == 1]
        rows = [[result.trial.label, result.history["acc"][-1][1]] for result in finished]
        return Summary(
            document={
                "best": max(acc for _, acc in rows),
                "stopped_labels": [each.trial.label for each in self.stopped],
            },
            table=pa.table({"rate": [row[0] for row in rows]}),
            sections=[Section("Rates", "How far each came.", [Table("Rates", ["rate", "acc"], rows)])],
            runs=[
                TrackedRun(
                    result.trial.key,
                    result.trial.label,
                    result.trial.cell,
                    {"acc": result.history["acc"][-1][1]},
                    result.history,
                )
                for result in finished
            ],
            metrics={},
            headline=f"{len(rows)} rates were tried to the end.",
        )


def steps_taken(folder: Path, rate: float) -> dict[int, int]:
    """How often each step of a trial was computed."""
    found = {name: count for name, count in marks(folder).items() if name.startswith(f"step-{rate:g}-")}
    return {int(name.rsplit("-", 1)[1]): count for name, count in sorted(found.items())}
