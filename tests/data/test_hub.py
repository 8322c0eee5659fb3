"""Facts through `datasets`: a local folder stands for the hub, nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data import prepare_facts
from orchestrator.errors import UserError
from tests.data.contract import LoaderContract, Source
from tests.data.samples import write_hub, write_mlama, write_object_lists


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return write_hub(tmp_path / "m_lama")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestHubLoader(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path, hub: Path) -> Source:
        return Source(f"hub:{hub}", f"hub:{write_hub(tmp_path / 'elsewhere')}")


def test_the_same_facts_as_from_mlama(hub: Path, tmp_path: Path, cache: Path) -> None:
    mlama = prepare_facts(f"mlama:{write_mlama(tmp_path / 'mlama')}", cache=cache)
    assert prepare_facts(f"hub:{hub}", cache=cache).fingerprint == mlama.fingerprint


def test_json_lines_in_the_working_directory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, hub: Path
) -> None:
    (tmp_path / "mine").mkdir()
    rows = pq.read_table(hub / "test.parquet").drop_columns(["sub_uri", "obj_uri"]).to_pylist()
    for row in rows:
        row["relation"] = row.pop("predicate_id")
    (tmp_path / "mine" / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    store = prepare_facts("hub:./mine", cache=cache)
    assert store.languages == ("de", "en", "zh")
    assert set(store.facts("en")["obj_uri"].to_pylist()) == {""}


def test_object_lists_may_be_given(hub: Path, tmp_path: Path, cache: Path) -> None:
    lists = write_object_lists(tmp_path / "objects")
    store = prepare_facts(f"hub:{hub}", pools=str(lists), cache=cache)
    assert "Madrid" in store.pools("en")["P36"].candidates


def test_an_id_and_a_revision_go_to_datasets(hub: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = datasets.load_dataset(str(hub))
    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, revision: str | None) -> datasets.DatasetDict:
        asked.append((name, revision))
        return local

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    store = prepare_facts("hub:someone/m_lama@abc123", cache=cache)
    assert asked == [("someone/m_lama", "abc123")]
    assert store.fingerprint == prepare_facts(f"hub:{hub}", cache=cache).fingerprint


def test_a_hub_that_cannot_be_reached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, revision: str | None) -> datasets.DatasetDict:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"hub:someone/m_lama cannot be loaded as a dataset \(no network\)"):
        prepare_facts("hub:someone/m_lama", cache=cache)


def rewrite(hub: Path, column: str, values: object) -> None:
    table = pq.read_table(hub / "test.parquet")
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, pa.array([values] * table.num_rows)), hub / "test.parquet")


def test_missing_columns_are_all_named(hub: Path, cache: Path) -> None:
    table = pq.read_table(hub / "test.parquet").rename_columns({"sub_label": "sub_lable", "uuid": "id"})
    pq.write_table(table, hub / "test.parquet")
    with pytest.raises(UserError) as caught:
        prepare_facts(f"hub:{hub}", cache=cache)
    assert len(caught.value.problems) == 2
    assert any("Did you mean 'sub_lable'" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("obj_label", ["a", "list"], "the column 'obj_label' holds list<"),
        ("language", "../../out", "'../../out' is no language code"),
        ("language", "", "some rows name no language"),
        ("template", "no slots", r"which has no \[Y\]"),
    ],
)
def test_faulty_values(hub: Path, cache: Path, column: str, values: object, expected: str) -> None:
    rewrite(hub, column, values)
    with pytest.raises(UserError, match=expected):
        prepare_facts(f"hub:{hub}", cache=cache)


def test_empty_cells_are_counted(hub: Path, cache: Path) -> None:
    table = pq.read_table(hub / "test.parquet").to_pylist()
    table[0]["obj_uri"] = None
    pq.write_table(pa.Table.from_pylist(table), hub / "test.parquet")
    with pytest.raises(UserError, match="1 rows of 'en' have nothing in 'obj_uri'"):
        prepare_facts(f"hub:{hub}", cache=cache)


def test_a_folder_that_is_not_there(cache: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepare_facts("hub:./no-such-folder", cache=cache)
