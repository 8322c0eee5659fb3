"""What every loader of facts must fulfil. A new loader's test class supplies one fixture and inherits every check."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.data import FACTS_SCHEMA, POOLS_SCHEMA, FactSelection, FactStore, prepare_facts
from orchestrator.data import prepare as prepare_module
from orchestrator.data.prepare import read_shard
from orchestrator.errors import UserError


@dataclass(frozen=True)
class Source:
    """A small valid source. `same` is the same facts in another place or packing."""

    address: str
    same: str
    pools: str | None = None

    def prepared(self, cache: Path, selection: FactSelection | None = None, *, same: bool = False) -> FactStore:
        """The store of this source."""
        address = self.same if same else self.address
        return prepare_facts(address, pools=self.pools, selection=selection or FactSelection(), cache=cache)


class LoaderContract:
    """Subclasses define ``source(self, tmp_path) -> Source`` as a fixture."""

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        return tmp_path / "cache"

    def test_tables_have_the_schema_and_order(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        assert store.languages
        for language in store.languages:
            facts = store.facts(language)
            assert facts.schema.equals(FACTS_SCHEMA)
            assert facts.num_rows == store.count(language) > 0
            assert set(facts["language"].to_pylist()) == {language}
            keys = list(zip(facts["relation"].to_pylist(), facts["uuid"].to_pylist(), strict=True))
            assert keys == sorted(keys)
            assert read_shard(store.path / "pools" / f"{language}.arrow").schema.equals(POOLS_SCHEMA)

    def test_a_uuid_names_one_fact_of_a_language(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        for language in store.languages:
            uuids = store.facts(language)["uuid"].to_pylist()
            assert len(set(uuids)) == len(uuids)

    def test_every_query_has_one_object_slot(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        for language in store.languages:
            for fact in store.facts(language).to_pylist():
                query = fact["template"].replace("[X]", fact["subject"])
                assert query.count("[Y]") == 1
                assert "[X]" not in query

    def test_gold_is_in_its_pool_and_candidates(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        for language in store.languages:
            pools = store.pools(language)
            for fact in store.facts(language).to_pylist():
                assert fact["object"] in pools[fact["relation"]].candidates
                assert fact["candidates"] is None or fact["object"] in fact["candidates"]

    def test_pools_are_unique_sorted_and_aligned(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        for language in store.languages:
            for pool in store.pools(language).values():
                assert list(pool.candidates) == sorted(set(pool.candidates))
                assert len(pool.uris) == len(pool.candidates)

    def test_preparing_again_gives_the_same_bytes(self, source: Source, cache: Path, tmp_path: Path) -> None:
        first = source.prepared(cache)
        second = source.prepared(tmp_path / "another cache")
        shards = sorted(path.relative_to(first.path) for path in first.path.rglob("*.arrow"))
        assert first.path.name == second.path.name
        assert shards == sorted(path.relative_to(second.path) for path in second.path.rglob("*.arrow"))
        for shard in shards:
            assert (first.path / shard).read_bytes() == (second.path / shard).read_bytes()

    def test_prepared_shards_are_used_again(self, source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = source.prepared(cache)

        def refuse(*_: object) -> None:
            raise AssertionError("prepared twice")

        monkeypatch.setattr(prepare_module, "_prepare_language", refuse)
        assert source.prepared(cache) == first

    def test_fingerprint_does_not_depend_on_place_or_packing(self, source: Source, cache: Path, tmp_path: Path) -> None:
        here = source.prepared(cache)
        there = source.prepared(tmp_path / "another cache", same=True)
        assert here.fingerprint == there.fingerprint

    def test_fingerprint_follows_the_selected_facts_of_the_language_alone(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        language = store.languages[0]
        fewer = store.select(max_facts=1)
        assert fewer.language_fingerprint(language) != store.language_fingerprint(language)
        alone = store.select(languages=(language,))
        assert alone.language_fingerprint(language) == store.language_fingerprint(language)
        assert alone.fingerprint != store.fingerprint

    def test_store_is_small_and_survives_pickling(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        pickled = pickle.dumps(store)
        assert len(pickled) < 4096
        assert pickle.loads(pickled) == store

    def test_tables_are_mapped_not_copied(self, source: Source, cache: Path) -> None:
        store = source.prepared(cache)
        before = pa.total_allocated_bytes()
        tables = [store.facts(language) for language in store.languages]
        assert pa.total_allocated_bytes() == before
        assert tables

    def test_nothing_is_left_when_preparation_fails(
        self, source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def disk_full(path: Path, table: pa.Table) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(prepare_module, "write_stream", disk_full)
        with pytest.raises(UserError, match="disk is full"):
            source.prepared(cache)
        assert [path.name for path in (cache / "facts").iterdir()] == ["hashes"]
        monkeypatch.undo()
        assert source.prepared(cache).languages
