"""Editable Training: the edited weights themselves are trained until one gradient step mends an error.

Sinitsin et al. 2020, Editable Neural Networks, as in Xu et al. 2023: copies of the edited matrices, and a step size
alpha for each, are the editor's parameters. An edit is

    W' = W - alpha grad_W NLL(y_e | x_e),    grad_W = sum_t delta_t x_t^T,

and training differentiates through the step: x and delta keep their graph, so even the second-order step is a
factored edit. What must stay is measured against the unmodified model, not against the copies. With language masks
every delta_t and x_t is multiplied by its mask.

Shape legend: B edits, T tokens, I and O a matrix's input and output features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from methods.editing.editors.learned import LearnedEditor, StepConfig
from methods.editing.edits import FactoredEdits, replaced
from methods.editing.examples import Encoded
from methods.editing.factors import token_factors
from methods.editing.model import EditableModel


class EditableTrainingConfig(StepConfig):
    """How the edit's step is differentiated. The released configuration begins with ``edit_lr=1e-2``."""

    lr: float = Field(5e-5, gt=0, description="learning rate of the trained copies")
    first_order: bool = Field(
        False, description="take the gradient of the edit's step for a constant: cheaper, no second derivatives"
    )


class EditableTraining(LearnedEditor):
    """One step of gradient descent, from weights that were trained for it."""

    name: ClassVar[str] = "editable-training"
    Config: ClassVar[type[EditableTrainingConfig]] = EditableTrainingConfig
    config: EditableTrainingConfig

    def __init__(self, model: EditableModel, config: EditableTrainingConfig, languages: Sequence[str]) -> None:
        super().__init__(model, config, languages)
        originals = [model.linear(module.name).weight for module in model.modules]
        self.copies = nn.ParameterList([nn.Parameter(weight.detach().clone()) for weight in originals])
        self.to(model.dtype)

    def weights(self) -> Mapping[str, nn.Parameter]:
        """The trained copies [O, I], by module."""
        return {module.name: copy for module, copy in zip(self.model.modules, self.copies, strict=True)}

    def edit(self, batch: Encoded, languages: Sequence[str], *, create_graph: bool = False) -> FactoredEdits:
        """See `Editor.edit`."""
        second_order = create_graph and not self.config.first_order
        with replaced(self.model, self.weights()):
            factors = token_factors(self.model, batch, self.model.frozen(batch), create_graph=second_order)
        rows = None if self.masks is None else self.masks.rows(languages)
        assert self.step_sizes is not None
        edits = {}
        with torch.set_grad_enabled(create_graph):
            for module, step in zip(self.model.modules, self.step_sizes, strict=True):
                x, delta = factors[module.name]
                if self.masks is not None and rows is not None:
                    of_x, of_delta = self.masks.multipliers(module.name, rows[:, None].expand(x.shape[:2]))
                    x, delta = of_x * x, of_delta * delta
                edits[module.name] = (x, -step * delta)
        return FactoredEdits(edits)
