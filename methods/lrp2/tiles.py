"""Tiles: queries packed without padding, and the bookkeeping that turns logits at needed rows into a ranking.

A candidate's score is ``sum_e (z[row_e, token_e] - lse[row_e]) / divisor`` over its scored tokens e, where z are logits
and lse the log-normaliser of a row. Rows are contexts: masks of a masked query, nodes of the prefix tree of a causal
one. Candidates that read the same rows form a norm set; within one, the normaliser cannot change the order.

Shape legend: N packed rows, M needed rows, Q queries, C candidates, K norm sets, U distinct (row, token) reads.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.backbone import Pack, Segment, pack_sequences
from methods.lrp2.probes import Query

Context = tuple[int, ...]


@dataclass(frozen=True)
class ReadGroup:
    """Logits to read: at every row of ``rows[g]`` every token of ``tokens[g]``.

    Attributes:
        rows: [G, R] long, needed rows.
        tokens: [G, k] long; shorter lists are filled up with their first token.
        counts: [G] long, real tokens of each list.
        first: the group's first column among the tile's U; it fills G * R * k.
    """

    rows: Tensor
    tokens: Tensor
    counts: Tensor
    first: int


@dataclass(frozen=True)
class Tile:
    """Queries packed for one pass.

    Attributes:
        queries: the queries, Q of them.
        pack: what the backbone runs.
        reads: groups of (row, token) logits to read; together they fill U columns, group after group.
        raw_reads: [C, E] long, the columns whose logits add up to a candidate's unnormalised score, U where there are
            fewer than E.
        set_of: [C] long, norm set of each candidate.
        set_rows: [K, E] long, needed rows whose normalisers a norm set subtracts beside its query's common ones, M
            where there are fewer than E.
        set_divisor: [K] float64.
        set_query: [K] long, the query of each norm set.
        query_sets: [Q, S] long, the norm sets of each query, K where it has fewer than S.
        common_rows: [Q, E] long, needed rows whose normalisers all norm sets of a query subtract, M where fewer.
        gold: [Q] long, the gold candidate's number among the C, -1 if it has none.
        first_candidate: [Q + 1] offsets of each query's candidates.
    """

    queries: tuple[Query, ...]
    pack: Pack
    reads: tuple[ReadGroup, ...]
    raw_reads: Tensor
    set_of: Tensor
    set_rows: Tensor
    set_divisor: Tensor
    set_query: Tensor
    query_sets: Tensor
    common_rows: Tensor
    gold: Tensor
    first_candidate: tuple[int, ...]

    def to(self, device: torch.device | str) -> Tile:
        """The same tile with its tensors on `device`."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        reads = tuple(
            ReadGroup(g.rows.to(device), g.tokens.to(device), g.counts.to(device), g.first) for g in self.reads
        )
        return dataclasses.replace(self, pack=self.pack.to(device), reads=reads, **moved)


def build_tile(queries: Sequence[Query], *, trees: bool, ranking_only: bool) -> Tile:
    """Packs queries.

    Args:
        queries: any number of queries, all masked or all causal.
        trees: causal queries as one prefix tree each instead of one sequence per candidate.
        ranking_only: leave out what adds the same to every candidate of a query: it cannot change the order.
    """
    needed = [_contexts(query, trees, ranking_only) for query in queries]
    pack, row_of = (_pack_trees if trees else _pack_forms)(queries, needed)

    reads_at: dict[int, dict[int, None]] = defaultdict(dict)
    for query_number, (wanted, _) in enumerate(needed):
        for parts in wanted:
            for context, token in parts:
                reads_at[row_of[query_number, context]].setdefault(token)
    reads, column, width = _read_groups(reads_at)

    raw_reads: list[list[int]] = []
    set_of: list[int] = []
    sets: dict[tuple[int, tuple[int, ...], int], int] = {}
    query_sets: list[list[int]] = []
    common_rows: list[list[int]] = []
    gold: list[int] = []
    first_candidate = [0]
    for number, (query, (wanted, neutral)) in enumerate(zip(queries, needed, strict=True)):
        mine: dict[int, tuple[int, ...]] = {}
        for parts, divisor in zip(wanted, query.divisors, strict=True):
            rows = [row_of[number, context] for context, _ in parts]
            raw_reads.append([column[row, token] for row, (_, token) in zip(rows, parts, strict=True)])
            normed = tuple(row for row, (context, _) in zip(rows, parts, strict=True) if context not in neutral)
            key = sets.setdefault((number, normed, divisor), len(sets))
            set_of.append(key)
            mine.setdefault(key, normed)
        query_sets.append(list(mine))
        common_rows.append(_shared(list(mine.values())))
        gold.append(first_candidate[-1] + query.gold if query.gold >= 0 else -1)
        first_candidate.append(len(raw_reads))
    return Tile(
        queries=tuple(queries),
        pack=pack,
        reads=reads,
        raw_reads=_padded(raw_reads, width),
        set_of=torch.tensor(set_of, dtype=torch.long),
        set_rows=_padded(
            [[row for row in rows if row not in common_rows[number]] for number, rows, _ in sets], len(pack.need)
        ),
        set_divisor=torch.tensor([divisor for *_, divisor in sets], dtype=torch.float64),
        set_query=torch.tensor([number for number, *_ in sets], dtype=torch.long),
        query_sets=_padded(query_sets, len(sets)),
        common_rows=_padded(common_rows, len(pack.need)),
        gold=torch.tensor(gold, dtype=torch.long),
        first_candidate=tuple(first_candidate),
    )


def _shared(sets: Sequence[tuple[int, ...]]) -> list[int]:
    """The rows that are in all of several norm sets; none of a single set, within which normalisers do not matter."""
    return sorted(set(sets[0]).intersection(*sets[1:])) if len(sets) > 1 else []


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    width = max((len(row) for row in rows), default=0)
    filled = [[*row, *[filler] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long).view(len(rows), width)


def _contexts(
    query: Query, trees: bool, ranking_only: bool
) -> tuple[list[list[tuple[Context, int]]], frozenset[Context]]:
    """Per candidate its (context, token) parts, and the neutral contexts: those whose normaliser cannot matter.

    A context's normaliser enters a score with weight (parts of the candidate there) / divisor. If that weight is the
    same for all candidates the normaliser shifts them all alike; if they also want the same token there, the context
    need not be computed at all.
    """
    parts = [
        [
            ((query.forms[form][: at + 1] if trees else (form, at)), token)
            for at, token in zip(places, tokens, strict=True)
        ]
        for form, places, tokens in query.scored
    ]
    if not ranking_only:
        return parts, frozenset()
    users = Counter(context for candidate in parts for context, _ in candidate)
    one_weight = len(set(query.divisors)) == 1
    neutral = frozenset(context for context, count in users.items() if one_weight and count == len(parts))
    tokens_at: dict[Context, set[int]] = defaultdict(set)
    for candidate in parts:
        for context, token in candidate:
            tokens_at[context].add(token)
    settled = {context for context in neutral if len(tokens_at[context]) == 1}
    if len(parts) == 1:
        return parts, neutral
    return [[part for part in candidate if part[0] not in settled] for candidate in parts], neutral


def _pack_forms(
    queries: Sequence[Query], needed: Sequence[tuple[list[list[tuple[Context, int]]], frozenset[Context]]]
) -> tuple[Pack, dict[tuple[int, Context], int]]:
    """Every form as a sequence of its own; contexts are (form, position)."""
    places: dict[tuple[int, int], set[int]] = defaultdict(set)
    for number, (wanted, _) in enumerate(needed):
        for parts in wanted:
            for (form, at), _ in parts:
                places[number, form].add(at)
    keys = list(places)
    wanted_places = [sorted(places[key]) for key in keys]
    pack, order = pack_sequences([queries[number].forms[form] for number, form in keys], wanted_places)
    row_of: dict[tuple[int, Context], int] = {}
    for place in order:
        number, form = keys[place]
        for at in wanted_places[place]:
            row_of[number, (form, at)] = len(row_of)
    return pack, row_of


def _pack_trees(
    queries: Sequence[Query], needed: Sequence[tuple[list[list[tuple[Context, int]]], frozenset[Context]]]
) -> tuple[Pack, dict[tuple[int, Context], int]]:
    """All candidates of a causal query as one prefix tree: a context is the path that leads to it.

    Trees with as many nodes and needed nodes lie in one segment; what a node sees is itself and its ancestors, and its
    position is its depth, so every path computes what it would compute as a sequence of its own.
    """
    shapes: dict[tuple[int, int], list[tuple[int, list[Context], list[int]]]] = defaultdict(list)
    for number, (wanted, _) in enumerate(needed):
        ends = {context for parts in wanted for context, _ in parts}
        nodes = sorted(
            {path[: depth + 1] for path in ends for depth in range(len(path))}, key=lambda path: (len(path), path)
        )
        local = [n for n, path in enumerate(nodes) if path in ends]
        shapes[len(nodes), len(local)].append((number, nodes, local))
    ids: list[int] = []
    positions: list[int] = []
    need: list[int] = []
    segments: list[Segment] = []
    row_of: dict[tuple[int, Context], int] = {}
    for (length, need_length), trees in sorted(shapes.items()):
        ancestors = torch.zeros(len(trees), length, length, dtype=torch.bool)
        start, need_start = len(ids), len(need)
        for place, (number, nodes, local) in enumerate(trees):
            index = {path: n for n, path in enumerate(nodes)}
            for n, path in enumerate(nodes):
                if len(path) > 1:
                    ancestors[place, n] = ancestors[place, index[path[:-1]]]
                ancestors[place, n, n] = True
            need.extend(len(ids) + n for n in local)
            for n in local:
                row_of[number, nodes[n]] = len(row_of)
            ids.extend(path[-1] for path in nodes)
            positions.extend(len(path) - 1 for path in nodes)
        local_rows = torch.tensor([local for *_, local in trees], dtype=torch.long)
        segments.append(Segment(start, len(trees), length, need_start, need_length, ancestors, local_rows))
    pack = Pack(
        torch.tensor(ids, dtype=torch.long),
        torch.tensor(positions, dtype=torch.long),
        tuple(segments),
        torch.tensor(need, dtype=torch.long),
    )
    return pack, row_of


def _read_groups(
    reads_at: Mapping[int, Mapping[int, None]],
) -> tuple[tuple[ReadGroup, ...], dict[tuple[int, int], int], int]:
    """Rows that read the same tokens are one matrix product; the others are batched by the length of their lists.

    Returns the groups, the column of each (row, token), and the number of columns U.
    """
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in sorted(reads_at):
        alike[tuple(sorted(reads_at[row]))].append(row)
    lists: dict[object, list[tuple[int, ...]]] = defaultdict(list)
    for tokens, rows in alike.items():
        lists[tokens if len(rows) > 1 else 1 << (len(tokens) - 1).bit_length()].append(tokens)
    groups: list[ReadGroup] = []
    column: dict[tuple[int, int], int] = {}
    first = 0
    for members in lists.values():
        width = max(map(len, members))
        width = width if len(members) == 1 else 1 << (width - 1).bit_length()
        at = first
        for tokens in members:
            for row in alike[tokens]:
                column.update({(row, token): at + k for k, token in enumerate(tokens)})
                at += width
        groups.append(
            ReadGroup(
                rows=torch.tensor([alike[tokens] for tokens in members]),
                tokens=torch.tensor([[*tokens, *[tokens[0]] * (width - len(tokens))] for tokens in members]),
                counts=torch.tensor([len(tokens) for tokens in members]),
                first=first,
            )
        )
        first = at
    return tuple(groups), column, first


def plan_tiles(queries: Sequence[Query], *, trees: bool, most_rows: int) -> Iterator[tuple[Query, ...]]:
    """Cuts queries into tiles of at most `most_rows` packed rows (one query at least), likes beside likes.

    Queries are ordered by their longest form and their number of candidates, so that a tile holds few lengths.
    """
    tile: list[Query] = []
    rows = 0
    for query in sorted(queries, key=lambda q: (q.longest, len(q.scored), q.index)):
        size = packed_rows(query, trees=trees)
        if tile and rows + size > most_rows:
            yield tuple(tile)
            tile, rows = [], 0
        tile.append(query)
        rows += size
    if tile:
        yield tuple(tile)


def packed_rows(query: Query, *, trees: bool) -> int:
    """Rows that a query takes on the packed axis, at most."""
    if not trees:
        return sum(map(len, query.forms))
    return len({form[: at + 1] for form in query.forms for at in range(len(form) - 1)} | {query.forms[0][:1]})
