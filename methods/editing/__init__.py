"""Editing many requests at once: editable models, edits, editors, and what is measured of them.

``load_editable`` gives an `EditableModel`, ``build_editor`` an `Editor`; an editor turns requests into `Edits`, which
``editor.applied`` puts in force row by row.
"""

from methods.editing.editors import EDITORS, Editor, EditorConfig, build_editor, load_editor, save_editor
from methods.editing.edits import DenseEdits, Edits, FactoredEdits, applied, materialised
from methods.editing.examples import EditSample, Encoded, Example, encode
from methods.editing.model import EditableModel, EditedModule, load_editable

__all__ = [
    "EDITORS",
    "DenseEdits",
    "EditSample",
    "EditableModel",
    "EditedModule",
    "Editor",
    "EditorConfig",
    "Edits",
    "Encoded",
    "Example",
    "FactoredEdits",
    "applied",
    "build_editor",
    "encode",
    "load_editable",
    "load_editor",
    "materialised",
    "save_editor",
]
