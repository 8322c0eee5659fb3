"""How fast the layer search is: the lattice, the naive loop and libraries for interventions on the same queries.

``run_benchmark`` measures (measure.py); cases.py says on what, contenders.py who, timing.py with which instruments.
``run_memory`` measures how time and memory grow with the number of queries (memory.py).
``run_streaming`` measures a model that is larger than memory (streaming.py).
"""

from methods.lrp2.benchmark.cases import LANGUAGES, SHAPES
from methods.lrp2.benchmark.contenders import AGAINST
from methods.lrp2.benchmark.measure import Settings, run_benchmark
from methods.lrp2.benchmark.memory import memory_sentence, memory_tables, run_memory
from methods.lrp2.benchmark.report import sentence, tables
from methods.lrp2.benchmark.streaming import StreamingSettings, run_streaming, streaming_sentence, streaming_tables

__all__ = [
    "AGAINST",
    "LANGUAGES",
    "SHAPES",
    "Settings",
    "StreamingSettings",
    "memory_sentence",
    "memory_tables",
    "run_benchmark",
    "run_memory",
    "run_streaming",
    "sentence",
    "streaming_sentence",
    "streaming_tables",
    "tables",
]
