"""Where a sweep's model can lie, what each way costs, and which one to take: decided and explained before it runs.

Four ways, of which a study supports some:

- ``single``: all weights on one device; several trials may share a GPU.
- ``dispatch``: the layers are shared out over the GPUs of a node. They compute one after the other, so a trial has the
  memory of several GPUs and the speed of one.
- ``stream``: the layers are read from storage one at a time, once for each tile of as many rows of states as fit.
- ``zero3``: training with weights, gradients and moments sharded over processes (DeepSpeed ZeRO-3).

``single`` is taken where it fits: nothing is read twice and no GPU waits for another. Otherwise the way that needs the
fewest hours. Memory follows from sizes; hours from operations and stated rates of computing, reading and gathering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import UserError
from orchestrator.needs import ModelNeeds
from orchestrator.placement import GPU_SHARE, USABLE_MEMORY, Node, Placement, in_bytes, place
from orchestrator.schedule import makespan
from orchestrator.spec import SweepSpec

READ_RATE = 2e9
"""Bytes per second that a node reads weights with, shared by its trials: one NVMe disk."""
GATHER_RATE = 25e9
"""Bytes per second that a process of a sharded trial gathers weights with: a link of 200 Gb/s for each of them."""
CORE_RATE = 3e10
"""Floating-point operations per second of a CPU core: a layer search in float32 on the machine this was written on."""
MOST_ON_A_GPU = 4
WAYS = ("single", "dispatch", "stream", "zero3")


@dataclass(frozen=True)
class Option:
    """One way for one study on given machines.

    Attributes:
        way: single, dispatch, stream or zero3.
        gpus: of one process of a trial; 0 is a CPU.
        workers: processes of one trial.
        least, usable: bytes that each device of a trial needs at least, and may use.
        placement: what each trial gets, where it fits.
        tile_rows, tiles: packed rows of a tile, and tiles of the whole grid.
        read: bytes of weights read from storage while computing, over the whole grid.
        gathered: bytes of weights that each process of a sharded trial gets from the others, over the whole grid.
        seconds: of the whole grid, if its operations are known.
    """

    way: str
    gpus: float
    workers: int
    least: int
    usable: int
    placement: Placement | None = None
    tile_rows: int = 0
    tiles: int = 0
    read: int = 0
    gathered: float = 0.0
    seconds: float | None = None

    @property
    def devices(self) -> int:
        """Devices over which a trial's model is shared out."""
        return self.workers * max(1, math.ceil(self.gpus))

    @property
    def where(self) -> str:
        """The way and its devices, in words."""
        if 0 < self.gpus < 1:
            return f"single, {round(1 / self.gpus)} trials on each GPU"
        if self.gpus:
            each = "one GPU" if self.devices == 1 else f"{self.devices} GPUs"
        else:
            each = "CPU cores" if self.workers == 1 else f"{self.workers} processes on CPU cores"
        words = {"single": "single on", "dispatch": "dispatched over", "stream": "streamed to", "zero3": "ZeRO-3 over"}
        return f"{words[self.way]} {each}"

    def __str__(self) -> str:
        """Whether it fits, with the numbers."""
        each = " on each" if self.gpus > 1 else ""
        if self.placement is None:
            return f"{self.where}: needs {in_bytes(self.least)}{each}, {in_bytes(self.usable)} can be used"
        text = f"{self.where}: fits ({in_bytes(self.least)} of {in_bytes(self.usable)}{each})"
        if self.seconds is not None:
            text += f", {in_hours(self.seconds)} with {self.placement.concurrent} at a time"
        if self.read:
            text += f", reads {in_bytes(self.read)} of weights in {self.tiles:,} tiles of {self.tile_rows:,} rows"
        if self.gathered:
            text += f", each process gathers {in_bytes(self.gathered)} of weights"
        return text


@dataclass(frozen=True)
class Plan:
    """What was decided, and out of what.

    Attributes:
        chosen: the option to take; its placement is not None.
        options: all that were weighed, the chosen one among them.
        needs: what they were weighed for.
        gpu_rate: operations per second that a GPU was expected to do.
        reason: why the chosen one, in a few words.
        unknown_gpus: whether the GPUs' memory is not known and was taken to be their node's.
    """

    chosen: Option
    options: tuple[Option, ...]
    needs: ModelNeeds
    gpu_rate: float
    reason: str
    unknown_gpus: bool = False

    @property
    def placement(self) -> Placement:
        """What each trial gets."""
        assert self.chosen.placement is not None
        return self.chosen.placement

    def sentences(self, hours: bool = True) -> list[str]:
        """The decision for people: sizes, every way with its numbers, and what the hours stand on.

        Args:
            hours: whether to say the computed ones; not where better ones were measured.
        """
        needs, chosen = self.needs, self.chosen
        if not needs.blocks:
            return []
        said = [
            f"{needs.model}: {in_bytes(needs.weights)} of weights, {needs.blocks} blocks of {in_bytes(needs.block)} "
            f"and {in_bytes(needs.outside)} outside them"
            + (f"; {in_bytes(needs.training)} of gradients and moments" if needs.training else "")
            + (f"; states of {in_bytes(needs.row)} for each packed row" if needs.row else "")
        ]
        said += [str(option if hours else replace(option, seconds=None)) for option in self.options]
        said.append(f"Taken: {chosen.where}, {self.reason}.")
        if chosen.gpus and self.unknown_gpus:
            said.append(
                "How much memory the GPUs have is not known: it was taken to be their node's. Say --gpu-memory."
            )
        if hours and chosen.seconds is not None:
            rate = f"{self.gpu_rate:.1e} operations a second on a GPU" if chosen.gpus else f"{CORE_RATE:.0e} on a core"
            moved = f" and {in_bytes(READ_RATE)} a second read by a node" if chosen.read else ""
            moved += f" and {in_bytes(GATHER_RATE)} a second gathered by a process" if chosen.gathered else ""
            said.append(f"Hours are computed, not measured: {needs.flops:.2e} operations, {rate}{moved}.")
        return said


def in_hours(seconds: float) -> str:
    """A duration for plans: ``under a minute``, ``20 minutes``, ``2.5 hours``, ``1,200 hours``."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "under a minute"
    if hours < 1:
        return f"{minutes:.0f} minute{'s' if round(minutes) > 1 else ''}"
    return f"{hours:.1f} hours" if hours < 9.95 else f"{hours:,.0f} hours"


def make_plan(
    spec: SweepSpec,
    nodes: Sequence[Node],
    needs: ModelNeeds,
    costs: Sequence[float],
    ways: frozenset[str] = frozenset({"single"}),
) -> Plan:
    """Weighs every way that the study supports and takes the best, or the one that ``--placement`` names.

    Args:
        spec: what the user asked for.
        nodes: the machines, alike.
        needs: what the study's trials ask of them.
        costs: expected operations of every trial of the grid; only their ratios matter.
        ways: those the study supports.

    Raises:
        UserError: nothing fits, or not what was asked for; with every number and the way out.
    """
    if spec.placement != "auto" and spec.placement not in ways:
        can = ", ".join(way for way in WAYS if way in ways)
        raise UserError(
            f"--placement {spec.placement} is not something these trials can do. They can lie on a machine as: {can}. "
            "Name one of these, or leave --placement out."
        )
    if spec.workers_per_trial > 1 and "zero3" not in ways:
        raise UserError(
            f"--workers-per-trial {spec.workers_per_trial} is for trainings that --placement zero3 shards; these "
            "trials have one process each. Leave it out."
        )
    rate = spec.gpu_flops or needs.gpu_rate
    wanted = [way for way in WAYS if way in ways and spec.placement in ("auto", way)]
    options: list[Option] = []
    for on_gpu in _devices(spec, nodes):
        options += [option for way in wanted for option in _options(way, on_gpu, spec, nodes, needs, costs, rate)]
        if any(option.placement for option in options):
            break
    fitting = [option for option in options if option.placement is not None]
    if not fitting:
        _refuse(spec, nodes, needs, costs, options, ways)
    single = [option for option in fitting if option.way == "single"]
    if spec.placement != "auto":
        reason = f"as --placement {spec.placement} asks"
    elif single:
        reason = "since the whole model fits: nothing is read twice, no device waits for another"
    elif len(fitting) == 1:
        reason = "the only way that fits"
    else:
        reason = "the fewest hours of what fits"
    chosen = min(single or fitting, key=lambda option: (option.seconds or 0.0, WAYS.index(option.way)))
    unknown = any(node.gpus and not node.gpu_memory for node in nodes)
    return Plan(chosen, tuple(options), needs, rate, reason, unknown)


def _devices(spec: SweepSpec, nodes: Sequence[Node]) -> list[bool]:
    """Where to look for room: on GPUs (True) first, on CPU cores (False) where nothing fits there."""
    if spec.gpus_per_trial is not None:
        return [spec.gpus_per_trial > 0]
    return [True, False] if any(node.gpus for node in nodes) else [False]


def _options(
    way: str,
    on_gpu: bool,
    spec: SweepSpec,
    nodes: Sequence[Node],
    needs: ModelNeeds,
    costs: Sequence[float],
    rate: float,
) -> list[Option]:
    """The option of a way on GPUs or on CPU cores; none where that makes no sense."""
    node = max(nodes, key=lambda one: (one.gpus, one.gpu_memory, one.memory))
    asked = spec.gpus_per_trial
    if way == "dispatch" and not (on_gpu and node.gpus > 1 and (asked is None or asked > 1)):
        return []
    if way != "dispatch" and on_gpu and asked is not None and asked > 1:
        return []
    device = "cuda" if on_gpu else "cpu"
    memory = node.gpu_memory * GPU_SHARE or node.memory if on_gpu else node.memory * USABLE_MEMORY
    usable = int(spec.memory or memory)
    gpus, workers = (asked if asked is not None else 1.0) if on_gpu else 0.0, 1
    if way == "dispatch":
        fewest = (count for count in range(2, node.gpus + 1) if needs.least(way, device, count) <= usable)
        gpus = asked or next(fewest, node.gpus)
    elif way == "zero3":
        workers, usable = _shards(on_gpu, spec, nodes, needs, usable)
    elif way == "single" and on_gpu and asked is None and needs.blocks and node.gpu_memory:
        gpus = _share_of_a_gpu(node, needs, usable, len(costs) // (node.gpus * len(nodes)))
    if gpus < 1 and on_gpu and not spec.memory:
        usable = int(usable * gpus)
    option = Option(way, gpus, workers, 0, usable)
    option = replace(option, least=needs.least(way, device, option.devices))
    return [_weigh(option, spec, nodes, needs, costs, rate if on_gpu else CORE_RATE)]


def _shards(on_gpu: bool, spec: SweepSpec, nodes: Sequence[Node], needs: ModelNeeds, usable: int) -> tuple[int, int]:
    """Processes of a trial that is sharded with ZeRO-3, the fewest that hold it, and the bytes that each may use."""
    device = "cuda" if on_gpu else "cpu"

    def share(count: int) -> int:
        shared = not on_gpu and not spec.memory  # on a CPU the processes of a node share its memory
        return usable // -(-count // len(nodes)) if shared else usable

    if spec.workers_per_trial > 1:
        return spec.workers_per_trial, share(spec.workers_per_trial)
    most = max(2, sum(node.gpus for node in nodes) if on_gpu else len(nodes))
    counts = [count for count in range(2, most + 1) if needs.dealt % count == 0] or [most]
    enough = next((count for count in counts if needs.least("zero3", device, count) <= share(count)), counts[-1])
    return enough, share(enough)


def _share_of_a_gpu(node: Node, needs: ModelNeeds, usable: int, trials: int) -> float:
    """A trial's share of a GPU: a part, where several fit that each keep it busy and have cores of their own.

    They compute no faster together, but one's work on the host fills another's gaps.

    Args:
        node: with the GPU.
        needs: of a trial.
        usable: bytes of the GPU.
        trials: of the grid, for each GPU.
    """
    full = needs.fixed("single", "cuda") + needs.row * max(needs.busy_rows, needs.fewest_rows)
    together = min(usable // max(1, full), trials, node.cores // node.gpus, MOST_ON_A_GPU)
    return 1 / together if together > 1 else 1.0


def _weigh(
    option: Option, spec: SweepSpec, nodes: Sequence[Node], needs: ModelNeeds, costs: Sequence[float], rate: float
) -> Option:
    """The option with its placement, tiles and hours, where it fits."""
    if option.least > option.usable:
        return option
    placement = place(spec, nodes, len(costs), option.least, way=option.way, gpus=option.gpus, workers=option.workers)
    device = "cuda" if option.gpus else "cpu"
    rows = needs.tile_rows(option.way, device, option.devices, placement.memory)
    total = sum(costs) or 1.0
    rows = min(rows, math.ceil(needs.rows * max(costs, default=0.0) / total))
    tiles = [math.ceil(needs.rows * cost / total / rows) if rows else 0 for cost in costs]
    streamed = needs.weights if option.way == "stream" else 0
    gathered = needs.passes * needs.weights if option.way == "zero3" else 0.0
    seconds = None
    if needs.flops:
        together = option.workers / (1 + needs.repeated * (option.workers - 1))
        speed = rate * (min(option.gpus, 1.0) if option.gpus else placement.cpus) * together
        read_rate = READ_RATE / -(-placement.concurrent // len(nodes))
        each = [
            max(needs.flops * cost / total / speed, count * streamed / read_rate, gathered * cost / total / GATHER_RATE)
            for cost, count in zip(costs, tiles, strict=True)
        ]
        seconds = makespan(each, placement.concurrent)
    return replace(
        option,
        placement=placement,
        tile_rows=rows,
        tiles=sum(tiles),
        read=sum(tiles) * streamed,
        gathered=gathered,
        seconds=seconds,
    )


def _refuse(
    spec: SweepSpec,
    nodes: Sequence[Node],
    needs: ModelNeeds,
    costs: Sequence[float],
    options: Sequence[Option],
    ways: frozenset[str],
) -> None:
    """Raises UserError: what was asked and cannot be met, or every option's numbers, and the ways out."""
    if not needs.blocks or (options and not any(option.gpus for option in options)):
        # What is wrong with the request itself comes first, in the words of the options it was made with.
        place(spec, nodes, len(costs), min((option.least for option in options), default=0))
    if not options:
        raise UserError(
            f"--placement {spec.placement} does not go with the GPUs of a trial here: dispatch takes several GPUs of "
            "one node, the others one or a part of one; ZeRO-3 counts its processes with --workers-per-trial. Leave "
            "--gpus-per-trial out to have it chosen, or name another --placement."
        )
    others = [way for way in WAYS if way in ways - {option.way for option in options}]
    ways_out = ["a smaller model or a narrower --dtype", "devices with more memory"]
    if needs.row:
        ways_out.append("fewer --pairs")
    if others:
        ways_out.insert(0, f"--placement {' or '.join(others)}")
    numbers = ". ".join(text[:1].upper() + text[1:] for text in map(str, options))
    raise UserError(
        f"{needs.model} does not fit here: {in_bytes(needs.weights)} of weights in {needs.blocks} blocks of "
        f"{in_bytes(needs.block)}. {numbers}. Ways out: {'; '.join(ways_out)}."
    )
