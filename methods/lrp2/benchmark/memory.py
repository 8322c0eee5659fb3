"""How time and memory of the lattice grow with the number of queries, each number in a process of its own.

A peak covers its process from start to end: Python and its libraries, the weights as far as they were read, and the
search. Weights are mapped from files, as in a sweep: those of a published shape are written to the temporary folder
first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from methods.backbone import Backbone, describe_model, load_backbone
from methods.backbone.footprint import Footprint
from methods.backbone.projection import parse_pairs
from methods.instruments import alone, wait
from methods.lrp2.benchmark.cases import ROWS, SHAPES, drawn_queries, random_shift, real_queries, truncated
from methods.lrp2.benchmark.checkpoint import checkpoint_folder, write_checkpoint
from methods.lrp2.benchmark.measure import Settings
from methods.lrp2.footprint import least_memory
from methods.lrp2.probes import Query
from methods.lrp2.search import LayerSearch
from orchestrator.errors import Problems, UserError
from orchestrator.peak import peak, peak_gpu
from orchestrator.placement import in_bytes
from orchestrator.report.blocks import Table


@dataclass(frozen=True)
class Measured:
    """The search for one number of queries.

    Attributes:
        queries: how many.
        pairs: layer pairs.
        seconds: of the search alone.
        tiles: passes through the model, `retried` of them because a larger one did not fit.
        packed_rows: of all tiles together.
        peak_bytes: of the process from start to end; on a GPU of the tensors there.
    """

    queries: int
    pairs: int
    seconds: float
    tiles: int
    retried: int
    packed_rows: int
    peak_bytes: int


def run_memory(
    settings: Settings, counts: Sequence[int], say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Searches with each of several numbers of queries and returns what ``--json`` writes.

    The main keys: `memory` (a row for each number), `peak_mb` (the largest), `within_bound` (None without a bound).

    Args:
        settings: what to measure; `queries`, `against`, `repeats` and `growth` have no meaning here.
        counts: the numbers of queries.
        say: told what happens.

    Raises:
        UserError: the settings make no sense, or the bound is less than any search needs.
    """
    _check(settings, counts)
    with _folder(settings, say) as folder:
        here = replace(settings, shape=folder)
        _check_bound(here)
        rows = []
        for count in counts:
            say(f"Searching {count:,} queries ...")
            rows.append(alone(_measure, here, count))
            say(f"... took {rows[-1].seconds:.1f} s, memory peaked at {in_bytes(rows[-1].peak_bytes)}")
    largest = max(row.peak_bytes for row in rows)
    return {
        "settings": {name: value for name, value in vars(settings).items() if name not in ("cache", "queries")},
        "memory": [asdict(row) for row in rows],
        "peak_mb": largest / 1e6,
        "within_bound": None if settings.memory_bytes is None else largest <= settings.memory_bytes,
    }


def _check(settings: Settings, counts: Sequence[int]) -> None:
    problems = Problems()
    problems.collect(settings.check)
    for count in counts:
        if count < 1:
            problems.add(f"--queries {count} asks nothing: at least 1 is needed")
    problems.raise_if_any()


@contextmanager
def _folder(settings: Settings, say: Callable[[str], None]) -> Iterator[str]:
    """The model that is named, as an address; a published shape is written to a folder that is removed at the end."""
    shape = SHAPES.get(settings.shape)
    if shape is None:
        yield settings.shape
        return
    config = shape.config()
    with checkpoint_folder(Footprint.from_config(config).total) as folder:
        say(f"Writing random weights of {settings.shape} ...")
        write_checkpoint(folder, config, masked=shape.masked)
        yield str(folder)


def _check_bound(settings: Settings) -> None:
    """Raises UserError where the bound is less than the smallest tile needs; on a GPU that shows soon enough."""
    if settings.memory_bytes is None or settings.device != "cpu":
        return
    sizes = describe_model(settings.shape)
    sizes = replace(sizes, num_layers=settings.layers or sizes.num_layers)
    pairs = parse_pairs(settings.pairs, sizes.num_layers)
    least = least_memory(sizes, getattr(torch, settings.dtype), pairs)
    if settings.memory_bytes < least:
        raise UserError(
            f"--memory {in_bytes(settings.memory_bytes)} is less than the {in_bytes(least)} that a search needs at "
            "least here. Raise it, or take fewer layers or pairs."
        )


def _measure(settings: Settings, count: int) -> Measured:
    """The search for so many queries, in a process that does nothing else."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    backbone = load_backbone(settings.shape, dtype=getattr(torch, settings.dtype), device=settings.device)
    if settings.layers is not None:
        backbone = truncated(backbone, settings.layers)
    pairs = parse_pairs(settings.pairs, backbone.num_layers)
    queries = _queries(settings, backbone, count)
    shift = random_shift(backbone, queries)
    search = LayerSearch(backbone, memory_bytes=settings.memory_bytes)
    wait(settings.device)
    start = time.perf_counter()
    stats = search.run(queries, shift, pairs).stats
    wait(settings.device)
    seconds = time.perf_counter() - start
    highest = peak_gpu() if settings.device == "cuda" else peak()
    return Measured(len(queries), len(pairs), seconds, stats.tiles, stats.retried, stats.packed_rows, highest)


def _queries(settings: Settings, backbone: Backbone, count: int) -> tuple[Query, ...]:
    """Real ones, or drawn ones of all lengths, over and over."""
    if settings.facts is not None:
        return real_queries(
            backbone,
            settings.facts,
            pools=settings.pools,
            languages=settings.languages,
            count=count,
            cache=settings.cache,
        )
    drawn = drawn_queries(backbone, min(count, len(ROWS)), settings.languages, memory_bytes=settings.memory_bytes)
    return tuple(replace(drawn[n % len(drawn)], index=n) for n in range(count))


def memory_sentence(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    rows, bound = result["memory"], result["settings"]["memory_bytes"]
    counts = " to ".join(f"{count:,}" for count in sorted({rows[0]["queries"], rows[-1]["queries"]}))
    text = f"With {counts} queries memory peaks at {result['peak_mb'] / 1e3:.2f} GB, model included"
    if bound is None:
        return f"{text}; no bound was given."
    return f"{text}, {'within' if result['within_bound'] else 'ABOVE'} the bound of {in_bytes(bound)}."


def memory_tables(result: Mapping[str, Any]) -> list[Table]:
    """A row for each number of queries."""
    settings = result["settings"]
    bound = settings["memory_bytes"]
    rows = [
        (
            row["queries"],
            row["seconds"],
            row["seconds"] / row["queries"],
            row["tiles"],
            row["retried"],
            row["peak_bytes"] / 1e6,
            None if bound is None else bound / 1e6,
        )
        for row in result["memory"]
    ]
    whose = "of the tensors on the GPU, weights included"
    if settings["device"] == "cpu":
        whose = "from its start to its end, libraries and weights included"
    table = Table(
        title=f"{settings['shape']}: time and memory of the lattice, hits, {result['memory'][0]['pairs']} layer pairs",
        columns=("queries", "seconds", "seconds each", "tiles", "tried again", "peak MB", "bound MB"),
        rows=rows,
        note=f"Each row is a process of its own, its peak that {whose}; seconds are those of the search alone.",
        digits=1,
    )
    return [table]
