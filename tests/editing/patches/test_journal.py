"""The journal: whatever a kill leaves behind, it opens with the whole entries and goes on from there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.editing.patches.journal import LINES, TENSORS, Journal


def fill(folder: Path, entries: int, identity: str = "stream") -> None:
    journal = Journal(folder, identity)
    for number in range(len(journal.entries), entries):
        tensors = {"keys": torch.full((2, 3), float(number))} if number % 2 else {}
        journal.append({"edit": number, "text": "東京 \u2028"}, tensors)
    journal.close()


def read(folder: Path, identity: str = "stream") -> list[tuple[int, list[float]]]:
    journal = Journal(folder, identity)
    journal.close()
    return [(record["edit"], [float(t.mean()) for t in tensors.values()]) for record, tensors in journal.entries]


EXPECTED = [(number, [float(number)] if number % 2 else []) for number in range(6)]


def test_entries_come_back(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    assert read(tmp_path) == EXPECTED
    assert read(tmp_path) == EXPECTED


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.sampled_from([LINES, TENSORS]), st.booleans())
def test_a_log_cut_anywhere_keeps_its_whole_entries(share: float, name: str, garbage: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill(folder, 6)
        file = folder / name
        data = file.read_bytes()
        file.write_bytes(data[: int(share * len(data))] + (b"\xff{" if garbage else b""))
        kept = read(folder)
        assert kept == EXPECTED[: len(kept)]
        fill(folder, 6)
        assert read(folder) == EXPECTED


def test_another_stream_begins_anew(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    assert read(tmp_path, "other") == []
    assert read(tmp_path) == []


def test_weights_belong_to_a_number_of_requests(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "stream")
    journal.append({"edit": 0}, {})
    journal.replace_weights({"up": torch.ones(2)}, 1)
    journal.append({"edit": 1}, {})
    journal.close()
    journal = Journal(tmp_path, "stream")
    found = journal.read_weights()
    assert found is not None
    assert found[1] == 1
    journal.forget_after(1)
    journal.append({"edit": 7}, {})
    journal.close()
    assert [edit for edit, _ in read(tmp_path)] == [0, 7]
    assert Journal(tmp_path, "other").read_weights() is None
