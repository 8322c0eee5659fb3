"""One Ray for all tests of the engine, and a sweep of the toy study in one line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import ray_session
from orchestrator.placement import Node, Placement
from orchestrator.results import SweepOutcome
from orchestrator.sweep import run_sweep
from orchestrator.workspace import Workspace
from tests.engine.steps import StepsSpec, StepsStudy
from tests.engine.toy import ToySpec, ToyStudy, marks

NODE = Node(cores=2, gpus=0, memory=8 * 10**9)


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """A Ray with two cores, started once."""
    with ray_session.connected(None, NODE):
        yield


@dataclass
class ToySweep:
    """Runs the toy study in a folder and counts what happened there."""

    root: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root / "out", "toy")

    @property
    def marks(self) -> Path:
        return self.root / "marks"

    def counts(self) -> dict[str, int]:
        return dict(marks(self.marks))

    def options(self, **options: Any) -> list[str]:
        """The same sweep as command-line options."""
        given = {"marks": self.marks, "output": self.root / "out", "name": "toy", "tracking": "none", **options}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    def take_steps(self, workers: int = 1, **options: Any) -> SweepOutcome:
        """Runs the study of steps, one trial at a time."""
        study = StepsStudy(StepsSpec(marks=self.marks, **options), self.workspace.cache)
        placement = Placement(cpus=1, gpus=0, concurrent=1, memory=10**9, workers=workers)
        with self.workspace.locked():
            return run_sweep(study, study.trials(), self.workspace, placement, [NODE], Console(file=io.StringIO()))

    def run(self, cpus: int = 1, concurrent: int = 1, workers: int = 1, **options: Any) -> SweepOutcome:
        study = ToyStudy(ToySpec(marks=self.marks, **options), self.workspace.cache)
        placement = Placement(cpus=cpus, gpus=0, concurrent=concurrent, memory=10**9, workers=workers)
        with self.workspace.locked():
            return run_sweep(study, study.trials(), self.workspace, placement, [NODE], Console(file=io.StringIO()))


def toy_sweep(root: Path) -> ToySweep:
    (root / "marks").mkdir(parents=True)
    return ToySweep(root)


@pytest.fixture
def toy(tmp_path: Path, ray: None) -> ToySweep:
    """A toy sweep in an empty folder, on the shared Ray."""
    return toy_sweep(tmp_path)
