"""Measures the layer search against the naive loop and against libraries for interventions, in one process.

All contenders answer the same queries in turn, several times, so that what else the machine does meets all of them.
Speed is given as ratios of the shortest wall times; blocks also as a share of the rate at which this machine multiplies
matrices, measured in between with the same threads.

Shape legend: L layers, Q queries, P layer pairs.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers

from methods.backbone import Backbone
from methods.backbone.projection import Pair, all_pairs, parse_pairs
from methods.instruments import peak_memory, wait, wall_seconds
from methods.lrp2.benchmark.cases import (
    check_languages,
    check_shape,
    drawn_queries,
    make_backbone,
    random_shift,
    real_queries,
    truncated,
)
from methods.lrp2.benchmark.contenders import AGAINST, HITS, NAIVE, SCORES, Answer, Contender, Work
from methods.lrp2.benchmark.peers import PEERS, check_peer
from methods.lrp2.benchmark.timing import clocked_blocks, matrix_rate
from methods.lrp2.lattice import schedule
from methods.lrp2.probes import Query
from orchestrator.errors import Problems, did_you_mean

NEAR_TIE = 1e-5


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        shape: a published configuration (`SHAPES`), a built-in model or a model folder.
        cache: folder for prepared facts.
        layers: only the first so many blocks; None takes all.
        languages: of the queries; None takes all.
        queries: how many, Q.
        facts, pools: addresses of real facts; None draws queries of mLAMA's lengths.
        against: who else runs, of `AGAINST`.
        pairs: such as ``4/10``; None takes all.
        sample_pairs: of these, how many the one-by-one contenders run, their times scaled up; None has them run all.
        repeats: runs of every contender.
        threads: of torch; None leaves torch's choice.
        memory_bytes: bound for the lattice.
        device, dtype: of the weights.
        growth: also measure how time grows with queries, languages and layers.
    """

    shape: str
    cache: Path
    layers: int | None = None
    languages: tuple[str, ...] | None = None
    queries: int = 8
    facts: str | None = None
    pools: str | None = None
    against: tuple[str, ...] = (NAIVE,)
    pairs: tuple[str, ...] | None = None
    sample_pairs: int | None = None
    repeats: int = 2
    threads: int | None = None
    memory_bytes: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    growth: bool = False

    def check(self) -> None:
        """Raises UserError with everything that can be told to be wrong before a model is made."""
        problems = Problems()
        for name in self.against:
            if name not in AGAINST:
                problems.add(f"--against {name!r} is not known.{did_you_mean(name, AGAINST)}")
        for option, value in (
            ("queries", self.queries),
            ("sample-pairs", self.sample_pairs),
            ("repeats", self.repeats),
            ("threads", self.threads),
        ):
            if value is not None and value < 1:
                problems.add(f"--{option} is {value}, but at least 1 is needed")
        if self.device == "cuda" and not torch.cuda.is_available():
            problems.add("--device cuda is not possible: torch sees no CUDA device here; use --device cpu")
        if self.pools and not self.facts:
            problems.add("--pools goes with --facts: the built-in lengths have pools of their own")
        for name in set(self.against) & set(PEERS):
            problems.collect(partial(check_peer, name))
        problems.collect(partial(check_shape, self.shape))
        if not self.facts:
            problems.collect(partial(check_languages, self.languages))
        problems.raise_if_any()


@dataclass
class Timing:
    """Runs of one contender: seconds, peak memory in bytes, and of the lattice the seconds inside blocks.

    `matrix` has for each run the rates of matrix products, per second and per CPU second, just before and after it.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    block_wall: list[float] = field(default_factory=list)
    block_cpu: list[float] = field(default_factory=list)
    matrix: list[tuple[float, float]] = field(default_factory=list)
    peak: int = 0
    answer: Answer = field(init=False)

    def block_rates(self, seconds: Sequence[float]) -> list[float]:
        """Operations per second in the blocks, of every run; 0 where no time was taken."""
        return [self.answer.stats.block_flops / s if s else 0.0 for s in seconds]


def run_benchmark(settings: Settings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measures and returns what ``--json`` writes.

    The main keys: `ratio` (naive to lattice with all scores, shortest wall times), `ratio_hits` (naive to lattice with
    hits only), `hits_equal`, `max_abs_diff` (largest difference of any score), `peak_mb` (of the lattice with hits
    only, model included) and `roofline_fraction` (blocks to matrix rate). What was not measured is None.

    Raises:
        UserError: the settings make no sense, or there is no such shape.
    """
    settings.check()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    say(f"Making {settings.shape} ...")
    backbone = make_backbone(
        settings.shape, layers=settings.layers, dtype=getattr(torch, settings.dtype), device=settings.device
    )
    pairs = parse_pairs(settings.pairs, backbone.num_layers)
    queries = _queries(settings, backbone)
    work = Work(backbone, queries, random_shift(backbone, queries), pairs)
    contenders = [work.lattice("scores", settings.memory_bytes), work.lattice("hits", settings.memory_bytes)]
    tried: dict[int, float] = {}
    if settings.against:
        say("Looking for the best batch size of one forward pass per pair ...")
        tried = work.batch_seconds()
        best = min(tried, key=tried.__getitem__)
        contenders += [
            work.one_by_one(name, best, settings.sample_pairs) for name in AGAINST if name in settings.against
        ]
    timings = _alternate(contenders, backbone, settings.repeats, say)
    result = {
        **_verdict(timings, queries),
        "settings": {name: value for name, value in vars(settings).items() if name != "cache"},
        "model": {
            "architecture": backbone.description.architecture,
            "path": type(backbone).__name__,
            "layers": backbone.num_layers,
            "parameters": backbone.description.parameters,
        },
        "work": _work(work),
        "contenders": {c.name: _figures(c, timings, queries) for c in contenders},
        "naive_batch_seconds": tried,
        "environment": _environment(settings.device),
    }
    result["growth"] = _growth(settings, work, say) if settings.growth else None
    return result


def _queries(settings: Settings, backbone: Backbone) -> tuple[Query, ...]:
    if settings.facts is None:
        return drawn_queries(backbone, settings.queries, settings.languages)
    return real_queries(
        backbone,
        settings.facts,
        pools=settings.pools,
        languages=settings.languages,
        count=settings.queries,
        cache=settings.cache,
    )


def _alternate(
    contenders: Sequence[Contender], backbone: Backbone, repeats: int, say: Callable[[str], None]
) -> dict[str, Timing]:
    """All contenders in turn, `repeats` times; the matrix rate is measured between them."""
    device = backbone.device.type
    timings = {contender.name: Timing() for contender in contenders}
    before = matrix_rate(backbone)
    for turn in range(repeats):
        for contender in contenders:
            say(f"Run {turn + 1} of {repeats}: {contender.name} ...")
            timing = timings[contender.name]
            with peak_memory(device) as peak, clocked_blocks(backbone) as blocks:
                wait(device)
                wall, cpu = time.perf_counter(), time.process_time()
                timing.answer = contender.run()
                wait(device)
                timing.wall.append((time.perf_counter() - wall) * contender.runs)
                timing.cpu.append((time.process_time() - cpu) * contender.runs)
            timing.peak = max(timing.peak, peak())
            block_wall, block_cpu = blocks()
            timing.block_wall.append(block_wall)
            timing.block_cpu.append(block_cpu)
            after = matrix_rate(backbone)
            timing.matrix.append(((before[0] + after[0]) / 2, (before[1] + after[1]) / 2))
            before = after
    return timings


def _verdict(timings: Mapping[str, Timing], queries: Sequence[Query]) -> dict[str, Any]:
    """The main keys, and the rates that the roofline fraction comes from: medians over the lattice's runs.

    Each run's blocks are compared with the matrix products just before and after it, since a machine's rate drifts.
    """
    scores, hits, naive = timings[SCORES], timings[HITS], timings.get(NAIVE)
    agreements = [_agreement(timing, timings, queries) for timing in (scores, hits)]
    lattice = (scores, hits)
    matrix, matrix_cpu = zip(*(rates for timing in lattice for rates in timing.matrix), strict=True)
    blocks = [rate for timing in lattice for rate in timing.block_rates(timing.block_wall)]
    blocks_cpu = [rate for timing in lattice for rate in timing.block_rates(timing.block_cpu)]
    return {
        "ratio": naive and min(naive.wall) / min(scores.wall),
        "ratio_hits": naive and min(naive.wall) / min(hits.wall),
        "hits_equal": None if agreements[0] is None else not any(a["hits_differ"] for a in agreements if a),
        "max_abs_diff": agreements[0] and agreements[0]["max_abs_diff"],
        "peak_mb": hits.peak / 1e6,
        "roofline_fraction": statistics.median(own / rate for own, rate in zip(blocks, matrix, strict=True)),
        "roofline": {
            "matrix_gflop_per_second": statistics.median(matrix) / 1e9,
            "blocks_gflop_per_second": statistics.median(blocks) / 1e9,
            "matrix_gflop_per_cpu_second": statistics.median(matrix_cpu) / 1e9,
            "blocks_gflop_per_cpu_second": statistics.median(blocks_cpu) / 1e9,
        },
    }


def _agreement(timing: Timing, timings: Mapping[str, Timing], queries: Sequence[Query]) -> dict[str, Any] | None:
    """How far a contender's answer is from the naive loop's, or from the first library's where that did not run."""
    reference = next((timings[name] for name in AGAINST if name in timings), None)
    if reference is None or timing is reference:
        return None
    ours, theirs = timing.answer, reference.answer
    assert theirs.scores is not None
    columns = [ours.columns.index(column) for column in theirs.columns]
    hits = ours.hits[:, columns]
    margins = []
    for query, column in np.argwhere(hits != theirs.hits):
        scores, gold = theirs.scores[query][column], queries[query].gold
        margins.append(abs(float(scores[gold] - np.delete(scores, gold).max())))
    largest = None
    if ours.scores is not None:
        both = zip(ours.scores, theirs.scores, strict=True)
        largest = max((float(np.abs(a[columns] - b).max()) for a, b in both if a.size), default=0.0)
    return {
        "decisions": hits.size,
        "hits_differ": len(margins),
        "near_ties": sum(margin < NEAR_TIE for margin in margins),
        "largest_margin": max(margins, default=None),
        "max_abs_diff": largest,
    }


def _work(work: Work) -> dict[str, Any]:
    """What was asked, in numbers."""
    walk = schedule(work.pairs, work.backbone.num_layers)
    return {
        "queries": len(work.queries),
        "forms": sum(len(query.forms) for query in work.queries),
        "tokens": sum(len(form) for query in work.queries for form in query.forms),
        "candidates": sum(len(query.scored) for query in work.queries),
        "pairs": len(work.pairs),
        "block_evaluations": walk.block_evaluations,
        "block_evaluations_one_by_one": (1 + len(work.pairs)) * work.backbone.num_layers,
    }


def _figures(contender: Contender, timings: Mapping[str, Timing], queries: Sequence[Query]) -> dict[str, Any]:
    """All that is known of one contender's runs."""
    timing = timings[contender.name]
    flops = contender.flops(timing.answer)
    figures: dict[str, Any] = {
        "wall_seconds": timing.wall,
        "wall_min": min(timing.wall),
        "wall_median": statistics.median(timing.wall),
        "cpu_seconds": timing.cpu,
        "cpu_min": min(timing.cpu),
        "cpu_median": statistics.median(timing.cpu),
        "peak_mb": timing.peak / 1e6,
        "tflop": flops / 1e12,
        "gflop_per_second": flops / min(timing.wall) / 1e9,
        "hits": float(timing.answer.hits.mean()),
        "agreement": _agreement(timing, timings, queries),
    }
    if timing.answer.stats.tiles:
        figures |= {"block_seconds": timing.block_wall, "stats": vars(timing.answer.stats)}
    return figures


def _environment(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": psutil.virtual_memory().total / 1e6,
        "load": psutil.getloadavg()[0],
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _growth(settings: Settings, work: Work, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of the lattice with hits only against queries, languages and layers; cuts the model down on the way."""
    say("How time grows ...")
    queries, backbone = work.queries, work.backbone

    def seconds(some: Sequence[Query], seed: int = 0) -> float:
        part = Work(backbone, some, random_shift(backbone, some, seed=seed), pairs)
        run = part.lattice("hits", settings.memory_bytes).run
        return min(wall_seconds(backbone.device.type, run) for _ in range(settings.repeats))

    pairs: Sequence[Pair] = work.pairs
    counts = sorted({max(1, len(queries) // part) for part in (4, 2, 1)})
    grown: dict[str, Any] = {"queries": _fitted(counts, [seconds(queries[:count]) for count in counts])}
    few = queries[: counts[0]]
    one_by_one = [seconds(few, seed) for seed in range(4)]
    grown["languages"] = _fitted([1, 2, 4], [sum(one_by_one[:count]) for count in (1, 2, 4)])
    depths = sorted({max(2, backbone.num_layers * part // 4) for part in (2, 3, 4)}, reverse=True)
    times = []
    for layers in depths:
        backbone = backbone if layers == backbone.num_layers else truncated(backbone, layers)
        pairs = all_pairs(layers)
        times.append(seconds(few))
    grown["layers"] = _fitted(depths[::-1], times[::-1])
    return grown


def _fitted(sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """The times, and the slope of their logarithms: 1 is proportional, 3 is cubic."""
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else None
    return {"sizes": list(sizes), "seconds": list(seconds), "slope": slope}
