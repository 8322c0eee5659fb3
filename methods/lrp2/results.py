"""What a trial of the layer search stores: writing it, and reading it back without the model.

A trial's table has one row per fact. `hits` is a bitmap: bit 0 is the unmodified model, bit 1 + p the p-th layer pair
(little-endian bits). The pairs themselves stand in the table's metadata under ``lrp2``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from methods.lrp2.consistency import Rankings
from methods.lrp2.found import SearchResult, SearchStats
from methods.lrp2.selection import LanguageHits

if TYPE_CHECKING:
    from methods.backbone.projection import Pair

METADATA_KEY = b"lrp2"


def hits_table(
    facts: pa.Table,
    parts: Sequence[SearchResult],
    pairs: Sequence[Pair],
    num_layers: int,
    *,
    dropped: Mapping[Pair, int],
    changed: tuple[int, int] | None,
    candidates: Sequence[Sequence[str]] = (),
) -> pa.Table:
    """The table of a trial.

    Args:
        facts: the trial's facts, F rows.
        parts: results for consecutive facts, F in all.
        pairs: the layer pairs.
        num_layers: L.
        dropped: for each pair that a race dropped the facts, from the first, that it was evaluated on.
        changed: hits that inexact arithmetic changed, and how many were compared; None for exact arithmetic.
        candidates: where scores were kept, the names of each fact's candidates in the order of their scores.

    Returns:
        Columns relation, uuid, subject (the subject's identifier, or the fact's where it has none), hits (bitmap), ties
        (list of [column, candidates sharing the top]) and, if scores were kept, candidates (their names) and scores
        (per column the list of all candidates' scores). Both are empty for a fact whose object cannot be asked.
    """
    hits = np.concatenate([part.hits for part in parts]) if parts else np.zeros((0, 1 + len(pairs)), dtype=bool)
    ties = np.concatenate([part.ties for part in parts]) if parts else np.zeros(hits.shape, dtype=np.int16)
    stats = SearchStats()
    for part in parts:
        stats.add(part.stats)
    uuids = facts.column("uuid").cast(pa.string())
    subjects = [uri or uuid for uri, uuid in zip(facts.column("sub_uri").to_pylist(), uuids.to_pylist(), strict=True)]
    packed = np.packbits(hits, axis=1, bitorder="little")
    columns: dict[str, Any] = {
        "relation": facts.column("relation").cast(pa.string()),
        "uuid": uuids,
        "subject": pa.array(subjects, pa.string()),
        "hits": pa.array([row.tobytes() for row in packed], pa.binary(packed.shape[1])),
        "ties": pa.array(
            [[[int(c), int(row[c])] for c in np.flatnonzero(row)] for row in ties], pa.list_(pa.list_(pa.int16()))
        ),
    }
    if parts and parts[0].scores is not None:
        columns["candidates"] = pa.array([list(names) for names in candidates], pa.list_(pa.string()))
        columns["scores"] = _score_column(parts)
    record = {
        "pairs": list(pairs),
        "num_layers": num_layers,
        "stats": vars(stats),
        "dropped": [[*pair, after] for pair, after in dropped.items()],
        "changed": changed,
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(record).encode()})


def _score_column(parts: Sequence[SearchResult]) -> pa.Array:
    """Per fact the scores of every column's candidates."""
    tables = [table for part in parts for table in part.scores or ()]
    kind = pa.from_numpy_dtype(tables[0].dtype) if tables else pa.float32()
    return pa.array([table.tolist() for table in tables], pa.list_(pa.list_(kind)))


def trial_record(table: pa.Table) -> dict[str, Any]:
    """What a trial's table says of itself: pairs, num_layers, stats, dropped pairs, changed hits."""
    record: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
    return record


def language_hits(language: str, tables: Sequence[pa.Table]) -> LanguageHits:
    """Puts the parts of a language together again."""
    record = trial_record(tables[0])
    pairs = tuple((int(i), int(j)) for i, j in record["pairs"])
    width = 1 + len(pairs)
    evaluated = np.full(width, sum(len(table) for table in tables), dtype=np.int64)
    for i, j, after in record["dropped"]:
        evaluated[1 + pairs.index((i, j))] = after
    bitmaps = [np.frombuffer(b"".join(table.column("hits").to_pylist()), np.uint8) for table in tables]
    hits = np.concatenate(
        [
            np.unpackbits(bits.reshape(len(table), -1), axis=1, bitorder="little")[:, :width].astype(bool)
            if len(table)
            else np.zeros((0, width), dtype=bool)
            for bits, table in zip(bitmaps, tables, strict=True)
        ]
    )
    ties = np.zeros(hits.shape, dtype=np.int16)
    for row, entries in enumerate(entry for table in tables for entry in table.column("ties").to_pylist()):
        for column, count in entries:
            ties[row, column] = count
    return LanguageHits(
        language=language,
        uuids=tuple(text for table in tables for text in table.column("uuid").to_pylist()),
        subjects=tuple(text for table in tables for text in table.column("subject").to_pylist()),
        relations=tuple(text for table in tables for text in table.column("relation").to_pylist()),
        pairs=pairs,
        hits=hits,
        ties=ties,
        evaluated=evaluated,
    )


def has_rankings(tables: Sequence[pa.Table]) -> bool:
    """Whether all scores of a language were stored with their candidates' names."""
    return all({"candidates", "scores"} <= {*table.column_names} for table in tables)


def language_rankings(tables: Sequence[pa.Table], columns: NDArray[np.intp], numbers: dict[str, int]) -> Rankings:
    """How a language ranks its candidates, each fact in the column that answers it.

    Args:
        tables: the parts of the language, for which `has_rankings`.
        columns: [F] for each fact, 0 the unmodified model, 1 + p the p-th pair.
        numbers: the candidates' numbers by name, shared by all languages; new names are added.
    """
    parts, start = [], 0
    for table in tables:
        parts.append(_orders(table, columns[start : start + len(table)], numbers))
        start += len(table)
    width = max(part.shape[1] for part in parts)
    orders = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in parts]
    return Rankings(
        tuple(text for table in tables for text in table.column("uuid").to_pylist()), np.concatenate(orders)
    )


def _orders(table: pa.Table, columns: NDArray[np.intp], numbers: dict[str, int]) -> NDArray[np.int32]:
    """[F, C] the candidates of each fact, the best first; equal scores stay in the order in which they were scored.

    An identifier that several of a fact's candidates have stands where the best of them does.
    """
    scores, names = (pa.concat_arrays(table.column(name).chunks) for name in ("scores", "candidates"))
    ends = names.offsets.to_numpy()
    sizes = np.diff(ends)
    words = names.values.dictionary_encode()
    coded = [numbers.setdefault(name, len(numbers)) for name in words.dictionary.to_pylist()]
    codes = np.array(coded, dtype=np.int32)[words.indices.to_numpy()]
    first = scores.values.offsets.to_numpy()[scores.offsets.to_numpy()[:-1] + columns]
    values = scores.values.values.to_numpy(zero_copy_only=False)
    places = np.arange(sizes.max(initial=0))
    inside = places < sizes[:, None]
    score = np.full(inside.shape, -np.inf)
    score[inside] = values[(first[:, None] + places)[inside]]
    number = np.full(inside.shape, -1, dtype=np.int32)
    number[inside] = codes[(ends[:-1, None] + places)[inside]]
    order = np.take_along_axis(number, np.argsort(-score, axis=1, kind="stable"), 1)
    places_alike = np.argsort(order, axis=1, kind="stable")
    alike = np.take_along_axis(order, places_alike, 1)
    again = np.zeros(order.shape, dtype=np.bool_)
    np.put_along_axis(again, places_alike[:, 1:], alike[:, 1:] == alike[:, :-1], 1)
    order[again] = -1
    return order
