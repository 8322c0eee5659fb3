"""What a trial of the study stores: writing it, and reading it back without the model.

A trial's table has one row for each relation, variant ("plain" or "lrp2") and layer, with the knowledge neurons found.
Everything else of a language stands in the table's metadata under ``neurons``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

METADATA_KEY = b"neurons"
PLAIN, LRP2 = "plain", "lrp2"
VARIANTS = (PLAIN, LRP2)


@dataclass(frozen=True)
class Likeness:
    """Of a language's parallel queries and the pivot's at each layer: mean cosine, centred cosine, linear CKA."""

    cosine: Sequence[float]
    centred: Sequence[float]
    cka: Sequence[float]


@dataclass(frozen=True)
class LanguageRecord:
    """One language as measured.

    Attributes:
        language: its code.
        pair: the layers of LRP2, None for the pivot.
        layers, width: L, F.
        prompts: relation -> number of prompts.
        left_out: reason -> number of facts without a prompt.
        probability: variant -> mean probability of the right object.
        error: variant -> [L] mean error of completeness, as a share of the mean change p(w) - p(0).
        likeness: variant -> likeness to the pivot, over `parallel` facts; empty for the pivot.
        parallel: facts whose queries were compared.
        effects: relation -> mean probability under each of `effects.TREATMENTS`; empty if not asked for.
    """

    language: str
    pair: tuple[int, int] | None
    layers: int
    width: int
    prompts: Mapping[str, int]
    left_out: Mapping[str, int]
    probability: Mapping[str, float]
    error: Mapping[str, Sequence[float]]
    likeness: Mapping[str, Likeness]
    parallel: int
    effects: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class LanguageNeurons:
    """A language's record, and its sets: variant -> relation -> [L, F]."""

    record: LanguageRecord
    sets: Mapping[str, Mapping[str, NDArray[np.bool_]]]


def neurons_table(neurons: LanguageNeurons) -> pa.Table:
    """The table of a trial: relation, variant, layer (1..L) and neurons (numbers of the layer's, ascending)."""
    rows = [
        {"relation": relation, "variant": variant, "layer": layer, "neurons": np.flatnonzero(members).tolist()}
        for variant, sets in neurons.sets.items()
        for relation, layers in sets.items()
        for layer, members in enumerate(layers, start=1)
    ]
    fields = [("relation", pa.string()), ("variant", pa.string()), ("layer", pa.int16())]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*fields, ("neurons", pa.list_(pa.int32()))]))
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(asdict(neurons.record)).encode()})


def read_neurons_table(table: pa.Table) -> LanguageNeurons:
    """The inverse of `neurons_table`."""
    stored: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
    stored["pair"] = tuple(stored["pair"]) if stored["pair"] else None
    stored["likeness"] = {variant: Likeness(**values) for variant, values in stored["likeness"].items()}
    record = LanguageRecord(**stored)
    sets: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for row in table.to_pylist():
        empty = np.zeros((record.layers, record.width), dtype=np.bool_)
        sets.setdefault(row["variant"], {}).setdefault(row["relation"], empty)[row["layer"] - 1, row["neurons"]] = True
    return LanguageNeurons(record, sets)
