"""Patch neurons: sequential editing of a classifier or language model, one mistake, one neuron, in many languages.

Transformer-Patcher (Huang et al. 2023) and multilingual patch neurons (MPN, Si et al. 2024)::

    site = PatchSite(load_editable(address, "classifier", edited_blocks=1))
    cache = AnswerCache(site)
    memory = memory_of(cache, training_texts, validation_texts)
    result = run_stream(cache, memory, edits, Evaluation(train, test), StreamConfig(), scratch=folder)
    with site.attached(result.neurons):   # or site.merged
        ...
"""

from methods.editing.patches.cache import AnswerCache, States
from methods.editing.patches.config import PatchConfig, StreamConfig, TuningConfig
from methods.editing.patches.memory import Memory
from methods.editing.patches.metrics import EditRecord, StreamMetrics, StreamPoint
from methods.editing.patches.mpn import StreamEdit
from methods.editing.patches.neuron import PatchNeurons
from methods.editing.patches.site import PatchSite
from methods.editing.patches.stream import Evaluation, StreamResult, memory_of, run_stream

__all__ = [
    "AnswerCache",
    "EditRecord",
    "Evaluation",
    "Memory",
    "PatchConfig",
    "PatchNeurons",
    "PatchSite",
    "States",
    "StreamConfig",
    "StreamEdit",
    "StreamMetrics",
    "StreamPoint",
    "StreamResult",
    "TuningConfig",
    "memory_of",
    "run_stream",
]
