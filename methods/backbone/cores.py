"""The threads of a process, shared out over tasks that do not depend on one another.

Within an operation threads wait for each other again and again, between tasks only at the end: two products side by
side, each on half of the threads, are done sooner than one after the other on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

AT_ONCE = 4
"""Tasks side by side at most, because each holds working space of its own; further threads help within a task."""

T = TypeVar("T")


def at_once(device: str) -> int:
    """How many tasks run side by side on a device; on a GPU operations queue up anyway."""
    return min(AT_ONCE, torch.get_num_threads()) if device == "cpu" else 1


def side_by_side(tasks: Sequence[Callable[[], T]], device: str) -> Iterator[T]:
    """Runs tasks, several at a time, each on its share of torch's threads.

    To be read to its end: until then torch's number of threads is changed.

    Args:
        tasks: may run in any order; gradients are recorded where they are for the caller.
        device: the type of the device they compute on.

    Yields:
        Their results, in their order. An exception is raised once no task runs any more.
    """
    count = min(at_once(device), len(tasks))
    if count < 2:
        yield from (task() for task in tasks)
        return
    threads, recording = torch.get_num_threads(), torch.is_grad_enabled()

    def run(task: Callable[[], T]) -> T:
        torch.set_num_threads(threads // count)
        with torch.set_grad_enabled(recording):
            return task()

    futures = [_pool(count).submit(run, task) for task in tasks]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(threads)


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="side-by-side")
