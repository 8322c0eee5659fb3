"""How fast editors are evaluated and trained: many edits at once against one by one, on the same texts.

``run_benchmark`` measures (measure.py); cases.py says on what. For patch neurons ``run_patching`` measures
(patching.py): cached inputs against the whole model; patching_cases.py says on what.
"""

from methods.editing.benchmark.cases import SHAPES, TASKS
from methods.editing.benchmark.measure import Settings, run_benchmark
from methods.editing.benchmark.patching import run_patching
from methods.editing.benchmark.patching_cases import PatchingSettings
from methods.editing.benchmark.report import patching_sentence, patching_tables, sentence, tables

__all__ = [
    "SHAPES",
    "TASKS",
    "PatchingSettings",
    "Settings",
    "patching_sentence",
    "patching_tables",
    "run_benchmark",
    "run_patching",
    "sentence",
    "tables",
]
