"""A trial that several processes compute together is one trial: one answer, one failure, one retry, one end."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import ray
from ray.util import placement_group_table

from tests.engine.conftest import ToySweep
from tests.engine.steps import steps_taken

pytestmark = pytest.mark.slow
PATIENCE = 120.0


def soon(happens: Callable[[], object]) -> bool:
    """Whether something happens within two minutes."""
    limit = time.monotonic() + PATIENCE
    while not happens():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def members(toy: ToySweep, rate: float) -> set[int]:
    """The processes that have taken steps of a trial."""
    return {int(mark.read_text()) for mark in toy.marks.glob(f"step-{rate:g}-*")}


def is_free() -> bool:
    """Whether nothing is reserved on this Ray."""
    reserved = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    return not reserved and ray.available_resources().get("CPU") == 2.0


def test_all_processes_compute_it_and_one_answers_one_dies_and_all_begin_again(toy: ToySweep) -> None:
    outcome = toy.run(workers=2, size=3, kill_first=(1,), refuse=(0,))
    answers = {result.trial.cell["n"]: result for result in outcome.results}
    assert {n: result.table["square"].to_pylist() for n, result in answers.items()} == {2: [4.0], 1: [1.0]}
    counts = toy.counts()
    assert (counts["try-2"], counts["run-2"]) == (2, 2), "both processes computed it"
    assert counts["try-1"] == 4, "one of them was killed, and both began again"
    assert answers[2].table["threads"].to_pylist() == [1]
    assert answers[2].provenance["workers"] == 2
    (refused,) = outcome.failed
    assert refused.refused
    assert refused.reason == "0 is not a number this model knows. Choose another."


def test_at_a_rung_the_first_process_waits_and_a_stopped_trial_leaves_nothing(toy: ToySweep) -> None:
    outcome = toy.take_steps(workers=2, rates=(3.0, 1.0, 4.0), steps=4, early=True)
    assert [(each.trial.label, each.step) for each in outcome.stopped] == [("rate=1.0", 2)]
    assert [result.trial.label for result in outcome.results] == ["rate=3.0", "rate=4.0"], "the cores were free again"
    assert outcome.results[0].history["acc"] == [(1, 3.0), (2, 6.0), (3, 9.0), (4, 12.0)], "one of them reports"
    taken = steps_taken(toy.marks, 1.0)
    assert taken[2] == 2
    assert taken.get(3, 0) <= 1, "only the second, which needs no other here, went beyond the rung"
    assert soon(lambda: not any(psutil.pid_exists(pid) for rate in (3, 1, 4) for pid in members(toy, rate)))
    assert soon(is_free)


def test_the_death_of_the_process_that_follows_them_ends_all_and_they_begin_again(toy: ToySweep) -> None:
    def kill() -> set[int]:
        assert soon(lambda: len(members(toy, 3)) == 2 and toy.counts().get("step-3-4") == 2)
        mine = psutil.Process().children(recursive=True)
        (trial,) = (each for each in mine if "Trainable" in "".join(each.cmdline()))  # as Tune wraps it
        trial.kill()
        return members(toy, 3)

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill)
        outcome = toy.take_steps(workers=2, rates=(3.0,), sleep=0.5, retries=1)
    first = killed.result()
    assert (outcome.done, outcome.failed) == (1, [])
    assert outcome.results[0].history["acc"] == [(step, 3.0 * step) for step in range(1, 10)]
    assert steps_taken(toy.marks, 3)[1] == 2, "the second try went on from the checkpoint"
    assert len(members(toy, 3) - first) == 2, "by two new processes"
    assert soon(lambda: not any(psutil.pid_exists(pid) for pid in members(toy, 3)))
    assert soon(is_free)
