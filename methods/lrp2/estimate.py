"""What a layer search will cost: operations from a sample of its queries, seconds from a short real run."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import torch
from transformers import AutoTokenizer

from methods.backbone import Backbone, load_backbone
from methods.backbone.footprint import Footprint
from methods.backbone.projection import Pair
from methods.lrp2.footprint import QueryCost, query_cost, search_needs, takes_trees
from methods.lrp2.lattice import schedule
from methods.lrp2.probes import Query
from methods.lrp2.rounds import share_of_work, worth_rounds
from methods.lrp2.search import LayerSearch
from orchestrator.needs import ModelNeeds
from orchestrator.study import Estimate, Trial

if TYPE_CHECKING:
    from methods.lrp2.study import LRP2Study

SAMPLED_FACTS = 32
SAMPLED_LANGUAGES, FEWER_FACTS = 4, 16
SAMPLED_SENTENCES = 64
CALIBRATION_FLOPS = 4e11
# The unmodified model is asked as many queries as this pays for, seconds on a CPU, and of a large model so many still.
ROUNDS_FLOPS, FEWEST_ASKED = 1e12, 8


@dataclass(frozen=True)
class Reader:
    """What building queries asks of a backbone, without its weights."""

    tokenizer: Any
    max_length: int | None


@functools.cache
def read_tokenizer(folder: Path) -> Any:
    """A model's tokenizer, read once by each process."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def needs_of(study: LRP2Study) -> ModelNeeds:
    """What the search asks of a machine, with the length of its queries from a few facts of a few languages."""
    spec, facts = study.spec, study.facts
    languages = [language for language in study.languages if facts.count(language)]
    sample: list[Query] = []
    for language in languages[:: max(1, len(languages) // SAMPLED_LANGUAGES)]:
        sample += sampled_queries(study, language, facts.facts(language), FEWER_FACTS)
    footprint = Footprint.of(spec.model, getattr(torch, spec.dtype))
    searched = [facts.count(language) for language in languages]
    return search_needs(
        footprint,
        study.pairs,
        facts=sum(searched),
        cost=query_cost(sample, trees=takes_trees(footprint.description)),
        checked=spec.precision_sample * sum(map(study.parts, searched)) if study.inexact else 0,
        name=spec.model,
    )


def sampled_queries(study: LRP2Study, language: str, facts: pa.Table, count: int) -> list[Query]:
    """The queries of about `count` facts, evenly spread."""
    chosen = facts.take(list(range(0, len(facts), max(1, len(facts) // count)))[:count])
    reader = Reader(study.tokenizer, study.description.max_length)
    return [query for _, block in study.queries(reader, language, chosen) for query in block]


def estimate_search(study: LRP2Study, trials: Sequence[Trial], threads: int) -> Estimate:
    """Samples every trial's queries and times a few of them.

    The time of a block run is measured on this machine with the model itself, on as many queries and pairs as take a
    few seconds, and scaled by floating-point operations.
    """
    if not trials:
        return Estimate(0.0, 0.0)
    spec, model = study.spec, study.description
    torch.set_num_threads(threads)
    naive = spec.search == "naive"
    trees = takes_trees(model) and not naive
    search_flops = pivot_flops = 0.0
    sample: list[Query] = []
    pivot_sample: list[Query] = []
    for trial in trials:
        facts = study.trial_facts(trial)
        language = str(trial.cell["language"])
        queries = sampled_queries(study, language, facts, SAMPLED_FACTS)
        pairs = study.pairs if language != spec.pivot else ()
        flops = len(facts) * _flops(study, query_cost(queries, trees=trees), pairs)
        if pairs:
            search_flops += flops
            sample += [query for query in queries if query.gold >= 0]
        else:
            pivot_flops += flops
            pivot_sample += [query for query in queries if query.gold >= 0]
    languages = {str(trial.cell["language"]) for trial in trials} | {spec.pivot}
    vector_flops = sum(_vector_flops(study, language) for language in languages)
    device = "cuda" if spec.gpus_per_trial != 0 and torch.cuda.is_available() else "cpu"
    backbone = load_backbone(study.address, dtype=getattr(torch, spec.dtype), device=device)
    walk = schedule(study.pairs, model.num_layers)
    in_a_loop = f"{len(study.pairs) * model.num_layers} in a loop over pairs"
    notes = [f"block evaluations per input: {in_a_loop}"]
    if not naive:
        notes = [f"{walk.block_evaluations} block evaluations per input instead of {in_a_loop}"]
    seconds_per_flop = 0.0
    if sample or pivot_sample:
        seconds_per_flop = _calibrate(study, backbone, sample or pivot_sample, trees)
        rate = 1e-9 / seconds_per_flop
        notes.append(f"time from a run of a few queries on this machine: {rate:.0f} GFLOP/s, head included")
    if sample and spec.keep == "hits" and not naive and worth_rounds(study.pairs, model.num_layers):
        share, asked = _share_of_rounds(study, backbone, sample, trees)
        search_flops *= share
        said = f"about {share:.0%} of them, by the model's answers to {asked} queries"
        notes.insert(1, said + (": those that it has wrong are not asked whole" if share < 1 else ""))
    flops = search_flops + pivot_flops + vector_flops
    return Estimate(flops, flops * seconds_per_flop, notes)


def _flops(study: LRP2Study, cost: QueryCost, pairs: Sequence[Pair]) -> float:
    """Operations for a mean fact; of the naive loop with the head, which it runs at every position."""
    model = study.description
    if study.spec.search != "naive":
        return cost.flops(model, pairs)
    each = model.num_layers * model.block_flops(cost.length) + model.head_flops()
    return (1 + len(pairs)) * cost.rows * each


def _vector_flops(study: LRP2Study, language: str) -> float:
    """Operations for a language's vectors."""
    model = study.description
    for batch in study.sentences.sentences(language):
        some = list(batch)[:SAMPLED_SENTENCES]
        lengths = [len(ids) for ids in study.tokenizer(some)["input_ids"]]
        mean = sum(lengths) / len(lengths)
        return study.sentences.count(language) * mean * model.num_layers * model.block_flops(mean)
    return 0.0


def _share_of_rounds(study: LRP2Study, backbone: Backbone, sample: Sequence[Query], trees: bool) -> tuple[float, int]:
    """What the rounds of the search leave of its operations, by the model's own answers to so many queries."""
    whole = query_cost(sample, trees=trees)
    each = whole.rows * study.description.num_layers * study.description.block_flops(whole.length)
    each += whole.needed * study.description.head_flops()
    count = max(FEWEST_ASKED, int(ROUNDS_FLOPS / each))
    queries = sample[:: -(-len(sample) // count)]
    search = LayerSearch(backbone, keep="scores", last_layer=study.spec.last_layer)
    base = search.run(queries, None, ())
    return share_of_work(queries, base, study.pairs, study.description.num_layers, search.rows_of), len(queries)


def _calibrate(study: LRP2Study, backbone: Backbone, sample: Sequence[Query], trees: bool) -> float:
    """Seconds per floating-point operation of the real search, head and bookkeeping included."""
    queries = list(sample)
    pairs = study.pairs
    cost = query_cost(queries, trees=trees)
    while len(queries) > 1 and len(queries) * cost.rows > 1024:
        queries = queries[::2]
    while len(pairs) > 1 and len(queries) * _flops(study, cost, pairs) > CALIBRATION_FLOPS:
        pairs = pairs[::2]
    while len(queries) > 1 and len(queries) * _flops(study, cost, pairs) > CALIBRATION_FLOPS:
        queries = queries[::2]
    method: Literal["naive", "lattice"] = "naive" if study.spec.search == "naive" else "lattice"
    search = LayerSearch(backbone, keep=study.spec.keep, method=method, rounds=False, last_layer=study.spec.last_layer)
    generator = torch.Generator().manual_seed(0)
    shift = 0.01 * torch.randn(backbone.num_layers + 1, backbone.hidden_size, generator=generator)
    search.run(queries[:1], shift, pairs)
    start = time.perf_counter()
    search.run(queries, shift, pairs)
    cost = query_cost(queries, trees=trees)
    return (time.perf_counter() - start) / (len(queries) * _flops(study, cost, pairs))
