"""What the editors that learn have in common: step sizes, language masks, groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.editing.editors.base import Editor, LearnedConfig
from methods.editing.gates import LanguageMasks, Order
from methods.editing.model import EditableModel


class StepConfig(LearnedConfig):
    """Of editors whose update of a matrix is multiplied by a learned number."""

    edit_lr: float = Field(1e-4, description="initial size of the edit's step, learned for every matrix")
    edit_lr_lr: float | None = Field(
        None, gt=0, description="learning rate of the edit's step sizes; default: the editor's, as in the released code"
    )


class LearnedEditor(Editor):
    """An editor with parameters: its own, one step size for every matrix if it takes steps, and masks if wanted.

    Attributes:
        step_sizes: [number of edited matrices], in the order of the model's modules; None without steps.
        masks: None where the editor treats all languages alike.
    """

    trainable: ClassVar[bool] = True
    mask_order: ClassVar[Order] = "in first"
    config: LearnedConfig

    def __init__(self, model: EditableModel, config: LearnedConfig, languages: Sequence[str]) -> None:
        super().__init__(model, config, languages)
        self.masks: LanguageMasks | None = None
        self.step_sizes: nn.Parameter | None = None
        if config.masks:
            self.masks = LanguageMasks(languages, model.modules, order=self.mask_order, l0=config.l0, seed=config.seed)
        if isinstance(config, StepConfig):
            self.step_sizes = nn.Parameter(torch.full((len(model.modules),), config.edit_lr))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Editor.parameter_groups`: the editor's own parameters, its step sizes, its masks."""
        config = self.config
        of_masks = [] if self.masks is None else list(self.masks.parameters())
        of_steps = [] if self.step_sizes is None else [self.step_sizes]
        apart = {id(parameter) for parameter in (*of_masks, *of_steps)}
        groups = [{"params": [each for each in self.parameters() if id(each) not in apart], "lr": config.lr}]
        if isinstance(config, StepConfig):
            groups.append({"params": of_steps, "lr": config.edit_lr_lr or config.lr})
        if of_masks:
            groups.append({"params": of_masks, "lr": config.mask_lr})
        return groups

    def regularizer(self, languages: Sequence[str]) -> Tensor | None:
        """The expected share of open gates of these edits' masks; None without masks."""
        return None if self.masks is None else self.masks.l0(languages)

    def prepare_step(self, *key: int) -> None:
        """Clamps the masks' log-odds and makes their samples a function of `key`."""
        if self.masks is not None:
            self.masks.clamp()
            self.masks.reseed(*key)
