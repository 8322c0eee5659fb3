"""Content hashes follow content alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data import content
from orchestrator.data.content import content_hash, table_hash

COLUMN = st.lists(st.none() | st.text(max_size=4), max_size=8)


@given(COLUMN, st.integers(0, 8), st.integers(0, 3))
def test_a_table_hash_ignores_chunks_offsets_and_encoding(values: list[str | None], cut: int, skip: int) -> None:
    plain = pa.table({"a": pa.array(values, pa.string())})
    longer = pa.array([*["x"] * skip, *values], pa.string()).slice(skip)
    chunked = pa.table({"a": pa.chunked_array([longer.slice(0, cut), longer.slice(cut)], pa.string())})
    encoded = pa.table({"a": plain["a"].dictionary_encode()})
    assert table_hash(plain) == table_hash(chunked) == table_hash(encoded)


@given(COLUMN, COLUMN)
def test_a_table_hash_tells_columns_apart(one: list[str | None], other: list[str | None]) -> None:
    hashes = {table_hash(pa.table({"a": pa.array(values, pa.string())})) for values in (one, other)}
    assert len(hashes) == (1 if one == other else 2)


LISTS = st.lists(st.none() | st.lists(st.text(max_size=2), max_size=3), max_size=5)


@given(LISTS, LISTS)
def test_a_table_hash_tells_lists_apart(one: list[list[str] | None], other: list[list[str] | None]) -> None:
    hashes = {table_hash(pa.table({"a": pa.array(v, pa.list_(pa.string()))})) for v in (one, other)}
    assert len(hashes) == (1 if one == other else 2)


def test_a_known_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "data"
    file.write_text("hello")
    first = content_hash(file, ("",), tmp_path / "memo")
    monkeypatch.setattr(content, "_file_hash", None)
    assert content_hash(file, ("",), tmp_path / "memo") == first
    monkeypatch.undo()
    file.write_text("hullo")
    assert content_hash(file, ("",), tmp_path / "memo") != first


def test_a_folder_is_its_names_and_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tsv").write_text("1")
    hashes = [content_hash(tmp_path / name, (".tsv",), tmp_path / "memo") for name in ("one", "two")]
    assert hashes[0] == hashes[1]
    (tmp_path / "two" / "a.tsv").rename(tmp_path / "two" / "b.tsv")
    assert content_hash(tmp_path / "two", (".tsv",), tmp_path / "memo") != hashes[0]
