"""The built-in facts, pools and claims: their shape, their honesty, and that the script rebuilds them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ATLAS = Path(__file__).resolve().parents[2] / "atlas"
LANGUAGES = {"en", "de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh", "ko", "fi"}

Row = dict[str, str]


@pytest.fixture(scope="module")
def facts() -> list[Row]:
    return pq.read_table(ATLAS / "facts.parquet").to_pylist()


@pytest.fixture(scope="module")
def pools() -> dict[tuple[str, str], dict[str, str]]:
    """(relation, language) -> candidate -> uri."""
    rows = pq.read_table(ATLAS / "pools.parquet").to_pylist()
    return {(row["relation"], row["language"]): dict(zip(row["candidates"], row["uris"], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def claims() -> list[dict[str, object]]:
    return pq.read_table(ATLAS / "claims.parquet").to_pylist()


def test_columns() -> None:
    strings = ["relation", "uuid", "language", "sub_uri", "obj_uri", "subject", "object", "template", "split"]
    expected = pa.schema([(name, pa.string()) for name in strings] + [("candidates", pa.list_(pa.string()))])
    table = pq.read_table(ATLAS / "facts.parquet")
    assert table.schema.equals(expected)
    assert table["candidates"].null_count == table.num_rows
    assert pq.read_schema(ATLAS / "pools.parquet").names == ["relation", "language", "candidates", "uris"]


def test_every_fact_is_there_once_in_every_language(facts: list[Row]) -> None:
    languages = defaultdict(list)
    for row in facts:
        languages[row["uuid"]].append(row["language"])
    assert len(languages) >= 1000
    assert all(len(found) == len(LANGUAGES) and set(found) == LANGUAGES for found in languages.values())
    assert all(row[column] for row in facts for column in ("subject", "object", "sub_uri", "obj_uri"))


def test_templates_have_one_slot_each(facts: list[Row]) -> None:
    for template in {row["template"] for row in facts}:
        assert template.count("[X]") == 1
        assert template.count("[Y]") == 1


def test_gold_is_in_its_pool_under_its_uri(facts: list[Row], pools: dict[tuple[str, str], dict[str, str]]) -> None:
    for row in facts:
        assert pools[row["relation"], row["language"]][row["object"]] == row["obj_uri"]


def test_pools_are_sorted_unique_and_the_same_things_in_every_language(
    pools: dict[tuple[str, str], dict[str, str]],
) -> None:
    for (relation, _language), pool in pools.items():
        assert list(pool) == sorted(pool)
        assert set(pool.values()) == set(pools[relation, "en"].values())


def test_names_are_not_shared_within_a_relation(facts: list[Row]) -> None:
    subjects = defaultdict(set)
    for row in facts:
        subjects[row["relation"], row["language"], row["subject"]].add(row["sub_uri"])
    assert all(len(uris) == 1 for uris in subjects.values())


def test_no_answer_is_right_for_more_than_a_third_of_a_relation(facts: list[Row]) -> None:
    counts = Counter((row["relation"], row["obj_uri"]) for row in facts if row["language"] == "en")
    sizes = Counter(row["relation"] for row in facts if row["language"] == "en")
    assert all(count / sizes[relation] < 1 / 3 for (relation, _), count in counts.items())


def test_english_sees_all_and_others_half(facts: list[Row]) -> None:
    for language in LANGUAGES:
        splits = Counter(row["split"] for row in facts if row["language"] == language)
        if language == "en":
            assert set(splits) == {"seen"}
        else:
            assert abs(splits["seen"] / sum(splits.values()) - 0.5) < 0.06


def test_split_follows_from_uuid_and_language_alone(facts: list[Row]) -> None:
    for row in facts:
        even = hashlib.sha256(f"{row['uuid']}:{row['language']}".encode()).digest()[0] % 2 == 0
        assert row["split"] == ("seen" if row["language"] == "en" or even else "withheld")


def test_claims_are_one_right_and_one_wrong_per_fact_and_language(
    facts: list[Row], claims: list[dict[str, object]], pools: dict[tuple[str, str], dict[str, str]]
) -> None:
    by_fact = {(row["uuid"], row["language"]): row for row in facts}
    labels = defaultdict(list)
    for claim in claims:
        fact = by_fact[str(claim["fact_uuid"]), str(claim["language"])]
        labels[fact["uuid"], fact["language"]].append(claim["label"])
        right = fact["template"].replace("[X]", fact["subject"]).replace("[Y]", fact["object"])
        assert (claim["claim"] == right) == claim["label"]
        assert len(claim["rephrasings"]) >= 2 if claim["language"] == "en" else claim["rephrasings"] == []
    assert len(labels) == len(by_fact)
    assert all(sorted(found) == [False, True] for found in labels.values())


def test_a_claim_says_the_same_in_all_languages(facts: list[Row], claims: list[dict[str, object]]) -> None:
    uris = {}
    for row in facts:
        uris[row["relation"], row["language"], row["object"]] = row["obj_uri"]
    template = {(row["uuid"], row["language"]): row for row in facts}
    said = defaultdict(set)
    for claim in claims:
        fact = template[str(claim["fact_uuid"]), str(claim["language"])]
        before, after = fact["template"].replace("[X]", fact["subject"]).split("[Y]")
        obj = str(claim["claim"]).removeprefix(before).removesuffix(after)
        said[claim["claim_uuid"]].add((claim["label"], uris[fact["relation"], fact["language"], obj]))
    assert all(len(meanings) == 1 for meanings in said.values())


class TestRebuilding:
    """`python -m atlas.build_facts` gives the shipped tables; needs the Babel version that development pins."""

    @pytest.fixture(scope="class")
    def rebuilt(self) -> dict[str, pa.Table]:
        babel = pytest.importorskip("babel", reason="Babel, a development dependency, is not installed")
        if babel.__version__ != "2.18.0":
            pytest.skip(f"the tables are of Babel 2.18.0, and {babel.__version__} is installed: names may differ")
        from atlas.build_facts import build

        return build()

    @pytest.mark.parametrize("stem", ["facts", "pools", "claims"])
    def test_content_is_the_same(self, rebuilt: dict[str, pa.Table], stem: str) -> None:
        assert rebuilt[stem].equals(pq.read_table(ATLAS / f"{stem}.parquet"))

    def test_wrong_claims_are_not_true_for_another_reason(self, rebuilt: dict[str, pa.Table]) -> None:
        from atlas.build_facts import Fact, true_objects, wrong_object

        # Switzerland has four official languages; none of them may serve as the wrong claim.
        fact = Fact("P37", "cldr:territory/CH", "cldr:language/de")
        pool = [*true_objects("P37", fact.sub_uri), "cldr:language/fi"]
        assert len(pool) > 3
        assert wrong_object(fact, pool) == "cldr:language/fi"

    @pytest.mark.parametrize(
        ("one", "other", "language", "shared"),
        [
            ("Mexico", "Mexican Peso", "en", True),
            ("Panama", "US Dollar", "en", False),
            ("Türkei", "Türkisch", "de", True),
            ("俄罗斯", "俄罗斯卢布", "zh", True),
            ("العراق", "العربية", "ar", False),
        ],
    )
    def test_stems_that_give_the_object_away(self, one: str, other: str, language: str, shared: bool) -> None:
        pytest.importorskip("babel")
        from atlas.build_facts import stems

        assert bool(stems(one, language) & stems(other, language)) == shared
