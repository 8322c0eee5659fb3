"""A thousand edits in sequence: nothing is lost by kills anywhere, and memory grows by what the stream keeps."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from methods.editing.benchmark import PatchingSettings, run_patching
from methods.editing.patches.journal import LINES
from tests.conftest import ROOT
from tests.editing.patches.long_stream import REQUESTS

KILLS = 4


def start(scratch: Path, result: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.editing.patches.long_stream", str(scratch), str(result)]
    return subprocess.Popen(words, cwd=ROOT)


def written(scratch: Path) -> int:
    """Requests in the journal."""
    path = scratch / LINES
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


@pytest.mark.slow
def test_kills_at_arbitrary_edits_lose_nothing(tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "undisturbed", tmp_path / "expected")
    assert undisturbed.wait(timeout=250) == 0
    draw = random.Random(5)
    scratch, result = tmp_path / "killed", tmp_path / "found"
    for target in sorted(draw.sample(range(1, REQUESTS - 50), KILLS)):
        process = start(scratch, result)
        before = written(scratch)
        while written(scratch) < max(target, before + 1):
            assert process.poll() is None, "the stream ended before it was killed"
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        process.wait()
        assert target <= written(scratch) < REQUESTS
    assert start(scratch, result).wait(timeout=250) == 0
    told = json.loads((result / "told.json").read_text())
    assert [record["index"] for record in told["records"]] == list(range(REQUESTS))
    assert sum(record["edited"] for record in told["records"]) > REQUESTS // 2
    for file in sorted((tmp_path / "expected").iterdir()):
        assert (result / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_memory_grows_by_the_patches_and_what_is_remembered_alone() -> None:
    settings = PatchingSettings(shape="small", edits=2500, steps=5, memory=1000, texts=8, repeats=1)
    growth = run_patching(settings)["growth"]
    assert growth["edits"] > 1000
    # Room for remembered queries is doubled when it is used up. The process also keeps a record of every edit, a few
    # hundred bytes, and for a while more and more kernels: oneDNN has one for every number of patches, 1,024 at most.
    assert growth["patches_mb"] < growth["tensors_mb"] < growth["patches_mb"] + 2.5 * growth["remembered_mb"]
    assert growth["process_mb"] < 60
    assert growth["journal_mb"] < growth["patches_mb"] + growth["edits"] * 400 / 1e6
