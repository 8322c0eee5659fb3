"""The built-in facts and claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.data import CLAIMS_SCHEMA, FactSelection, load_claims, prepare_facts
from orchestrator.data.loaders import atlas
from orchestrator.errors import UserError
from tests.data.contract import LoaderContract, Source


class TestAtlasLoader(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return Source("atlas", "atlas")


def test_twelve_languages_that_know_the_same_facts(tmp_path: Path) -> None:
    store = prepare_facts("atlas", cache=tmp_path)
    assert len(store.languages) >= 12
    english = set(store.facts("en")["uuid"].to_pylist())
    assert all(set(store.facts(language)["uuid"].to_pylist()) <= english for language in store.languages)


def test_withheld_facts_are_a_selection(tmp_path: Path) -> None:
    withheld = prepare_facts("atlas", selection=FactSelection(languages=("de",), split="withheld"), cache=tmp_path)
    seen = withheld.select(split="seen")
    assert set(withheld.facts("de")["split"].to_pylist()) == {"withheld"}
    assert withheld.count("de") + seen.count("de") == withheld.select(split=None).count("de")
    assert withheld.splits == ("seen", "withheld")


def test_a_missing_file_says_that_the_installation_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="installation is incomplete"):
        atlas.atlas_file("no-such-file.parquet")


def test_object_lists_do_not_go_with_the_built_in_facts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bring their own pools"):
        prepare_facts("atlas", pools="objects.zip", cache=tmp_path)


def test_claims_have_the_documented_columns_and_are_balanced() -> None:
    claims = load_claims(["en", "de"])
    assert claims.schema.equals(CLAIMS_SCHEMA)
    assert set(claims["language"].to_pylist()) == {"en", "de"}
    labels = claims["label"].to_pylist()
    assert sum(labels) * 2 == len(labels)
    assert load_claims().num_rows > claims.num_rows


def test_claims_name_every_unknown_language() -> None:
    with pytest.raises(UserError) as caught:
        load_claims(["en", "deu", "tlh"])
    assert len(caught.value.problems) == 2
    assert "Did you mean 'de'" in caught.value.problems[0]
