"""Addresses, selection and the store, shown on small mLAMA folders and the built-in facts."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data import FactSelection, FactStore, prepare_facts
from orchestrator.data.loaders import known_loaders, loader_for
from orchestrator.data.prepare import STALE_SECONDS, read_manifest
from orchestrator.errors import UserError
from tests.data.samples import write_mlama


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"mlama:{write_mlama(tmp_path / 'mlama')}"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> FactStore:
    return prepare_facts("atlas", cache=tmp_path_factory.mktemp("cache"))


# addresses


def test_every_kind_of_source_is_found_by_itself() -> None:
    assert set(known_loaders()) == {"atlas", "bmlama", "hub", "mlama", "xfactr"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mlma:facts.zip", "Did you mean 'mlama'"),
        ("/data/mlama1.1.zip", "Addresses are written atlas, bmlama:"),
        ("mlama", "it is written mlama:<zip or folder>"),
        ("mlama:", "it is written mlama:<zip or folder>"),
        ("atlas:folder", "it is written atlas"),
    ],
)
def test_a_wrong_address_says_how_it_is_written(address: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        loader_for(address, None)
    assert expected in caught.value.problems[0]


# selection


def test_languages_come_in_the_order_asked_for_and_once(address: str, cache: Path) -> None:
    store = prepare_facts(address, selection=FactSelection(languages=("en", "de", "en")), cache=cache)
    assert store.languages == ("en", "de")


def test_an_empty_language_is_skipped_with_a_warning(address: str, cache: Path) -> None:
    store = prepare_facts(address, selection=FactSelection(relations=("P30",)), cache=cache)
    assert store.languages == ("de", "en")
    assert store.warnings == (f"zh: no facts in {address} after selecting the relations P30; the language is skipped.",)


def test_nothing_left_is_an_error(address: str, cache: Path) -> None:
    with pytest.raises(UserError, match="no facts are left after selecting the relations P30"):
        prepare_facts(address, selection=FactSelection(languages=("zh",), relations=("P30",)), cache=cache)


def test_all_unknown_names_are_reported_with_near_ones(address: str, cache: Path) -> None:
    selection = FactSelection(languages=("en", "dee"), relations=("P31", "P36"), max_facts=0, split="withheld")
    with pytest.raises(UserError) as caught:
        prepare_facts(address, selection=selection, cache=cache)
    language, relation, number, split = caught.value.problems
    assert "no language 'dee'. Did you mean 'de'?" in language
    assert "no relation 'P31'. Did you mean 'P3" in relation
    assert "max_facts is 0" in number
    assert "no split 'withheld'. It has none" in split


def test_relations_are_views_of_the_shard(atlas: FactStore) -> None:
    relations = sorted(atlas.pools("en"))
    some = atlas.select(relations=(relations[-1], relations[0]))
    facts = some.facts("en")
    assert set(facts["relation"].to_pylist()) == {relations[0], relations[-1]}
    whole = [fact for fact in atlas.facts("en").to_pylist() if fact["relation"] in (relations[0], relations[-1])]
    assert facts.to_pylist() == whole
    assert some.count("en") == len(whole)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    max_facts=st.integers(1, 1500),
    split=st.sampled_from([None, "seen", "withheld"]),
    language=st.sampled_from(["de", "zh"]),
)
def test_max_facts_keeps_those_with_the_smallest_hash(
    atlas: FactStore, max_facts: int, split: str | None, language: str
) -> None:
    pool = atlas.select(split=split).facts(language)["uuid"].to_pylist()
    kept = sorted(pool, key=lambda uuid: hashlib.sha256(uuid.encode()).digest())[:max_facts]
    store = atlas.select(split=split, max_facts=max_facts)
    assert set(store.facts(language)["uuid"].to_pylist()) == set(kept)
    assert store.count(language) == len(kept)


def test_max_facts_keeps_the_same_facts_in_every_language(atlas: FactStore) -> None:
    few = atlas.select(max_facts=50)
    uuids = {frozenset(few.facts(language)["uuid"].to_pylist()) for language in few.languages}
    assert len(uuids) == 1


def test_a_selection_that_selects_the_same_has_the_same_fingerprint(atlas: FactStore) -> None:
    everything = atlas.select(max_facts=10**6, languages=tuple(reversed(atlas.languages)))
    assert everything.fingerprint == atlas.fingerprint


# preparation


def test_the_manifest_reports_what_preparation_took(address: str, cache: Path) -> None:
    said: list[str] = []
    store = prepare_facts(address, cache=cache, progress=said.append)
    manifest = read_manifest(store.path)
    assert manifest["rows"] == 14
    assert manifest["languages"]["zh"]["relations"] == {"P36": 2}
    assert manifest["seconds"] >= 0
    assert manifest["peak_rss_bytes"] > 2**20
    assert said[-1] == "zh prepared: 3 languages, 14 facts"


def test_a_deleted_shard_says_how_to_mend_it(address: str, cache: Path) -> None:
    store = prepare_facts(address, cache=cache)
    (store.path / "facts" / "en.arrow").unlink()
    with pytest.raises(UserError, match=r"Delete the folder .* and run again"):
        store.facts("en")


def test_what_a_killed_process_left_is_removed_after_a_day(address: str, cache: Path) -> None:
    old, young = cache / "facts" / ".mlama-old.tmp", cache / "facts" / ".mlama-young.tmp"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
    os.utime(old, (time.time() - STALE_SECONDS - 60,) * 2)
    prepare_facts(address, cache=cache)
    assert (old.exists(), young.exists()) == (False, True)


def _prepare(arguments: tuple[str, Path]) -> bytes:
    address, cache = arguments
    return pickle.dumps(prepare_facts(address, cache=cache))


def test_two_processes_preparing_at_once_agree(address: str, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        first, second = map(pickle.loads, processes.map(_prepare, [(address, cache)] * 2, chunksize=1))
    assert first == second
    assert first.count("en") == 5
    assert sorted(path.name for path in (cache / "facts").iterdir()) == sorted(["hashes", first.path.name])


def test_a_cache_that_cannot_be_written(address: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        prepare_facts(address, cache=tmp_path / "a file")
