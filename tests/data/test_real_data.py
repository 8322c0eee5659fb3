"""The published files, whole: the numbers that anyone who reads them right must find."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from orchestrator.data import FactStore, prepare_facts, prepare_sentences
from orchestrator.data.prepare import read_manifest

pytestmark = pytest.mark.slow

# fmt: off
T_REX_ROWS = {
    "ca": 21_844, "az": 7_699, "en": 33_981, "ar": 17_129, "uk": 16_078, "fa": 16_315, "tr": 13_993, "it": 25_662,
    "el": 10_883, "ru": 22_723, "hr": 9_197, "hi": 7_276, "sv": 22_763, "sq": 11_754, "fr": 30_643, "ga": 12_937,
    "eu": 11_788, "de": 29_354, "nl": 29_334, "et": 9_992, "he": 14_769, "es": 28_169, "bn": 7_520, "ms": 9_166,
    "sr": 10_474, "hy": 10_078, "ur": 7_295, "hu": 17_688, "la": 8_067, "sl": 15_775, "cs": 15_545, "af": 7_353,
    "gl": 10_507, "fi": 18_374, "ro": 12_771, "ko": 14_217, "cy": 9_915, "th": 8_327, "be": 8_887, "id": 14_094,
    "pt": 20_319, "vi": 11_425, "ka": 8_154, "ja": 22_920, "da": 18_291, "bg": 10_639, "zh": 21_449, "pl": 20_200,
    "lv": 8_426, "sk": 10_043, "lt": 9_495, "ta": 7_241, "ceb": 6_829,
}
# fmt: on
EMPTY = {("sq", "P264"), ("sr", "P264"), ("ta", "P264"), ("af", "P413")} | {
    ("ceb", relation) for relation in ("P108", "P136", "P264", "P413", "P449")
}


@pytest.fixture(scope="module")
def mlama(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FactStore:
    address = f"mlama:{real_data / 'mlama1.1.zip'}"
    pools = str(real_data / "mlama_objects.zip")
    return prepare_facts(address, pools=pools, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def bmlama(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FactStore:
    archive = real_data / "bmlama53" / "bmlama53_tsv.tar.xz"
    return prepare_facts(f"bmlama:{archive}", cache=tmp_path_factory.mktemp("cache"))


def test_mlama_rows_per_language(mlama: FactStore) -> None:
    assert {language: mlama.count(language) for language in mlama.languages} == T_REX_ROWS
    assert len(T_REX_ROWS) == 53
    assert sum(T_REX_ROWS.values()) == 785_767
    assert read_manifest(mlama.path)["rows"] == 843_143
    assert not mlama.warnings


def test_mlama_templates(mlama: FactStore) -> None:
    templates: dict[tuple[str, str], str] = {}
    for language in mlama.languages:
        facts = mlama.facts(language)
        templates |= dict(
            zip(((language, r) for r in facts["relation"].to_pylist()), facts["template"].to_pylist(), strict=True)
        )
    relations = {relation for _, relation in templates}
    assert len(relations) == 41
    assert {(language, relation) for language in mlama.languages for relation in relations} - set(templates) == EMPTY
    assert len(templates) + len(EMPTY) == 2_173
    assert all(template.count("[X]") == template.count("[Y]") == 1 for template in templates.values())


def test_mlama_pools(mlama: FactStore) -> None:
    means = {}
    for language in mlama.languages:
        pools = mlama.pools(language)
        means[language] = statistics.mean(len(pool.candidates) for pool in pools.values())
        candidates = {(relation, candidate) for relation, pool in pools.items() for candidate in pool.candidates}
        facts = mlama.facts(language)
        assert set(zip(facts["relation"].to_pylist(), facts["object"].to_pylist(), strict=True)) <= candidates
        assert all(all(pool.uris) for pool in pools.values())
    assert round(statistics.mean(means.values()), 1) == 89.8
    assert round(means["en"], 1) == 150.6


def test_mlama_names_a_fact_by_the_same_uuid_everywhere(mlama: FactStore) -> None:
    english = set(mlama.facts("en")["uuid"].to_pylist())
    elsewhere = {u for language in mlama.languages for u in mlama.facts(language)["uuid"].to_pylist()}
    assert len(elsewhere - english) <= 11


def test_mlama_is_prepared_in_bounded_memory_and_found_again(mlama: FactStore, real_data: Path) -> None:
    assert read_manifest(mlama.path)["peak_rss_bytes"] < 2**30
    pools = str(real_data / "mlama_objects.zip")
    again = prepare_facts(mlama.address, pools=pools, cache=mlama.path.parent.parent)
    assert again == mlama


def test_bmlama_rows_and_candidates(bmlama: FactStore) -> None:
    assert len(bmlama.languages) == 53
    without_subject = 0
    for language in bmlama.languages:
        facts = bmlama.facts(language).to_pylist()
        assert len(facts) == 3_070
        assert [fact["uuid"] for fact in facts] == [f"{row:05d}" for row in range(3_070)]
        assert all(fact["object"] in fact["candidates"] for fact in facts)
        assert sum(len(fact["candidates"]) == 10 for fact in facts) == 2_834
        assert sum(len(fact["candidates"]) == 1 for fact in facts) == 34
        without_subject += sum("[X]" not in fact["template"] for fact in facts)
    assert without_subject == 1


def test_sentences_of_all_languages(real_data: Path, mlama: FactStore, tmp_path: Path) -> None:
    address = f"sentences:{real_data / 'sentences'}"
    store = prepare_sentences(address, mlama.languages, limit=1_000, cache=tmp_path)
    assert all(900 < store.count(language) <= 1_000 for language in mlama.languages)
