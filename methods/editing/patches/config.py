"""Everything that one stream of edits can be told, with the defaults of the released code (Huang et al. 2023).

Where paper and code are silent or differ, the choice is a field of its own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Confidence = Literal["entropy", "label smoothing", "none"]


class PatchConfig(BaseModel):
    """How a patch is made and trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_patches: int = Field(
        default=5, ge=1, description="patches of one edit of a language model, one per wrong token"
    )
    key: Literal["edit language", "mean"] = Field(
        default="edit language",
        description="a classifier's key starts from the query of the edit language, or of all texts",
    )
    value_scale: float = Field(
        default=10.0, gt=0, description="a value starts as so many times standard normal numbers"
    )
    copies: int = Field(
        default=8,
        ge=1,
        description="repetitions of an edit in its batch; without dropout they only count in top-k means",
    )
    confidence: Literal["as released"] | Confidence = Field(
        default="as released",
        description="task loss: minus eps entropy for classifiers, label smoothing for language models",
    )
    eps: float = Field(default=0.1, ge=0, lt=1, description="weight of the entropy or of the smoothing")
    activation_weight: float = Field(default=1.0, ge=0, description="a_c, weight of the activation loss")
    activation_margin: float = Field(default=0.0, description="pre-activation that a patch should exceed on its edit")
    activation_top: int = Field(default=5, ge=1, description="smallest pre-activations that are averaged")
    memory_weight: float = Field(
        default=5.0, ge=0, description="m_c, weight of the memory losses: 5 for FEVER, 10 otherwise"
    )
    relative_margin: float = Field(
        default=3.0, description="how far memories stay below the edit (the released sequence models use 0)"
    )
    absolute_margin: float = Field(
        default=-3.0, description="pre-activation that memories stay below (the released sequence models use 0)"
    )
    memory_top: int = Field(default=1000, ge=1, description="largest memory terms that are averaged")
    lr: float = Field(default=1e-2, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(default=0.01, ge=0, description="of Adam, added to the gradient")
    clip: float = Field(default=5.0, gt=0, description="largest norm of the gradient")
    check_every: int = Field(default=25, ge=1, description="steps between checks")
    first_check: int = Field(default=100, ge=1, description="step from which training may stop")
    max_steps: int = Field(
        default=2000, ge=1, description="steps at most; the patch is kept whether it succeeds or not"
    )
    min_improvement: float = Field(default=1e-3, ge=0, description="by which the validation memory loss must fall")
    patience: int = Field(default=1, ge=1, description="checks without improvement after which training stops")
    lr_factor: float = Field(default=0.5, gt=0, lt=1, description="the learning rate falls to this share on a plateau")
    lr_patience: int = Field(default=1, ge=0, description="checks without better task loss before it falls")
    lr_threshold: float = Field(default=0.05, ge=0, description="relative improvement of the task loss that counts")
    remember: bool = Field(default=True, description="queries of edits join the memories")


class TuningConfig(BaseModel):
    """Fine-tuning of the last feed-forward network, the baseline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(default=1e-5, gt=0, description="learning rate of Adam, begun anew for every edit")
    max_steps: int = Field(default=2000, ge=1, description="steps at most; tuning ends as soon as the edit is right")


class StreamConfig(BaseModel):
    """One stream of edits. The defaults are Transformer-Patcher; with `languages` it is MPN (Si et al. 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: Literal["patches", "fine-tuning", "none"] = Field(default="patches", description="what corrects a mistake")
    edit_language: str = Field(default="en", description="language that edits are made in")
    languages: tuple[str, ...] = Field(
        default=("en",), min_length=1, description="of parallel texts to draw from; the edit's own alone adds none"
    )
    trigger: Literal["only", "all"] = Field(
        default="only", description="edit if the edit text or the drawn one is wrong, or if any language is"
    )
    only: Literal["either", "edit language"] = Field(
        default="either", description="trigger 'only': whether a wrong parallel text alone is enough"
    )
    all_draws: Literal["wrong", "any"] = Field(
        default="wrong", description="trigger 'all': draw the parallel text from the wrong ones, if any, or from all"
    )
    seed: int = Field(default=0, ge=0, description="of drawn languages and initial values")
    evaluate_every: int = Field(
        default=50,
        ge=1,
        description="edits made between two points of the accuracy curve; it costs one pass over the texts",
    )
    patches: PatchConfig = Field(default=PatchConfig(), description="how patches are trained")
    tuning: TuningConfig = Field(default=TuningConfig(), description="how the fine-tuning baseline is tuned")

    @property
    def asked(self) -> tuple[str, ...]:
        """The edit language and the others of the list, in order, each once."""
        return tuple(dict.fromkeys((self.edit_language, *self.languages)))
