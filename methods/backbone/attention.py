"""Attention over packed sequences: the part of a block that must know where one sequence ends.

Shape legend: B branches, N packed rows, M needed rows, n sequences of a group, T tokens of one sequence, R query rows
of one sequence (T, or its needed rows), H query heads, K key heads (fewer than H with grouped heads), d head size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.backbone.base import Plan
from methods.backbone.packing import Pack, Segment

# Segments below this many rows share one padded attention call: a call costs as much as some rows of arithmetic,
# and on a GPU hundreds of small ones would leave it idle.
SMALL_SEGMENT_ROWS = 256
# ... as long as padding does not add more than this share to the attention (the matrices of the block never pad).
PADDING = 0.25


@dataclass(frozen=True)
class Queries:
    """The query rows of a group.

    Attributes:
        rows: where they lie on the query axis (N, or M when only needed rows are computed), n * R of them.
        length: R.
        bias: added to the attention scores, broadcastable to [n, H, R, T]; None adds nothing.
        causal: query r sees keys 0..r and there is no bias.
        into: the rows they fill, padding left out; always next to each other.
        real: which of the n * R slots are no padding, in the order of these rows; None when all are.
    """

    rows: slice | Tensor
    length: int
    bias: Tensor | None
    causal: bool
    into: slice
    real: Tensor | None


@dataclass(frozen=True)
class Group:
    """Sequences that attend in one call.

    Attributes:
        count: number of sequences n.
        length: keys per sequence T.
        keys: where the n * T key rows lie on the packed axis.
        every: the queries when all rows are computed.
        needed: the queries when only the pack's needed rows are.
    """

    count: int
    length: int
    keys: slice | Tensor
    every: Queries
    needed: Queries


@dataclass(frozen=True)
class AttentionPlan(Plan):
    """The groups of a pack and, for rotary models, the angles.

    Attributes:
        groups: together they cover all sequences.
        rotary: cosine and sine of the rotary angles per packed row, each [N, d].
    """

    groups: tuple[Group, ...] = ()
    rotary: tuple[Tensor, Tensor] | None = None

    def tensors(self) -> Sequence[Tensor]:
        parts = [part for group in self.groups for part in (group.keys, *_parts(group.every), *_parts(group.needed))]
        return [part for part in (*parts, *(self.rotary or ())) if isinstance(part, Tensor)]


def _parts(queries: Queries) -> Iterable[object]:
    return queries.rows, queries.bias, queries.real


def plan_groups(
    pack: Pack,
    *,
    causal: bool,
    dtype: torch.dtype,
    device: torch.device,
    slopes: Tensor | None = None,
    window: int | None = None,
) -> tuple[Group, ...]:
    """Groups a pack's sequences and prepares what is added to their attention scores.

    Args:
        pack: on the CPU; masks are small and built there, then moved.
        causal: without ancestor masks, a row sees what is to its left (else its whole sequence).
        dtype, device: of the states.
        slopes: ALiBi slopes [H]; the bias is slope times the key's position (Press et al. 2022, as BLOOM applies it).
        window: a row sees only keys less than this many positions back (sliding-window attention).
    """
    builder = _GroupBuilder(pack, causal, dtype, device, None if slopes is None else slopes.cpu(), window)
    return tuple(builder.build(members) for members in _batches(pack.segments))


def _batches(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Large segments alone, small ones with their small neighbours of similar length.

    Only neighbours, so that what a group computes lies together on the packed axis; packs are ordered by length.
    """
    batches: list[list[Segment]] = []
    for segment in segments:
        if _small(segment) and batches and _small(batches[-1][-1]) and _little_padding([*batches[-1], segment]):
            batches[-1].append(segment)
        else:
            batches.append([segment])
    return batches


def _small(segment: Segment) -> bool:
    return segment.count * segment.length < SMALL_SEGMENT_ROWS


def _little_padding(segments: Sequence[Segment]) -> bool:
    rows = sum(segment.count * segment.length for segment in segments)
    padded = sum(segment.count for segment in segments) * max(segment.length for segment in segments)
    return padded <= (1 + PADDING) * rows


@dataclass(frozen=True)
class _GroupBuilder:
    pack: Pack
    causal: bool
    dtype: torch.dtype
    device: torch.device
    slopes: Tensor | None
    window: int | None

    def build(self, members: list[Segment]) -> Group:
        if len(members) == 1:
            return self._contiguous(members[0])
        length = max(segment.length for segment in members)
        need_length = max(segment.need_length for segment in members)
        visible: list[Tensor] = []
        needed: list[Tensor] = []
        layouts: tuple[list[Tensor], ...] = ([], [], [], [])
        for segment in members:
            seen = torch.zeros(segment.count, length, length, dtype=torch.bool)
            seen[:, :, 0] = True  # padded queries see one key, so that no softmax is over nothing
            seen[:, : segment.length, : segment.length] = self._visible(segment)
            local = segment.need_local.expand(segment.count, -1)
            local = F.pad(local, (0, need_length - segment.need_length))
            visible.append(seen)
            needed.append(seen.gather(1, local[:, :, None].expand(-1, -1, length)))
            for layout, part in zip(
                layouts,
                (
                    *_padded_rows(segment.start, segment.count, segment.length, length, self.pack.rows),
                    *_padded_rows(
                        segment.need_start, segment.count, segment.need_length, need_length, len(self.pack.need)
                    ),
                ),
                strict=True,
            ):
                layout.append(part)
        rows, real, need_rows, need_real = (torch.cat(layout) for layout in layouts)
        positions = self.pack.positions[rows.reshape(-1)].view(-1, length)
        into = slice(members[0].start, members[-1].stop)
        need_into = slice(members[0].need_start, members[-1].need_stop)
        return Group(
            count=sum(segment.count for segment in members),
            length=length,
            keys=self._move(rows.reshape(-1)),
            every=self._padded_queries(rows, real, torch.cat(visible), positions, into),
            needed=self._padded_queries(need_rows, need_real, torch.cat(needed), positions, need_into),
        )

    def _contiguous(self, segment: Segment) -> Group:
        """One segment: its rows are slices, and its mask is shared by its sequences where it can be."""
        keys = slice(segment.start, segment.stop)
        plain = segment.ancestors is None and (self.window is None or segment.length <= self.window)
        every_bias = needed_bias = None
        flag = plain and self.causal and self.slopes is None
        if not plain or self.causal:
            visible = self._visible(segment)
            local = segment.need_local if segment.need_local.dim() == 2 else segment.need_local[None]
            if visible.shape[0] == 1 and local.shape[0] > 1 and bool((local == local[:1]).all()):
                local = local[:1]
            count = max(visible.shape[0], local.shape[0])
            chosen = visible.expand(count, -1, -1).gather(
                1, local.expand(count, -1)[:, :, None].expand(-1, -1, segment.length)
            )
            shared = segment.ancestors is None or segment.ancestors.dim() == 2
            positions = self.pack.positions[keys].view(segment.count, -1)
            positions = positions[:1] if shared else positions
            every_bias = None if flag else self._bias(visible, positions)
            needed_bias = self._bias(chosen, positions)
        need = slice(segment.need_start, segment.need_stop)
        return Group(
            count=segment.count,
            length=segment.length,
            keys=keys,
            every=Queries(keys, segment.length, every_bias, flag, keys, None),
            needed=Queries(need, segment.need_length, needed_bias, False, need, None),
        )

    def _visible(self, segment: Segment) -> Tensor:
        """Who sees whom, bool [1 or n, T, T]."""
        length = segment.length
        if segment.ancestors is not None:
            visible = segment.ancestors if segment.ancestors.dim() == 3 else segment.ancestors[None]
        else:
            visible = torch.ones(1, length, length, dtype=torch.bool)
            visible = visible.tril() if self.causal else visible
        if self.window is not None and length > self.window:
            positions = self.pack.positions[segment.start : segment.stop].view(segment.count, length)
            visible = visible & (positions[:, :, None] - positions[:, None, :] < self.window)
        return visible

    def _padded_queries(self, rows: Tensor, real: Tensor, visible: Tensor, positions: Tensor, into: slice) -> Queries:
        bias = None if bool(visible.all()) and self.slopes is None else self._bias(visible, positions)
        slots = None if bool(real.all()) else self._move(real.reshape(-1).nonzero().squeeze(1))
        return Queries(self._move(rows.reshape(-1)), rows.shape[1], bias, False, into, slots)

    def _bias(self, visible: Tensor, positions: Tensor) -> Tensor:
        """Minus infinity where nothing is seen, the ALiBi slope times the key position elsewhere: [n, 1 or H, R, T]."""
        bias = torch.zeros(1, 1, 1, 1, dtype=self.dtype)
        if self.slopes is not None:
            bias = (self.slopes[None, :, None, None] * positions[:, None, None, :]).to(self.dtype)
        return self._move(torch.where(visible[:, None], bias, torch.tensor(float("-inf"), dtype=self.dtype)))

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)


def _padded_rows(start: int, count: int, length: int, padded: int, total: int) -> tuple[Tensor, Tensor]:
    """Rows of `count` sequences padded to one length, [n, padded], with True where a slot holds a real row.

    Padding repeats some row of the `total` there are; what is computed for it is thrown away.
    """
    firsts = start + length * torch.arange(count)[:, None]
    offsets = torch.arange(padded)[None]
    real = (offsets < length).expand(count, -1)
    return (firsts + offsets * (offsets < length)).clamp(max=total - 1), real


def attend(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, need: bool, scale: float | None = None) -> Tensor:
    """Softmax attention within each sequence of the plan.

    Args:
        q: queries [B, N, H, d], or [B, M, H, d] when `need`.
        k, v: keys and values [B, N, K, d]; H is a multiple of K.
        plan: who attends to whom.
        need: the queries are the pack's needed rows.
        scale: multiplies the scores; 1/sqrt(d) when None.

    Returns:
        [B, N, H * d], or [B, M, H * d] when `need`.
    """
    branches, rows, heads, size = q.shape
    grouped = k.shape[2] != heads
    output: Tensor | None = None
    for group in plan.groups:
        queries = group.needed if need else group.every
        if queries.length == 0:
            continue
        attended = F.scaled_dot_product_attention(
            _take(q, queries.rows, group.count, queries.length),
            _take(k, group.keys, group.count, group.length),
            _take(v, group.keys, group.count, group.length),
            attn_mask=_per_branch(queries.bias, branches),
            is_causal=queries.causal,
            scale=scale,
            enable_gqa=grouped,
        )
        attended = attended.transpose(1, 2).reshape(branches, group.count * queries.length, heads * size)
        if queries.real is not None:
            attended = attended.index_select(1, queries.real)
        if len(plan.groups) == 1:
            return attended
        if output is None:
            output = q.new_empty(branches, rows, heads * size)
        output[:, queries.into] = attended
    return q.new_empty(branches, rows, heads * size) if output is None else output


def _take(x: Tensor, rows: slice | Tensor, count: int, length: int) -> Tensor:
    """The chosen rows of [B, rows, heads, d] as [B * n, heads, length, d], without a copy where they lie together."""
    chosen = x[:, rows] if isinstance(rows, slice) else x.index_select(1, rows)
    return chosen.reshape(x.shape[0] * count, length, *x.shape[2:]).transpose(1, 2)


def _per_branch(bias: Tensor | None, branches: int) -> Tensor | None:
    """A bias that differs between sequences, repeated for every branch: [B * n, 1 or H, R, T]."""
    if bias is None or bias.shape[0] == 1 or branches == 1:
        return bias
    return bias.expand(branches, *bias.shape).reshape(-1, *bias.shape[1:])
