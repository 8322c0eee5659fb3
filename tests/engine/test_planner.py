"""The planner: which way a model lies on which machines, with the numbers, and what is refused. No GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.needs import ModelNeeds
from orchestrator.placement import Node
from orchestrator.planner import Plan, make_plan
from orchestrator.schedule import efficiency, makespan
from orchestrator.spec import SweepSpec

GB = 10**9
SEARCH, TRAINING = frozenset({"single", "dispatch", "stream"}), frozenset({"single", "zero3"})


def model(blocks: int, block: int = GB, **more: Any) -> ModelNeeds:
    """A model of so many blocks of 1 GB and 2 GB around them; a row of states takes 1 MB."""
    sizes: dict[str, Any] = {
        "weights": blocks * block + 2 * GB,
        "outside": 2 * GB,
        "block": block,
        "blocks": blocks,
        "process": GB // 2,
        "working": {"cpu": GB // 4, "cuda": GB},
        "row": 10**6,
        "fewest_rows": 100,
        "most_rows": {"cpu": 500, "cuda": 20000},
        "busy_rows": 2000,
        "rows": 1e6,
        "flops": 1e18,
        "gpu_rate": 1e13,
        "model": "a model",
    }
    return ModelNeeds(**sizes | more)


def gpus(count: int, memory: int = 80, nodes: int = 1) -> list[Node]:
    return [Node(16 * count, count, 500 * GB, memory * GB)] * nodes


def plan(needs: ModelNeeds, nodes: list[Node], ways: frozenset[str] = SEARCH, trials: int = 64, **asked: Any) -> Plan:
    return make_plan(SweepSpec(**asked), nodes, needs, [1.0] * trials, ways)


@pytest.mark.parametrize(
    ("blocks", "nodes", "way", "share", "concurrent"),
    [
        (4, gpus(1), "single", 0.25, 4),  # four small trials share a GPU
        (40, gpus(1), "single", 1, 1),
        (40, gpus(8, nodes=2), "single", 1, 16),
        (100, gpus(1), "stream", 1, 1),  # larger than the GPU
        (100, gpus(8), "stream", 1, 8),
        (10, [Node(8, 0, 64 * GB)], "single", 0, 3),
        (10, [Node(8, 0, 10 * GB)], "stream", 0, 1),  # larger than the machine
    ],
)
def test_a_model_lies_where_it_fits(blocks: int, nodes: list[Node], way: str, share: float, concurrent: int) -> None:
    placement = plan(model(blocks), nodes).placement
    assert (placement.kind, placement.gpus, placement.concurrent) == (way, share, concurrent)


def test_layers_are_dispatched_where_reading_them_again_and_again_would_take_longer() -> None:
    little_work = model(100, flops=1e12)
    chosen = plan(little_work, gpus(8)).chosen
    assert (chosen.way, chosen.gpus) == ("dispatch", 2)
    assert plan(model(100, flops=1e20), gpus(8)).chosen.way == "stream", "dispatched layers wait for one another"


def test_what_a_device_of_several_holds_is_the_fullest_ones() -> None:
    needs = model(10)
    assert needs.least("single", "cuda") == 13 * GB + 10**8
    assert needs.least("dispatch", "cuda", 2) == 7 * GB + 10**8  # 2 GB outside and 4 blocks; 6 blocks
    assert needs.least("stream", "cuda") == 2 * GB + 10**8  # the next block waits on the host
    assert model(10, check=2 * GB).least("single", "cuda") == 15 * GB + 10**8
    assert needs.least("stream", "cpu") == 2 * GB + GB // 2 + GB // 4 + 10**8
    assert model(10, training=36 * GB).least("zero3", "cuda", 4) == 12 * GB + 2 * GB + GB + 10**8


def test_training_is_sharded_over_as_many_processes_as_it_needs() -> None:
    needs = model(30, training=96 * GB, row=0)  # 128 GB in all
    placement = plan(needs, gpus(8), TRAINING).placement
    assert (placement.kind, placement.workers, placement.gpus, placement.concurrent) == ("zero3", 2, 1, 4)
    assert plan(needs, gpus(8), TRAINING, workers_per_trial=4).placement.concurrent == 2
    assert plan(needs, gpus(1, memory=40, nodes=4), TRAINING).placement.workers == 4, "also over nodes"
    larger = {"training": 136 * GB, "row": 0}  # 168 GB in all
    assert plan(model(30, **larger), gpus(8), TRAINING).placement.workers == 3
    assert plan(model(30, **larger, dealt=16), gpus(8), TRAINING).placement.workers == 4, (
        "16 edits cannot be dealt to 3"
    )
    assert plan(model(30, **larger, whole=20 * GB), gpus(8), TRAINING).placement.workers == 4


def test_a_sharded_training_waits_for_weights_and_repeats_what_is_not_shared_out() -> None:
    def sharded(**more: float) -> Plan:
        needs = model(30, training=96 * GB, row=0, **more)  # 32 GB of weights; two GPUs hold it
        return plan(needs, gpus(8), TRAINING, trials=1)

    assert sharded().chosen.seconds == pytest.approx(1e18 / 2e13)
    assert sharded(repeated=1.0).chosen.seconds == pytest.approx(1e18 / 1e13), "the second process is of no use"
    assert sharded(repeated=0.5).chosen.seconds == pytest.approx(1e18 / (2e13 / 1.5))
    waiting = sharded(passes=1e6)
    assert waiting.chosen.seconds == pytest.approx(1e6 * 32 / 25)
    assert "each process gathers 32.0 PB of weights" in str(waiting.chosen)
    assert "25.0 GB a second gathered by a process" in waiting.sentences()[-1]


def test_placement_overrides_the_choice_and_says_so() -> None:
    chosen = plan(model(4), gpus(8), placement="stream")
    assert chosen.placement.kind == "stream"
    assert "Taken: streamed to one GPU, as --placement stream asks." in chosen.sentences()
    assert plan(model(4), gpus(8), gpus_per_trial=4).placement.kind == "dispatch"
    assert plan(model(4), gpus(8), gpus_per_trial=0).placement.gpus == 0


def test_the_decision_is_explained_with_every_number() -> None:
    text = "\n".join(plan(model(100), gpus(8)).sentences())
    for part in (
        "a model: 102.0 GB of weights, 100 blocks of 1.0 GB and 2.0 GB outside them; states of 1 MB for each",
        "single on one GPU: needs 103.1 GB, 72.0 GB can be used",
        "dispatched over 2 GPUs: fits (52.1 GB of 72.0 GB on each), 6.9 hours with 4 at a time",
        "streamed to one GPU: fits (2.1 GB of 72.0 GB), 3.5 hours with 8 at a time, reads 6.5 TB of weights",
        "Hours are computed, not measured: 1.00e+18 operations, 1.0e+13 operations a second on a GPU and 2.0 GB",
    ):
        assert part in text, text


def test_what_cannot_fit_is_refused_with_the_numbers_and_the_way_out() -> None:
    with pytest.raises(UserError) as caught:
        plan(model(100), gpus(8), placement="single", gpus_per_trial=1)
    message = str(caught.value)
    assert "a model does not fit here: 102.0 GB of weights in 100 blocks of 1.0 GB. Single on one GPU: needs" in message
    assert "Ways out: --placement dispatch or stream; a smaller model" in message
    with pytest.raises(
        UserError, match=r"--placement zero3 is not something these trials can do.*single, dispatch, str"
    ):
        plan(model(4), gpus(8), placement="zero3")
    with pytest.raises(UserError, match="dispatch takes several GPUs of one node"):
        plan(model(4), gpus(8), placement="dispatch", gpus_per_trial=1)
    with pytest.raises(UserError, match="--gpus-per-trial 16 can never be met"):
        plan(model(4), gpus(8), gpus_per_trial=16)
    with pytest.raises(UserError, match=r"needs 2\.1 GB, 1\.8 GB can be used"):
        plan(model(4), gpus(1, memory=2), gpus_per_trial=1, placement="stream")


def test_gpus_of_unknown_memory_are_taken_as_large_as_their_node() -> None:
    chosen = plan(model(40), [Node(16, 1, 100 * GB)])
    assert chosen.placement.gpus == 1
    assert any("Say --gpu-memory" in sentence for sentence in chosen.sentences())


@given(blocks=st.integers(1, 200), memory=st.integers(8, 200), count=st.integers(1, 8), trials=st.integers(1, 300))
def test_no_device_is_ever_overfilled(blocks: int, memory: int, count: int, trials: int) -> None:
    chosen = plan(model(blocks), gpus(count, memory), trials=trials).chosen
    placement = chosen.placement
    assert placement is not None
    if placement.gpus:
        assert placement.memory <= 0.9 * memory * GB * min(1, placement.gpus) + 1
        assert placement.concurrent * placement.gpus <= count
    assert chosen.least <= placement.memory
    assert chosen.tile_rows >= 100


def test_list_scheduling_hands_the_next_trial_to_whoever_is_free() -> None:
    assert makespan([4, 3, 2, 1], 2) == 5
    assert makespan([4, 3, 2, 1], 1, start=10, between=1) == 23
    assert makespan([4], 8) == 4
    assert makespan([], 8) == 0
    assert efficiency([4, 4], 2) == 1
    assert efficiency([4, 4], 4) == 0.5, "workers without a trial count as idle"


@given(seconds=st.lists(st.floats(0.1, 100), min_size=1, max_size=40), workers=st.integers(1, 16))
def test_a_schedule_is_within_grahams_bound(seconds: list[float], workers: int) -> None:
    seconds = sorted(seconds, reverse=True)
    least = max(seconds[0], sum(seconds) / workers)
    assert least - 1e-6 <= makespan(seconds, workers) <= least * (2 - 1 / workers) + 1e-6
