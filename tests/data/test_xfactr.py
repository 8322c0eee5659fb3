"""X-FACTR: prompts without inflection, labels from mLAMA, damaged files, and the counts of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.data import FactStore, prepare_facts
from orchestrator.data.loaders.xfactr import plain_template
from orchestrator.errors import UserError
from tests.data.contract import LoaderContract, Source
from tests.data.samples import FACTS, tarred, write_lines, write_mlama, zipped

PROMPTS = """pid,relation,en,de,zh
P36,capital,The capital of [X] is [Y] .,Die Hauptstadt [X.Gen] ist [Y] .,[X]的首都是[Y]。
P30,continent,[X] is [in;X-Number=SG|on;X-Number=PL] [Y] .,[DEF;X] [X.Nom] liegt in [Y.Dat] .,[X]位于[Y]。
"""


def write_xfactr(folder: Path) -> Path:
    """The facts of the sample mLAMA, named in English, with prompts in three languages."""
    facts = folder / "mTRExf" / "sub"
    facts.mkdir(parents=True)
    (folder / "TREx_prompts.csv").write_text(PROMPTS, encoding="utf-8")
    for relation in ("P36", "P30"):
        rows = [
            {
                "uuid": f"x-{number}",
                "predicate_id": relation,
                "sub_uri": uris[0],
                "sub_label": labels["en"][0],
                "obj_uri": uris[1],
                "obj_label": labels["en"][1],
                "count": 7,
            }
            for name, number, uris, labels in FACTS
            if name == relation
        ]
        write_lines(facts / f"{relation}.jsonl", rows)
    return folder


@pytest.fixture
def xfactr(tmp_path: Path) -> Path:
    return write_xfactr(tmp_path / "data")


@pytest.fixture
def mlama(tmp_path: Path) -> Path:
    return write_mlama(tmp_path / "mlama")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestXfactrLoader(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path, xfactr: Path, mlama: Path) -> Source:
        beside = tmp_path / "beside"
        beside.mkdir()
        (beside / "TREx_prompts.csv").write_bytes((xfactr / "TREx_prompts.csv").read_bytes())
        tarred(xfactr, beside / "facts.tar.xz")
        return Source(f"xfactr:{xfactr}", f"xfactr:{beside}", pools=str(mlama))


def test_alone_it_has_english_and_says_how_to_get_other_languages(xfactr: Path, cache: Path) -> None:
    store = prepare_facts(f"xfactr:{xfactr}", cache=cache)
    assert store.languages == ("en",)
    assert store.count("en") == 5
    (warning,) = store.warnings
    assert "English only" in warning
    assert "--pools" in warning


def test_with_mlama_a_language_has_the_facts_that_mlama_names(xfactr: Path, mlama: Path, cache: Path) -> None:
    store = prepare_facts(f"xfactr:{xfactr}", pools=str(mlama), cache=cache)
    assert {language: store.count(language) for language in store.languages} == {"de": 5, "en": 5, "zh": 2}
    assert store.warnings == ("zh: 3 of 5 facts have no label in mLAMA.",)
    german = {fact["uuid"]: fact for fact in store.facts("de").to_pylist()}
    assert (german["x-0"]["subject"], german["x-0"]["object"]) == ("Frankreich", "Paris")
    assert german["x-0"]["template"] == "Die Hauptstadt [X] ist [Y] ."
    assert german["x-3"]["template"] == "[X] liegt in [Y] ."
    assert store.pools("de")["P36"].candidates == ("Berlin", "Paris", "Rom")
    english = store.facts("en").to_pylist()
    assert {fact["template"] for fact in english} == {"[X] is in [Y] .", "The capital of [X] is [Y] ."}
    assert {fact["uuid"] for fact in english} == set(german)


def test_a_relation_whose_prompt_cannot_be_asked_is_left_out_with_a_warning(
    xfactr: Path, mlama: Path, cache: Path
) -> None:
    prompts = xfactr / "TREx_prompts.csv"
    prompts.write_text(prompts.read_text(encoding="utf-8").replace("Die Hauptstadt [X.Gen]", "[Y]"), encoding="utf-8")
    store = prepare_facts(f"xfactr:{xfactr}", pools=str(mlama), cache=cache)
    assert store.warnings[0] == "de: the prompt '[Y] ist [Y] .' of P36 has no [X], so this relation is left out."
    assert store.count("de") == 2


@pytest.mark.parametrize(
    ("language", "prompt", "template"),
    [
        ("fr", "[ARTDEF;X] [X] est [né;X-Gender=MASC|née;X-Gender=FEM] [PREPLOC;Y] [Y] .", "[X] est né à [Y] ."),
        (
            "fr",
            "[Y] a [participé;Y-Gender=MASC|participée;Y-Gender=FEM] [PREPDEF-à;X] [X] .",
            "[Y] a participé à [X] .",
        ),
        ("el", "[DEF;X] [X.Nom] πήρε το όνομά [DEF.Gen;X] από [DEF;Y] [Y.Acc] .", "[X] πήρε το όνομά από [Y] ."),
        (
            "es",
            "[X] es [ART;X-Gender] [miembro;X-Gender=MASC|miembra;X-Gender=FEM] de [Y] .",
            "[X] es miembro de [Y] .",
        ),
        ("hu", "[X] [Y.IN+ESS] született .", "[X] [Y] született ."),
        ("tr", "[X.Gen] başkenti [Y;be] .", "[X] başkenti [Y] ."),
        ("bn", "[X] [human: একজন ; non-human: একটি] [Y] ।", "[X] একজন [Y] ।"),
        ("war", "Nagtikang an [X bad] ha [Y] .", "Nagtikang an [X] ha [Y] ."),
        ("he", "[Х] [גובל;X-Gender=MASC|גובלת;X-Gender=FEM] ב[Y] .", "[X] גובל ב[Y] ."),
    ],
)
def test_published_markup_becomes_plain(language: str, prompt: str, template: str) -> None:
    assert plain_template(prompt, language) == template


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("mTRExf/sub/P36.jsonl", '"uuid": "x-1"', '"uuid": 1', "P36.jsonl:2: not a fact"),
        ("mTRExf/sub/P36.jsonl", '{"uuid": "x-1"', '{uuid: "x-1"', "P36.jsonl:2: not a fact"),
        ("TREx_prompts.csv", "pid,", "id,", "TREx_prompts.csv:1: the columns are id"),
        ("TREx_prompts.csv", "P30,continent,", "P30,", "TREx_prompts.csv:3: not 5 columns"),
    ],
)
def test_damaged_files_are_named(xfactr: Path, cache: Path, file: str, old: str, new: str, expected: str) -> None:
    path = xfactr / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        prepare_facts(f"xfactr:{xfactr}", cache=cache)
    assert expected in caught.value.problems[0]


def test_a_folder_without_prompts_or_facts_is_refused(xfactr: Path, cache: Path) -> None:
    for path in (xfactr / "mTRExf" / "sub").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="but no facts"):
        prepare_facts(f"xfactr:{xfactr}", cache=cache)
    (xfactr / "TREx_prompts.csv").unlink()
    (xfactr / "other.jsonl").write_text(json.dumps({}))
    with pytest.raises(UserError, match="it is not X-FACTR"):
        prepare_facts(f"xfactr:{xfactr}", cache=cache)


def test_a_damaged_mlama_is_named_as_well(xfactr: Path, mlama: Path, cache: Path) -> None:
    file = mlama / "de" / "P36.jsonl"
    file.write_text(file.read_text().replace('"sub_uri"', '"uri"', 1))
    with pytest.raises(UserError, match=r"de/P36\.jsonl:1: no text under sub_uri"):
        prepare_facts(f"xfactr:{xfactr}", pools=str(mlama), cache=cache)


def test_an_archive_of_everything_holds_the_same_facts(xfactr: Path, cache: Path, tmp_path: Path) -> None:
    archive = zipped(xfactr, tmp_path / "x.zip")
    stores = [prepare_facts(f"xfactr:{path}", cache=cache) for path in (xfactr, archive)]
    assert len({store.fingerprint for store in stores}) == 1


@pytest.mark.slow
class TestPublished:
    @pytest.fixture(scope="class")
    def store(self, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FactStore:
        return prepare_facts(
            f"xfactr:{real_data / 'xfactr'}",
            pools=str(real_data / "mlama1.1.zip"),
            cache=tmp_path_factory.mktemp("cache"),
        )

    def test_every_published_fact_is_there_in_english(self, store: FactStore) -> None:
        english = store.facts("en")
        assert english.num_rows == 46_000
        relations = english["relation"].value_counts().to_pylist()
        assert len(relations) == 46
        assert {relation["counts"] for relation in relations} == {1_000}

    def test_languages_have_the_facts_that_mlama_names(self, store: FactStore) -> None:
        assert {language: store.count(language) for language in store.languages} == {
            "en": 46_000, "bn": 5_254, "ceb": 4_634, "el": 6_254, "es": 8_270, "fr": 8_574, "he": 6_847, "hu": 6_998,
            "ja": 7_910, "ko": 6_812, "nl": 8_382, "ru": 7_877, "tr": 6_715, "vi": 6_221, "zh": 7_795,
        }  # fmt: skip
        assert len(store.warnings) == 14
        assert "fr: 37,426 of 46,000 facts have no label in mLAMA." in store.warnings

    def test_uuids_name_the_same_fact_in_every_language(self, store: FactStore) -> None:
        english = {fact["uuid"]: fact["sub_uri"] + fact["obj_uri"] for fact in store.facts("en").to_pylist()}
        for language in store.languages:
            for fact in store.facts(language).to_pylist():
                assert english[fact["uuid"]] == fact["sub_uri"] + fact["obj_uri"]
