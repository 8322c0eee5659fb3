"""Instruments of the layer search: the time inside blocks, and the rate of matrix products."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.backbone import Backbone
from methods.instruments import wait, wall_seconds


@contextmanager
def clocked_blocks(backbone: Backbone) -> Iterator[Callable[[], tuple[float, float]]]:
    """Wall and CPU seconds in which `Backbone.layer` was at work; on a GPU the device's own time, without waiting.

    Calls that overlap, on threads side by side, count once.
    """
    layer, cuda = backbone.layer, backbone.device.type == "cuda"
    marks: list[tuple[Any, Any]] = []
    wall = cpu = 0.0
    busy, start, lock = 0, (0.0, 0.0), threading.Lock()

    def clocked(*arguments: Any, **named: Any) -> Tensor:
        nonlocal wall, cpu, busy, start
        if cuda:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            states = layer(*arguments, **named)
            after.record()
            marks.append((before, after))
            return states
        with lock:
            if not busy:
                start = time.perf_counter(), time.process_time()
            busy += 1
        try:
            return layer(*arguments, **named)
        finally:
            with lock:
                busy -= 1
                if not busy:
                    wall += time.perf_counter() - start[0]
                    cpu += time.process_time() - start[1]

    def seconds() -> tuple[float, float]:
        if cuda:
            wait("cuda")
            return sum(before.elapsed_time(after) for before, after in marks) / 1e3, 0.0
        return wall, cpu

    backbone.layer = clocked  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        del backbone.layer


def matrix_rate(backbone: Backbone) -> tuple[float, float]:
    """Operations per second, and per CPU second, of the fastest of several large matrix products.

    Two have the sizes of the model's feed-forward layers, two are square enough for any machine.
    """
    device, dtype, d = backbone.device, backbone.dtype, backbone.hidden_size
    rows, wide = (1024, 2048) if device.type == "cpu" else (16384, 8192)
    best = best_cpu = 0.0
    for n, width, out in ((rows, d, 4 * d), (rows, 4 * d, d), (rows, wide, wide), (wide, wide, wide)):
        x, weight = (
            torch.randn(n, width, device=device, dtype=dtype),
            torch.randn(out, width, device=device, dtype=dtype),
        )
        F.linear(x, weight)
        for _ in range(3):
            cpu = time.process_time()
            seconds = wall_seconds(device.type, partial(F.linear, x, weight))
            cpu = time.process_time() - cpu
            best = max(best, 2.0 * n * width * out / seconds)
            best_cpu = max(best_cpu, 2.0 * n * width * out / max(cpu, 1e-9))
    return best, best_cpu
