"""What a sweep of editors is asked to do, and the grid that follows from it.

Where the paper (Xu et al. 2023) and the released code differ, or both are silent, the choice is a field with a stated
default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from methods.editing.outcome import ALL, Method
from methods.editing.space import PARAMETERS, check_texts, own_texts, refuse_ranges, space_of
from orchestrator.errors import UserError
from orchestrator.spec import SweepSpec

EditorName = Literal["fine-tuning", "editable-training", "knowledge-editor", "mend"]
Texts = tuple[str, ...]


class EditorSpec(SweepSpec):
    """Editors across languages (Xu et al. 2023), each trained in one language or in all, with and without masks."""

    option_group: ClassVar[str] = "editors"

    study: Literal["editors"] = Field("editors", description="what the job compares: editors, or patch neurons")
    task: str = Field(
        "atlas-facts",
        description="what is edited: atlas-facts, atlas-claims, mlama:<zip or folder> or xnli:<folder>",
    )
    model: str = Field("atlas-bert", description="built-in name, local folder or hub id; weights as safetensors")
    classifier: str | None = Field(
        None, description="a trained classifier for claims and XNLI; default: one is trained from the model, and kept"
    )
    classifier_lr: float | None = Field(None, gt=0, description="learning rate of that training; default: 3e-5")
    classifier_epochs: int | None = Field(None, ge=1, description="passes over its texts at most; default: 3")
    pools: Path | None = Field(
        None,
        description="published object lists for mlama (mlama_objects.zip), which decide how many masks unrelated "
        "sentences get; default: the objects seen in the facts",
    )
    languages: tuple[str, ...] | None = Field(None, description="languages to update; default: all of the task's")
    editors: tuple[EditorName, ...] = Field(
        ("fine-tuning", "editable-training", "knowledge-editor", "mend"), description="editors to compare"
    )
    training: tuple[Literal["mono", "cross"], ...] = Field(
        ("mono", "cross"),
        description="mono: edit, update and retain in one language; cross: update and retain in random languages",
    )
    edit_languages: tuple[str, ...] = Field(
        ("en",), description="where edits are made: a language (the paper's Table 1) or 'all' (Table 2)"
    )
    masks: tuple[Literal["none", "lime"], ...] = Field(
        ("none",), description="lime: a learned mask for each edit language, on top of the editor"
    )
    seeds: int = Field(3, ge=1, description="trials that differ in their seed alone")

    lr: Texts | None = Field(
        None,
        description="learning rate: values, a range such as 1e-6..1e-3, or for one editor: mend=1e-4; default: as "
        "published (MEND 1e-6, Editable Training and KnowledgeEditor 5e-5, fine-tuning 5e-6)",
    )
    edit_lr: Texts | None = Field(
        None, description="MEND, Editable Training: size of an edit's step at the start; default: 1e-4, as in the paper"
    )
    edit_lr_lr: Texts | None = Field(
        None, description="MEND, Editable Training: learning rate of that size; default: the editor's, as released"
    )
    edit_weight: Texts | None = Field(None, description="weight of the edit's loss (lambda_rel); default: 0.1")
    locality_weight: Texts | None = Field(
        None, description="weight of the loss on unrelated sentences (lambda_loc); default: 1.0"
    )
    mask_lr: Texts | None = Field(None, description="learning rate of the masks; default: 1e-3")
    mask_penalty: Texts | None = Field(
        None, description="weight of the masks' L0 term (lambda_mask), such as 0.01..1; default: 1.0"
    )
    l0: Texts | None = Field(
        None, description="that term: 'differentiable', or without gradient 'as released'; default: differentiable"
    )
    norm: Texts | None = Field(
        None, description="MEND: 'ln' as in the paper, or 'running' mean and deviation of all tokens; default: ln"
    )
    sign: Texts | None = Field(None, description="MEND: of the update: '+' as released, or '-'; default: +")
    rank: Texts | None = Field(None, description="MEND: rank of its network; default: 1920, or the width if smaller")
    first_order: Texts | None = Field(
        None, description="Editable Training: true leaves out second derivatives; default: false"
    )
    condition: Texts | None = Field(
        None, description="KnowledgeEditor reads the 'input' as released, or 'target and input'; default: input"
    )
    encoder_hidden: Texts | None = Field(None, description="KnowledgeEditor: hidden size of its LSTM; default: 512")
    condition_size: Texts | None = Field(None, description="KnowledgeEditor: size of its condition; default: 768")
    hidden: Texts | None = Field(None, description="KnowledgeEditor: hidden size for each matrix; default: 512")
    optimizer: Texts | None = Field(
        None, description="fine-tuning: 'rmsprop' as released, or 'adam' as in the paper; default: rmsprop"
    )
    max_steps: Texts | None = Field(None, description="fine-tuning: steps at most; default: 100")
    last_step: Texts | None = Field(
        None,
        description="fine-tuning that does not succeed: its last step is 'kept', or lost 'as released'; default: kept",
    )
    search: Literal["grid", "random", "asha"] = Field(
        "grid",
        description="grid: all combinations of values; random: draws; asha: the same, and what lags behind is stopped",
    )
    samples: int = Field(8, ge=1, description="draws from the ranges of hyperparameters")

    steps: int = Field(2000, ge=1, description="training steps at most")
    edits_per_step: int = Field(16, ge=1, description="edits of one step, each with its own edited model")
    retains_per_edit: int = Field(1, ge=1, description="training: unrelated sentences for every edit")
    accumulation: Literal["mean", "as released"] = Field(
        "mean", description="gradient of a step: mean over its edits, or a first step of one edit more, as released"
    )
    validate_every: int = Field(200, ge=1, description="steps between validations, which are also checkpoints")
    patience: int = Field(10_000, ge=1, description="stop after so many steps without a better validation")
    validation_edits: int = Field(50, ge=1, description="edits per edit language in a validation")
    test_edits: int | None = Field(None, ge=1, description="edits per edit language in the test; default: all")
    test_updates: Literal["sampled", "all"] = Field(
        "sampled", description="test every edit in one random update language, as in the paper, or in all of them"
    )
    test_retains: int = Field(4, ge=1, description="test: unrelated sentences for every edit")

    parallel: Literal["template", "full"] = Field(
        "template",
        description="facts: the request in another language has its template only (as released) or is translated fully",
    )
    consistency: Literal["labels", "all"] = Field(
        "labels", description="con that succ goes by: at the label positions, or at every position as in the paper"
    )
    kl: Literal["raw first", "edited first"] = Field(
        "raw first", description="locality loss: KL(raw || edited) as released, or KL(edited || raw) as in the paper"
    )
    locality: Literal["other fact", "other row"] = Field(
        "other fact",
        description="an unrelated sentence is of another fact, or, as released, of another row: it may then be the "
        "edited fact in another language",
    )
    stopping: Literal["averaged", "per step"] = Field(
        "averaged",
        description="validation score: succ of the averages, or, as released, the average of each edit's own succ",
    )
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="of weights and states; bfloat16 trains with --placement zero3 alone, on float32 copies"
    )
    deepspeed: Path | None = Field(
        None,
        description="--placement zero3: DeepSpeed's configuration; default: cluster/deepspeed/zero3.json on GPUs, "
        "zero3_cpu.json without",
    )

    @field_validator(*PARAMETERS)
    @classmethod
    def _readable(cls, texts: Texts | None, info: ValidationInfo) -> Texts | None:
        assert info.field_name is not None
        if texts is not None:
            check_texts(info.field_name, texts)
        return texts


@dataclass(frozen=True)
class Cell:
    """A method with the values of its hyperparameters and its seed; what has no value keeps the editor's default."""

    method: Method
    values: tuple[tuple[str, Any], ...]
    seed: int


def written(spec: EditorSpec) -> dict[str, Texts]:
    """The hyperparameters that the user gave, as written."""
    given = {name: getattr(spec, name) for name in PARAMETERS}
    return {name: value for name, value in given.items() if value is not None}


def cells(spec: EditorSpec) -> tuple[list[Cell], list[str]]:
    """The grid, and in words what was left out of it because it makes no sense.

    Raises:
        UserError: nothing is left, or a grid is asked for over a range.
    """
    found: list[Cell] = []
    notes: dict[str, None] = {}
    for editor in dict.fromkeys(spec.editors):
        for method in _methods(spec, editor, notes):
            seeds = spec.seeds if method.training != "none" else 1
            for values in combinations(spec, method):
                found += [Cell(method, tuple(sorted(values.items())), spec.seed + number) for number in range(seeds)]
    if "fine-tuning" in spec.editors and spec.seeds > 1:
        notes["Fine-tuning draws nothing at random, so one seed stands for all."] = None
    absent = [name for name, texts in written(spec).items() if any(_for_others(spec, text) for text in texts)]
    if absent:
        flags = ", ".join("--" + name.replace("_", "-") for name in absent)
        notes[f"Values for editors that are not in this grid have no use: {flags}."] = None
    if not found:
        raise UserError(
            "No combination of --editors, --training, --edit-languages and --masks is left: " + " ".join(notes)
        )
    return found, list(notes)


def _methods(spec: EditorSpec, editor: str, notes: dict[str, None]) -> Iterator[Method]:
    """What makes sense of editor x training x edit languages x masks."""
    edited = tuple(dict.fromkeys(spec.edit_languages))
    masks = tuple(dict.fromkeys(spec.masks))
    if editor == "fine-tuning":
        if "lime" in masks:
            notes["Fine-tuning learns nothing beforehand, so it has no masks."] = None
        if ALL in edited and len(edited) > 1:
            notes["Fine-tuning in all languages includes each of them."] = None
        for edits_in in (ALL,) if ALL in edited else edited:
            yield Method(editor, "none", edits_in, "none")
        return
    for training in dict.fromkeys(spec.training):
        for edits_in in edited:
            for mask in masks:
                if training == "mono" and edits_in == ALL:
                    notes["Monolingual training is training in one language; edits in all languages have none."] = None
                elif training == "cross" and edits_in != ALL and ALL in edited:
                    notes[
                        "Cross-lingual editors are trained on edits in all languages, and tested on edits in each, as "
                        "in the paper; --edit-languages with one language alone trains on edits in that one."
                    ] = None
                elif mask == "lime" and edits_in != ALL:
                    notes["Masks tell edit languages apart; with edits in one language they have no use."] = None
                else:
                    yield Method(editor, training, edits_in, mask)


def combinations(spec: EditorSpec, method: Method) -> list[dict[str, Any]]:
    """The hyperparameters of a method: all combinations of its values, with every draw from its ranges."""
    space = space_of(method, written(spec))
    if spec.search == "grid":
        refuse_ranges(space)
    return space.points(spec.samples, spec.seed)


def unused(spec: EditorSpec) -> list[str]:
    """Hyperparameters that the user gave and no method of the grid takes. What is written for an editor by name is none
    of them where that editor is left out: so a preset serves any choice of its editors."""
    methods = {cell.method for cell in cells(spec)[0]}
    return [
        name
        for name, texts in written(spec).items()
        if not any(PARAMETERS[name].fits(method) and own_texts(method.editor, texts) for method in methods)
        and not all(_for_others(spec, text) for text in texts)
    ]


def _for_others(spec: EditorSpec, text: str) -> bool:
    """Whether a value is written for an editor that is not in the grid."""
    editor, named, _ = text.partition("=")
    return bool(named) and editor.strip() not in spec.editors
