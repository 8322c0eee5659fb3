"""Instruments of the benchmarks: wall time and peak memory, on a CPU or a GPU, and processes of their own."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import torch


def wall_seconds(device: str, work: Callable[[], Any]) -> float:
    """Seconds of a piece of work on a device, all that it queued there included."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """Until a GPU has done what it was given; a CPU is never behind."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_memory(device: str, every: float = 0.005) -> Iterator[Callable[[], int]]:
    """The largest memory while the block ran, in bytes: of the process, or of tensors on a GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    process, done = psutil.Process(), threading.Event()
    largest = process.memory_info().rss

    def watch() -> None:
        nonlocal largest
        while not done.wait(every):
            largest = max(largest, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: largest
    finally:
        done.set()
        watcher.join()


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function of a module in a fresh process, so that its peak is its own, and returns what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
