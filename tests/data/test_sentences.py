"""Sentences for language vectors: from files, and from the facts themselves."""

from __future__ import annotations

import gzip
import lzma
import pickle
from pathlib import Path

import pytest

from orchestrator.data import FactStore, prepare_facts, prepare_sentences
from orchestrator.errors import UserError
from tests.data.samples import write_mlama


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four languages, one in each packing; de repeats itself and has an empty line."""
    folder = tmp_path / "sentences"
    folder.mkdir()
    (folder / "en.txt").write_text("One.\nTwo.\tstill two\nThree.\n")
    (folder / "de.tsv").write_text("Eins.\tnews\r\n\r\nZwei.\tweb\r\nEins.\tweb\r\n", newline="")
    (folder / "fr.txt.gz").write_bytes(gzip.compress(b"Un.\n"))
    (folder / "zh.tsv.xz").write_bytes(lzma.compress("一。\tnews\n二。\tnews\n".encode()))
    return folder


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> FactStore:
    return prepare_facts("atlas", cache=tmp_path_factory.mktemp("cache"))


def test_every_packing_without_repetitions_and_empty_lines(folder: Path, cache: Path) -> None:
    store = prepare_sentences(f"sentences:{folder}", ["en", "de", "fr", "zh"], limit=None, cache=cache)
    read = {language: [s for batch in store.sentences(language) for s in batch] for language in store.shards}
    assert read == {
        "en": ["One.", "Two.\tstill two", "Three."],
        "de": ["Eins.", "Zwei."],
        "fr": ["Un."],
        "zh": ["一。", "二。"],
    }
    assert store.count("de") == 2


def test_batches_are_bounded(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "en.txt").write_text("".join(f"Sentence {i}.\n" for i in range(2500)))
    store = prepare_sentences(f"sentences:{tmp_path}", ["en"], limit=2400, cache=cache)
    assert [len(batch) for batch in store.sentences("en")] == [1000, 1000, 400]


def test_the_fingerprint_follows_the_sentences(folder: Path, cache: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path, limit: int | None) -> str:
        return prepare_sentences(f"sentences:{folder}", ["de"], limit=limit, cache=cache).fingerprint("de")

    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "de.txt.xz").write_bytes(lzma.compress(b"Eins.\nZwei.\n"))
    assert fingerprint(folder, None) == fingerprint(packed, None) == fingerprint(folder, 2)
    assert fingerprint(folder, 1) != fingerprint(folder, 2)


def test_the_store_survives_pickling_and_files_are_read_once(folder: Path, cache: Path) -> None:
    store = prepare_sentences(f"sentences:{folder}", ["de"], limit=None, cache=cache)
    written = store.shards["de"].stat().st_mtime_ns
    assert pickle.loads(pickle.dumps(store)) == store
    assert prepare_sentences(f"sentences:{folder}", ["de"], limit=None, cache=cache) == store
    assert store.shards["de"].stat().st_mtime_ns == written


def test_all_faulty_languages_are_named(folder: Path, cache: Path) -> None:
    (folder / "fr.txt").write_text("Un.\n")
    (folder / "ru.txt").write_text("\n \n")
    (folder / "ja.tsv.xz").write_bytes(lzma.compress(b"text" * 1000)[:-20])
    (folder / "el.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError) as caught:
        prepare_sentences(f"sentences:{folder}", ["deu", "fr", "ru", "ja", "el", "en"], limit=10, cache=cache)
    missing, doubled, empty, damaged, binary = caught.value.problems
    assert "no sentences for 'deu'" in missing
    assert "Did you mean 'de'" in missing
    assert "fr.txt and fr.txt.gz" in doubled
    assert "ru.txt holds no sentences for 'ru'" in empty
    assert "ja.tsv.xz is damaged" in damaged
    assert "el.txt:1: the line is not UTF-8" in binary


@pytest.mark.parametrize("address", ["sentence:folder", "sentences:", "queries", "folder"])
def test_another_address_says_how_it_is_written(address: str, cache: Path) -> None:
    with pytest.raises(UserError, match="It is written sentences:<folder>, or queries"):
        prepare_sentences(address, ["en"], limit=None, cache=cache)


def test_a_missing_folder_and_a_limit_of_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        prepare_sentences(f"sentences:{tmp_path / 'nowhere'}", ["en"], limit=None, cache=cache)
    with pytest.raises(UserError, match="limit of sentences is 0"):
        prepare_sentences(f"sentences:{tmp_path}", ["en"], limit=0, cache=cache)


def test_queries_are_the_facts_filled_in(tmp_path: Path, cache: Path) -> None:
    facts = prepare_facts(f"mlama:{write_mlama(tmp_path / 'mlama')}", cache=cache)
    store = prepare_sentences("queries", ["zh"], limit=None, facts=facts, cache=cache)
    assert sorted(s for batch in store.sentences("zh") for s in batch) == ["德国的首都是柏林。", "法国的首都是巴黎。"]


def test_queries_of_the_built_in_facts_leave_out_the_withheld_ones(atlas: FactStore, cache: Path) -> None:
    reported = atlas.select(split="withheld", max_facts=10, languages=("de",))
    store = prepare_sentences("queries", ["de", "en"], limit=None, facts=reported, cache=cache)
    sentences = {s for batch in store.sentences("de") for s in batch}
    withheld = atlas.select(split="withheld").facts("de").to_pylist()
    filled = {f["template"].replace("[X]", f["subject"]).replace("[Y]", f["object"]) for f in withheld}
    assert len(sentences) > 400
    assert not sentences & filled


def test_queries_are_limited_to_the_same_facts_everywhere(atlas: FactStore, cache: Path) -> None:
    everywhere = atlas.select(split=None)
    store = prepare_sentences("queries", ["en"], limit=30, facts=everywhere, cache=cache)
    relations = {f["relation"] for f in everywhere.select(split="seen", max_facts=30).facts("en").to_pylist()}
    assert 25 <= store.count("en") <= 30
    assert len(relations) > 1


def test_queries_need_a_language_of_the_facts(atlas: FactStore, cache: Path) -> None:
    with pytest.raises(UserError, match="no language 'tlh'"):
        prepare_sentences("queries", ["en", "tlh"], limit=None, facts=atlas, cache=cache)
