"""Losses and metrics of an edit, for every row of a batch (Xu et al. 2023, sections 3 and 5.1).

Plain formulas over logits. Shape legend: B rows, M label positions, N compared tokens, V vocabulary or classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Direction = Literal["raw||edited", "edited||raw"]


def row_mean(values: Tensor, rows: Tensor, size: int, *, empty: float = 0.0) -> Tensor:
    """The mean of the values of each row, [B]; `empty` for rows without any.

    Args:
        values: [N].
        rows: the row of each value, [N].
        size: B.
        empty: what a row without values gets.
    """
    counts = torch.bincount(rows, minlength=size).to(values)
    total = torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, rows, values)
    return torch.where(counts > 0, total / counts.clamp_min(1), torch.full_like(total, empty))


def nll(logits: Tensor, targets: Tensor, rows: Tensor, size: int) -> Tensor:
    """The mean negative log-likelihood of each row's label tokens, [B], in nats.

    Args:
        logits: [M, V].
        targets: [M]; positions without a target (-1) are left out.
        rows: the row of each label position, [M].
        size: B.
    """
    labelled = targets >= 0
    losses = torch.nn.functional.cross_entropy(logits[labelled], targets[labelled], reduction="none")
    return row_mean(losses, rows[labelled], size)


def kl(raw: Tensor, edited: Tensor, rows: Tensor, size: int, *, direction: Direction = "raw||edited") -> Tensor:
    """The mean Kullback-Leibler divergence of each row's tokens, [B], in nats.

    The paper writes KL(edited || raw); its released code computes KL(raw || edited), which is the default.

    Args:
        raw, edited: logits [N, V] of the unmodified and the edited model.
        rows: the row of each token, [N].
        size: B.
        direction: which of the two divergences.
    """
    before, after = raw.log_softmax(-1), edited.log_softmax(-1)
    first, second = (before, after) if direction == "raw||edited" else (after, before)
    return row_mean((first.exp() * (first - second)).sum(-1), rows, size)


def acc(predicted: Tensor, targets: Tensor, rows: Tensor, size: int) -> Tensor:
    """Whether all labels of a row are predicted, [B] of 0 and 1: a row with one wrong mask counts 0.

    Args:
        predicted: the most likely token or class at each label position, [M].
        targets: [M]; positions without a target (-1) are left out.
        rows: [M].
        size: B.
    """
    labelled = targets >= 0
    return _all_of_row(predicted[labelled] == targets[labelled], rows[labelled], size)


def con(raw: Tensor, edited: Tensor, rows: Tensor, size: int) -> Tensor:
    """Whether all compared predictions of a row are the unmodified model's, [B] of 0 and 1.

    Over the mask positions alone and over every attended position these are two metrics, far apart in strictness; the
    caller says which by the positions it hands over. A row without positions has nothing that could change: 1.

    Args:
        raw, edited: the most likely token or class at each compared position, [N].
        rows: [N].
        size: B.
    """
    return _all_of_row(raw == edited, rows, size)


def _all_of_row(right: Tensor, rows: Tensor, size: int) -> Tensor:
    wrong = torch.zeros(size, device=right.device).index_add(0, rows, (~right).float())
    return (wrong == 0).float()
