"""Everything that one stream of edits can be told, with the defaults of the released code (Huang et al. 2023).

Where paper and code are silent or differ, the choice is a field of its own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from methods.editing.patches.losses import Confidence


class PatchConfig(BaseModel):
    """How a patch is made and trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_patches: int = Field(5, ge=1, description="patches of one edit of a language model, one per wrong token")
    key: Literal["edit language", "mean"] = Field(
        "edit language", description="a classifier's key starts from the query of the edit language, or of all texts"
    )
    value_scale: float = Field(10.0, gt=0, description="a value starts as so many times standard normal numbers")
    copies: int = Field(
        8, ge=1, description="repetitions of an edit in its batch; without dropout they only count in top-k means"
    )
    confidence: Literal["as released"] | Confidence = Field(
        "as released", description="task loss: minus eps entropy for classifiers, label smoothing for language models"
    )
    eps: float = Field(0.1, ge=0, lt=1, description="weight of the entropy or of the smoothing")
    activation_weight: float = Field(1.0, ge=0, description="a_c, weight of the activation loss")
    activation_margin: float = Field(0.0, description="pre-activation that a patch should exceed on its edit")
    activation_top: int = Field(5, ge=1, description="smallest pre-activations that are averaged")
    memory_weight: float = Field(5.0, ge=0, description="m_c, weight of the memory losses: 5 for FEVER, 10 otherwise")
    relative_margin: float = Field(
        3.0, description="how far memories stay below the edit (the released sequence models use 0)"
    )
    absolute_margin: float = Field(
        -3.0, description="pre-activation that memories stay below (the released sequence models use 0)"
    )
    memory_top: int = Field(1000, ge=1, description="largest memory terms that are averaged")
    lr: float = Field(1e-2, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(0.01, ge=0, description="of Adam, added to the gradient")
    clip: float = Field(5.0, gt=0, description="largest norm of the gradient")
    check_every: int = Field(25, ge=1, description="steps between checks")
    first_check: int = Field(100, ge=1, description="step from which training may stop")
    max_steps: int = Field(2000, ge=1, description="steps at most; the patch is kept whether it succeeds or not")
    min_improvement: float = Field(1e-3, ge=0, description="by which the validation memory loss must fall")
    patience: int = Field(1, ge=1, description="checks without improvement after which training stops")
    lr_factor: float = Field(0.5, gt=0, lt=1, description="the learning rate falls to this share on a plateau")
    lr_patience: int = Field(1, ge=0, description="checks without better task loss before it falls")
    lr_threshold: float = Field(0.05, ge=0, description="relative improvement of the task loss that counts")
    remember: bool = Field(True, description="queries of edits join the memories")


class TuningConfig(BaseModel):
    """Fine-tuning of the last feed-forward network, the baseline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(1e-5, gt=0, description="learning rate of Adam, begun anew for every edit")
    max_steps: int = Field(2000, ge=1, description="steps at most; tuning ends as soon as the edit is right")


class StreamConfig(BaseModel):
    """One stream of edits. The defaults are Transformer-Patcher; with `languages` it is MPN (Si et al. 2024)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: Literal["patches", "fine-tuning", "none"] = Field("patches", description="what corrects a mistake")
    edit_language: str = Field("en", description="language that edits are made in")
    languages: tuple[str, ...] = Field(
        ("en",), min_length=1, description="languages that a parallel text is drawn from; the edit's own alone adds none"
    )
    trigger: Literal["only", "all"] = Field(
        "only", description="edit if the edit text or the drawn one is wrong, or if any language is"
    )
    only: Literal["either", "edit language"] = Field(
        "either", description="trigger 'only': whether a wrong parallel text alone is enough"
    )
    all_draws: Literal["wrong", "any"] = Field(
        "wrong", description="trigger 'all': the parallel text is drawn from the wrong ones where there are any, or from all"
    )
    seed: int = Field(0, ge=0, description="of drawn languages and initial values")
    evaluate_every: int = Field(
        50, ge=1, description="edits made between two points of the accuracy curve; it costs one pass over the texts"
    )
    patches: PatchConfig = Field(PatchConfig(), description="how patches are trained")
    tuning: TuningConfig = Field(TuningConfig(), description="how the fine-tuning baseline is tuned")

    @property
    def asked(self) -> tuple[str, ...]:
        """The edit language and the others of the list, in order, each once."""
        return tuple(dict.fromkeys((self.edit_language, *self.languages)))
