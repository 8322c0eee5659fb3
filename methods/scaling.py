"""What the tables of cluster/SCALING.md have in common: models, machines, and in a few words how a sweep runs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.errors import UserError
from orchestrator.placement import Node, in_bytes
from orchestrator.planner import Plan, in_hours

GB = 10**9
BLOOMS = ("bloom-560m", "bloom-1b1", "bloom-1b7", "bloom-3b", "bloom-7b1", "bloom-176b")
MACHINES: Mapping[str, tuple[Node, ...]] = {
    "1 x 24 GB": (Node(16, 1, 128 * GB, 24 * GB),),
    "1 x 80 GB": (Node(16, 1, 128 * GB, 80 * GB),),
    "8 x 80 GB": (Node(128, 8, 1000 * GB, 80 * GB),),
    "16 nodes of 8 x 80 GB": (Node(128, 8, 1000 * GB, 80 * GB),) * 16,
}


class PlannedSweep(Protocol):
    """A sweep that can be planned without its data."""

    def trials(self) -> list[float]:
        """Expected operations of every trial, most expensive first."""

    def plan(self, nodes: Sequence[Node]) -> Plan:
        """Where it runs and for how long. Raises UserError where nothing fits."""


def placement_table(sweeps: Mapping[str, PlannedSweep]) -> list[str]:
    """Markdown: how and for how long the sweep of every model runs on `MACHINES`."""
    lines = [f"| model | {' | '.join(MACHINES)} |", "|---" * (1 + len(MACHINES)) + "|"]
    for name, sweep in sweeps.items():
        lines.append(f"| {name} | {' | '.join(summary(sweep, nodes) for nodes in MACHINES.values())} |")
    return lines


def summary(sweep: PlannedSweep, nodes: Sequence[Node]) -> str:
    """How and for how long a sweep runs on some machines, in a few words."""
    try:
        chosen = sweep.plan(nodes).chosen
    except UserError:
        return "does not fit"
    assert chosen.seconds is not None
    text = f"{chosen.where}, {in_hours(chosen.seconds)}"
    return f"{text}, {in_bytes(chosen.read)} read" if chosen.read else text
