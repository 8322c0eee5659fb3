"""A model larger than memory: layer streaming under a bound, against the same model in memory and offloaded to disk.

A BLOOM of a published shape with random weights is written in shards. Each contender runs in a process of its own, so
that peak memory is its own:

- *streamed*: the layer search under the bound, all queries and pairs;
- *in memory*: the layer search without a bound, on a sample of the pairs, for the hits;
- *offloaded*: the naive loop over the model as Accelerate offloads it to disk, with as many weights kept in memory as
  the bound allows, on a few pairs; every forward pass reads the same weights, so the others follow from the count.

Bytes are those that each of them asks of the weight files, whether or not the operating system has them cached.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from methods.backbone import load_backbone
from methods.backbone.base import FAMILIES
from methods.backbone.footprint import PUBLISHED, Footprint
from methods.backbone.projection import Pair, all_pairs
from methods.instruments import alone
from methods.lrp2.benchmark.cases import drawn_queries, random_shift
from methods.lrp2.benchmark.checkpoint import checkpoint_folder, write_checkpoint
from methods.lrp2.naive import hits_of_scores, naive_scores
from methods.lrp2.probes import Query
from methods.lrp2.search import LayerSearch
from orchestrator.errors import UserError
from orchestrator.peak import peak
from orchestrator.placement import in_bytes
from orchestrator.report.blocks import Table

STREAMED, IN_MEMORY, OFFLOADED = "streamed", "in memory", "offloaded"


@dataclass(frozen=True)
class StreamingSettings:
    """What is measured.

    Attributes:
        size: bytes of weights at least; the smallest published BLOOM that has them is taken.
        memory: the bound, in bytes.
        queries: how many.
        pairs: how many layer pairs, evenly spread; None takes all.
        compared: how many of them are searched in memory too.
        offloaded: how many of them the offloaded model runs.
        threads: of torch.
        folder: where the checkpoint lies for the time of the measurement; None takes the system's temporary folder.
    """

    size: int
    memory: int
    queries: int = 2
    pairs: int | None = 138
    compared: int = 12
    offloaded: int = 2
    threads: int | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Found:
    """What one contender found out, on some of the pairs.

    Attributes:
        pairs: those it ran.
        hits: [Q, 1 + P] bool.
        weight_bytes: bytes of weights read while searching.
        passes: tiles, or forward passes of the model.
        seconds: of the search alone.
        peak: resident memory of its process, from start to end.
    """

    pairs: tuple[Pair, ...]
    hits: NDArray[np.bool_]
    weight_bytes: int
    passes: int
    seconds: float
    peak: int


def run_streaming(
    settings: StreamingSettings, say: Callable[[str], None], config: PretrainedConfig | None = None
) -> dict[str, Any]:
    """Runs the contenders and returns all figures, ready for JSON.

    Args:
        settings: what to measure.
        say: told what happens.
        config: of the model; default: of the smallest published BLOOM of the size.

    Raises:
        UserError: no published BLOOM is that large, or the disk has no room.
    """
    name, config = ("given", config) if config is not None else _shape(settings.size)
    footprint = Footprint.from_config(config)
    pairs = _spread(all_pairs(footprint.description.num_layers), settings.pairs)
    with checkpoint_folder(footprint.total, settings.folder) as folder:
        say(f"writing {name}, {in_bytes(footprint.total)} of random weights, to {folder}")
        size = write_checkpoint(folder, config)
        say(f"searching {len(pairs)} layer pairs under {in_bytes(settings.memory)}")
        queries, shift, streamed = alone(_streamed, folder, settings, pairs)
        say(f"searching {settings.compared} of them in memory")
        whole = alone(_in_memory, folder, settings, _spread(pairs, settings.compared), queries, shift)
        say(f"running {settings.offloaded} of them offloaded to disk by Accelerate")
        offloaded = alone(_offloaded, folder, settings, _spread(pairs, settings.offloaded), queries, shift)
    per_pass = offloaded.weight_bytes / offloaded.passes
    passes = offloaded.passes // (1 + len(offloaded.pairs)) * (1 + len(pairs))
    return {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "model": {"shape": name, "bytes": size, "layers": footprint.description.num_layers, "block": footprint.block},
        "work": {"queries": len(queries), "pairs": len(pairs)},
        "contenders": {
            STREAMED: _figures(streamed, streamed),
            IN_MEMORY: _figures(whole, streamed),
            OFFLOADED: _figures(offloaded, streamed),
        },
        "readings": streamed.weight_bytes / size / streamed.passes,
        "peak_of_bound": streamed.peak / settings.memory,
        "offloaded_passes": passes,
        "offloaded_bytes": per_pass * passes,
        "read_ratio": per_pass * passes / streamed.weight_bytes,
    }


def _streamed(
    folder: Path, settings: StreamingSettings, pairs: Sequence[Pair]
) -> tuple[tuple[Query, ...], Tensor, Found]:
    """Draws queries and a shift, and searches them with streamed weights under the bound."""
    _limit_threads(settings)
    backbone = load_backbone(str(folder), placement="stream")
    queries = drawn_queries(backbone, settings.queries)
    shift = random_shift(backbone, queries)
    search = LayerSearch(backbone, memory_bytes=settings.memory)
    start = time.perf_counter()
    result = search.run(queries, shift, pairs)
    seconds = time.perf_counter() - start
    stats = result.stats
    return queries, shift, Found(tuple(pairs), result.hits, stats.weight_bytes, stats.tiles, seconds, peak())


def _in_memory(
    folder: Path, settings: StreamingSettings, pairs: Sequence[Pair], queries: Sequence[Query], shift: Tensor
) -> Found:
    _limit_threads(settings)
    search = LayerSearch(load_backbone(str(folder)))
    start = time.perf_counter()
    result = search.run(queries, shift, pairs)
    return Found(tuple(pairs), result.hits, 0, result.stats.tiles, time.perf_counter() - start, peak())


def _offloaded(
    folder: Path, settings: StreamingSettings, pairs: Sequence[Pair], queries: Sequence[Query], shift: Tensor
) -> Found:
    """The naive loop over the model as transformers and Accelerate offload it."""
    from accelerate.utils.offload import OffloadedWeightsLoader

    _limit_threads(settings)
    read, passes = 0, 0
    weights_of = OffloadedWeightsLoader.__getitem__

    def counted(loader: OffloadedWeightsLoader, name: str) -> Tensor:
        nonlocal read
        tensor: Tensor = weights_of(loader, name)
        if name not in loader.state_dict:
            read += tensor.nbytes
        return tensor

    def pass_done(_: int) -> None:
        nonlocal passes
        passes += 1

    OffloadedWeightsLoader.__getitem__ = counted  # this process ends with the measurement
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map="auto",
        max_memory={"cpu": settings.memory},
        offload_folder=str(folder / "offloaded"),
        local_files_only=True,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.unk_token
    backbone = FAMILIES[type(model).__name__](model.eval(), tokenizer, torch.device("cpu"))
    forms = sum(len(query.forms) for query in queries)
    start = time.perf_counter()
    scores = naive_scores(backbone, queries, shift, pairs, batch_size=forms, done=pass_done)
    seconds = time.perf_counter() - start
    return Found(tuple(pairs), hits_of_scores(queries, scores)[0].T.numpy(), read, passes, seconds, peak())


def _figures(found: Found, streamed: Found) -> dict[str, Any]:
    """A contender's figures, and how many of its decisions differ from the streamed ones."""
    columns = [0, *(1 + streamed.pairs.index(pair) for pair in found.pairs)]
    return {
        "pairs": len(found.pairs),
        "passes": found.passes,
        "weight_bytes": found.weight_bytes,
        "seconds": found.seconds,
        "peak_bytes": found.peak,
        "hits": int(found.hits.sum()),
        "decisions": found.hits.size,
        "hits_differ": int((found.hits != streamed.hits[:, columns]).sum()),
    }


def streaming_sentence(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    streamed = result["contenders"][STREAMED]
    differ = sum(figures["hits_differ"] for figures in result["contenders"].values())
    same = "the same hits as in memory and offloaded" if differ == 0 else f"{differ} hits differ"
    return (
        f"{in_bytes(result['model']['bytes'])} of weights searched with a peak of {in_bytes(streamed['peak_bytes'])}, "
        f"{result['peak_of_bound']:.2f} times the bound; each of {streamed['passes']} tiles read the weights "
        f"{result['readings']:.2f} times; Accelerate's disk offload would read {result['read_ratio']:.0f} times as "
        f"many bytes for the same pairs; {same}."
    )


def streaming_tables(result: Mapping[str, Any]) -> list[Table]:
    """The contenders."""
    rows = [
        (
            name,
            figures["pairs"],
            figures["passes"],
            in_bytes(figures["weight_bytes"]) if figures["weight_bytes"] else None,
            figures["seconds"],
            in_bytes(figures["peak_bytes"]),
            f"{figures['hits_differ']} of {figures['decisions']}",
        )
        for name, figures in result["contenders"].items()
    ]
    model, settings = result["model"], result["settings"]
    note = (
        f"{model['shape']}: {in_bytes(model['bytes'])} of random weights, {model['layers']} blocks of "
        f"{in_bytes(model['block'])}; bound {in_bytes(settings['memory'])}. A pass is a tile of the lattice, or one "
        f"forward pass of all forms. All {result['work']['pairs']} pairs offloaded would be "
        f"{result['offloaded_passes']} passes and {in_bytes(result['offloaded_bytes'])}, scaled up from those run. "
        "Peak is that of each process from its start; mapped weights count where they were read."
    )
    columns = ("contender", "pairs", "passes", "weights read", "seconds", "peak memory", "hits that differ")
    title = f"Larger than memory: {result['work']['queries']} queries, {result['work']['pairs']} layer pairs"
    return [Table(title=title, columns=columns, rows=rows, note=note, digits=1)]


def _shape(size: int) -> tuple[str, PretrainedConfig]:
    """The smallest published BLOOM with so many bytes of weights in float32."""
    for name, config in PUBLISHED.items():
        if name.startswith("bloom") and Footprint.from_config(config()).total >= size:
            return name, config()
    raise UserError(f"--size {in_bytes(size)}: no published BLOOM is that large in float32. Ask for less.")


def _spread(pairs: Sequence[Pair], count: int | None) -> tuple[Pair, ...]:
    """So many of the pairs, evenly spread."""
    if count is None or count >= len(pairs):
        return tuple(pairs)
    return tuple(pairs[(len(pairs) * n) // count] for n in range(count))


def _limit_threads(settings: StreamingSettings) -> None:
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
