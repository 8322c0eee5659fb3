"""The processes of one trial: what each is told of the others."""

from __future__ import annotations

from orchestrator.placement import Placement
from orchestrator.process_group import Place, environments, resources


def test_one_process_reserves_what_one_trial_needs() -> None:
    assert resources(Placement(cpus=2, gpus=0.5, concurrent=1, memory=10**9)) == {"cpu": 2, "gpu": 0.5}


def test_several_processes_reserve_a_bundle_each_and_nothing_for_the_trial_itself() -> None:
    reserved = resources(Placement(cpus=4, gpus=1, concurrent=1, memory=10**9, kind="zero3", workers=3))
    assert reserved.head_bundle_is_empty
    assert reserved.bundles == [{"CPU": 4.0, "GPU": 1.0}] * 3
    assert reserved.strategy == "PACK"


def test_ranks_are_counted_over_nodes_and_local_ranks_on_each() -> None:
    places = [
        Place("first", "10.0.0.1", 5001, ("4",)),
        Place("second", "10.0.0.2", 5002, ("0",)),
        Place("first", "10.0.0.1", 5003, ("6",)),
    ]
    told = environments(places, threads=3)
    assert [each["RANK"] for each in told] == ["0", "1", "2"]
    assert [each["LOCAL_RANK"] for each in told] == ["0", "0", "1"]
    assert {(each["MASTER_ADDR"], each["MASTER_PORT"], each["WORLD_SIZE"]) for each in told} == {
        ("10.0.0.1", "5001", "3")
    }
    assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["4,6", "0", "4,6"]
    assert {each["OMP_NUM_THREADS"] for each in told} == {"3"}


def test_without_gpus_nobody_sees_one() -> None:
    told = environments([Place("a", "10.0.0.1", 5001, ()), Place("a", "10.0.0.1", 5002, ())], threads=1)
    assert {(each["CUDA_VISIBLE_DEVICES"], each["DS_ACCELERATOR"]) for each in told} == {("", "cpu")}
