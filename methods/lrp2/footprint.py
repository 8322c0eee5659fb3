"""What a layer search takes: memory of states, working space and tiles, operations; all from sizes, before it runs.

With `a` bytes per number, a packed row of a tile costs ``a D (1 + C(L, 2))`` for all pairs: the live branches at the
last block; what comes out of it lies in their memory. A tile is as many rows as fit; streamed weights are read once for
each tile.

Shape legend: L layers, D hidden, P layer pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from methods.backbone import ModelDescription
from methods.backbone.base import FAMILIES
from methods.backbone.footprint import GPU_RATE, Footprint
from methods.backbone.projection import Pair
from methods.lrp2.head import ROW_TILE, VOCABULARY_TILE
from methods.lrp2.lattice import Schedule, schedule
from methods.lrp2.probes import Query
from methods.lrp2.tiles import build_tile
from orchestrator.needs import ModelNeeds

# Numbers that go through a block at a time (rows times hidden size): on a CPU what the caches hold, on a GPU what keeps
# it busy.
STATES_AT_ONCE = {"cpu": 2**20, "cuda": 2**24}
# Numbers per branch of a tile: more would not be faster. On a CPU it is what goes through a block at a time.
MOST_TILE_STATES = {"cpu": 2**20, "cuda": 2**26}
# Where several cores compute and so many chunks' working space is free, two chunks go through a block side by side.
ROOM_FOR_TWO_CHUNKS = 8
FEWEST_TILE_ROWS = 64
# For the tables of the branches that the head takes together: so much at most, and this part of the memory bound.
HEAD_BYTES = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}
HEAD_SHARE = 1 / 16
# Of the memory that weights, working space and the head's tables leave free; the rest is for what an allocator loses.
TILE_SHARE = 0.85
# Facts whose token ids are in memory at a time: a worker streams a language, it never holds it whole.
FACTS_AT_ONCE = 2048
# A worker process with its libraries and a tokenizer, before it has read a weight: 610 to 660 MB measured.
PROCESS_BYTES = 650 * 2**20


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

    def flops(self, model: ModelDescription, pairs: Sequence[Pair]) -> float:
        """Operations of the blocks, last block only for needed rows; the head comes on top."""
        walk = schedule(pairs, model.num_layers)
        inner = walk.block_evaluations - walk.last
        last = walk.last * model.block_flops(self.length, self.needed / self.rows)
        return self.rows * (inner * model.block_flops(self.length) + last)


def takes_trees(model: ModelDescription) -> bool:
    """Whether the candidates of a query are packed as one prefix tree."""
    return model.kind == "causal" and model.fast and FAMILIES[model.architecture].accepts_trees


def query_cost(queries: Sequence[Query], *, trees: bool) -> QueryCost:
    """Mean cost of sampled queries when packed."""
    answerable = [query for query in queries if query.gold >= 0]
    if not answerable:
        return QueryCost(1.0, 1.0, 1.0)
    pack = build_tile(answerable, trees=trees, ranking_only=True).pack
    length = sum(s.count * s.length**2 for s in pack.segments) / pack.rows
    return QueryCost(pack.rows / len(answerable), len(pack.need) / len(answerable), length)


def rows_at_once(hidden_size: int, device: str) -> int:
    """Packed rows that go through a block together."""
    return STATES_AT_ONCE[device] // hidden_size


def chunk_bytes(model: ModelDescription, dtype: torch.dtype, device: str) -> int:
    """Bytes of the activations of as many rows as go through a block together."""
    return rows_at_once(model.hidden_size, device) * (model.block_weights // model.hidden_size) * dtype.itemsize


def bytes_per_row(model: ModelDescription, dtype: torch.dtype, walk: Schedule) -> int:
    """States of all branches of a packed row."""
    return model.hidden_size * dtype.itemsize * walk.most_branches


def fitting_rows(model: ModelDescription, dtype: torch.dtype, walk: Schedule, device: str, free: int) -> int:
    """Packed rows of a tile that fit into `free` bytes, from which `working_bytes` have been taken off.

    A branch goes through a block whole, so rows beyond `rows_at_once` need working space of their own.
    """
    row, wide = bytes_per_row(model, dtype, walk), rows_at_once(model.hidden_size, device)
    working = model.block_weights // model.hidden_size * dtype.itemsize
    fit = free // row
    return fit if fit <= wide else (free + wide * working) // (row + working)


def working_bytes(model: ModelDescription, dtype: torch.dtype, device: str) -> int:
    """What blocks and head need while they compute: activations of a chunk of rows, tiles of logits."""
    return chunk_bytes(model, dtype, device) + 3 * ROW_TILE[device] * VOCABULARY_TILE[device] * 4


def least_memory(model: ModelDescription, dtype: torch.dtype, pairs: Sequence[Pair]) -> int:
    """Bytes below which a search cannot run on a CPU: process, weights, working space and the smallest tile."""
    tile = FEWEST_TILE_ROWS * bytes_per_row(model, dtype, schedule(pairs, model.num_layers))
    return PROCESS_BYTES + model.weight_bytes(dtype) + working_bytes(model, dtype, "cpu") + tile


def fits_beside(model: ModelDescription, memory: int, device: str) -> bool:
    """Whether the model in float32 fits whole into so much memory, with room for its states."""
    fixed = model.weight_bytes(torch.float32) + working_bytes(model, torch.float32, device.partition(":")[0])
    return fixed < TILE_SHARE * memory


def search_needs(
    footprint: Footprint, pairs: Sequence[Pair], *, facts: int, cost: QueryCost, checked: int = 0, name: str
) -> ModelNeeds:
    """What a layer search asks of a machine.

    Args:
        footprint: of the model in the dtype it runs in.
        pairs: the layer pairs.
        facts: over all languages, those of the pivot left out.
        cost: of a mean fact.
        checked: how many facts are searched in float32 once more, because the dtype is inexact.
        name: of the model, for sentences.
    """
    model, dtype = footprint.description, footprint.dtype
    walk = schedule(pairs, model.num_layers)
    flops = cost.flops(model, pairs)
    slower = GPU_RATE[dtype] / GPU_RATE[torch.float32] if checked else 0.0
    return ModelNeeds(
        weights=footprint.total,
        outside=footprint.embeddings + footprint.head,
        block=footprint.block,
        blocks=model.num_layers,
        process=PROCESS_BYTES,
        check=footprint.block * torch.float32.itemsize // dtype.itemsize if checked else 0,
        working={device: working_bytes(model, dtype, device) for device in ("cpu", "cuda")},
        row=bytes_per_row(model, dtype, walk),
        fewest_rows=FEWEST_TILE_ROWS,
        tile_share=TILE_SHARE,
        most_rows={
            **{device: MOST_TILE_STATES[device] // model.hidden_size for device in ("cpu", "cuda")},
            "stream": int(FACTS_AT_ONCE * cost.rows),
        },
        busy_rows=rows_at_once(model.hidden_size, "cuda"),
        rows=facts * cost.rows,
        flops=flops * (facts + slower * checked),
        gpu_rate=GPU_RATE[dtype],
        model=f"{name} in {str(dtype).removeprefix('torch.')}",
    )
