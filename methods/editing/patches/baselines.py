"""What patches are compared with on the same stream: fine-tuning of the last FFN, edit after edit, and no edit.

As in the released code of Huang et al. (2023): Adam on the matrices, not the biases, begun anew for every edit, until
the edit is right. Si et al. (2024) tune the last FFN alone, with cross-entropy.

Shape legend: D hidden size, F width of the FFN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.editing.patches.cache import AnswerCache, States
from methods.editing.patches.config import TuningConfig
from methods.editing.patches.losses import position_weights, task_loss
from methods.editing.patches.site import PatchSite


@dataclass(frozen=True, eq=False)
class TunedFeedForward:
    """The last FFN with other matrices, as a correction of the unmodified one.

    Attributes:
        site: where the FFN is.
        up, down: the matrices [F, D] and [D, F].
    """

    site: PatchSite
    up: Tensor
    down: Tensor

    @classmethod
    def unmodified(cls, site: PatchSite) -> TunedFeedForward:
        """The FFN as the model has it."""
        return cls(site, site.up.weight.detach().clone(), site.down.weight.detach().clone())

    def gain(self, queries: Tensor) -> Tensor:
        """What the FFN's output gains, [*, D], for queries [*, D]."""
        site = self.site
        inner = site.activation(nn.functional.linear(queries, self.up, site.up.bias))
        return nn.functional.linear(inner, self.down, site.down.bias) - site.feed_forward(queries)

    def to_tensors(self) -> dict[str, Tensor]:
        """Both matrices by name, as safetensors stores them."""
        return {"up": self.up, "down": self.down}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], site: PatchSite) -> TunedFeedForward:
        """The correction that `to_tensors` wrote."""
        return cls(site, tensors["up"], tensors["down"])


def tune(
    cache: AnswerCache, states: States, before: TunedFeedForward, config: TuningConfig
) -> tuple[TunedFeedForward, int, bool]:
    """Tunes the FFN until an edit is right.

    Args:
        cache: gives answers from states.
        states: of the edit's texts.
        before: the FFN as earlier edits left it.
        config: how to tune.

    Returns:
        The tuned FFN, the steps taken, and whether the edit is right.
    """
    up, down = (nn.Parameter(matrix.clone()) for matrix in (before.up, before.down))
    optimizer = torch.optim.Adam([up, down], lr=config.lr, fused=True)
    current = TunedFeedForward(cache.site, up, down)
    weights = position_weights(states.rows, states.texts)
    done, right = 0, False
    for step in range(config.max_steps + 1):
        logits = cache.logits(states, current)
        right = bool((logits.argmax(-1) == states.targets).all())
        if right or step == config.max_steps:
            break
        loss = task_loss(logits, states.targets, weights, "none", 0.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done += 1
    return TunedFeedForward(cache.site, up.detach(), down.detach()), done, right
