"""What a sweep of patch neurons is asked to do, and the grid of streams that follows from it.

Where the papers (Huang et al. 2023, Si et al. 2024) and the released code differ, or both are silent, the choice is a
field with a stated default; what a patch and a stream can be told is taken from `methods.editing.patches.config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from methods.editing.patches.config import Confidence, PatchConfig, StreamConfig, TuningConfig
from methods.editing.patches.outcome import ALL, Variant, VariantName
from orchestrator.errors import Problems, did_you_mean
from orchestrator.spec import SweepSpec


def _as_in(config: type[BaseModel], name: str) -> Any:
    """The field of a configuration, with its bounds, default and words, as an option of the job."""
    field: FieldInfo = config.model_fields[name]
    return field


class PatcherSpec(SweepSpec):
    """Patch neurons across languages (Huang et al. 2023; Si et al. 2024), in sequential streams of edits."""

    option_group: ClassVar[str] = "patch neurons"

    study: Literal["patchers"] = Field("patchers", description="what the job compares: editors, or patch neurons")
    task: str = Field("atlas-claims", description="what is edited: atlas-claims, xnli:<folder> or fever:<folder>")
    model: str = Field("atlas-bert", description="built-in name, local folder or hub id; weights as safetensors")
    classifier: str | None = Field(
        None, description="a trained classifier to edit; default: one is trained from the model, and kept"
    )
    classifier_lr: float | None = Field(None, gt=0, description="learning rate of that training; default: 3e-5")
    classifier_epochs: int | None = Field(None, ge=1, description="passes over its texts at most; default: 3")
    languages: tuple[str, ...] | None = Field(
        None, description="languages that edits are to reach; default: all of the task's"
    )
    edit_language: str = _as_in(StreamConfig, "edit_language")
    variants: tuple[VariantName, ...] = Field(
        ("none", "fine-tuning", "transformer-patcher", "mpn-only", "mpn-all"),
        description="what corrects a mistake: nothing, the last feed-forward network, a patch of the edit language, "
        "or a multilingual one; mpn-only edits if the edit text or the drawn one is wrong, mpn-all if any language is",
    )
    language_lists: tuple[str, ...] = Field(
        (ALL,), description="languages that mpn draws a parallel text from: lists such as de+fr, or 'all' others"
    )
    seeds: int = Field(3, ge=1, description="streams that differ in order of requests, draws and initial values alone")
    folders: int = Field(
        1, ge=1, description="parts that the requests are dealt into, each edited from the raw model (Huang et al.: 20)"
    )
    folders_run: int | None = Field(None, ge=1, description="how many of these parts to edit; default: all")
    edits: int | None = Field(None, ge=1, description="requests of a stream at most; default: all of its folder")
    memory_texts: int = Field(40_000, ge=1, description="training texts that patches must stay silent on, at most")
    memory_languages: tuple[str, ...] | None = Field(
        None, description="languages of the texts in memory; default: the edit language alone, as in the paper"
    )
    locality_texts: int = Field(10_000, ge=1, description="other training texts that locality is measured on, at most")
    only: Literal["either", "edit language"] = _as_in(StreamConfig, "only")
    all_draws: Literal["wrong", "any"] = _as_in(StreamConfig, "all_draws")
    evaluate_every: int = _as_in(StreamConfig, "evaluate_every")

    key: Literal["edit language", "mean"] = _as_in(PatchConfig, "key")
    value_scale: float = _as_in(PatchConfig, "value_scale")
    copies: int = _as_in(PatchConfig, "copies")
    confidence: Literal["as released"] | Confidence = _as_in(PatchConfig, "confidence")
    eps: float = _as_in(PatchConfig, "eps")
    activation_weight: float = _as_in(PatchConfig, "activation_weight")
    activation_margin: float = _as_in(PatchConfig, "activation_margin")
    activation_top: int = _as_in(PatchConfig, "activation_top")
    memory_weight: float = _as_in(PatchConfig, "memory_weight")
    relative_margin: float = _as_in(PatchConfig, "relative_margin")
    absolute_margin: float = _as_in(PatchConfig, "absolute_margin")
    memory_top: int = _as_in(PatchConfig, "memory_top")
    lr: float = _as_in(PatchConfig, "lr")
    weight_decay: float = _as_in(PatchConfig, "weight_decay")
    clip: float = _as_in(PatchConfig, "clip")
    check_every: int = _as_in(PatchConfig, "check_every")
    first_check: int = _as_in(PatchConfig, "first_check")
    max_steps: int = _as_in(PatchConfig, "max_steps")
    min_improvement: float = _as_in(PatchConfig, "min_improvement")
    patience: int = _as_in(PatchConfig, "patience")
    lr_factor: float = _as_in(PatchConfig, "lr_factor")
    lr_patience: int = _as_in(PatchConfig, "lr_patience")
    lr_threshold: float = _as_in(PatchConfig, "lr_threshold")
    remember: bool = _as_in(PatchConfig, "remember")

    tuning_lr: float = Field(1e-5, gt=0, description="fine-tuning: learning rate of Adam, begun anew for every edit")
    tuning_steps: int = Field(
        2000, ge=1, description="fine-tuning: steps at most; it ends as soon as the edit is right"
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="of weights and states")


@dataclass(frozen=True)
class Cell:
    """One stream.

    Attributes:
        variant: what corrects its mistakes.
        folder: the part of the requests, from 1.
        seed: of everything that is drawn.
    """

    variant: Variant
    folder: int
    seed: int


def variants_of(spec: PatcherSpec) -> list[Variant]:
    """What is compared, in the order asked for: mpn once for each list of languages."""
    lists = tuple(dict.fromkeys(spec.language_lists))
    return [
        Variant(name, drawn)
        for name in dict.fromkeys(spec.variants)
        for drawn in (lists if name.startswith("mpn") else ("",))
    ]


def cells(spec: PatcherSpec) -> list[Cell]:
    """The grid: variants x folders x seeds. A stream without edits draws nothing, so it needs one seed."""
    folders = min(spec.folders_run or spec.folders, spec.folders)
    return [
        Cell(variant, folder, spec.seed + number)
        for variant in variants_of(spec)
        for folder in range(1, folders + 1)
        for number in range(1 if variant.name == "none" else spec.seeds)
    ]


def drawn_languages(spec: PatcherSpec, variant: Variant, languages: Sequence[str]) -> tuple[str, ...]:
    """The language list of a stream: 'all' are all languages but the edit's, "another language" in the paper's words.

    Args:
        spec: of the sweep.
        variant: what corrects mistakes.
        languages: of the sweep.
    """
    if not variant.drawn:
        return (spec.edit_language,)
    if variant.drawn == ALL:
        return tuple(language for language in languages if language != spec.edit_language)
    return tuple(dict.fromkeys(variant.drawn.split("+")))


def stream_config(spec: PatcherSpec, cell: Cell, languages: Sequence[str]) -> StreamConfig:
    """How a cell's stream is edited."""
    name = cell.variant.name
    return StreamConfig(
        editor="none" if name == "none" else "fine-tuning" if name == "fine-tuning" else "patches",
        edit_language=spec.edit_language,
        languages=drawn_languages(spec, cell.variant, languages),
        trigger="all" if name == "mpn-all" else "only",
        only=spec.only,
        all_draws=spec.all_draws,
        seed=cell.seed,
        evaluate_every=spec.evaluate_every,
        patches=PatchConfig(**{name: getattr(spec, name) for name in PatchConfig.model_fields if name in OFFERED}),
        tuning=TuningConfig(lr=spec.tuning_lr, max_steps=spec.tuning_steps),
    )


OFFERED = frozenset(PatcherSpec.model_fields) & frozenset(PatchConfig.model_fields)
"""What of a patch's configuration is an option: all but what language models alone need."""


def check_languages(spec: PatcherSpec, languages: Sequence[str]) -> None:
    """Every language that is named must be one of the sweep's.

    Raises:
        UserError: all that are not, and lists that add no language to the edit's.
    """
    problems = Problems()
    if spec.edit_language not in languages:
        problems.add(
            f"--edit-language: {spec.task} has no {spec.edit_language!r} among the chosen languages."
            + did_you_mean(spec.edit_language, languages)
        )
    drawn = [each for variant in variants_of(spec) for each in variant.drawn.split("+") if each]
    named: dict[str, Sequence[str]] = {"--memory-languages": spec.memory_languages or (), "--language-lists": drawn}
    for option, codes in named.items():
        for code in dict.fromkeys(codes):
            if code not in languages and (option, code) != ("--language-lists", ALL):
                problems.add(
                    f"{option}: {spec.task} has no {code!r} among the chosen languages." + did_you_mean(code, languages)
                )
    if spec.folders_run is not None and spec.folders_run > spec.folders:
        problems.add(f"--folders-run {spec.folders_run} is more than the {spec.folders} of --folders: give fewer.")
    problems.raise_if_any()
