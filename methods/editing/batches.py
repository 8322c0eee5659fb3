"""Texts of similar length go through the model together, so that little of the work is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from methods.editing.examples import Encoded
from methods.editing.model import EditableModel

TOKENS_AT_ONCE = 4096
"""Tokens of one forward pass, padding included: large enough for fast matrix products, small in memory."""
_ENOUGH, _SHORTEST = 192, 0.9
"""Tokens with which matrix products are fast enough for a group to end, and how unequal its texts then may be."""


def length_groups(lengths: Sequence[int], tokens_at_once: int = TOKENS_AT_ONCE) -> list[list[int]]:
    """Indices of all texts in groups, longest first.

    A group's padded size stays within `tokens_at_once` (a longer text stands alone), and a group of at least 192 tokens
    ends where texts become shorter than 90% of its longest. The result is a function of the lengths alone.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        group = groups[-1] if groups else []
        longest = lengths[group[0]] if group else 0
        full = (len(group) + 1) * longest > tokens_at_once
        uneven = len(group) * longest >= _ENOUGH and lengths[index] < _SHORTEST * longest
        if not group or full or uneven:
            groups.append([index])
        else:
            group.append(index)
    return groups


def lengths_of(batch: Encoded) -> list[int]:
    """The number of tokens of every row."""
    lengths: list[int] = batch.attention_mask.sum(1).tolist()
    return lengths


def rows_of_output(model: EditableModel, output: Tensor, batch: Encoded, rows: Sequence[int]) -> tuple[Encoded, Tensor]:
    """A part of a batch with its part of what `EditableModel.upper` gave for all of it."""
    part = batch.select(rows)
    chosen = output[list(rows)]
    return part, chosen if model.kind == "classifier" else chosen[:, : part.input_ids.shape[1]]
