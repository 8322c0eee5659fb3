"""What the packed paths of all model families share.

Shape legend: B branches, N packed rows, M needed rows, D hidden size, H heads, d head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.backbone.attention import AttentionPlan, plan_groups
from methods.backbone.base import Backbone
from methods.backbone.packing import Pack


class PackedBackbone(Backbone):
    """A backbone whose blocks run over all sequences of a pack at once, matrices first, attention per sequence."""

    def plan(self, pack: Pack, device: torch.device | None = None) -> AttentionPlan:
        if not self.accepts_trees and any(segment.ancestors is not None for segment in pack.segments):
            raise ValueError(f"a {self.kind} {self.family} model sees whole sequences: it takes no ancestor masks")
        device = device or self.device
        groups = plan_groups(
            pack.to("cpu"),
            causal=self.kind == "causal",
            dtype=self.dtype,
            device=device,
            slopes=self.alibi_slopes(),
            window=self.window(),
        )
        placed = pack.to(device)
        return AttentionPlan(placed, groups, self.rotary(placed.positions))

    def alibi_slopes(self) -> Tensor | None:
        """ALiBi slopes [H] of models that have them."""
        return None

    def window(self) -> int | None:
        """How far back a row sees, for models with sliding-window attention."""
        return None

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine per row, each [N, d], of models with rotary positions."""
        return None

    def final(self, x: Tensor) -> Tensor:
        return x

    def transform(self, x: Tensor) -> Tensor:
        return x


def needed_rows(x: Tensor, plan: AttentionPlan, need: bool) -> Tensor:
    """The rows a block is asked for: [B, M, D] when `need`, else all of [B, N, D]."""
    return x.index_select(1, plan.pack.need) if need else x


def split_heads(x: Tensor, size: int) -> Tensor:
    """[B, N, H * d] as [B, N, H, d], a view."""
    return x.unflatten(-1, (-1, size))


def linear_into(layer: nn.Linear, x: Tensor, residual: Tensor) -> Tensor:
    """layer(x) + residual, added in place."""
    output: Tensor = layer(x)
    return output.add_(residual)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) in the half-split layout of Llama.

    Args:
        x: queries or keys [B, rows, H, d].
        cos, sin: [rows, d].
    """
    half = x.shape[-1] // 2
    rotated = x * cos[:, None, :]
    rotated[..., :half].addcmul_(x[..., half:], sin[:, None, :half], value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sin[:, None, half:])
    return rotated
