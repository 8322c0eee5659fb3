"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's workers would otherwise give way to every other process, the tests running beside them included.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Torch computes on four threads, as a trial with four cores does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the published mLAMA, BMLAMA and sentence files; they are not part of the project."""
    named = os.environ.get("BABELSWEEP_TEST_DATA")
    if not named or not (Path(named) / "mlama1.1.zip").exists():
        where = f"are not at {named}" if named else "are nowhere named"
        pytest.skip(f"the published data files {where}; set BABELSWEEP_TEST_DATA to their folder")
    return Path(named)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are shared out among the processes of ``pytest -n``; what starts a Ray stays together in one of them."""
    for item in items:
        module = item.getparent(pytest.Module)
        assert module is not None
        starts_ray = "ray" in getattr(item, "fixturenames", ()) or any(
            name in vars(module.obj) for name in ("run_job", "SweepContract", "connected", "subprocess")
        )
        item.add_marker(pytest.mark.xdist_group("ray" if starts_ray else module.nodeid))
