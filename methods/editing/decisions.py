"""Every choice that paper and released code leave open, with its value in a sweep, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from methods.editing.editors import EDITORS
from methods.editing.outcome import EDITOR_NAMES
from methods.editing.raw import in_words
from methods.editing.space import OF_TRAINING, PARAMETERS, own_texts
from methods.editing.spec import EditorSpec, cells, written
from methods.editing.training import TrainingSettings

if TYPE_CHECKING:
    from methods.editing.study import EditorStudy


def decisions(study: EditorStudy) -> Mapping[str, str]:
    """Decision and value, for the report and summary.json."""
    spec = study.spec
    retains = TrainingSettings(()).validation_retains
    chosen = {
        "training": f"at most {spec.steps} steps of {spec.edits_per_step} edits, gradients: {spec.accumulation}; "
        f"{spec.retains_per_edit} unrelated {_texts(spec.retains_per_edit)} for each edit",
        "stopping": f"validation every {spec.validate_every} steps on {spec.validation_edits} "
        f"{'misread texts' if study.kind == 'classifier' else 'edits'} per edit language, "
        f"{retains} unrelated {_texts(retains)} for each (as released: 4); "
        f"the best editor is kept, training ends {spec.patience} steps after it",
        "validation score": {
            "averaged": "succ of the averages",
            "per step": "average of each edit's own succ, as released",
        }[spec.stopping],
        "test": f"{spec.test_edits or 'all'} edits per edit language, each in "
        + ("one random update language" if spec.test_updates == "sampled" else "every update language")
        + f", {spec.test_retains} unrelated {_texts(spec.test_retains)} each; the same for all methods and seeds",
        "con in succ": "at the label positions"
        if spec.consistency == "labels"
        else "at every position, as in the paper",
        "locality loss": {
            "raw first": "KL(raw || edited), as released",
            "edited first": "KL(edited || raw), as in the paper",
        }[spec.kl],
        "unrelated texts": "of another fact"
        if spec.locality == "other fact"
        else "of another row, which may be the edited fact in another language, as released",
        "monolingual training": "edit, update and unrelated text in the same language",
        "cross-lingual training": "update and unrelated text in random languages",
    }
    if study.kind == "classifier":
        chosen["edited classifier"] = in_words(spec)
    else:
        chosen["the request in another language"] = {
            "template": "its template only, subject and answer stay in the edit language (as released)",
            "full": "template, subject and answer",
        }[spec.parallel]
    if spec.search != "grid":
        stopped = ", those that lag behind are stopped (ASHA)" if spec.search == "asha" else ""
        chosen["search"] = f"{spec.samples} draws from ranges{stopped}; the best on the dev split is tested"
    return chosen | _hyperparameters(spec)


def _hyperparameters(spec: EditorSpec) -> dict[str, str]:
    """The hyperparameters of each editor, defaults included."""
    given = written(spec)
    found = {}
    methods = {cell.method for cell in cells(spec)[0]}
    for editor in dict.fromkeys(spec.editors):
        fields = EDITORS[editor].Config.model_fields
        said = []
        for name, parameter in PARAMETERS.items():
            if not any(method.editor == editor and parameter.fits(method) for method in methods):
                continue
            texts = own_texts(editor, given.get(name, ()))
            default = TRAINING_DEFAULTS[name] if name in OF_TRAINING else fields[name].default
            said.append(f"{name} {' or '.join(texts) if texts else _plain(default)}")
        found[EDITOR_NAMES[editor]] = ", ".join(said)
    return found


TRAINING_DEFAULTS: Mapping[str, float] = {"edit_weight": 0.1, "locality_weight": 1.0, "mask_penalty": 1.0}
"""The paper's weights of the losses (appendix B.2)."""


def _texts(number: int) -> str:
    return "text" if number == 1 else "texts"


def _plain(value: Any) -> str:
    if value is None:
        return "as lr"
    return f"{value:g}" if isinstance(value, float) else str(value)
