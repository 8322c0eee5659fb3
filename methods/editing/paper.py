"""The numbers of Xu et al., "Language Anisotropic Cross-Lingual Model Editing" (Findings of ACL 2023), Tables 1 and 2.

They were measured on mBERT (bert-base-multilingual-cased) and averaged over three runs: acc, con and succ in percent,
con on mLAMA at every position of the sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PaperTask = Literal["mlama", "xnli"]
Scores = tuple[float, float, float]

CITATION = 'Xu et al., "Language Anisotropic Cross-Lingual Model Editing", Findings of ACL 2023, on mBERT'


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper.

    Attributes:
        editor: as in the registry of editors.
        training: "none", "mono" (edited, updated and retained in English) or "cross".
        mask: "none" or "lime".
        scores: (acc, con, succ) for each task.
    """

    editor: str
    training: str
    mask: str
    scores: Mapping[PaperTask, Scores]


def _row(editor: str, training: str, mask: str, mlama: Scores, xnli: Scores) -> PaperRow:
    return PaperRow(editor, training, mask, {"mlama": mlama, "xnli": xnli})


TABLE_1: tuple[PaperRow, ...] = (
    _row("fine-tuning", "none", "none", (21.94, 55.69, 31.48), (47.53, 98.24, 64.06)),
    _row("editable-training", "mono", "none", (51.13, 17.33, 25.88), (71.02, 95.24, 81.36)),
    _row("editable-training", "cross", "none", (99.78, 24.45, 39.27), (89.45, 93.04, 91.21)),
    _row("knowledge-editor", "mono", "none", (37.18, 50.19, 42.72), (69.96, 96.79, 81.22)),
    _row("knowledge-editor", "cross", "none", (64.69, 53.00, 58.26), (86.20, 95.08, 90.42)),
    _row("mend", "mono", "none", (24.76, 61.09, 35.24), (84.90, 94.87, 89.61)),
    _row("mend", "cross", "none", (99.58, 75.76, 86.05), (98.16, 97.75, 97.95)),
)
"""Edits in English, updates in all languages."""

TABLE_2: tuple[PaperRow, ...] = (
    _row("fine-tuning", "none", "none", (10.14, 48.68, 16.79), (56.48, 98.54, 71.81)),
    _row("editable-training", "cross", "none", (97.39, 21.90, 35.75), (90.02, 93.58, 91.76)),
    _row("editable-training", "cross", "lime", (97.87, 24.41, 39.08), (91.79, 93.68, 92.72)),
    _row("knowledge-editor", "cross", "none", (47.30, 49.32, 48.29), (83.88, 95.79, 89.44)),
    _row("knowledge-editor", "cross", "lime", (55.91, 51.00, 53.34), (86.88, 95.45, 90.96)),
    _row("mend", "cross", "none", (94.83, 67.59, 78.92), (98.16, 97.44, 97.80)),
    _row("mend", "cross", "lime", (96.12, 69.20, 80.47), (98.42, 98.02, 98.22)),
)
"""Edits in all languages, updates in all languages."""


def paper_scores(table: tuple[PaperRow, ...], editor: str, training: str, mask: str, task: PaperTask) -> Scores | None:
    """(acc, con, succ) of a row of a table, None where the paper has no such row."""
    for row in table:
        if (row.editor, row.training, row.mask) == (editor, training, mask):
            return row.scores[task]
    return None
