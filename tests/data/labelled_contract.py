"""What every source of labelled texts must fulfil. A new loader's tests supply a fixture and inherit all checks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from orchestrator.data import labelled as labelled_module
from orchestrator.data.labelled import LabelledStore, prepare_labelled
from orchestrator.data.loaders.labelled import LABELLED_SCHEMA


class LabelledContract:
    """Subclasses define ``address(self, tmp_path) -> str`` as a fixture: a small valid source."""

    @pytest.fixture
    def store(self, address: str, tmp_path: Path) -> LabelledStore:
        return prepare_labelled(address, cache=tmp_path / "cache")

    def test_every_split_has_the_schema_and_known_labels(self, store: LabelledStore) -> None:
        assert store.splits
        for split in store.splits:
            for language in store.languages:
                rows = store.rows(split, language)
                assert rows.schema.equals(LABELLED_SCHEMA)
                assert rows.num_rows == store.count(split, language)
                assert set(rows["label"].to_pylist()) <= set(range(len(store.labels)))
                assert all(text.strip() for text in rows["text"].to_pylist())

    def test_no_text_is_in_two_splits(self, store: LabelledStore) -> None:
        for language in store.languages:
            uuids = [u for split in store.splits for u in store.rows(split, language)["uuid"].to_pylist()]
            assert len(set(uuids)) == len(uuids)

    def test_translations_have_the_same_label_and_order(self, store: LabelledStore) -> None:
        for split in store.splits:
            by_language = [
                dict(zip(*(store.rows(split, language)[name].to_pylist() for name in ("uuid", "label")), strict=True))
                for language in store.languages
            ]
            longest = max(by_language, key=len)
            for labels in by_language:
                assert labels == {uuid: label for uuid, label in longest.items() if uuid in labels}
                assert list(labels) == [uuid for uuid in longest if uuid in labels]

    def test_preparing_again_gives_the_same_bytes(self, store: LabelledStore, address: str, tmp_path: Path) -> None:
        again = prepare_labelled(address, cache=tmp_path / "another cache")
        assert again.path.name == store.path.name
        assert again.fingerprint == store.fingerprint
        for shard in store.path.rglob("*.arrow"):
            assert shard.read_bytes() == (again.path / shard.relative_to(store.path)).read_bytes()

    def test_what_is_prepared_is_used_again(
        self, store: LabelledStore, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("prepared twice")

        monkeypatch.setattr(labelled_module, "write_stream", refuse)
        assert prepare_labelled(address, cache=tmp_path / "cache") == store

    def test_the_store_is_small_and_survives_pickling(self, store: LabelledStore) -> None:
        assert pickle.loads(pickle.dumps(store)) == store
        assert len(pickle.dumps(store)) < 2048

    def test_languages_come_in_the_order_asked_for(self, store: LabelledStore, address: str, tmp_path: Path) -> None:
        backwards = tuple(reversed(store.languages))
        assert prepare_labelled(address, languages=backwards, cache=tmp_path / "cache").languages == backwards
