"""Pieces of work side by side: every piece once, results in order, torch's threads as they were."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import pytest
import torch

from methods.backbone.cores import at_a_time, side_by_side

pytestmark = pytest.mark.usefixtures("four_threads")


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 8])
def test_results_come_in_the_order_of_the_pieces(number: int, count: int) -> None:
    """The first piece is the slowest: the others wait for it to be used."""
    used: list[tuple[int, int]] = []

    def work(piece: int) -> int:
        if piece == 0:
            threading.Event().wait(0.02)
        return piece * piece

    side_by_side(range(count), work, lambda piece, result: used.append((piece, result)), number)
    assert used == [(piece, piece * piece) for piece in range(count)]


def test_each_piece_has_its_share_of_the_threads_and_the_last_odd_one_has_all() -> None:
    seen: list[int] = []
    side_by_side(range(5), lambda piece: torch.get_num_threads(), lambda _, threads: seen.append(threads), 2)
    assert seen == [2, 2, 2, 2, 4]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("gradients", [True, False])
def test_gradients_are_switched_as_the_caller_has_them(gradients: bool) -> None:
    """Torch keeps that per thread."""
    weight, found = torch.ones(2, requires_grad=True), []
    with torch.set_grad_enabled(gradients):
        side_by_side(range(2), lambda piece: weight * piece, lambda _, result: found.append(result), 2)
    assert [result.requires_grad for result in found] == [gradients, gradients]


def test_the_first_error_is_raised_when_all_that_began_are_done() -> None:
    done: list[int] = []

    def work(piece: int) -> None:
        if piece in (1, 3):
            raise RuntimeError(f"piece {piece}")
        threading.Event().wait(0.02)
        done.append(piece)

    with pytest.raises(RuntimeError, match="piece 1"):
        side_by_side(range(6), work, lambda *_: None, 2)
    after = list(done)
    threading.Event().wait(0.05)
    assert done == after
    assert torch.get_num_threads() == 4


def test_what_a_failed_piece_worked_on_is_free_once_its_error_is_handled() -> None:
    """A tile that did not fit is cut in two and tried again: its memory must not wait for the garbage collector."""
    gc.disable()
    try:
        kept = weakref.ref(fail_with_a_large_tensor())
        assert kept() is None
    finally:
        gc.enable()


def fail_with_a_large_tensor() -> torch.Tensor:
    states = torch.zeros(8)

    def work(piece: int) -> None:
        states[piece] += 1
        raise RuntimeError("out of memory")

    with contextlib.suppress(RuntimeError):
        side_by_side(range(4), work, lambda *_: None, 2)
    return states


@pytest.mark.parametrize(
    ("threads", "most", "number"), [(4, 4, 4), (4, 3, 2), (3, 4, 3), (7, 4, 1), (16, 4, 4), (1, 4, 1)]
)
def test_so_many_pieces_at_a_time_that_no_thread_is_left_over(threads: int, most: int, number: int) -> None:
    torch.set_num_threads(threads)
    assert at_a_time(torch.device("cpu"), most) == number
    assert at_a_time(torch.device("cuda"), most) == 1
