"""The split for editing: cut in stored order, rounded as Python rounds, without a subject in two splits."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data import FactSelection, prepare_facts
from orchestrator.data.editing_split import SPLITS, cut, prepare_editing_split
from orchestrator.errors import UserError
from tests.data.samples import write_bmlama, write_lines


def plain_cut(relations: list[str]) -> list[int]:
    """The rule in a loop."""
    parts = [0] * len(relations)
    for relation in set(relations):
        rows = [row for row, name in enumerate(relations) if name == relation]
        first, second = round(len(rows) * 8 / 10), round(len(rows) * 9 / 10)
        for place, row in enumerate(rows):
            parts[row] = 0 if place < first else 1 if place < second else 2
    return parts


@pytest.mark.parametrize(("facts", "sizes"), [(5, [4, 0, 1]), (15, [12, 2, 1]), (10, [8, 1, 1]), (1, [1, 0, 0])])
def test_halves_are_rounded_to_the_even_neighbour(facts: int, sizes: list[int]) -> None:
    parts = cut(pa.chunked_array([["P19"] * facts]))
    assert np.bincount(parts, minlength=3).tolist() == sizes
    assert sorted(parts) == list(parts)


@given(st.lists(st.sampled_from(["P17", "P19", "P36"]), max_size=60))
def test_relations_are_cut_apart_however_they_are_mixed(relations: list[str]) -> None:
    assert cut(pa.chunked_array([pa.array(relations, pa.string())])).tolist() == plain_cut(relations)


def write_source(folder: Path, subjects: dict[str, dict[str, list[str]]]) -> Path:
    """An mLAMA folder: language -> relation -> the subjects of its facts in stored order."""
    for language, relations in subjects.items():
        (folder / language).mkdir(parents=True)
        templates = [{"relation": relation, "template": "[X] is [Y] ."} for relation in relations]
        write_lines(folder / language / "templates.jsonl", templates)
        for relation, names in relations.items():
            rows = [
                {
                    "sub_uri": name,
                    "obj_uri": "Q0",
                    "sub_label": name,
                    "obj_label": "object",
                    "lineid": number,
                    "uuid": f"{relation}-{name}",
                }
                for number, name in enumerate(names)
            ]
            write_lines(folder / language / f"{relation}.jsonl", rows)
    return folder


def test_a_subject_is_in_one_split_in_all_languages_and_relations(tmp_path: Path) -> None:
    # Stored order is not the alphabet's. English cuts "b" into test and "a" into dev, German "c" into test.
    english = {"P1": ["z", "y", "x", "w", "v", "u", "t", "s", "a", "b"]}
    german = {"P1": ["b", "y", "x", "w", "v", "u", "t", "s", "k", "c"], "place_of_birth": ["z"] * 0 + ["q"]}
    folder = write_source(tmp_path / "mlama", {"en": english, "de": german})
    split = prepare_editing_split(prepare_facts(f"mlama:{folder}", cache=tmp_path / "c"), cache=tmp_path / "c")

    def subjects(part: str, language: str) -> list[str]:
        facts = split.facts.facts(language)
        return facts["subject"].take(pa.array(split.rows(part, language))).to_pylist()  # type: ignore[arg-type]

    assert subjects("train", "en") == ["s", "t", "u", "v", "w", "x", "y", "z"]
    assert subjects("dev", "en") == ["a"]
    assert subjects("test", "en") == []  # "b" is trained on in German
    assert subjects("test", "de") == ["c"]
    assert split.parts("en").tolist().count(-3) == 1


def test_the_selection_does_not_change_the_split(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    whole = prepare_editing_split(prepare_facts("atlas", cache=cache), cache=cache)
    some = FactSelection(languages=("de", "ko"), relations=("P17", "P38"))
    part = prepare_editing_split(prepare_facts("atlas", selection=some, cache=cache), cache=cache)
    assert part.path == whole.path
    assert part.fingerprint != whole.fingerprint
    assert pickle.loads(pickle.dumps(part)) == part

    def by_uuid(split: object) -> dict[str, int]:
        return dict(zip(split.facts.facts("ko")["uuid"].to_pylist(), split.parts("ko").tolist(), strict=True))  # type: ignore[attr-defined]

    assert by_uuid(part).items() <= by_uuid(whole).items()


def test_the_built_in_facts_are_split_alike_in_all_languages(tmp_path: Path) -> None:
    split = prepare_editing_split(prepare_facts("atlas", cache=tmp_path), cache=tmp_path)
    for language in split.facts.languages:
        assert [len(split.rows(name, language)) for name in SPLITS] == [814, 66, 59]


def test_sources_that_do_not_name_subjects_are_refused(tmp_path: Path) -> None:
    facts = prepare_facts(f"bmlama:{write_bmlama(tmp_path / 'bmlama')}", cache=tmp_path / "cache")
    with pytest.raises(UserError, match="without the URI of their subject"):
        prepare_editing_split(facts, cache=tmp_path / "cache")


@pytest.mark.slow
def test_the_published_counts(real_data: Path, tmp_path: Path) -> None:
    facts = prepare_facts(f"mlama:{real_data / 'mlama1.1.zip'}", cache=tmp_path)
    split = prepare_editing_split(facts, cache=tmp_path)
    counts: collections.Counter[int] = collections.Counter()
    subjects: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    for language in facts.languages:
        parts = split.parts(language)
        counts.update(parts.tolist())
        for part, found in subjects.items():
            rows = pa.array(np.flatnonzero(parts == part))
            found.update(facts.facts(language)["sub_uri"].take(rows).to_pylist())
    assert (counts[0], counts[1], counts[2]) == (628_612, 23_718, 53_993)
    assert (counts[0], counts[1] + counts[-2], counts[2] + counts[-3]) == (628_612, 78_555, 78_600)
    assert not subjects[0] & subjects[1]
    assert not subjects[0] & subjects[2]
    assert not subjects[1] & subjects[2]
