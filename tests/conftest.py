"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the published mLAMA, BMLAMA and sentence files; they are not part of the project."""
    folder = Path(os.environ.get("BABELSWEEP_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "mlama1.1.zip").exists():
        pytest.skip(f"the published data files are not at {folder}; set BABELSWEEP_TEST_DATA to their folder")
    return folder
