"""How fast the layer search is: the lattice, the naive loop and libraries for interventions on the same queries.

``run_benchmark`` measures (measure.py); cases.py says on what, contenders.py who, timing.py with which instruments.
"""

from methods.lrp2.benchmark.cases import LANGUAGES, SHAPES
from methods.lrp2.benchmark.contenders import AGAINST
from methods.lrp2.benchmark.measure import Settings, run_benchmark
from methods.lrp2.benchmark.report import sentence, tables

__all__ = ["AGAINST", "LANGUAGES", "SHAPES", "Settings", "run_benchmark", "sentence", "tables"]
