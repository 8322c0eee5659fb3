"""How long a checkpoint takes to a node that lacks it: a second Ray node on this machine, with a folder of its own."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.placement import in_bytes
from orchestrator.weights import Checkpoint, WeightSource, bring, checkpoint

STORE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Journey:
    """Bytes of a checkpoint; seconds to name it by its content, to bring it, and to find it there a second time."""

    size: int
    naming: float
    bringing: float
    again: float


def measure_journey(folder: Path) -> Journey:
    """Starts a Ray cluster of two nodes on this machine and brings a model folder from one to the other."""
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        there = checkpoint(folder, Path(scratch) / "driver")
        naming = time.perf_counter() - started
        node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            cluster.add_node(**node, resources={"other": 1})
            ray.init(address=cluster.address, log_to_driver=False)
            source = ray.remote(WeightSource).options(num_cpus=0.1).remote([there])
            fetch = ray.remote(_timed).options(num_cpus=0.1, resources={"other": 0.1})
            bringing, again = (ray.get(fetch.remote(there, source, Path(scratch) / "node")) for _ in range(2))
        finally:
            ray.shutdown()
            cluster.shutdown()
    return Journey(sum(size for _, size, _ in there.files), naming, bringing, again)


def journey_sentence(journey: Journey) -> str:
    """The figures in words."""
    return (
        f"To a second node: {in_bytes(journey.size)} in {journey.bringing:.1f} s "
        f"({in_bytes(journey.size / journey.bringing)} a second), after {journey.naming:.1f} s for its content's name; "
        f"the next trial there finds it in {1e3 * journey.again:.0f} ms."
    )


def _timed(wanted: Checkpoint, source: Any, cache: Path) -> float:
    started = time.perf_counter()
    bring(wanted, source, cache)
    return time.perf_counter() - started
