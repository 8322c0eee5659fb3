"""Placement: cores are never oversubscribed, and what cannot be met is refused with numbers."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import placement as placement_module
from orchestrator.errors import UserError
from orchestrator.placement import Node, Placement, cluster_nodes, in_bytes, place, this_machine
from orchestrator.spec import SweepSpec

GB = 10**9


def place_on(*nodes: Node, planned: int = 12, trial_memory: int = GB, **asked: Any) -> Placement:
    return place(SweepSpec(**asked), nodes, planned, trial_memory)


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([Node(2, 0, 16 * GB)], {}, (1, 2)),
        ([Node(8, 0, 16 * GB)], {"planned": 3}, (2, 3)),
        ([Node(8, 0, 16 * GB)], {"cpus_per_trial": 3}, (3, 2)),
        ([Node(8, 0, 16 * GB)], {"concurrent": 2}, (4, 2)),
        ([Node(8, 0, 4 * GB)], {}, (2, 3)),
        ([Node(8, 2, 64 * GB, 80 * GB)], {"gpus_per_trial": 1}, (4, 2)),
        ([Node(8, 2, 64 * GB, 80 * GB)], {"gpus_per_trial": 0.5}, (2, 4)),
        ([Node(4, 0, 16 * GB), Node(2, 0, 16 * GB)], {}, (1, 6)),
        ([Node(4, 0, 16 * GB), Node(4, 0, 16 * GB)], {"planned": 2}, (4, 2)),
    ],
)
def test_cores_are_shared_out(nodes: list[Node], asked: dict[str, Any], expected: tuple[int, int]) -> None:
    placement = place_on(*nodes, **asked)
    assert (placement.cpus, placement.concurrent) == expected


@given(
    cores=st.lists(st.integers(1, 64), min_size=1, max_size=4),
    planned=st.integers(1, 100),
    cpus=st.none() | st.integers(1, 64),
    memory=st.integers(1, 64),
)
def test_neither_cores_nor_memory_are_oversubscribed(
    cores: list[int], planned: int, cpus: int | None, memory: int
) -> None:
    nodes = [Node(count, 0, memory * GB) for count in cores]
    try:
        placement = place_on(*nodes, planned=planned, cpus_per_trial=cpus, trial_memory=GB)
    except UserError:
        assert (cpus or 1) > max(cores) or memory * 0.8 < 1
        return
    room = sum(min(node.cores // placement.cpus, int(node.memory * 0.8) // GB) for node in nodes)
    assert 1 <= placement.concurrent <= room
    assert placement.memory >= GB


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cpus_per_trial": 16}, "--cpus-per-trial 16 can never be met: this machine has 8 core(s)"),
        ({"gpus_per_trial": 1}, "--gpus-per-trial 1 can never be met: this machine has 0 GPU(s)"),
        ({"memory": 99 * GB}, "--memory 99.0 GB a trial can never be met: this machine has 16.0 GB free"),
        ({"memory": GB // 2}, "--memory 500 MB is less than the 1.0 GB that a trial needs at least"),
        ({"trial_memory": 14 * GB}, "A trial needs about 14.0 GB of memory and may use 12.8 GB here"),
        ({"concurrent": 3, "cpus_per_trial": 4}, "3 trials at a time do not fit: with 4 core(s) and 1.0 GB each"),
    ],
)
def test_what_cannot_be_met_is_refused_with_numbers(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        place_on(Node(8, 0, 16 * GB), **asked)
    assert message in str(caught.value)


def test_several_impossible_wishes_are_refused_together() -> None:
    with pytest.raises(UserError) as caught:
        place_on(Node(8, 0, 16 * GB), cpus_per_trial=16, gpus_per_trial=1)
    assert len(caught.value.problems) == 2


def test_this_machine_and_the_nodes_of_a_cluster() -> None:
    here = this_machine(with_gpus=False)
    assert here.cores >= 1
    assert here.memory > 10**8
    alive = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 5e9}}
    head = {"Alive": True, "Resources": {"memory": 5e9}}
    assert cluster_nodes([alive, head, alive | {"Alive": False}]) == [Node(4, 1, 5 * GB)]


def test_bytes_for_people() -> None:
    assert [in_bytes(count) for count in (999, 4_000, 3_500_000_000, 2e12)] == ["999 B", "4 kB", "3.5 GB", "2.0 TB"]


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_a_containers_share_of_the_cores_is_its_quota(
    files: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(placement_module, "_read", lambda path: files.get(path.removeprefix("/sys/fs/cgroup/")))
    assert this_machine(with_gpus=False).cores == most
