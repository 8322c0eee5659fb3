"""The processes of one trial that several compute: started together, told of each other, ended together.

Tune reserves one placement group for the trial, with a bundle for each process, so that either all of them find room or
none does. The trial's own actor computes nothing: it starts a member in every bundle, sets the environment that
`torch.distributed` reads (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``), and follows what
they say. All members run the study's `load` and `run`; what process 0 reports and returns is the trial's. When one of
them fails, all are ended, and Tune starts the trial again as a whole.

Ray Train does not start them, because it reserves a placement group of its own beside Tune's, which stays reserved when
the trial's actor is killed on a Ray without a dashboard, as a job's own is: the next try would wait for ever. Its
workers also report only all together and hear nothing back, so that none could wait at a rung, and only the end of its
caller, or of a worker, ends a training.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.errors import UserError
from orchestrator.peak import peak, peak_gpu, reset_peak
from orchestrator.placement import Placement
from orchestrator.study import Study, Trial, TrialContext
from orchestrator.weights import Offer, at_hand

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
LAST_WORDS_SECONDS = 5.0
"""How long to wait, after one member has failed, for another to say why."""


def resources(placement: Placement) -> Any:
    """What Tune reserves for a trial: for several processes a bundle each, all at once, on one node if they fit."""
    if placement.workers == 1:
        return {"cpu": placement.cpus, "gpu": placement.gpus}
    bundle = {"CPU": float(placement.cpus)} | ({"GPU": placement.gpus} if placement.gpus else {})
    return tune.PlacementGroupFactory([{}, *([bundle] * placement.workers)], strategy="PACK")


class Place(NamedTuple):
    """Where a member is: its node, the node's address, a free port there, and its GPUs."""

    node: str
    address: str
    port: int
    gpus: tuple[str, ...]


class Outcome(NamedTuple):
    """How a member ended: with the table, what it warned of, and its peaks; or with the mistakes it found."""

    table: pa.Table | None
    warnings: tuple[str, ...]
    peak_bytes: int
    peak_gpu_bytes: int
    refusal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What every member is handed; `folder` is the driver's working directory, from which relative paths count."""

    study: Study[Any]
    trial: Trial
    cache: Path
    scratch: Path
    memory_bytes: int
    placement: Placement
    offer: Offer
    folder: Path


def environments(places: Sequence[Place], threads: int) -> list[dict[str, str]]:
    """The environment of each member, in the order of their ranks.

    Members of one node see all GPUs of the trial there, as NCCL wants it, and each takes the one of its local rank.
    """
    found = []
    for rank, place in enumerate(places):
        here = [other for other, each in enumerate(places) if each.node == place.node]
        found.append(
            {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(places)),
                "LOCAL_RANK": str(here.index(rank)),
                "LOCAL_WORLD_SIZE": str(len(here)),
                "MASTER_ADDR": places[0].address,
                "MASTER_PORT": str(places[0].port),
                "CUDA_VISIBLE_DEVICES": ",".join(gpu for other in here for gpu in places[other].gpus),
                **({} if place.gpus else {"DS_ACCELERATOR": "cpu"}),
                **{variable: str(threads) for variable in THREAD_VARIABLES},
            }
        )
    return found


class Member:
    """One process of a trial; imports of torch wait until the environment is set."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.heard = threading.Semaphore(0)

    def place(self) -> Place:
        """Where this process is, and a port that is free there."""
        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids().get("GPU", []))
        with socket.socket() as free:
            free.bind(("", 0))
            port = int(free.getsockname()[1])
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), port, gpus)

    def join(self, environment: Mapping[str, str]) -> None:
        """Sets the environment of the group."""
        os.environ.update(environment)

    def run(self, task: Task, rank: int) -> Iterator[Any]:
        """Computes the trial; yields ``("progress", fraction)``, ``("report", step, metrics)``, at last an `Outcome`.

        The computation has a thread of its own, so that what it says goes out at once. After a report it waits for
        `go_on`: process 0 goes no further than a rung until it is decided, and with it the others, who need it.
        """
        said: queue.Queue[Any] = queue.Queue()
        thread = threading.Thread(target=_compute, args=(task, rank, said.put, self.heard.acquire), daemon=True)
        thread.start()
        while True:
            word = said.get()
            if isinstance(word, Exception):
                raise word
            yield word
            if isinstance(word, Outcome):
                return

    def go_on(self) -> None:
        """The trial has taken the latest report and may continue."""
        self.heard.release()


def _compute(task: Task, rank: int, say: Callable[[Any], None], wait: Callable[[], object]) -> None:
    """Runs in the thread of a member; ends with an `Outcome` or an exception."""

    def report(step: int, metrics: Mapping[str, float]) -> None:
        say(("report", step, dict(metrics)))
        wait()

    try:
        if task.folder.is_dir():
            os.chdir(task.folder)
        import torch

        torch.set_num_threads(task.placement.cpus)
        context = TrialContext(
            cache=task.cache,
            scratch=task.scratch,
            threads=task.placement.cpus,
            device=f"cuda:{os.environ['LOCAL_RANK']}" if task.placement.gpus else "cpu",
            memory_bytes=task.memory_bytes,
            progress=(lambda fraction: say(("progress", float(fraction)))) if rank == 0 else lambda fraction: None,
            placement=task.placement.kind,
        )
        if rank == 0:
            context = replace(context, report=report)
        reset_peak()
        known = len(task.study.warnings)
        at_hand(task.study, task.offer, context.cache)
        table = task.study.run(task.trial, task.study.load(context), context)
        warnings = tuple(task.study.warnings[known:])
        say(Outcome(table if rank == 0 else None, warnings, peak(), peak_gpu()))
    except UserError as error:
        say(Outcome(None, (), peak(), peak_gpu(), error.problems))
    except Exception as error:
        say(error)


def run_together(task: Task, context: TrialContext) -> Outcome:
    """Computes a trial in as many processes as its placement says; called in the trial's own actor.

    Args:
        task: what to compute.
        context: of the trial, for progress and reports.

    Returns:
        Process 0's outcome, with the largest peaks of all.

    Raises:
        UserError: a member found a mistake of the user's.
        TrialStopped: the scheduler has stopped the trial.
        RuntimeError: a member's process died.
    """
    group = get_current_placement_group()
    kind = ray.remote(Member)
    size = task.placement.workers
    members = [
        kind.options(
            num_cpus=task.placement.cpus,
            num_gpus=task.placement.gpus,
            max_concurrency=2,  # it hears while it runs
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        ).remote()
        for bundle in range(size)
    ]
    try:
        places = ray.get([member.place.remote() for member in members])
        each = environments(places, task.placement.cpus)
        ray.get([member.join.remote(environment) for member, environment in zip(members, each, strict=True)])
        handed = ray.put(task)
        streams = [
            member.run.options(num_returns="streaming").remote(handed, rank) for rank, member in enumerate(members)
        ]
        outcomes = _follow(streams, context, members[0].go_on.remote)
    except RayActorError as error:
        raise RuntimeError(
            f"one of the {size} processes of the trial died (killed, out of memory, or a crash in native code)"
        ) from error
    finally:
        for member in members:
            ray.kill(member)
    return outcomes[0]._replace(
        peak_bytes=max(one.peak_bytes for one in outcomes), peak_gpu_bytes=max(one.peak_gpu_bytes for one in outcomes)
    )


def _follow(streams: Sequence[Any], context: TrialContext, go_on: Callable[[], object]) -> list[Outcome]:
    """Passes on what the members say until all have ended; lets process 0 go on after each of its reports."""
    outcomes: dict[int, Outcome] = {}
    waiting = {stream: rank for rank, stream in enumerate(streams)}
    while waiting:
        (stream, *_), _ = ray.wait(list(waiting), num_returns=1)
        try:
            word = ray.get(next(stream))
        except RayTaskError as error:
            _raise_deaths([other for other in waiting if other is not stream])
            raise error.cause from error
        if isinstance(word, Outcome):
            if word.refusal:
                raise UserError(*word.refusal)
            outcomes[waiting.pop(stream)] = word
        elif word[0] == "progress":
            context.progress(word[1])
        else:
            context.report(word[1], word[2])
            go_on()
    return [outcomes[rank] for rank in range(len(streams))]


def _raise_deaths(streams: Sequence[Any]) -> None:
    """Raises RayActorError if one of these members is dead: then the others' complaints only follow from that."""
    ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=LAST_WORDS_SECONDS)
    for stream in ready:
        with suppress(RayTaskError):  # another complaint; the first one is raised
            ray.get(next(stream))
