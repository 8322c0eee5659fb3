"""What a further process costs that has the same model loaded: how much of its memory is its own.

Weights are mapped from their safetensors file, so the processes of a machine share its pages. A process's proportional
set size (PSS) counts a page that n processes share as 1/n of it; the sum over processes is what they take together. Its
unique set size (USS) is what would be freed if it alone ended.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from orchestrator.report.blocks import Table


@dataclass(frozen=True)
class Sharing:
    """Processes that have the same model loaded.

    Attributes:
        processes: how many.
        before, loaded: bytes of all of them together (sum of PSS), before loading and with every weight read.
        private: bytes of one process alone (USS), the mean, with every weight read.
        seconds: the slowest took for loading.
    """

    processes: int
    before: int
    loaded: int
    private: int
    seconds: float


def measure_sharing(address: str, processes: int, dtype: str = "float32") -> Sharing:
    """Loads a model in several processes and measures them while all have it.

    Args:
        address: built-in name, local folder or hub id.
        processes: how many.
        dtype: to load it in; another than the stored one makes a copy in each process.
    """
    context = multiprocessing.get_context("spawn")
    ends, members = [], []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        members.append(context.Process(target=_hold, args=(address, dtype, theirs), daemon=True))
        ends.append(ours)
        members[-1].start()
    for end in ends:
        end.recv()
    before = sum(_memory(member.pid).pss for member in members)
    for end in ends:
        end.send("load")
    seconds = [end.recv() for end in ends]
    memory = [_memory(member.pid) for member in members]
    for end in ends:
        end.send("end")
    for member in members:
        member.join()
    private = sum(each.uss for each in memory) // processes
    return Sharing(processes, before, sum(each.pss for each in memory), private, max(seconds))


def sharing_table(measured: Sequence[Sharing]) -> Table:
    """What was measured, one row for each number of processes."""
    rows = [
        [each.processes, each.before / 1e6, each.loaded / 1e6, each.private / 1e6, each.seconds] for each in measured
    ]
    return Table(
        "One model in several processes",
        ["processes", "MB before", "MB with it", "MB of one alone", "seconds to load"],
        rows,
        note="MB of all processes together, a page that several share counted once; of one alone, what nobody shares.",
    )


def _memory(process: int | None) -> Any:
    return psutil.Process(process).memory_full_info()


def _hold(address: str, dtype: str, end: Connection) -> None:
    """A process that loads the model when it is told to, reads every weight, and waits."""
    import torch

    from methods.backbone.loading import load_backbone

    torch.set_num_threads(1)
    end.send("ready")
    end.recv()
    started = time.perf_counter()
    backbone = load_backbone(address, dtype=getattr(torch, dtype))
    for weight in backbone.model.parameters():
        weight.detach().flatten()[:: 4096 // weight.itemsize].sum()  # one number of every page
    end.send(time.perf_counter() - started)
    end.recv()
