"""A whole sweep over a checkpoint four times as large as a trial's memory: the command, Ray's workers, the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from methods.backbone.addresses import builtin_models
from methods.backbone.footprint import PUBLISHED, Footprint
from methods.lrp2.benchmark.checkpoint import checkpoint_folder, write_checkpoint
from methods.lrp2.results import trial_record
from orchestrator.results import METADATA_KEY
from tests.jobs import run_job

pytestmark = pytest.mark.slow
GB = 10**9
BOUND = 11 * GB // 10  # a worker with its libraries takes two thirds of it, and states must be left room
FEW = (
    *("--languages", "de", "--relations", "P361", "--max-facts", "12", "--pool-size", "3", "--max-sentences", "16"),
    *("--pairs", "12/24,22/24,22/23", "--bootstrap", "100", "--null-draws", "0", "--tracking", "none", "--name", "few"),
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A BLOOM-1b1 of random weights with the built-in tokenizer, in shards, and its bytes; removed at the end."""
    config = PUBLISHED["bloom-1b1"]()
    with checkpoint_folder(Footprint.from_config(config).total, tmp_path) as folder:
        size = write_checkpoint(folder, config)
        for file in builtin_models()["atlas-bloom"].glob("tokenizer*"):
            shutil.copy(file, folder)
        yield folder, size


def finished(folder: Path) -> dict[str, tuple[pa.Table, dict[str, Any]]]:
    """Every trial's table and record, by language."""
    found = {}
    for path in (folder / "trials").glob("*.parquet"):
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[METADATA_KEY])
        found[record["cell"]["language"]] = (table, record)
    return found


@pytest.mark.timeout(900)
def test_a_sweep_under_a_bound_finds_the_same_hits_and_stays_within_it(
    checkpoint: tuple[Path, int], tmp_path: Path
) -> None:
    """The planner chooses to stream because of the bound alone; two workers do so at a time, each under its own."""
    folder, size = checkpoint
    assert size >= 3 * GB
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    sweeps = {}
    for name, options in {"bounded": ("--memory", "1.1GB"), "free": ()}.items():
        done = run_job("lrp2_sweep.py", tmp_path / name, "--model", str(folder), *FEW, *options)
        assert done.returncode == 0, done.stderr
        assert (", streamed." in done.stdout) == (name == "bounded")
        sweeps[name] = finished(tmp_path / name / "few")
    assert sweeps["bounded"].keys() == sweeps["free"].keys() == {"de", "en"}
    for language, (table, record) in sweeps["bounded"].items():
        free, free_record = sweeps["free"][language]
        assert record["key"] == free_record["key"]
        assert table.equals(free)
        answers = {bytes(hits) for hits in table.column("hits").to_pylist()}
        assert len(answers) > 1, "some facts are hits and some are not"
        assert record["peak_bytes"] <= 1.3 * BOUND < free_record["peak_bytes"]
        stats = trial_record(table)["stats"]
        assert stats["tiles"] == 1
        assert 0.6 * size < stats["weight_bytes"] < 1.5 * size
