"""Who is measured: the lattice with all scores and with hits only, the naive loop, and libraries for interventions.

Shape legend: Q queries, P layer pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.backbone import Backbone
from methods.backbone.projection import Pair
from methods.instruments import wall_seconds
from methods.lrp2.benchmark.peers import PEERS, peer_scores
from methods.lrp2.found import SearchStats
from methods.lrp2.naive import hits_of_scores, naive_scores
from methods.lrp2.probes import Query
from methods.lrp2.search import LayerSearch

SCORES, HITS, NAIVE = "lattice, scores", "lattice, hits", "naive"
AGAINST = (NAIVE, *PEERS)
BATCH_SIZES = {"cpu": (4, 8, 16, 32, 64), "cuda": (16, 64, 256, 512)}


@dataclass(frozen=True)
class Answer:
    """What a contender found: hits [Q, 1 + P] and, unless it keeps hits only, per query scores [1 + P, candidates].

    `columns` says which of the 1 + P columns these are.
    """

    hits: NDArray[np.bool_]
    scores: Sequence[NDArray[np.floating]] | None
    columns: Sequence[int]
    stats: SearchStats = field(default_factory=SearchStats)


@dataclass(frozen=True)
class Contender:
    """One way to do the search.

    Attributes:
        run: does all of it, or an even share.
        flops: of all of it: blocks, the transform before the vocabulary matrix, and that matrix.
        runs: how many such runs are all of it, as time goes; 1 unless only a sample of the pairs is run.
    """

    name: str
    run: Callable[[], Answer]
    flops: Callable[[Answer], float]
    runs: float = 1.0


@dataclass(frozen=True)
class Work:
    """What all contenders are asked: the same queries, shift and pairs."""

    backbone: Backbone
    queries: Sequence[Query]
    shift: Tensor
    pairs: Sequence[Pair]

    def lattice(self, keep: Literal["hits", "scores"], memory_bytes: int | None) -> Contender:
        """The lattice; its preparation of the vocabulary matrix, once per model, is no part of a run."""
        search = LayerSearch(self.backbone, keep=keep, memory_bytes=memory_bytes)

        def run() -> Answer:
            result = search.run(self.queries, self.shift, self.pairs)
            return Answer(result.hits, result.scores, range(1 + len(self.pairs)), result.stats)

        return Contender(HITS if keep == "hits" else SCORES, run, self._lattice_flops)

    def one_by_one(self, name: str, batch_size: int, sample: int | None) -> Contender:
        """The naive loop or a library: a forward pass for every pair.

        Every pair costs it the same, so a sample of so many pairs, evenly spread, tells the time of all.
        """
        shift = self.shift.to(self.backbone.device, self.backbone.dtype)
        number = min(sample or len(self.pairs), len(self.pairs))
        places = [(2 * n + 1) * len(self.pairs) // (2 * number) for n in range(number)]
        pairs = [self.pairs[place] for place in places]

        def run() -> Answer:
            if name == NAIVE:
                scores = naive_scores(self.backbone, self.queries, shift, pairs, batch_size=batch_size)
            else:
                scores = peer_scores(name, self.backbone, self.queries, shift, pairs, batch_size=batch_size)
            hits, _ = hits_of_scores(self.queries, scores)
            return Answer(hits.T.numpy(), [table.numpy() for table in scores], [0, *(1 + place for place in places)])

        flops = (1 + len(self.pairs)) * self._padded_flops(batch_size)
        return Contender(name, run, lambda answer: flops, runs=(1 + len(self.pairs)) / (1 + len(pairs)))

    def _lattice_flops(self, answer: Answer) -> float:
        description, stats = self.backbone.description, answer.stats
        head = 2.0 * description.vocab_size * description.hidden_size
        return stats.block_flops + stats.head_rows * head + stats.needed_rows * 2.0 * description.transform_weights

    def _padded_flops(self, batch_size: int) -> float:
        """Of one pass over all forms, padding included, with the head at every position."""
        lengths = sorted(len(form) for query in self.queries for form in query.forms)
        batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
        backbone = self.backbone
        return sum(
            len(batch) * batch[-1] * (backbone.num_layers * backbone.block_flops(batch[-1]) + backbone.head_flops())
            for batch in batches
        )

    @torch.no_grad()
    def batch_seconds(self) -> dict[int, float]:
        """Seconds of the naive loop per batch size, on the unmodified model alone, up to the last size that fits."""
        forms = sum(len(query.forms) for query in self.queries)
        device = self.backbone.device.type
        seconds: dict[int, float] = {}
        for size in BATCH_SIZES[device]:
            if seconds and size >= 2 * forms:
                break

            def once(size: int = size) -> None:
                naive_scores(self.backbone, self.queries, None, (), batch_size=size)

            try:
                seconds[size] = min(wall_seconds(device, once) for _ in range(2))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not seconds or "memory" not in str(error):
                    raise
                break
        return seconds
