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

# For so long every matrix product is repeated.
SUSTAINED_SECONDS = 0.3


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

    Two have the sizes of the model's feed-forward layers, two are square enough for any machine. Each is repeated for a
    while: what counts is the rate that a machine keeps up, not that of its luckiest moment.
    """
    device, dtype, d = backbone.device, backbone.dtype, backbone.hidden_size
    rows, wide = (1024, 2048) if device.type == "cpu" else (16384, 8192)
    best = best_cpu = 0.0
    for n, width, out in ((rows, d, 4 * d), (rows, 4 * d, d), (rows, wide, wide), (wide, wide, wide)):
        x, weight = (
            torch.randn(n, width, device=device, dtype=dtype),
            torch.randn(out, width, device=device, dtype=dtype),
        )
        product = partial(F.linear, x, weight)
        product()
        done, wall, cpu = 0.0, 0.0, time.process_time()
        while wall < SUSTAINED_SECONDS:
            wall += wall_seconds(device.type, product)
            done += 2.0 * n * width * out
        best = max(best, done / wall)
        best_cpu = max(best_cpu, done / max(time.process_time() - cpu, 1e-9))
    return best, best_cpu
