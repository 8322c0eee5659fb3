"""Fine-tuning, the baseline: gradient steps on the edit request alone, from the unmodified model each time.

As in the released code of Xu et al. (2023) and Mitchell et al. (2022): up to 100 steps of RMSprop at 5e-6 on the
negative log-likelihood of the wanted answer, no locality term, stopping before a step as soon as the answer is right.
(The paper says Adam.) B requests are tuned side by side; each keeps its own change of the weights, its own optimiser
state and its own end.

Shape legend: B requests, O and I a module's output and input features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.editing.editors.base import Editor, EditorConfig
from methods.editing.edits import DenseEdits, applied
from methods.editing.examples import Encoded
from methods.editing.factors import factors_and_logits
from methods.editing.losses import acc
from methods.editing.model import EditableModel

Dense = dict[str, Tensor]


class FineTuningConfig(EditorConfig):
    """Optimiser and end of the tuning."""

    lr: float = Field(5e-6, gt=0, description="learning rate of a step")
    optimizer: Literal["rmsprop", "adam"] = Field("rmsprop", description="RMSprop as released, Adam as in the paper")
    max_steps: int = Field(100, ge=1, description="steps at most")
    clip: float = Field(100.0, gt=0, description="largest norm of a request's gradient over all its matrices")
    last_step: Literal["kept", "as released"] = Field(
        "kept",
        description="of a request that never comes right: keep the change of the last step, or lose it as the released "
        "code does",
    )
    memory: int = Field(
        2 * 2**30, gt=0, description="bytes that requests tuned side by side may take; at least one is tuned at a time"
    )


class FineTuning(Editor):
    """Tunes the edited matrices on each request; learns nothing from one to the next."""

    name: ClassVar[str] = "fine-tuning"
    trainable: ClassVar[bool] = False
    Config: ClassVar[type[EditorConfig]] = FineTuningConfig
    config: FineTuningConfig

    def __init__(self, model: EditableModel, config: FineTuningConfig, languages: Sequence[str]) -> None:
        super().__init__(model, config, languages)

    def edit(self, batch: Encoded, languages: Sequence[str], *, create_graph: bool = False) -> DenseEdits:
        """See `Editor.edit`; the edits depend on no parameter, so there is no graph to keep."""
        states = self.model.frozen(batch)
        at_once = self.requests_at_once()
        parts = []
        for start in range(0, len(batch), at_once):
            chosen = range(start, min(start + at_once, len(batch)))
            part = batch.select(chosen)
            parts.append(self._tune(part, states[start : chosen.stop, : part.input_ids.shape[1]]))
        return DenseEdits.cat(parts)

    def requests_at_once(self) -> int:
        """Requests whose changes, optimiser states and gradients fit into the configured memory."""
        entries = sum(module.out_features * module.in_features for module in self.model.modules)
        # The finished change, the running one, its gradient, a scratch copy, and one or two moments.
        copies = 5 if self.config.optimizer == "rmsprop" else 6
        return max(1, self.config.memory // (copies * entries * self.model.dtype.itemsize))

    @torch.no_grad()
    def _tune(self, batch: Encoded, states: Tensor) -> DenseEdits:
        model, config = self.model, self.config
        steps = config.max_steps - (config.last_step == "as released")
        shapes = {m.name: (m.out_features, m.in_features) for m in model.modules}
        final = {name: states.new_zeros(len(batch), *shape) for name, shape in shapes.items()}
        state = _Steps({name: states.new_zeros(len(batch), *shape) for name, shape in shapes.items()}, config)
        open_rows = list(range(len(batch)))
        part = batch
        for _ in range(steps):
            rows = torch.arange(len(part), device=states.device)
            with applied(model, DenseEdits({name: (delta,) for name, delta in state.deltas.items()}), rows):
                factors, logits = factors_and_logits(model, part, states)
            right = acc(logits.argmax(-1), part.targets, part.rows, len(part)) > 0
            if bool(right.any()):
                keep = (~right).nonzero()[:, 0]
                for row in right.nonzero()[:, 0].tolist():
                    for name, delta in state.deltas.items():
                        final[name][open_rows[row]] = delta[row]
                open_rows = [open_rows[row] for row in keep.tolist()]
                if not open_rows:
                    break
                part, states = part.select(keep.tolist()), states[keep]
                states = states[:, : part.input_ids.shape[1]]
                factors = {name: (x[keep], delta[keep]) for name, (x, delta) in factors.items()}
                state.keep(keep)
            state.step({name: torch.bmm(delta.transpose(1, 2), x) for name, (x, delta) in factors.items()})
        for name, delta in state.deltas.items():
            final[name][open_rows] = delta[: len(open_rows)]
        return DenseEdits({name: (delta,) for name, delta in final.items()})


@dataclass
class _Steps:
    """The running changes [B, O, I] of requests that are still wrong, and their optimiser's state."""

    deltas: Dense
    config: FineTuningConfig

    def __post_init__(self) -> None:
        self.squares = {name: torch.zeros_like(delta) for name, delta in self.deltas.items()}
        self.means = {
            name: torch.zeros_like(delta) for name, delta in self.deltas.items() if self.config.optimizer == "adam"
        }
        self.count = 0

    def keep(self, rows: Tensor) -> None:
        """Goes on with these requests alone."""
        for tensors in (self.deltas, self.squares, self.means):
            for name, tensor in tensors.items():
                tensors[name] = tensor[rows]

    def step(self, gradients: Dense) -> None:
        """One step of every request, with its gradient clipped on its own; as torch's optimisers step."""
        self.count += 1
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]).norm(dim=0)
        scale = (self.config.clip / (norms + 1e-6)).clamp(max=1.0)[:, None, None]
        for name, gradient in gradients.items():
            gradient.mul_(scale)
            if self.config.optimizer == "rmsprop":
                squares = self.squares[name].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
                self.deltas[name].addcdiv_(gradient, squares.sqrt().add_(1e-8), value=-self.config.lr)
            else:
                mean = self.means[name].lerp_(gradient, 0.1)
                squares = self.squares[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                spread = squares.sqrt().div_((1 - 0.999**self.count) ** 0.5).add_(1e-8)
                self.deltas[name].addcdiv_(mean, spread, value=-self.config.lr / (1 - 0.9**self.count))
