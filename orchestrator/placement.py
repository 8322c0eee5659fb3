"""How many trials run at a time and what each may use, derived from the machine or cluster and shown before it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import Problems
from orchestrator.spec import SweepSpec

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
USABLE_MEMORY = 0.8
GPU_SHARE = 0.9
"""Of a GPU's memory; the rest is left to CUDA itself."""


@dataclass(frozen=True)
class Node:
    """One machine: CPU cores, GPUs, bytes of memory free for trials, bytes of one GPU (0 when not known)."""

    cores: int
    gpus: int
    memory: int
    gpu_memory: int = 0


@dataclass(frozen=True)
class Placement:
    """What each trial may use, and how many run at a time over all nodes.

    Attributes:
        cpus: cores of one trial; also its threads.
        gpus: GPUs of one trial.
        concurrent: trials at a time.
        memory: bytes of one trial; of its GPU where it has one.
        kind: how a trial's model lies: ``"single"``, ``"dispatch"``, ``"stream"`` or ``"zero3"``.
        workers: processes of one trial, each with these cores, GPUs and bytes.
    """

    cpus: int
    gpus: float
    concurrent: int
    memory: int
    kind: str = "single"
    workers: int = 1

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else ""
        cores = "core" if self.cpus == 1 else "cores"
        each = f"{self.workers} processes, each with" if self.workers > 1 else "with"
        how = {"dispatch": ", dispatched over its GPUs", "stream": ", streamed", "zero3": ", sharded with ZeRO-3"}
        memory = in_bytes(self.memory) + (" on each" if self.gpus > 1 else "")
        return (
            f"{self.concurrent} at a time, each {each} {self.cpus} {cores}{gpus} and {memory}{how.get(self.kind, '')}"
        )


def in_bytes(count: float) -> str:
    """A number of bytes for people, in decimal units as in ``--memory``: ``3.5 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} PB"


def this_machine(with_gpus: bool) -> Node:
    """The machine this process runs on, within the limits of its container.

    Args:
        with_gpus: also count GPUs, which imports torch where a GPU's driver is there.
    """
    gpus, gpu_memory = 0, 0
    if with_gpus and any(Path(device).exists() for device in GPU_DRIVERS):
        import torch

        gpus = torch.cuda.device_count()
        gpu_memory = torch.cuda.get_device_properties(0).total_memory if gpus else 0
    return Node(cores=_cores(), gpus=gpus, memory=_free_memory(), gpu_memory=gpu_memory)


def cluster_nodes(nodes: Sequence[dict[str, Any]]) -> list[Node]:
    """The living nodes of a Ray cluster, from ``ray.nodes()``."""
    found = []
    for node in nodes:
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU", 0) >= 1:
            found.append(Node(int(resources["CPU"]), int(resources.get("GPU", 0)), int(resources.get("memory", 0))))
    return found


def place(
    spec: SweepSpec,
    nodes: Sequence[Node],
    planned: int,
    trial_memory: int,
    *,
    way: str = "single",
    gpus: float | None = None,
    workers: int = 1,
) -> Placement:
    """Shares the nodes out among the trials.

    The shares depend on the whole grid, not on what of it is still to do, so a sweep that is continued computes with
    the same number of threads as one that was not interrupted.

    Args:
        spec: what the user asked for.
        nodes: the machine, or the nodes of the cluster.
        planned: trials of the grid.
        trial_memory: bytes that one process of a trial needs at least, on each of its GPUs where it has any.
        way: how the trial's model lies.
        gpus: of one process of a trial; by default what the user asked for, else none.
        workers: processes of one trial.

    Raises:
        UserError: what was asked for does not fit on any node, with numbers and the way out.
    """
    problems = Problems()
    largest = Node(
        cores=max(node.cores for node in nodes),
        gpus=max(node.gpus for node in nodes),
        memory=max(node.memory for node in nodes),
        gpu_memory=max(node.gpu_memory for node in nodes),
    )
    where = "this machine has" if len(nodes) == 1 else "the largest node has"
    if gpus is None:
        gpus = spec.gpus_per_trial or 0.0
    on_gpu = gpus > 0
    _check_request(spec, gpus, largest, where, problems)
    problems.raise_if_any()

    if on_gpu:
        usable = int(largest.gpu_memory * GPU_SHARE * min(gpus, 1) or largest.memory)
    else:
        usable = int(largest.memory * USABLE_MEMORY)
    need = max(spec.memory or 0, trial_memory)
    if spec.memory and spec.memory < trial_memory:
        problems.add(
            f"--memory {in_bytes(spec.memory)} is less than the {in_bytes(trial_memory)} that a trial needs at least. "
            "Raise it or leave it out."
        )
    if need > usable:
        kind = "GPU memory" if on_gpu and largest.gpu_memory else "memory"
        problems.add(
            f"A trial needs about {in_bytes(need)} of {kind} and may use {in_bytes(usable)} here. Use a larger "
            "machine, a smaller model or fewer facts; --memory says how much a trial may use."
        )
    problems.raise_if_any()

    def slots(cpus: int) -> int:
        def on(node: Node) -> int:
            limits = [node.cores // cpus]
            if on_gpu:
                limits.append(int(node.gpus / gpus + 1e-9))
            elif need:
                limits.append(int(node.memory * USABLE_MEMORY) // need)
            return min(limits)

        return sum(on(node) for node in nodes) // workers

    most = max(1, min(slots(spec.cpus_per_trial or 1), max(planned, 1)))
    if way == "stream" and not on_gpu and not spec.memory:
        most = min(most, len(nodes))  # the more memory a trial has, the larger its tiles and the less it reads
    concurrent = spec.concurrent or most
    cpus = spec.cpus_per_trial or _widest(concurrent, slots, largest.cores)
    if concurrent > slots(cpus):
        cores = sum(node.cores for node in nodes)
        problems.add(
            f"{concurrent} trials at a time do not fit: with {cpus} core(s)"
            + (f", {gpus:g} GPU(s)" if on_gpu else "")
            + (f" and {in_bytes(need)} each" if need else " each")
            + f" there is room for {slots(cpus)} on {cores} core(s). Lower --concurrent or leave it out."
        )
    problems.raise_if_any()
    per_node = -(-concurrent * workers // len(nodes))
    memory = int(spec.memory or (usable if on_gpu else min(node.memory for node in nodes) * USABLE_MEMORY / per_node))
    return Placement(cpus=cpus, gpus=gpus, concurrent=concurrent, memory=max(memory, need), kind=way, workers=workers)


def _widest(concurrent: int, slots: Callable[[int], int], cores: int) -> int:
    """The most cores a trial can have while `concurrent` of them still fit."""
    return next((cpus for cpus in range(cores, 1, -1) if slots(cpus) >= concurrent), 1)


def _check_request(spec: SweepSpec, gpus: float, largest: Node, where: str, problems: Problems) -> None:
    if (spec.cpus_per_trial or 0) > largest.cores:
        problems.add(
            f"--cpus-per-trial {spec.cpus_per_trial} can never be met: {where} {largest.cores} core(s). Ask for at "
            "most that many."
        )
    if gpus > largest.gpus:
        problems.add(
            f"--gpus-per-trial {gpus:g} can never be met: {where} {largest.gpus} GPU(s) that PyTorch "
            "can use. Leave it out to run on CPU cores."
        )
    if gpus > 1 and gpus != int(gpus):
        problems.add(f"--gpus-per-trial {gpus:g}: above 1 it must be a whole number.")
    if spec.memory and not gpus and spec.memory > largest.memory:
        problems.add(
            f"--memory {in_bytes(spec.memory)} a trial can never be met: {where} {in_bytes(largest.memory)} free. Ask "
            "for less, or leave it out."
        )


def _cores() -> int:
    """Cores this process may use: its affinity and its container's quota, whichever is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    first_version = [_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{part}_us") or "" for part in ("quota", "period")]
    for limit, period in ((_read("/sys/fs/cgroup/cpu.max") or "").partition(" ")[::2], first_version):
        if limit.isdigit() and period.isdigit():  # "max" and -1 are no limit
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def _free_memory() -> int:
    """Bytes that can still be allocated: the machine's, or the container's where that is less."""
    free = int(psutil.virtual_memory().available)
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit, used = _read(limit_file), _read(used_file)
        if limit and used and limit.isdigit() and used.isdigit():
            free = min(free, max(0, int(limit) - int(used) + _reclaimable(Path(used_file).parent)))
    return free


def _reclaimable(cgroup: Path) -> int:
    """Bytes of cached file pages, which count as used but give way."""
    for line in (_read(str(cgroup / "memory.stat")) or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
