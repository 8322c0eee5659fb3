"""The hyperparameters that a sweep of editors can search, and which editor takes which.

Their values are written as `orchestrator.search_space` reads them: ``1e-4``, lists, or a range such as ``1e-6..1e-3``.
``mend=1e-4`` holds for MEND only; what names no editor holds for all that have nothing of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from methods.editing.outcome import EDITOR_NAMES, Method
from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.search_space import SearchSpace

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]

LEARNED = ("editable-training", "knowledge-editor", "mend")


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter: the type of its values, the editors that take it, and whether only their masks do."""

    type: Any
    editors: tuple[str, ...]
    masked: bool = False

    def fits(self, method: Method) -> bool:
        return method.editor in self.editors and (method.mask != "none" or not self.masked)


PARAMETERS: Mapping[str, Parameter] = {
    "lr": Parameter(Positive, tuple(EDITOR_NAMES)),
    "edit_lr": Parameter(Positive, ("editable-training", "mend")),
    "edit_lr_lr": Parameter(Positive, ("editable-training", "mend")),
    "mask_lr": Parameter(Positive, LEARNED, masked=True),
    "mask_penalty": Parameter(Weight, LEARNED, masked=True),
    "l0": Parameter(Literal["differentiable", "as released"], LEARNED, masked=True),
    "edit_weight": Parameter(Weight, LEARNED),
    "locality_weight": Parameter(Weight, LEARNED),
    "norm": Parameter(Literal["ln", "running"], ("mend",)),
    "sign": Parameter(Literal["+", "-"], ("mend",)),
    "rank": Parameter(Size, ("mend",)),
    "first_order": Parameter(bool, ("editable-training",)),
    "condition": Parameter(Literal["input", "target and input"], ("knowledge-editor",)),
    "encoder_hidden": Parameter(Size, ("knowledge-editor",)),
    "condition_size": Parameter(Size, ("knowledge-editor",)),
    "hidden": Parameter(Size, ("knowledge-editor",)),
    "optimizer": Parameter(Literal["rmsprop", "adam"], ("fine-tuning",)),
    "max_steps": Parameter(Size, ("fine-tuning",)),
    "last_step": Parameter(Literal["kept", "as released"], ("fine-tuning",)),
}
OF_TRAINING = ("mask_penalty", "edit_weight", "locality_weight")
"""Those that belong to the training; all others belong to the editor's own configuration."""


def own_texts(editor: str, texts: Sequence[str]) -> list[str]:
    """What is written for an editor, else what is written for all."""
    named = [
        text.partition("=")[2].strip() for text in texts if text.partition("=")[0].strip() == editor and "=" in text
    ]
    return named or [text for text in texts if "=" not in text]


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raises ValueError with everything that is wrong with the values of a hyperparameter."""
    problems = Problems()
    takers = PARAMETERS[name].editors
    for text in texts:
        editor, equals, _ = text.partition("=")
        if equals and editor.strip() not in takers:
            problems.add(f"no editor {editor.strip()!r} takes it.{did_you_mean(editor.strip(), takers)}")
    for editor in takers:
        found = Problems()
        if own := own_texts(editor, texts):
            SearchSpace.read({name: own}, {name: PARAMETERS[name].type}, found)
        for problem in found.found:
            if problem not in problems.found:
                problems.add(problem)
    if problems.found:
        raise ValueError(" ".join(problem.removeprefix(f"{name} ") for problem in problems.found))


def space_of(method: Method, written: Mapping[str, Sequence[str]]) -> SearchSpace:
    """What to try for a method; a hyperparameter for which nothing is written keeps the editor's default.

    Raises:
        UserError: `written` was not checked.
    """
    ours = {
        name: own
        for name, texts in written.items()
        if PARAMETERS[name].fits(method) and (own := own_texts(method.editor, texts))
    }
    problems = Problems()
    space = SearchSpace.read(ours, {name: PARAMETERS[name].type for name in ours}, problems)
    problems.raise_if_any()
    return space


def refuse_ranges(space: SearchSpace) -> None:
    """Raises UserError where a grid is asked for over a range."""
    if space.ranges:
        flags = ", ".join("--" + name.replace("_", "-") for name in space.ranges)
        raise UserError(
            f"{flags}: a range has no end of values, so a grid over it cannot be run. List the values, or draw some "
            "with --search random or --search asha."
        )
