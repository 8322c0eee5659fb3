"""Work on several cores: pieces side by side on few threads each, instead of one after the other on all of them.

A matrix product that is split over threads ends when the slowest of them does, and so does every sum and every norm
after it. Where there are several independent pieces of work, each core does whole ones and waits once, at the end.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

# More pieces at a time would want more working memory; each gets its share of the threads.
MOST_AT_A_TIME = 4

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def at_a_time(device: torch.device, most: int = MOST_AT_A_TIME) -> int:
    """How many pieces of work run side by side, so that no thread of torch's in the calling thread is left over.

    Args:
        device: a GPU takes one piece at a time.
        most: the result is at most this and `MOST_AT_A_TIME`.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return max(number for number in range(1, min(most, MOST_AT_A_TIME) + 1) if threads % number == 0)


def side_by_side(
    pieces: Sequence[Piece],
    work: Callable[[Piece], Result],
    use: Callable[[Piece, Result], object],
    number: int,
) -> None:
    """Runs `work` on every piece, `number` of them at a time; `use` sees the results here, in the order of the pieces.

    What is left over when the pieces do not come out even runs on all threads, one after the other. No more than
    ``number + 1`` pieces are begun and not yet used.

    Args:
        pieces: of work that may run at the same time; none of it may call this function.
        work: computes a piece, on a thread of its own.
        use: takes a piece and its result.
        number: from `at_a_time`, no more than torch's threads.

    Raises whatever the first piece that fails raises, once all that have begun are done.
    """
    threads = torch.get_num_threads()
    even = len(pieces) - len(pieces) % number if number > 1 else 0
    if even:
        run = functools.partial(_run, work, torch.is_grad_enabled(), threads // number)
        pool, begun = _pool(number), deque[tuple[Piece, Future[Result]]]()
        try:
            for piece in pieces[:even]:
                if len(begun) > number:
                    _use_first(begun, use)
                begun.append((piece, pool.submit(run, piece)))
            while begun:
                _use_first(begun, use)
        finally:
            wait([future for _, future in begun])
            begun.clear()
            torch.set_num_threads(threads)
    for piece in pieces[even:]:
        use(piece, work(piece))


def _use_first(begun: deque[tuple[Piece, Future[Result]]], use: Callable[[Piece, Result], object]) -> None:
    """Waits for the first piece and uses it; an interrupt while it waits leaves it among those that have begun."""
    wait([begun[0][1]])
    piece, future = begun.popleft()
    try:
        use(piece, future.result())
    finally:
        del future  # an error holds this frame, and a future its error: together they would keep the tensors alive


def _run(work: Callable[[Piece], Result], gradients: bool, threads: int, piece: Piece) -> Result:
    """One piece on a thread of the pool: what torch keeps per thread is brought along."""
    torch.set_num_threads(threads)
    with torch.set_grad_enabled(gradients):
        return work(piece)


@functools.cache
def _pool(number: int) -> ThreadPoolExecutor:
    """The threads of this process for so many pieces at a time; idle ones cost nothing."""
    return ThreadPoolExecutor(number, thread_name_prefix="piece")
