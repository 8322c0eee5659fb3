"""Packs: many sequences (or prefix trees) laid end to end on one axis, without padding.

Shape legend: N packed rows (tokens of all sequences), M needed rows, n sequences of a segment, T tokens of each.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Sequences (or trees) of one length that lie next to each other on the packed axis.

    Attributes:
        start: first row on the packed axis.
        count: number of sequences n.
        length: tokens per sequence T; the segment covers rows ``start .. start + n * T``, sequence after sequence.
        need_start: first row among the pack's needed rows.
        need_length: needed rows per sequence.
        ancestors: who may attend to whom, bool, [T, T] for all sequences alike or [n, T, T]; entry (a, b) is True
            when row a sees row b. None is the model's own rule: a masked model sees the whole sequence, a causal
            model sees everything to the left. Only a backbone with ``accepts_trees`` takes anything but None.
        need_local: the needed rows within one sequence, long, [need_length] for all alike or [n, need_length].
    """

    start: int
    count: int
    length: int
    need_start: int
    need_length: int
    ancestors: Tensor | None
    need_local: Tensor

    @property
    def stop(self) -> int:
        """The row after the segment's last one."""
        return self.start + self.count * self.length

    @property
    def need_stop(self) -> int:
        """The row after the segment's last needed one, among the needed rows."""
        return self.need_start + self.count * self.need_length


@dataclass(frozen=True)
class Pack:
    """Token ids of many sequences on one axis, and which of their rows the head will be asked for.

    Attributes:
        ids: token ids, long [N].
        positions: position of each token within its own path, long [N]: 0, 1, .. in a sequence, the depth in a tree.
        segments: the sequences, in the order of their rows; together they cover 0..N without gaps.
        need: rows the head is asked for, long [M]: segment after segment, sequence after sequence, in the order of
            ``Segment.need_local``.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    need: Tensor

    @property
    def rows(self) -> int:
        """N, the length of the packed axis."""
        return self.ids.shape[0]

    def to(self, device: torch.device | str) -> Pack:
        """The same pack with its tensors on `device`."""
        segments = tuple(
            dataclasses.replace(
                segment,
                ancestors=None if segment.ancestors is None else segment.ancestors.to(device),
                need_local=segment.need_local.to(device),
            )
            for segment in self.segments
        )
        return Pack(self.ids.to(device), self.positions.to(device), segments, self.need.to(device))


def pack_sequences(
    sequences: Sequence[Sequence[int]], need: Sequence[Sequence[int]] | None = None
) -> tuple[Pack, list[int]]:
    """Packs plain sequences, grouped by length (and by the number of needed rows).

    Args:
        sequences: token ids, each sequence non-empty.
        need: for each sequence its needed positions; every position when left out.

    Returns:
        The pack, and `order`: the sequence that lies at each place of the pack. Sequence ``order[p]`` is the p-th one
        on the packed axis, and its needed rows are the p-th ones among the needed rows.
    """
    wanted = [range(len(sequence)) for sequence in sequences] if need is None else need
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, sequence in enumerate(sequences):
        groups[len(sequence), len(wanted[index])].append(index)
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    order: list[int] = []
    segments: list[Segment] = []
    for (length, need_length), members in sorted(groups.items()):
        local = torch.tensor([list(wanted[index]) for index in members], dtype=torch.long)
        segments.append(Segment(len(ids), len(members), length, len(rows), need_length, None, local))
        for index in members:
            rows.extend(len(ids) + position for position in wanted[index])
            ids.extend(sequences[index])
            positions.extend(range(length))
        order.extend(members)
    pack = Pack(
        torch.tensor(ids, dtype=torch.long),
        torch.tensor(positions, dtype=torch.long),
        tuple(segments),
        torch.tensor(rows, dtype=torch.long),
    )
    return pack, order
