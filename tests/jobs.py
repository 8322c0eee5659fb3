"""Runs a job in a process of its own, as its users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
