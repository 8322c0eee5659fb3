"""Neurons and patch neurons as a user meets them: one small sweep each, from command to report, and run again.

And what every job of the folder is held to.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import ROOT, run_job

JOBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "neurons": (
        "neuron_sweep.py",
        (
            *("--languages", "de", "--relations", "P37", "--max-facts", "10", "--max-sentences", "30"),
            *("--pairs", "2/4", "--steps", "4", "--bootstrap", "100"),
        ),
    ),
    "patchers": (
        "editor_sweep.py",
        (
            *("--study", "patchers", "--variants", "none,mpn-all", "--languages", "en,de", "--seeds", "1"),
            *("--edits", "4", "--evaluate-every", "2", "--classifier-epochs", "1", "--max-steps", "40"),
            *("--memory-texts", "200", "--locality-texts", "50"),
        ),
    ),
}


def test_no_job_imports_torch_before_there_is_something_to_run() -> None:
    """Seconds that ``--help`` and every mistake would cost."""
    names = sorted(path.stem for path in (ROOT / "jobs").glob("[a-z]*.py"))
    code = f"import sys, {', '.join(f'jobs.{name}' for name in names)}; "
    code += "print(sorted({'torch', 'transformers', 'ray', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_small_sweep_ends_with_its_answer_and_is_not_computed_twice(name: str, tmp_path: Path) -> None:
    script, options = JOBS[name]
    summaries = []
    for _ in range(2):
        done = run_job(script, tmp_path, "--name", "small", "--tracking", "none", *options)
        assert done.returncode == 0, done.stderr
        assert f"Report: {(tmp_path / 'small' / 'report.html').as_uri()}" in done.stdout
        summaries.append(json.loads((tmp_path / "small" / "summary.json").read_text()))
    first, again = summaries
    planned = first["trials"]["planned"]
    assert planned >= 2
    assert first["trials"] == {"planned": planned, "done": planned, "reused": 0, "failed": 0}
    assert again["trials"] == {"planned": planned, "done": 0, "reused": planned, "failed": 0}
    assert first["study"] == name
    answers = [{key: value for key, value in each.items() if key not in ("trials", "seconds")} for each in summaries]
    assert answers[0] == answers[1]
