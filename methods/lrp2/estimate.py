"""What a layer search will cost: operations from a sample of its queries, seconds from a short real run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from methods.backbone import Backbone, load_backbone
from methods.lrp2.lattice import schedule
from methods.lrp2.probes import Query
from methods.lrp2.projection import Pair
from methods.lrp2.search import LayerSearch
from methods.lrp2.tiles import build_tile
from orchestrator.study import Estimate, Trial

if TYPE_CHECKING:
    from methods.lrp2.study import LRP2Study

SAMPLED_FACTS = 32
SAMPLED_SENTENCES = 64
CALIBRATION_FLOPS = 4e11


@dataclass(frozen=True)
class QueryCost:
    """Mean cost of a query.

    Attributes:
        rows: packed rows.
        needed: rows the head is asked for.
        length: keys a row meets.
    """

    rows: float
    needed: float
    length: float

    def flops(self, backbone: Backbone, pairs: Sequence[Pair]) -> float:
        """Operations of the blocks, last block only for needed rows; the head is in the calibration's ratio."""
        walk = schedule(pairs, backbone.num_layers)
        inner = walk.block_evaluations - walk.last
        last = walk.last * backbone.block_flops(self.length, self.needed / self.rows)
        return self.rows * (inner * backbone.block_flops(self.length) + last)


def query_cost(queries: Sequence[Query], *, trees: bool) -> QueryCost:
    """Mean cost of sampled queries when packed."""
    answerable = [query for query in queries if query.gold >= 0]
    if not answerable:
        return QueryCost(1.0, 1.0, 1.0)
    pack = build_tile(answerable, trees=trees, ranking_only=True).pack
    length = sum(s.count * s.length**2 for s in pack.segments) / pack.rows
    return QueryCost(pack.rows / len(answerable), len(pack.need) / len(answerable), length)


def estimate_search(study: LRP2Study, trials: Sequence[Trial], threads: int) -> Estimate:
    """Samples every trial's queries and times a few of them.

    The time of a block run is measured on this machine with the model itself, on as many queries and pairs as take a
    few seconds, and scaled by floating-point operations.
    """
    if not trials:
        return Estimate(0.0, 0.0)
    spec = study.spec
    torch.set_num_threads(threads)
    device = "cuda" if spec.gpus_per_trial and torch.cuda.is_available() else "cpu"
    backbone = load_backbone(spec.model, dtype=getattr(torch, spec.dtype), device=device)
    trees = backbone.kind == "causal" and backbone.accepts_trees
    search_flops, sample = 0.0, []
    for trial in trials:
        facts = study.trial_facts(trial)
        language = str(trial.cell["language"])
        step = max(1, len(facts) // SAMPLED_FACTS)
        chosen = facts.take(list(range(0, len(facts), step))[:SAMPLED_FACTS])
        queries = [query for _, block in study.queries(backbone, language, chosen) for query in block]
        pairs = study.pairs if language != spec.pivot else ()
        search_flops += len(facts) * query_cost(queries, trees=trees).flops(backbone, pairs)
        if pairs:
            sample += [query for query in queries if query.gold >= 0]
    languages = {str(trial.cell["language"]) for trial in trials} | {spec.pivot}
    vector_flops = sum(_vector_flops(study, backbone, language) for language in languages)
    seconds_per_flop = _calibrate(study, backbone, sample, trees)
    walk = schedule(study.pairs, backbone.num_layers)
    return Estimate(
        flops=search_flops + vector_flops,
        seconds=(search_flops + vector_flops) * seconds_per_flop,
        notes=(
            f"{walk.block_evaluations} block evaluations per input instead of "
            f"{len(study.pairs) * backbone.num_layers} in a loop over pairs",
            f"time from a run of a few queries on this machine: {1e-9 / seconds_per_flop:.0f} GFLOP/s, head included",
        ),
    )


def _vector_flops(study: LRP2Study, backbone: Backbone, language: str) -> float:
    """Operations for a language's vectors."""
    for batch in study.sentences.sentences(language):
        some = list(batch)[:SAMPLED_SENTENCES]
        lengths = [len(ids) for ids in backbone.tokenizer(some)["input_ids"]]
        mean = sum(lengths) / len(lengths)
        return study.sentences.count(language) * mean * backbone.num_layers * backbone.block_flops(mean)
    return 0.0


def _calibrate(study: LRP2Study, backbone: Backbone, sample: Sequence[Query], trees: bool) -> float:
    """Seconds per floating-point operation of the real search, head and bookkeeping included."""
    queries = list(sample)
    pairs = study.pairs
    cost = query_cost(queries, trees=trees)
    while len(queries) > 1 and len(queries) * cost.rows > 1024:
        queries = queries[::2]
    while len(pairs) > 1 and len(queries) * cost.flops(backbone, pairs) > CALIBRATION_FLOPS:
        pairs = pairs[::2]
    while len(queries) > 1 and len(queries) * cost.flops(backbone, pairs) > CALIBRATION_FLOPS:
        queries = queries[::2]
    search = LayerSearch(backbone, keep=study.spec.keep, last_layer=study.spec.last_layer)
    generator = torch.Generator().manual_seed(0)
    shift = 0.01 * torch.randn(backbone.num_layers + 1, backbone.hidden_size, generator=generator)
    search.run(queries[:1], shift, pairs)
    start = time.perf_counter()
    search.run(queries, shift, pairs)
    return (time.perf_counter() - start) / (len(queries) * query_cost(queries, trees=trees).flops(backbone, pairs))
