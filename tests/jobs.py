"""What every job promises its users, as classes to inherit from, and a way to run a job as its users do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from orchestrator.cli import main

ROOT = Path(__file__).resolve().parent.parent

Arguments = Sequence[str] | Callable[[Path], Sequence[str]]
"""What stands behind the script's name; made in a folder where it needs files."""
Mistakes = Mapping[str, tuple[Arguments, tuple[str, ...]]]
"""By name, what a user might ask for by mistake, and words that the message must have."""


def run_job(script: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished process of ``python jobs/<script>``, its results under `home`."""
    return subprocess.run(
        [sys.executable, f"jobs/{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "BABELSWEEP_HOME": str(home), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=240,
    )


class JobContract:
    """A job that is not run: what it refuses, what it would do, how it is explained. All in this process.

    Attributes:
        job: its module in `jobs`.
        specs: the specification that it takes, or all of them.
        mistakes: what it must refuse.
        planned: a small sweep.
        foretold: words that a dry run of it must have.
    """

    job: ModuleType
    specs: Any
    mistakes: ClassVar[Mistakes]
    planned: ClassVar[Sequence[str]]
    foretold: ClassVar[Sequence[str]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "mistake" in metafunc.fixturenames:
            metafunc.parametrize("mistake", self.mistakes)

    def main(self, *arguments: str) -> int:
        """Runs the job in this process; its exit code."""
        job: Any = self.job
        return main(self.specs, job.study, description="", examples=job.EXAMPLES, argv=arguments)

    @pytest.fixture(autouse=True)
    def _as_in_a_process_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("BABELSWEEP_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("COLUMNS", "400")
        threads = torch.get_num_threads()
        yield
        torch.set_num_threads(threads)

    def test_a_mistake_gets_one_message_and_nothing_is_written(
        self, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments, expected = self.mistakes[mistake]
        inputs = tmp_path / "inputs"
        inputs.mkdir()
        code = self.main("--name", "wrong", *(arguments(inputs) if callable(arguments) else arguments))
        shown = capsys.readouterr()
        assert code == 2
        for words in expected:
            assert words in shown.err
        assert "Traceback" not in shown.err
        assert not (tmp_path / "home" / "wrong").exists()
        assert {path.name for path in tmp_path.iterdir()} <= {"home", "inputs"}

    def test_a_dry_run_says_what_it_would_take_and_writes_no_results(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.main("--name", "planned", "--dry-run", *self.planned) == 0
        shown = capsys.readouterr().out
        assert re.search(r"[1-9]\d* planned, 0 finished, .*to run", shown)
        for words in self.foretold:
            assert words in shown
        assert not (tmp_path / "home" / "planned").exists()

    def test_help_shows_examples(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            self.main("--help")
        assert ended.value.code == 0
        assert "ray job submit" in capsys.readouterr().out


class SweepContract:
    """A small sweep from command to report, in a process and with a Ray of its own.

    Attributes:
        script: in `jobs`.
        small: its arguments.
        trials: how many it has.
        answer: where `summary.json` has what must be the same when the sweep is run again.
    """

    script: ClassVar[str]
    small: ClassVar[Sequence[str]]
    trials: ClassVar[int]
    answer: ClassVar[str]

    @pytest.fixture(scope="class")
    def home(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("home")

    @pytest.fixture(scope="class")
    def first(self, home: Path) -> subprocess.CompletedProcess[str]:
        return self.run(home)

    def run(self, home: Path, *more: str, name: str = "small") -> subprocess.CompletedProcess[str]:
        """The finished process of the small sweep."""
        done = run_job(self.script, home, "--name", name, *self.small, *more)
        assert done.returncode == 0, done.stderr
        return done

    def summary(self, home: Path) -> dict[str, Any]:
        """What the small sweep found."""
        found: dict[str, Any] = json.loads((home / "small" / "summary.json").read_text())
        return found

    def test_it_ends_with_where_the_answer_is(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        assert (home / "small" / "report.html").as_uri() in first.stdout
        assert "mlflow ui --backend-store-uri" in first.stdout

    def test_the_folder_holds_what_the_documents_say(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        folder, summary = home / "small", self.summary(home)
        assert {"sweep", "study", "model", "data", "seconds", "trials", self.answer} <= set(summary)
        assert summary["trials"] == {"planned": self.trials, "done": self.trials, "reused": 0, "failed": 0}
        assert len(list((folder / "trials").glob("*.parquet"))) == self.trials
        assert {"spec.yaml", "summary.parquet", "tables", "logs"} <= {path.name for path in folder.iterdir()}
        assert list((folder / "figures").glob("*.png"))
        assert "<html" in (folder / "report.html").read_text()
        assert not list((folder / "scratch").glob("*/*")), "what a trial leaves for a restart goes when it is finished"

    def test_running_it_again_reuses_everything(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        before = self.summary(home)
        self.run(home)
        after = self.summary(home)
        assert after["trials"] == {"planned": self.trials, "done": 0, "reused": self.trials, "failed": 0}
        assert after[self.answer] == before[self.answer]
