"""The layer search over queries: tiles that fit the memory, the lattice, the ranking; or the naive loop.

Both give the same hits. Memory is bounded: a tile holds as many packed rows as fit, and a tile that does not fit after
all is cut in two and tried again.

Shape legend: Q queries, P layer pairs, N packed rows, D hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.backbone import Backbone
from methods.backbone.cores import at_a_time
from methods.backbone.projection import LastLayer, Pair
from methods.backbone.resident import taken_bytes
from methods.backbone.streaming import StreamedBackbone
from methods.lrp2.footprint import (
    FEWEST_TILE_ROWS,
    HEAD_BYTES,
    HEAD_SHARE,
    MOST_TILE_STATES,
    ROOM_FOR_TWO_CHUNKS,
    TILE_SHARE,
    chunk_bytes,
    fitting_rows,
    rows_at_once,
    working_bytes,
)
from methods.lrp2.found import Keep, Progress, SearchResult, SearchStats, part_of
from methods.lrp2.head import Head
from methods.lrp2.lattice import Schedule, last_states, schedule
from methods.lrp2.naive import hits_of_scores, naive_scores
from methods.lrp2.probes import Query
from methods.lrp2.ranking import LIKELY, Ranking, likely_tokens, rank
from methods.lrp2.rounds import in_rounds, worth_rounds
from methods.lrp2.streamed_head import StreamedHead
from methods.lrp2.tiles import Tile, build_tile, packed_rows, plan_tiles
from orchestrator.errors import UserError

log = logging.getLogger(__name__)

# One branch in so many says which tokens are likely; it costs a whole normaliser.
BRANCHES_PER_HINT = 96


class OutOfMemory(UserError):
    """A single query does not fit into the memory bound."""


class LayerSearch:
    """The search over layer pairs with one model.

    Args:
        backbone: the model.
        keep: ``hits`` computes forms and normalisers only where they can change a hit; ``scores`` computes and keeps
            all.
        method: ``lattice`` or ``naive``.
        rounds: whether hits come in rounds, where these are worth it; without them every form meets every pair.
        last_layer: on which side of a final norm layer L lies.
        head_dtype: dtype of the logits.
        memory_bytes: bound on the process's memory (on a GPU: on the device's), weights included.
        batch_size: forms in one forward of the naive loop.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        keep: Keep = "hits",
        method: Literal["lattice", "naive"] = "lattice",
        rounds: bool = True,
        last_layer: LastLayer = "normed",
        head_dtype: torch.dtype | None = None,
        memory_bytes: int | None = None,
        batch_size: int = 32,
    ) -> None:
        self.backbone = backbone
        self.keep = keep
        self.method = method
        self.rounds = rounds
        self.last_layer: LastLayer = last_layer
        self.memory_bytes = memory_bytes
        self.batch_size = batch_size
        self.trees = backbone.kind == "causal" and backbone.accepts_trees
        self.device = backbone.device.type
        if head_dtype is None:
            head_dtype = torch.float64 if backbone.dtype == torch.float64 else torch.float32
        self.head = _head(backbone, head_dtype) if method == "lattice" else None

    @torch.no_grad()
    def run(
        self,
        queries: Sequence[Query],
        shift: Tensor | None,
        pairs: Sequence[Pair],
        *,
        progress: Progress = lambda fraction: None,
    ) -> SearchResult:
        """Evaluates all queries under the unmodified model and every pair.

        Args:
            queries: from `QueryBuilder`; a query whose gold object has no tokens is never a hit.
            shift: ``v_en - v_l``, [L + 1, D]; None when there are no pairs.
            pairs: the layer pairs.
            progress: told the fraction done.

        Raises:
            OutOfMemory: if a single query does not fit.
        """
        places = [place for place, query in enumerate(queries) if query.gold >= 0]
        answerable = [replace(queries[place]) for place in places]  # a query that is given twice is two queries
        if shift is not None:
            shift = shift.to(self.backbone.device, self.backbone.dtype)
        if self.method == "naive":
            found = self._naive(answerable, shift, pairs, progress)
        else:
            found = self._all_pairs_together(answerable, shift, pairs, progress)
        result = SearchResult.empty(len(queries), len(pairs), self.keep)
        result.hits[places], result.ties[places] = found.hits, found.ties
        if result.scores is not None and found.scores is not None:
            for place, table in zip(places, found.scores, strict=True):
                result.scores[place] = table
        result.stats.add(found.stats)
        progress(1.0)
        return result

    def rows_of(self, query: Query) -> int:
        """Rows that a query takes on the packed axis."""
        return packed_rows(query, trees=self.trees)

    def _all_pairs_together(
        self, queries: Sequence[Query], shift: Tensor | None, pairs: Sequence[Pair], progress: Progress
    ) -> SearchResult:
        """The lattice, in rounds where these are worth it; a streamed model would be read once more for every round."""
        lattice, layers = partial(self._lattice, shift, self._free_bytes()), self.backbone.num_layers
        takes_rounds = self.rounds and self.keep == "hits" and not self.backbone.streamed
        if not (queries and takes_rounds and worth_rounds(pairs, layers)):
            return lattice(queries, pairs, self.keep, progress)
        return in_rounds(
            lattice, queries, pairs, num_layers=layers, rows=self.rows_of, device=self.device, progress=progress
        )

    def _lattice(
        self,
        shift: Tensor | None,
        free: int | None,
        queries: Sequence[Query],
        pairs: Sequence[Pair],
        keep: Keep,
        progress: Progress,
    ) -> SearchResult:
        """All queries under all pairs, tile by tile; `free` bytes are left for states, None without a bound."""
        result = SearchResult.empty(len(queries), len(pairs), keep)
        places = {id(query): place for place, query in enumerate(queries)}
        if shift is None:
            shift = torch.zeros(self.backbone.num_layers + 1, self.backbone.hidden_size)
        walk = schedule(pairs, self.backbone.num_layers)
        block_rows, free = self._block_rows(free)
        waiting = list(plan_tiles(queries, trees=self.trees, most_rows=self._tile_rows(walk, free)))[::-1]
        finished = 0
        while waiting:
            members = waiting.pop()
            at, share = finished / len(queries), len(members) / len(queries)
            try:
                self._run_tile(members, shift, walk, block_rows, places, keep, result, part_of(progress, at, share))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                waiting += self._halve(members, error)
                result.stats.retried += 1
                continue
            finished += len(members)
            progress(finished / len(queries))
        return result

    def _halve(self, members: tuple[Query, ...], error: Exception) -> list[tuple[Query, ...]]:
        if self.device == "cuda":
            torch.cuda.empty_cache()
        if len(members) == 1:
            raise OutOfMemory(
                f"one query of {members[0].longest} tokens with all its layer pairs does not fit into memory: {error}; "
                "give the trial more with --memory, or search fewer pairs with --pairs"
            ) from error
        log.warning("a tile of %d queries did not fit into memory: it is cut in two and tried again", len(members))
        middle = len(members) // 2
        return [members[middle:], members[:middle]]

    def _run_tile(
        self,
        members: tuple[Query, ...],
        shift: Tensor,
        walk: Schedule,
        block_rows: int,
        places: dict[int, int],
        keep: Keep,
        result: SearchResult,
        progress: Progress,
    ) -> None:
        assert self.head is not None
        read = self.backbone.bytes_read
        tile = build_tile(members, trees=self.trees, ranking_only=keep == "hits").to(self.backbone.device)
        plan = self.backbone.plan(tile.pack)
        last = last_states(
            self.backbone,
            plan,
            shift,
            walk,
            last_layer=self.last_layer,
            rows_at_once=block_rows,
            progress=progress,
        )
        head_rows = 0.0
        at_once = self._branches_at_once(tile, len(last))
        rows = [places[id(query)] for query in members]
        score_parts = []
        ranked: Iterable[Ranking]
        if self.head.swept:
            ranked = [self._swept(last, tile, keep, at_once)]
        else:
            likely = self._likely(last, keep)
            states = (self.backbone.transform(part) for part in last.split(at_once))
            ranked = (rank(part, tile, self.head, likely, keep_scores=keep == "scores") for part in states)
        b = 0
        for ranking in ranked:
            a, b = b, b + len(ranking.hits)
            result.hits[rows, a:b] = ranking.hits.T.cpu().numpy()
            result.ties[rows, a:b] = ranking.ties.T.cpu().numpy()
            head_rows += ranking.normalised_rows
            if ranking.scores is not None:
                score_parts.append(ranking.scores.cpu().numpy())
        if result.scores is not None:
            table = np.concatenate(score_parts)
            for number, row in enumerate(rows):
                first, stop = tile.first_candidate[number], tile.first_candidate[number + 1]
                result.scores[row] = table[:, first:stop].copy()
        read = self.backbone.bytes_read - read
        result.stats.add(replace(self._cost(tile, walk, head_rows, len(last)), weight_bytes=read))

    def _swept(self, last: Tensor, tile: Tile, keep: Keep, at_once: int) -> Ranking:
        """The ranking of all branches together, for which the vocabulary is read once; `last` may be overwritten."""
        assert self.head is not None
        first, *others = last.split(at_once)
        done = self.backbone.transform(first)
        states = last if done.shape == first.shape else last.new_empty(*last.shape[:-1], done.shape[-1])
        states[:at_once] = done
        for a, part in enumerate(others, start=1):
            states[a * at_once : (a + 1) * at_once] = self.backbone.transform(part)
        nothing = torch.empty(last.shape[1], 0, dtype=torch.long, device=last.device)
        return rank(states, tile, self.head, nothing, keep_scores=keep == "scores", at_once=at_once)

    def _cost(self, tile: Tile, walk: Schedule, head_rows: float, outcomes: int) -> SearchStats:
        n, m = tile.pack.rows, len(tile.pack.need)
        length = sum(s.count * s.length**2 for s in tile.pack.segments) / n
        return SearchStats(
            tiles=1,
            packed_rows=n,
            block_rows=n * walk.block_evaluations,
            block_flops=n * (walk.block_evaluations - walk.last) * self.backbone.block_flops(length)
            + n * walk.last * self.backbone.block_flops(length, needed=m / n),
            head_rows=round(head_rows),
            needed_rows=outcomes * m,
        )

    def _naive(
        self, queries: Sequence[Query], shift: Tensor | None, pairs: Sequence[Pair], progress: Progress
    ) -> SearchResult:
        todo = (1 + len(pairs)) * sum(len(query.forms) for query in queries)
        finished = 0

        def done(forwards: int) -> None:
            nonlocal finished
            finished += forwards
            progress(finished / max(1, todo))

        result = SearchResult.empty(len(queries), len(pairs), self.keep)
        if not queries:
            return result
        scores = naive_scores(
            self.backbone, queries, shift, pairs, last_layer=self.last_layer, batch_size=self.batch_size, done=done
        )
        hits, ties = hits_of_scores(queries, scores)
        result.hits[:], result.ties[:] = hits.T.numpy(), ties.T.numpy()
        if result.scores is not None:
            result.scores[:] = [table.numpy() for table in scores]
        return result

    def _block_rows(self, free: int | None) -> tuple[int, int | None]:
        """Rows that go through a block at a time, and the bytes that are left for states beside them."""
        rows = rows_at_once(self.backbone.hidden_size, self.device)
        chunk = chunk_bytes(self.backbone.description, self.backbone.dtype, self.device)
        if at_a_time(self.backbone.device) == 1 or (free is not None and free < ROOM_FOR_TWO_CHUNKS * chunk):
            return rows, free
        return 2 * rows, None if free is None else free - chunk

    def _tile_rows(self, walk: Schedule, free: int | None) -> int:
        """Packed rows of a tile: as many as fit into `free` bytes, up to what is worth it.

        Of a streamed model it is as many as fit, because every tile reads the weights.
        """
        most = max(FEWEST_TILE_ROWS, MOST_TILE_STATES[self.device] // self.backbone.hidden_size)
        if free is None:
            return most
        fit = fitting_rows(self.backbone.description, self.backbone.dtype, walk, self.device, free)
        return max(FEWEST_TILE_ROWS, fit if self.backbone.streamed else min(most, fit))

    def _free_bytes(self) -> int | None:
        """Memory left for states: the bound less the process with its weights, the blocks' working space and the head's
        tables."""
        if self.memory_bytes is None:
            return None
        there = self.backbone.mapped_bytes if self.device == "cuda" else taken_bytes()
        working = working_bytes(self.backbone.description, self.backbone.dtype, self.device)
        return int(TILE_SHARE * (self.memory_bytes - there - working - self._head_room()))

    def _likely(self, last: Tensor, keep: Keep) -> Tensor:
        """Hints for the normalisers of all branches [M, H]; none where every row is normalised anyway."""
        assert self.head is not None
        if keep == "scores":
            return torch.empty(last.shape[1], 0, dtype=torch.long, device=last.device)
        asked = last[:: -(-len(last) // _askers(len(last)))]
        return likely_tokens(self.backbone.transform(asked), self.head)

    def _branches_at_once(self, tile: Tile, branches: int) -> int:
        """Branches that the head takes together, so that its temporary tables stay small beside the states."""
        per_branch = len(tile.pack.need) * self.backbone.hidden_size * 8
        per_branch += (tile.raw_reads.numel() + 8 * len(tile.set_of) + 16 * tile.query_sets.numel()) * 4
        per_branch += sum(group.rows.numel() * group.tokens.shape[1] for group in tile.reads) * 12
        per_branch += len(tile.pack.need) * _askers(branches) * LIKELY * 12
        return max(1, self._head_room() // per_branch)

    def _head_room(self) -> int:
        """Bytes for the tables of the branches that the head takes together."""
        room = HEAD_BYTES[self.device]
        return room if self.memory_bytes is None else min(room, int(HEAD_SHARE * self.memory_bytes))


def _askers(branches: int) -> int:
    """How many branches, evenly spread and the unmodified model first, say which tokens are likely."""
    return 1 + branches // BRANCHES_PER_HINT


def _head(backbone: Backbone, dtype: torch.dtype) -> Head:
    if isinstance(backbone, StreamedBackbone):
        return StreamedHead.over(backbone.stream.vocabulary, dtype)
    return Head.of(backbone.unembedding, dtype)


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch reports a failed CPU allocation as a plain RuntimeError of its allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
