"""Turns what a loader reads into content-addressed shards: sorted, without repetitions, every gold object in its pool.

Layout of one prepared source::

    <cache>/facts/<kind>-<content address>/
        facts/<language>.arrow    Arrow IPC stream of FACTS_SCHEMA, sorted by (relation, uuid)
        pools/<language>.arrow    Arrow IPC stream of POOLS_SCHEMA, sorted by relation
        manifest.json             languages, rows per relation, warnings; seconds and peak memory of the preparation
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.atomic import folder_atomically
from orchestrator.data.content import content_hash, digest_of
from orchestrator.data.loaders.base import LanguageFacts, Loader, Pools
from orchestrator.data.schema import (
    FACTS_SCHEMA,
    GOOGLE_RE,
    LOADED_SCHEMA,
    OBJECT_SLOT,
    POOLS_SCHEMA,
    SCHEMA_VERSION,
    SUBJECT_SLOT,
    template_fault,
)
from orchestrator.errors import UserError

ROWS_PER_BATCH = 65_536
LANGUAGE_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
STALE_SECONDS = 24 * 3600
"""Temporary folders older than this were left by a process that was killed."""


def prepare_shards(loader: Loader, cache: Path, progress: Callable[[str], None]) -> Path:
    """The folder with the shards of a source; made now if these bytes were never prepared by this version.

    Memory stays bounded by one language. Several processes may prepare the same source at once: one result is kept.

    Raises:
        UserError: all mistakes found in the source (nothing is kept), or the disk is full.
    """
    home = cache / "facts"
    inputs = [content_hash(path, loader.endings, home / "hashes") for path in loader.inputs()]
    address = digest_of([SCHEMA_VERSION, loader.kind, loader.version, inputs])
    folder = home / f"{loader.kind}-{address}"
    if folder.is_dir():
        return folder
    remove_stale(home)
    started = time.monotonic()
    with folder_atomically(folder) as temporary:
        (temporary / "facts").mkdir()
        (temporary / "pools").mkdir()
        languages: dict[str, dict[str, Any]] = {}
        for loaded in loader.load():
            check_code(loaded.language)
            languages[loaded.language] = _prepare_language(loaded, loader, temporary)
            rows = sum(entry["facts"] for entry in languages.values())
            progress(f"{loaded.language} prepared: {len(languages)} languages, {rows:,} facts")
        loader.problems.raise_if_any()
        manifest = {
            "kind": loader.kind,
            "loader_version": loader.version,
            "inputs": inputs,
            "rows": sum(entry["facts"] for entry in languages.values()),
            "seconds": round(time.monotonic() - started, 2),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "languages": languages,
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
    return folder


def _prepare_language(loaded: LanguageFacts, loader: Loader, folder: Path) -> dict[str, Any]:
    """Writes the two shards of one language; returns its entry in the manifest."""
    plain = pa.Table.from_batches(loaded.batches, schema=LOADED_SCHEMA)
    for fault in _row_faults(plain):
        loader.problem(f"{loader.address}, {loaded.language}: {fault}")
    warnings = list(loaded.warnings)
    facts = _sorted_once(plain, warnings)
    pools = _pools(facts, loaded.pools, warnings)
    language = pa.DictionaryArray.from_arrays(pa.array([0] * len(facts), pa.int32()), pa.array([loaded.language]))
    columns = {name: facts[name] for name in facts.column_names} | {"language": pa.chunked_array([language])}
    encoded = {
        field.name: _encoded(columns[field.name]) if pa.types.is_dictionary(field.type) else columns[field.name]
        for field in FACTS_SCHEMA
    }
    write_stream(folder / "facts" / f"{loaded.language}.arrow", pa.table(encoded, schema=FACTS_SCHEMA))
    rows = [
        {"relation": relation, "language": loaded.language, "candidates": list(names), "uris": list(uris)}
        for relation, pool in sorted(pools.items())
        for names, uris in [zip(*sorted(pool.items()), strict=True)]
    ]
    write_stream(folder / "pools" / f"{loaded.language}.arrow", pa.Table.from_pylist(rows, schema=POOLS_SCHEMA))
    counts = facts["relation"].value_counts().to_pylist()
    return {
        "facts": facts.num_rows,
        "relations": {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: count["values"])},
        "splits": sorted(split for split in facts["split"].unique().to_pylist() if split),
        "warnings": [f"{loaded.language}: {warning}" for warning in warnings],
    }


def check_code(language: str) -> None:
    """Language codes come from files and name files here, so they must be plain words."""
    if not LANGUAGE_CODE.fullmatch(language):
        raise UserError(
            f"{language!r} is no language code, so its facts cannot be stored. Use letters, digits, '-' and '_', as in "
            "'en' or 'zh-TW'."
        )


def _row_faults(facts: pa.Table) -> list[str]:
    """What no fact of any source may have, each with the uuid of the first fact that has it."""
    faults: list[str] = []

    def check(bad: pa.ChunkedArray, what: str) -> None:
        count = pc.sum(bad).as_py() or 0
        if count:
            first = facts["uuid"].filter(bad)[0].as_py()
            faults.append(
                f"{count} facts {what} (the first has the uuid {first!r}), so they cannot be asked. Mend or drop them."
            )

    for name in ("relation", "uuid", "subject", "object"):
        check(pc.equal(facts[name], ""), f"have an empty {name}")
    for template in facts["template"].unique().to_pylist():
        fault = template_fault(template, subject_needed=False)
        if fault:
            check(pc.equal(facts["template"], template), f"have the template {template!r}, which {fault}")
    for slot in (SUBJECT_SLOT, OBJECT_SLOT):
        check(pc.match_substring(facts["subject"], slot), f"have {slot} in their subject")
    return faults


def _sorted_once(facts: pa.Table, warnings: list[str]) -> pa.Table:
    """The facts by (relation, uuid), each once. Another fact under the same uuid is left out, with a warning."""
    facts = facts.take(_first_rows(facts, ["relation", "uuid", "subject", "object"]))
    unique = facts.take(_first_rows(facts, ["uuid"]))
    if unique.num_rows < facts.num_rows:
        warnings.append(f"{facts.num_rows - unique.num_rows} facts had the uuid of an earlier fact and were left out.")
    return unique.sort_by([("relation", "ascending"), ("uuid", "ascending")])


def _first_rows(facts: pa.Table, keys: list[str]) -> pa.Array:
    """The row numbers, ascending, of the first row of every distinct combination of `keys`."""
    numbered = facts.select(keys).append_column("row", pa.array(range(facts.num_rows), pa.int64()))
    first = numbered.group_by(keys, use_threads=False).aggregate([("row", "min")])["row_min"]
    return first.take(pc.sort_indices(first))


def _pools(facts: pa.Table, given: Pools | None, warnings: list[str]) -> dict[str, dict[str, str]]:
    """Relation -> candidate -> URI for every relation with facts; every gold object is in its pool.

    Where no pool is given it is made of the objects and candidates seen. A URI that is not given is the one seen with
    that object; if several were seen, the smallest.
    """
    pools: dict[str, dict[str, str]] = {}
    added = 0
    seen = facts.select(["relation", "object", "obj_uri"]).group_by(["relation", "object"], use_threads=False)
    for gold in seen.aggregate([("obj_uri", "min")]).to_pylist():
        relation, name = gold["relation"], gold["object"]
        pool = pools.setdefault(relation, dict(given.get(relation, {})) if given else {})
        added += name not in pool and given is not None and relation in given
        pool[name] = pool.get(name) or gold["obj_uri_min"]
    if given is None:
        own = facts.select(["relation", "candidates"]).filter(facts["candidates"].is_valid())
        for row in own.to_pylist():
            for candidate in row["candidates"]:
                pools[row["relation"]].setdefault(candidate, "")
        return pools
    if added:
        warnings.append(f"{added} gold objects were not in the pool given for their relation and were added to it.")
    unlisted = sorted(set(pools) - set(given) - GOOGLE_RE)
    if unlisted:
        names = ", ".join(unlisted) if given else "any relation"
        warnings.append(f"no pool is given for {names}: the objects seen in the facts are used.")
    return pools


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionary-encoded with one dictionary for all chunks, so that a mapped shard needs no copy."""
    if pa.types.is_dictionary(column.type):
        return column
    return pa.chunked_array([column.combine_chunks().dictionary_encode()])


def write_stream(path: Path, table: pa.Table) -> None:
    """Writes and flushes one shard through a Python file, whose errors (a full disk) keep their number."""
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.combine_chunks(), max_chunksize=ROWS_PER_BATCH)
        file.flush()
        os.fsync(file.fileno())


def read_shard(path: Path) -> pa.Table:
    """A shard, memory-mapped: nothing is copied, pages are read when they are used and shared by all processes.

    Raises:
        UserError: the shard is missing or damaged.
    """
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}). Delete the folder {path.parent.parent} and run again: it will be "
            "prepared anew."
        ) from error


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """manifest.json of a prepared source. Raises UserError: it is missing or damaged."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'manifest.json'} is missing or damaged ({error}). Delete the folder {folder} and run again: it "
            "will be prepared anew."
        ) from error
    return manifest


def remove_stale(home: Path) -> None:
    """Removes what processes killed in the middle of a preparation have left behind."""
    for leftover in home.glob(".*.tmp"):
        if leftover.is_dir() and time.time() - leftover.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
