"""Editing many requests at once: editable models, edits, editors, and what is measured of them.

``load_editable`` (model.py) gives an `EditableModel`, ``build_editor`` (editors/) an `Editor`; an editor turns requests
into `Edits` (edits.py), which ``editor.applied`` puts in force row by row.
"""
