"""Made-up hits of a layer search: no model, any number of facts, languages and pairs, with gains planted or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from methods.backbone.projection import all_pairs
from methods.lrp2.found import SearchResult, SearchStats
from methods.lrp2.results import hits_table
from methods.lrp2.selection import LanguageHits
from methods.lrp2.spec import LRP2Spec
from orchestrator.results import encode_trial
from orchestrator.spec import spec_to_yaml
from orchestrator.study import Trial

PIVOT = {f"u{n}": n % 3 > 0 for n in range(1000)}
"""What the pivot has right."""


def language_hits(
    hits: NDArray[np.bool_],
    language: str = "de",
    subjects: Sequence[str] | None = None,
    relations: Sequence[str] | None = None,
    layers: int = 24,
) -> LanguageHits:
    """Hits [F, 1 + P] as those of a language, every fact with a subject of its own unless said otherwise."""
    facts = len(hits)
    return LanguageHits(
        language=language,
        uuids=tuple(f"u{n}" for n in range(facts)),
        subjects=tuple(subjects or (f"s{n}" for n in range(facts))),
        relations=tuple(relations or (f"P{n % 3}" for n in range(facts))),
        pairs=all_pairs(layers)[: hits.shape[1] - 1],
        hits=hits.astype(bool),
        ties=np.zeros(hits.shape, dtype=np.int16),
        evaluated=np.full(hits.shape[1], facts, dtype=np.int64),
    )


def null_hits(
    generator: np.random.Generator, facts: int = 150, pairs: int = 66, accuracy: float = 0.35, churn: float = 0.08
) -> NDArray[np.bool_]:
    """A model for which no pair matters: every column forgets and learns as many facts, `churn` of each kind."""
    known = generator.random((facts, 1)) < accuracy
    forgets = generator.random((facts, 1 + pairs)) < churn
    learns = generator.random((facts, 1 + pairs)) < churn * accuracy / (1 - accuracy)
    return np.where(known, ~forgets, learns)


def planted_hits(
    generator: np.random.Generator, facts: int = 500, pairs: int = 66, gain: float = 0.05, churn: float = 0.03
) -> NDArray[np.bool_]:
    """As `null_hits`, but the tenth pair gains `gain` of all facts: it learns what `PIVOT` knows and forgets less."""
    hits = null_hits(generator, facts, pairs, churn=churn)
    before = hits[:, 0]
    known = np.array([PIVOT[f"u{n}"] for n in range(facts)])
    hits[:, 10] = before
    hits[generator.choice(np.flatnonzero(before), round(0.02 * facts), replace=False), 10] = False
    hits[generator.choice(np.flatnonzero(known & ~before), round((gain + 0.02) * facts), replace=False), 10] = True
    return hits


def write_sweep(folder: Path, languages: Mapping[str, LanguageHits], layers: int = 4, **options: Any) -> Path:
    """A sweep's folder as the engine leaves it when it is stopped before its end: spec.yaml and trials.

    Args:
        folder: made if need be; its name is the sweep's.
        languages: hits by language; the pivot has its facts and no pairs.
        options: fields of the specification.
    """
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    spec = LRP2Spec(**{"name": folder.name, "bootstrap": 100, "null_draws": 20, **options})
    (folder / "spec.yaml").write_text(spec_to_yaml(spec))
    pivot = {spec.pivot: language_hits(np.array([[PIVOT[f"u{n}"]] for n in range(200)]), spec.pivot)}
    for language, table in {**pivot, **languages}.items():
        trial = Trial({"language": language}, {"sweep": folder.name, "options": str(options)}, 1.0)
        facts = pa.table({"relation": table.relations, "uuid": table.uuids, "sub_uri": table.subjects})
        result = SearchResult(table.hits, table.ties, None, SearchStats())
        stored = hits_table(facts, [result], table.pairs, layers, dropped={}, changed=None)
        record = {"key": trial.key, "cell": dict(trial.cell), "study": "lrp2", "seconds": 1.0, "peak_bytes": 1}
        (folder / "trials" / f"{trial.key}.parquet").write_bytes(encode_trial(stored, record))
    return folder
