"""Sweeps on a real Ray: every trial exactly once, whatever fails, dies, or is finished already."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from orchestrator.errors import UserError
from orchestrator.results import DamagedTrial, SweepOutcome, encode_trial, read_trial, save_trial
from orchestrator.study import Trial
from orchestrator.sweep import finished_trials
from orchestrator.workspace import usable_root
from tests.engine.conftest import ToySweep, toy_sweep
from tests.engine.toy import ToySpec, ToyStudy


def squares(outcome: SweepOutcome) -> dict[int, float]:
    return {row["n"]: row["square"] for result in outcome.results for row in result.table.to_pylist()}


def test_a_grid_runs_once_and_a_second_run_reuses_it_without_loading_anything(toy: ToySweep) -> None:
    first = toy.run(size=4, cpus=2)
    assert (first.done, first.reused, first.failed) == (4, 0, [])
    assert squares(first) == {3: 9.0, 2: 4.0, 1: 1.0, 0: 0.0}
    once = {f"{event}-{n}": 1 for n in range(4) for event in ("run", "try")}
    assert toy.counts() == once | {"load": 1}, "one worker loads once and runs all trials"
    threads = {(row["threads"], row["omp"]) for result in first.results for row in result.table.to_pylist()}
    assert threads == {(2, "2")}, "a trial has as many threads as cores"

    second = toy.run(size=4, cpus=2)
    assert (second.done, second.reused) == (0, 4)
    assert squares(second) == squares(first)
    assert toy.counts() == once | {"load": 1}


def test_only_what_is_missing_runs_and_a_damaged_file_is_set_aside(toy: ToySweep) -> None:
    outcome = toy.run(size=3)
    keys = {int(result.trial.cell["n"]): result.trial.key for result in outcome.results}
    damaged = toy.workspace.trial_path(keys[1])
    damaged.write_bytes(damaged.read_bytes()[:-20])
    toy.workspace.trial_path(keys[2]).unlink()
    again = toy.run(size=4)
    assert (again.done, again.reused) == (3, 1)
    assert squares(again) == {n: float(n * n) for n in range(4)}
    counts = toy.counts()
    assert [counts[f"run-{n}"] for n in range(4)] == [1, 2, 2, 1]
    assert "trial n=1 is damaged" in again.warnings[0]
    assert len(list(damaged.parent.glob("*.damaged-*"))) == 1


def test_failures_deaths_and_refusals_leave_the_other_trials_alone(toy: ToySweep) -> None:
    outcome = toy.run(size=6, concurrent=2, retries=2, fail_first=("2:2", "1:9"), kill_first=(3,), refuse=(0,))
    counts = toy.counts()
    assert {n: counts[f"try-{n}"] for n in range(6)} == {5: 1, 4: 1, 3: 2, 2: 3, 1: 3, 0: 1}
    assert {n: counts.get(f"run-{n}", 0) for n in range(6)} == {5: 1, 4: 1, 3: 1, 2: 1, 1: 0, 0: 0}
    assert squares(outcome) == {n: float(n * n) for n in (5, 4, 3, 2)}
    failed, refused = outcome.failed
    assert failed.reason == "ValueError: trial 1 fails on purpose"
    assert not failed.refused
    assert failed.log.read_text().count("in run") >= 1, "the log holds the traceback"
    assert refused.refused, "a retry cannot mend what the user must mend"
    assert refused.reason == "0 is not a number this model knows. Choose another."

    mended = toy.run(size=6)
    assert (mended.done, mended.reused, mended.failed) == (2, 4, [])


def test_a_trial_that_another_sweep_has_finished_is_taken_over(toy: ToySweep) -> None:
    toy.run(size=2)
    shutil.copytree(toy.workspace.folder, toy.workspace.root / "other")
    shutil.rmtree(toy.workspace.folder)
    study = ToyStudy(ToySpec(marks=toy.marks, size=2), toy.workspace.cache)
    seen, _ = finished_trials(toy.workspace, study.trials(), mend=False)
    assert len(seen) == 2, "a dry run sees it"
    assert not toy.workspace.folder.exists(), "and leaves everything as it is"
    outcome = toy.run(size=2)
    assert (outcome.done, outcome.reused) == (0, 2)
    assert toy.workspace.trial_path(outcome.results[0].trial.key).exists()


def test_a_node_without_the_shared_folder_sends_its_files_to_the_driver(
    toy: ToySweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda *args, **options: None)  # the driver's token is never seen
    outcome = toy.run(size=2)
    assert squares(outcome) == {0: 0.0, 1: 1.0}
    assert len(list(toy.workspace.trials.glob("*.parquet"))) == 2


def test_provenance_says_how_a_trial_was_computed(toy: ToySweep) -> None:
    (result,) = toy.run(size=1).results
    assert result.seconds > 0
    assert 10**7 < result.peak_bytes < 10**10
    said = result.provenance
    assert said["cell"] == {"n": 0}
    assert said["result_version"] == 1
    assert {"python", "torch", "ray", "babelsweep"} <= set(said["versions"])
    assert said["host"]
    assert said["threads"] == 1


def test_a_second_run_of_the_same_sweep_is_kept_out(tmp_path: Path) -> None:
    workspace = toy_sweep(tmp_path).workspace
    with workspace.locked(), pytest.raises(UserError, match="Another run of this sweep"), workspace.locked():
        pass


def test_trial_keys_must_differ(toy: ToySweep, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial({"n": 1}, {}, 1.0)
    monkeypatch.setattr("tests.engine.toy.ToyStudy.trials", lambda study: [trial, trial])
    with pytest.raises(ValueError, match=r"lists 1 trial\(s\) twice"):
        toy.run()


class TestTrialFiles:
    """A trial's file is verified to the last page, and says whose it is."""

    trial = Trial({"n": 1}, {"model": "a"}, 1.0)
    record: ClassVar[dict[str, Any]] = {"key": trial.key, "seconds": 1.5, "peak_bytes": 7, "warnings": []}
    table = pa.table({"n": list(range(1000))})

    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "trial.parquet"
        save_trial(path, encode_trial(self.table, self.record))
        result = read_trial(path, self.trial)
        assert result.table.drop_columns([]).equals(self.table)
        assert (result.seconds, result.peak_bytes) == (1.5, 7)

    @pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "no record"])
    def test_damage_is_found(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "trial.parquet"
        data = bytearray(encode_trial(self.table, self.record))
        if damage == "empty":
            data = bytearray()
        elif damage == "cut":
            data = data[:-1]
        elif damage == "flipped":
            data[len(data) // 4] ^= 0xFF
        elif damage == "foreign":
            data = bytearray(encode_trial(self.table, self.record | {"key": "another"}))
        elif damage == "no record":
            data = bytearray(encode_trial(self.table, {}))
        path.write_bytes(data)
        with pytest.raises(DamagedTrial):
            read_trial(path, self.trial)

    def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "trial.parquet"
        save_trial(path, b"old")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="disk is full"):
            save_trial(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        usable_root(tmp_path / "file" / "results")
