"""How long a grid takes: list scheduling, as Ray Tune does it. A worker that is free takes the next trial of the list.

The trials come most expensive first, so this is Graham's LPT rule: at most 4/3 of the best possible schedule.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def makespan(seconds: Sequence[float], workers: int, *, start: float = 0.0, between: float = 0.0) -> float:
    """The time at which the last trial ends.

    Args:
        seconds: of each trial, in the order in which they are handed out.
        workers: trials at a time.
        start: what a worker needs before its first trial (process, libraries, weights).
        between: what a worker needs between two trials.
    """
    busy = [(start, 0)] * min(workers, len(seconds))
    heapq.heapify(busy)
    end = 0.0
    for duration in seconds:
        free, done = heapq.heappop(busy)
        free += duration + (between if done else 0.0)
        heapq.heappush(busy, (free, done + 1))
        end = max(end, free)
    return end


def efficiency(seconds: Sequence[float], workers: int, *, start: float = 0.0, between: float = 0.0) -> float:
    """The share of the workers' time that goes into trials: 1 if all of them compute until the end."""
    end = makespan(seconds, workers, start=start, between=between)
    return sum(seconds) / (workers * end) if end else 1.0
