"""The editors, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from methods.editing.editors.base import Editor, EditorConfig, LearnedConfig, construct, read_editor, save_editor
from methods.editing.editors.editable_training import EditableTraining, EditableTrainingConfig
from methods.editing.editors.fine_tuning import FineTuning, FineTuningConfig
from methods.editing.editors.knowledge_editor import KnowledgeEditor, KnowledgeEditorConfig
from methods.editing.editors.learned import StepConfig
from methods.editing.editors.mend import Mend, MendConfig
from methods.editing.model import EditableModel

EDITORS: dict[str, type[Editor]] = {
    editor.name: editor for editor in (FineTuning, EditableTraining, KnowledgeEditor, Mend)
}


def build_editor(config: EditorConfig, model: EditableModel, languages: Sequence[str]) -> Editor:
    """The editor that a configuration belongs to, with initial weights from its seed.

    Args:
        config: of one of the classes ``EDITORS[name].Config``; its class says which editor.
        model: what it will edit.
        languages: edit languages it must know.
    """
    (editor,) = (editor for editor in EDITORS.values() if editor.Config is type(config))
    return construct(editor, config, model, languages)


def load_editor(folder: Path, model: EditableModel) -> Editor:
    """The editor that `save_editor` wrote, for the same model.

    Raises:
        UserError: the files are missing, damaged, or of an editor of another model.
    """
    return read_editor(folder, model, EDITORS)


__all__ = [
    "EDITORS",
    "EditableTraining",
    "EditableTrainingConfig",
    "Editor",
    "EditorConfig",
    "FineTuning",
    "FineTuningConfig",
    "KnowledgeEditor",
    "KnowledgeEditorConfig",
    "LearnedConfig",
    "Mend",
    "MendConfig",
    "StepConfig",
    "build_editor",
    "load_editor",
    "save_editor",
]
