"""mLAMA in its published format: what is read, and what every kind of damage gets."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from orchestrator.data import FactSelection, FactStore, prepare_facts
from orchestrator.errors import UserError
from tests.data.contract import LoaderContract, Source
from tests.data.samples import write_lines, write_mlama, write_object_lists, zipped


@pytest.fixture
def mlama(tmp_path: Path) -> Path:
    return write_mlama(tmp_path / "mlama1.1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestMlamaLoader(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path, mlama: Path) -> Source:
        pools = write_object_lists(tmp_path / "objects")
        return Source(f"mlama:{mlama}", f"mlama:{zipped(mlama, tmp_path / 'mlama.zip')}", str(pools))


def problems_of(folder: Path, cache: Path, pools: str | None = None) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        prepare_facts(f"mlama:{folder}", pools=pools, cache=cache)
    assert not any(path.name != "hashes" for path in (cache / "facts").glob("*")), "something half-written was left"
    return caught.value.problems


def test_a_fact_and_its_template(mlama: Path, cache: Path) -> None:
    fact = prepare_facts(f"mlama:{mlama}", cache=cache).facts("de").to_pylist()[0]
    assert fact == {
        "relation": "P30",
        "uuid": "uuid-3",
        "language": "de",
        "sub_uri": "Q142",
        "obj_uri": "Q46",
        "subject": "Frankreich",
        "object": "Europa",
        "template": "[X] liegt in [Y] .",
        "split": "",
        "candidates": None,
    }


def test_google_re_is_used_only_when_named(mlama: Path, cache: Path) -> None:
    store = prepare_facts(f"mlama:{mlama}", cache=cache)
    assert set(store.pools("en")) == {"P30", "P36"}
    named = store.select(relations=("place_of_birth",))
    assert named.languages == ("de", "en")
    assert set(named.pools("en")) == {"place_of_birth"}


def test_without_lists_the_pool_is_what_the_facts_have(mlama: Path, cache: Path) -> None:
    pool = prepare_facts(f"mlama:{mlama}", cache=cache).pools("en")["P36"]
    assert pool.candidates == ("Berlin", "Paris", "Rome")
    assert pool.uris == ("Q64", "Q90", "Q220")


def test_object_lists_are_the_pools(mlama: Path, cache: Path, tmp_path: Path) -> None:
    lists = zipped(write_object_lists(tmp_path / "objects"), tmp_path / "objects.zip")
    store = prepare_facts(f"mlama:{mlama}", pools=str(lists), cache=cache)
    pool = store.pools("en")["P36"]
    assert pool.candidates == ("Berlin", "Madrid", "Paris", "Rome")
    assert pool.uris == ("Q64", "", "Q90", "Q220")
    assert store.warnings == ("zh: no pool is given for any relation: the objects seen in the facts are used.",)


def test_a_gold_that_the_list_lacks_is_added_and_counted(mlama: Path, cache: Path, tmp_path: Path) -> None:
    lists = tmp_path / "objects"
    lists.mkdir()
    (lists / "en.json").write_text(json.dumps({"P36": {"objects": ["Paris"]}, "P30": {"objects": ["Asia", "Europe"]}}))
    selection = FactSelection(languages=("en",))
    store = prepare_facts(f"mlama:{mlama}", pools=str(lists), selection=selection, cache=cache)
    assert store.pools("en")["P36"].candidates == ("Berlin", "Paris", "Rome")
    assert store.warnings == ("en: 2 gold objects were not in the pool given for their relation and were added to it.",)


def test_repeated_facts_count_once(mlama: Path, cache: Path) -> None:
    file = mlama / "en" / "P36.jsonl"
    file.write_text(file.read_text() * 2)
    store = prepare_facts(f"mlama:{mlama}", cache=cache)
    assert store.select(relations=("P36",)).count("en") == 3
    assert not store.warnings


def test_a_second_fact_under_a_uuid_is_left_out_with_a_warning(mlama: Path, cache: Path) -> None:
    row = {"uuid": "uuid-0", "sub_uri": "Q142", "obj_uri": "Q456", "sub_label": "France", "obj_label": "Lyon"}
    with (mlama / "en" / "P36.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    store = prepare_facts(f"mlama:{mlama}", cache=cache)
    assert store.warnings == ("en: 1 facts had the uuid of an earlier fact and were left out.",)
    assert "Lyon" not in store.facts("en")["object"].to_pylist()


def fingerprints(store: FactStore) -> dict[str, str]:
    return {language: store.language_fingerprint(language) for language in store.languages}


@pytest.mark.parametrize("what", ["subject", "object", "template"])
def test_a_changed_text_changes_the_fingerprint_of_its_language_only(mlama: Path, cache: Path, what: str) -> None:
    before = fingerprints(prepare_facts(f"mlama:{mlama}", cache=cache))
    file, old, new = {
        "subject": ("P36.jsonl", "France", "la France"),
        "object": ("P36.jsonl", "Paris", "PARIS"),
        "template": ("templates.jsonl", "The capital", "Capital"),
    }[what]
    path = mlama / "en" / file
    path.write_text(path.read_text().replace(old, new))
    after = fingerprints(prepare_facts(f"mlama:{mlama}", cache=cache))
    assert {language for language in before if before[language] != after[language]} == {"en"}


def test_a_changed_pool_changes_the_fingerprint_of_its_language_only(mlama: Path, cache: Path, tmp_path: Path) -> None:
    lists = write_object_lists(tmp_path / "objects")
    before = fingerprints(prepare_facts(f"mlama:{mlama}", pools=str(lists), cache=cache))
    path = lists / "de.json"
    path.write_text(path.read_text().replace("Madrid", "Wien"))
    after = fingerprints(prepare_facts(f"mlama:{mlama}", pools=str(lists), cache=cache))
    assert {language for language in before if before[language] != after[language]} == {"de"}


def test_files_of_other_kinds_do_not_matter(mlama: Path, cache: Path) -> None:
    first = prepare_facts(f"mlama:{mlama}", cache=cache)
    (mlama / "README.md").write_text("notes")
    assert prepare_facts(f"mlama:{mlama}", cache=cache).path == first.path


# what bad input gets


def test_broken_json_names_file_line_and_beginning(mlama: Path, cache: Path) -> None:
    with (mlama / "de" / "P36.jsonl").open("a") as file:
        file.write('{"uuid": "x", "sub_uri": \n')
    (problem,) = problems_of(mlama, cache)
    assert f"{mlama}/de/P36.jsonl:4: not valid JSON" in problem
    assert """starts with '{"uuid": "x", "sub_uri":'""" in problem


def test_all_mistakes_are_reported_at_once(mlama: Path, cache: Path) -> None:
    write_lines(
        mlama / "de" / "templates.jsonl",
        [
            {"relation": "P36", "template": "Die Hauptstadt ist [Y] ."},
            {"relation": "P30", "template": "[X] und [X] liegen in [Y] ."},
            {"relation": "P17"},
        ],
    )
    with (mlama / "en" / "P36.jsonl").open("a") as file:
        file.write(json.dumps({"uuid": "u", "sub_uri": "Q1", "obj_uri": "Q2", "sub_label": 5}) + "\n")
    problems = problems_of(mlama, cache)
    assert [problem.split(" ", 1)[0] for problem in problems] == [
        f"{mlama}/de/templates.jsonl:1:",
        f"{mlama}/de/templates.jsonl:2:",
        f"{mlama}/de/templates.jsonl:3:",
        f"{mlama}/de/place_of_birth.jsonl",
        f"{mlama}/en/P36.jsonl:4:",
    ]
    assert "has no [X]" in problems[0]
    assert "has [X] 2 times" in problems[1]
    assert "no text under template" in problems[2]
    assert "no template for place_of_birth" in problems[3]
    assert "no text under sub_label, obj_label" in problems[4]


def test_a_file_full_of_mistakes_stops_early(mlama: Path, cache: Path) -> None:
    (mlama / "en" / "P36.jsonl").write_text("{broken\n" * 1000)
    problems = problems_of(mlama, cache)
    assert len(problems) == 21
    assert "Reading stopped here" in problems[-1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"sub_label": ""}, "have an empty subject"),
        ({"obj_label": ""}, "have an empty object"),
        ({"sub_label": "a [Y]"}, "have [Y] in their subject"),
    ],
)
def test_facts_that_cannot_be_asked_are_named_by_uuid(
    mlama: Path, cache: Path, row: dict[str, str], expected: str
) -> None:
    good = {"uuid": "bad-one", "sub_uri": "Q1", "obj_uri": "Q2", "sub_label": "Spain", "obj_label": "Madrid"}
    write_lines(mlama / "en" / "P36.jsonl", [good | row])
    (problem,) = problems_of(mlama, cache)
    assert expected in problem
    assert "'bad-one'" in problem


def test_text_that_is_not_utf8_is_named_with_its_line(mlama: Path, cache: Path) -> None:
    with (mlama / "de" / "P30.jsonl").open("ab") as file:
        file.write(b'{"uuid": "M\xfcnchen"}\n')
    (problem,) = problems_of(mlama, cache)
    assert f"{mlama}/de/P30.jsonl:3: the line is not UTF-8" in problem


def test_missing_paths_are_all_named(tmp_path: Path, cache: Path) -> None:
    problems = problems_of(tmp_path / "nowhere.zip", cache, pools=str(tmp_path / "no-objects.zip"))
    assert [Path(problem.split(" does not exist")[0]).name for problem in problems] == ["nowhere.zip", "no-objects.zip"]


def test_another_zip_is_not_mlama(tmp_path: Path, cache: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    (problem,) = problems_of(tmp_path / "other.zip", cache)
    assert "it is not mLAMA" in problem


def test_two_folders_for_a_language_are_ambiguous(tmp_path: Path, cache: Path) -> None:
    write_mlama(tmp_path / "both" / "one")
    write_mlama(tmp_path / "both" / "two")
    (problem,) = problems_of(tmp_path / "both", cache)
    assert "two folders for 'de'" in problem


def test_a_damaged_zip_says_so(mlama: Path, tmp_path: Path, cache: Path) -> None:
    whole = zipped(mlama, tmp_path / "mlama.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    assert "half.zip is damaged or incomplete" in problems_of(tmp_path / "half.zip", cache)[0]


def test_a_damaged_member_is_named(mlama: Path, tmp_path: Path, cache: Path) -> None:
    archive = zipped(mlama, tmp_path / "mlama.zip")
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("mlama1.1/en/P36.jsonl")
    damaged = bytearray(archive.read_bytes())
    start = info.header_offset + 30 + len(info.filename) + 20
    damaged[start : start + 8] = b"\xff" * 8
    archive.write_bytes(damaged)
    assert "mlama.zip/mlama1.1/en/P36.jsonl is damaged" in problems_of(archive, cache)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"P36": {"objects": ["Paris",\n]}}', "en.json:2: not valid JSON"),
        ('{"P36": ["Paris"]}', "is not a list of objects"),
        ('{"P36": {"objects": [""]}}', "is not a list of objects"),
    ],
)
def test_faulty_object_lists(mlama: Path, tmp_path: Path, cache: Path, text: str, expected: str) -> None:
    lists = write_object_lists(tmp_path / "objects")
    (lists / "en.json").write_text(text)
    (problem,) = problems_of(mlama, cache, pools=str(lists))
    assert expected in problem


def test_two_object_lists_for_a_language_are_ambiguous(mlama: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "objects").mkdir()
    for name in ("one", "two"):
        write_object_lists(tmp_path / "objects" / name)
    (problem,) = problems_of(mlama, cache, pools=str(tmp_path / "objects"))
    assert "not clear which candidates are meant" in problem
