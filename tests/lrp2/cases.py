"""A small world for layer-search tests: tiny models, ragged facts, pools of one, ties, and shifts that matter."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from methods.backbone.base import Backbone
from methods.lrp2.probes import ProbeOptions, Query, QueryBuilder
from orchestrator.data import Pool
from tests.backbone.tiny import tiny

SUBJECTS = ("paris", "berlin the capital", "東京", "deutschland", "москва", "france is in europe", "q", "भारत")
TEMPLATES = {
    "capital": "the capital of [X] is [Y].",
    "first": "[Y] is the capital of [X]",
    "lonely": "[X] in [Y].",
}
POOLS = {
    "capital": ("paris", "berlin", "berliner", "東京", "москва", "x", "xy", "deutschland land", "europe asia paris"),
    "first": ("japan", "france", "frankreich", "中国"),
    "lonely": ("europe",),
}


@dataclass(frozen=True)
class World:
    """Queries for a model, and a shift that changes what it answers."""

    backbone: Backbone
    queries: list[Query]
    shift: Tensor


def facts_table() -> pa.Table:
    """Every subject in every relation, the right objects dealt round."""
    rows = [
        {
            "relation": relation,
            "uuid": f"{relation}-{n}",
            "sub_uri": f"Q{n}",
            "obj_uri": "",
            "subject": subject,
            "object": POOLS[relation][n % len(POOLS[relation])],
            "template": template,
            "split": "",
            "candidates": None,
        }
        for relation, template in TEMPLATES.items()
        for n, subject in enumerate(SUBJECTS)
    ]
    schema = pa.schema([(name, pa.list_(pa.string()) if name == "candidates" else pa.string()) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)


def pools() -> dict[str, Pool]:
    """The pools by relation, each object its own identifier."""
    return {
        relation: Pool(tuple(sorted(names)), tuple(f"O{name}" for name in sorted(names)))
        for relation, names in POOLS.items()
    }


@functools.cache
def world(
    family: str, *, layers: int = 4, dtype: torch.dtype = torch.float32, prefer: str = "fast", **options: object
) -> World:
    """A tiny random model of a family with the queries of `facts_table`."""
    backbone = tiny(family, layers=layers, dtype=dtype, prefer=prefer)  # type: ignore[arg-type]
    probe = ProbeOptions(kind=backbone.kind, **options)  # type: ignore[arg-type]
    queries = QueryBuilder(backbone.tokenizer, probe, pools(), backbone.max_length).build(facts_table())
    generator = torch.Generator().manual_seed(1)
    shift = 3.0 * torch.randn(layers + 1, backbone.hidden_size, generator=generator, dtype=torch.float64)
    return World(backbone, queries, shift.to(dtype))
