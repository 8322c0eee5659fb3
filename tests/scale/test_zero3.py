"""Sharded training for real: DeepSpeed's stage 3 over two processes of this machine, and a trial of two processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from methods.editing.model import load_editable
from methods.editing.training import TrainingResult, train_editor
from orchestrator.results import METADATA_KEY
from tests.backbone.tiny import tiny_model, tiny_tokenizer
from tests.editing.fake_task import FakeTask
from tests.editing.test_training import editor_of, settings
from tests.jobs import ROOT, run_job
from tests.scale.members import EDITS, STEPS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tiny BLOOM; what DeepSpeed compiles stays there for all tests."""
    found = tmp_path_factory.mktemp("sharded")
    tiny_model("bloom", 4).save_pretrained(found / "model")
    tiny_tokenizer("causal").save_pretrained(found / "model")
    return found


def two_processes(folder: Path, editor: str, *, interrupt: bool = False) -> dict[str, Any]:
    """What process 0 says of a training in two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    members = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.scale.members", folder, editor, "interrupt" if interrupt else "run"],
            cwd=ROOT,
            env={**os.environ, **told, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [member.communicate(timeout=240)[0] for member in members]
    assert [member.returncode for member in members] == [0, 0], "\n".join(said)
    (line,) = [line for line in said[0].splitlines() if line.startswith("ANSWER ")]
    answer: dict[str, Any] = json.loads(line.removeprefix("ANSWER "))
    return answer


def one_process(folder: Path, editor: str, scratch: Path) -> TrainingResult:
    """The same training in this process."""
    model = load_editable(str(folder / "model"), "causal")
    chosen = settings(steps=STEPS, edits_per_step=EDITS)
    return train_editor(editor_of(model, editor), FakeTask("causal"), chosen, scratch=scratch)


def losses(result: TrainingResult) -> list[float]:
    return [point.loss or 0.0 for point in result.curve[1:]]


@pytest.mark.parametrize("editor", ["mend", "knowledge-editor"])
def test_two_processes_have_the_losses_of_one_and_each_holds_half(editor: str, folder: Path, tmp_path: Path) -> None:
    answer = two_processes(folder, editor)
    assert answer["engine"] == ["DeepSpeedEngine", 3, 2]
    assert answer["sharded"], "every parameter, the frozen model's too"
    alone = one_process(folder, editor, tmp_path)
    assert answer["losses"] == pytest.approx(losses(alone), abs=1e-4)
    assert answer["succ"] == pytest.approx([point.succ for point in alone.curve])


def test_what_is_interrupted_goes_on_in_two_processes_or_in_one(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "mend", ignore_errors=True)
    assert two_processes(folder, "mend", interrupt=True)["losses"] == []
    shutil.copytree(folder / "mend", tmp_path / "copy")
    assert {file.suffix for file in (folder / "mend").iterdir()} == {".safetensors"}
    undisturbed = losses(one_process(folder, "mend", tmp_path / "alone"))
    answer = two_processes(folder, "mend")
    assert answer["losses"] == pytest.approx(undisturbed, abs=1e-4)
    assert losses(one_process(folder, "mend", tmp_path / "copy")) == pytest.approx(undisturbed, abs=1e-4)
    assert ["3 were meant" in answer["refused"][0], "not DeepSpeed's" in answer["refused"][1]] == [True, True]


SWEEP = (
    *("--model", "atlas-bloom", "--languages", "en,de", "--editors", "mend", "--training", "cross", "--seeds", "1"),
    *("--lr", "1e-4", "--steps", "4", "--edits-per-step", "4", "--validate-every", "2", "--validation-edits", "3"),
    *("--test-edits", "4", "--tracking", "none", "--name", "small"),
)
SHARDED = ("--placement", "zero3", "--workers-per-trial", "2", "--deepspeed", "cluster/deepspeed/zero3_cpu.json")


def record(home: Path) -> dict[str, Any]:
    """What the only trial of a sweep says of itself."""
    (file,) = (home / "small" / "trials").glob("*.parquet")
    found: dict[str, Any] = json.loads(pq.read_schema(file).metadata[METADATA_KEY])
    return found


def test_a_trial_of_two_processes_has_the_losses_of_a_trial_of_one(tmp_path: Path) -> None:
    """At a learning rate that does not magnify rounding: at 1e-3 float32 and float64 in one process differ by 0.1."""
    for home, how in ((tmp_path / "one", ()), (tmp_path / "two", SHARDED)):
        done = run_job("editor_sweep.py", home, *SWEEP, *how)
        assert done.returncode == 0, done.stderr
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["key"] == two["key"], "how it is computed does not change the question"
    assert [step for step, _ in two["history"]["loss"]] == [2, 4]
    for (step, alone), (other, together) in zip(one["history"]["loss"], two["history"]["loss"], strict=True):
        assert (step, together) == (other, pytest.approx(alone, abs=1e-4))
