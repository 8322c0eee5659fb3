"""How fast editors are evaluated and trained: many edits at once against one by one, on the same texts.

``run_benchmark`` measures (measure.py); cases.py says on what.
"""

from methods.editing.benchmark.cases import SHAPES, TASKS
from methods.editing.benchmark.measure import Settings, run_benchmark
from methods.editing.benchmark.report import sentence, tables

__all__ = ["SHAPES", "TASKS", "Settings", "run_benchmark", "sentence", "tables"]
