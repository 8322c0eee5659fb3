"""Facts as the rest of the project sees them: a FactStore hands out mapped tables and pools of what was selected."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.content import digest_of, table_hash
from orchestrator.data.loaders import loader_for
from orchestrator.data.prepare import prepare_shards, read_manifest, read_shard
from orchestrator.data.schema import GOOGLE_RE, POOLS_SCHEMA
from orchestrator.errors import Problems, UserError, did_you_mean


@dataclass(frozen=True)
class FactSelection:
    """Which facts of a source are used; None means all.

    Attributes:
        languages: codes, in the order in which they are wanted.
        relations: names such as "P19". None leaves out Google-RE's (place_of_birth, place_of_death), as mLAMA does.
        max_facts: at most this many per language: those with the smallest SHA-256 of their uuid, so that the same facts
            stay in every language.
        split: "seen" or "withheld" for the built-in facts; other sources have no splits.
    """

    languages: tuple[str, ...] | None = None
    relations: tuple[str, ...] | None = None
    max_facts: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class Pool:
    """The candidate objects of a relation in a language: unique, sorted, with their URIs ("" where unknown)."""

    candidates: tuple[str, ...]
    uris: tuple[str, ...]


def prepare_facts(
    address: str,
    *,
    pools: str | None = None,
    selection: FactSelection = FactSelection(),
    cache: Path,
    progress: Callable[[str], None] = lambda message: None,
) -> FactStore:
    """Prepares a source once and selects from it.

    Args:
        address: ``atlas``, ``mlama:<zip or folder>``, ``bmlama:<folder or archive>``, ``xfactr:<folder>`` or
            ``hub:<id>[@revision]``.
        pools: zip or folder of published object lists, for sources that take them (for X-FACTR the published mLAMA,
            for its labels in other languages); else pools are the objects seen.
        selection: which facts to use.
        cache: folder for prepared shards; they are found again by content, whatever the path of the source.
        progress: called with one sentence per prepared language.

    Raises:
        UserError: all mistakes in the address, the source or the selection; nothing half-written is left.
    """
    folder = prepare_shards(loader_for(address, pools), cache, progress)
    return open_store(folder, address, selection)


def open_store(folder: Path, address: str, selection: FactSelection) -> FactStore:
    """The store of a prepared folder. Raises UserError with every language, relation or split it does not have."""
    languages: dict[str, Any] = _manifest(folder)["languages"]
    _check(selection, address, languages)
    wanted = tuple(dict.fromkeys(sorted(languages) if selection.languages is None else selection.languages))
    store = FactStore(folder, selection, address, wanted, (), ())
    filled = tuple(language for language in wanted if store.count(language))
    if not filled:
        raise UserError(f"{address}: no facts are left after selecting {_described(selection)}. Select less strictly.")
    warnings = [warning for language in filled for warning in languages[language]["warnings"]]
    skipped = tuple(language for language in wanted if language not in filled)
    warnings += [
        f"{language}: no facts in {address} after selecting {_described(selection)}; the language is skipped."
        for language in skipped
    ]
    return replace(store, languages=filled, skipped=skipped, warnings=tuple(warnings))


@dataclass(frozen=True)
class FactStore:
    """Selected facts of a prepared source. Small: it holds the place and the selection, and is cheap to pickle.

    Attributes:
        path: folder of shards (see orchestrator.data.prepare).
        selection: what was selected.
        address: how the user named the source.
        languages: the selected languages that have facts, in the order asked for, else sorted.
        skipped: the languages asked for that have no facts left after the selection.
        warnings: what the user should know: skipped languages, golds added to pools, facts left out.
    """

    path: Path
    selection: FactSelection
    address: str
    languages: tuple[str, ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Names the selected facts and pools of all selected languages by their content."""
        return digest_of({language: self.language_fingerprint(language) for language in self.languages})

    def language_fingerprint(self, language: str) -> str:
        """Names one language's selected facts and pools by their content: the same on every machine and for every
        packing of the source, and another one if and only if a selected fact, template or pool of this language is
        another."""
        facts = self.facts(language)
        relations = facts["relation"].unique().cast(pa.string())
        pools = self._pools_table(language)
        pools = pools.filter(pc.is_in(pools["relation"], value_set=relations))
        return digest_of([table_hash(facts), table_hash(pools)])

    def count(self, language: str) -> int:
        """How many facts are selected in a language."""
        if self.selection.split is None:
            rows = sum(stop - start for start, stop in self._runs(language))
        else:
            rows = self._filtered(language).num_rows
        return rows if self.selection.max_facts is None else min(rows, self.selection.max_facts)

    def facts(self, language: str) -> pa.Table:
        """The selected facts of a language: FACTS_SCHEMA, sorted by (relation, uuid). Without `split` and `max_facts`
        it is a view of the mapped shard."""
        facts = self._filtered(language)
        if self.selection.max_facts is None or facts.num_rows <= self.selection.max_facts:
            return facts
        ranks = [hashlib.sha256(uuid.encode()).digest() for uuid in facts["uuid"].to_pylist()]
        kept = heapq.nsmallest(self.selection.max_facts, range(len(ranks)), key=ranks.__getitem__)
        return facts.take(pa.array(sorted(kept)))

    def pools(self, language: str) -> dict[str, Pool]:
        """The pool of every relation that has selected facts in a language."""
        relations = set(self.facts(language)["relation"].unique().to_pylist())
        rows = self._pools_table(language).to_pylist()
        return {
            row["relation"]: Pool(tuple(row["candidates"]), tuple(row["uris"]))
            for row in rows
            if row["relation"] in relations
        }

    def select(self, **changes: Any) -> FactStore:
        """The same source under another selection, e.g. ``store.select(split="seen", max_facts=None)``.

        Raises:
            UserError: as `prepare_facts`.
        """
        return open_store(self.path, self.address, replace(self.selection, **changes))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of this source; empty for all but the built-in facts."""
        entries = _manifest(self.path)["languages"].values()
        return tuple(sorted({split for entry in entries for split in entry["splits"]}))

    def _filtered(self, language: str) -> pa.Table:
        shard = read_shard(self.path / "facts" / f"{language}.arrow")
        runs = self._runs(language) or [(0, 0)]
        facts = pa.concat_tables([shard.slice(start, stop - start) for start, stop in runs])
        if self.selection.split is not None:
            facts = facts.filter(pc.equal(facts["split"].cast(pa.string()), self.selection.split))
        return facts

    def _runs(self, language: str) -> list[tuple[int, int]]:
        """The row ranges of the selected relations; shards are sorted by relation."""
        runs: list[tuple[int, int]] = []
        start = 0
        for relation, rows in _manifest(self.path)["languages"][language]["relations"].items():
            if _is_selected(relation, self.selection):
                if runs and runs[-1][1] == start:
                    runs[-1] = (runs[-1][0], start + rows)
                else:
                    runs.append((start, start + rows))
            start += rows
        return runs

    def _pools_table(self, language: str) -> pa.Table:
        return read_shard(self.path / "pools" / f"{language}.arrow").select(POOLS_SCHEMA.names)


@lru_cache(maxsize=16)
def _manifest(folder: Path) -> Mapping[str, Any]:
    """A folder is named by its content and never changes, so its manifest is read once per process."""
    return read_manifest(folder)


def _is_selected(relation: str, selection: FactSelection) -> bool:
    return relation not in GOOGLE_RE if selection.relations is None else relation in selection.relations


def _check(selection: FactSelection, address: str, languages: Mapping[str, Any]) -> None:
    problems = Problems()
    for language in selection.languages or ():
        if language not in languages:
            problems.add(f"{address} has no language {language!r}.{did_you_mean(language, languages)}")
    relations = {relation for entry in languages.values() for relation in entry["relations"]}
    for relation in selection.relations or ():
        if relation not in relations:
            problems.add(f"{address} has no relation {relation!r}.{did_you_mean(relation, relations)}")
    if selection.max_facts is not None and selection.max_facts < 1:
        problems.add(f"max_facts is {selection.max_facts}, but at least one fact per language is needed.")
    splits = {split for entry in languages.values() for split in entry["splits"]}
    if selection.split is not None and selection.split not in splits:
        known = did_you_mean(selection.split, splits) if splits else " It has none: leave split out."
        problems.add(f"{address} has no split {selection.split!r}.{known}")
    problems.raise_if_any()


def _described(selection: FactSelection) -> str:
    """The filters in words, e.g. "the relations P19, P20 and the split 'withheld'"."""
    parts = []
    if selection.relations is not None:
        parts.append(f"the relations {', '.join(selection.relations)}")
    if selection.split is not None:
        parts.append(f"the split {selection.split!r}")
    return " and ".join(parts) or "all relations"


def facts_beside(
    address: str,
    pools: Path | str | None,
    pivot: str,
    languages: Sequence[str] | None,
    *,
    relations: Sequence[str] | None,
    cache: Path,
) -> FactStore:
    """A source with all its languages, known to have those that are compared with the pivot, and the pivot.

    Args:
        address, pools, cache: as for `prepare_facts`; `pools` may be a path.
        languages: those asked for beside the pivot; None asks for none in particular.
        relations: those selected; None takes all.

    Raises:
        UserError: the source cannot be read, or a language or relation that is asked for is not there.
    """
    wanted = None if languages is None else tuple(dict.fromkeys((pivot, *languages)))
    selection = FactSelection(wanted, None if relations is None else tuple(relations))
    known = None if pools is None else str(pools)
    return prepare_facts(address, pools=known, selection=selection, cache=cache).select(languages=None)
