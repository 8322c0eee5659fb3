"""BMLAMA: parallel rows, their templates and candidates, and damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.data import prepare_facts
from orchestrator.data.loaders.bmlama import candidates_of, template_of
from orchestrator.errors import UserError
from tests.data.contract import LoaderContract, Source
from tests.data.samples import tarred, write_bmlama, zipped


@pytest.fixture
def bmlama(tmp_path: Path) -> Path:
    return write_bmlama(tmp_path / "BMLAMA2")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestBmlamaLoader(LoaderContract):
    @pytest.fixture
    def source(self, tmp_path: Path, bmlama: Path) -> Source:
        return Source(f"bmlama:{bmlama}", f"bmlama:{tarred(bmlama, tmp_path / 'bmlama.tar.xz')}")


def test_rows_are_facts(bmlama: Path, cache: Path) -> None:
    store = prepare_facts(f"bmlama:{bmlama}", cache=cache)
    first, second, third = store.facts("en").to_pylist()
    assert (first["uuid"], first["template"], first["subject"], first["object"]) == (
        "00000",
        "[X] died in [Y].",
        "Michelangelo",
        "Rome",
    )
    assert second["template"] == 'The capital of [X], or "la France", is [Y].'
    assert second["candidates"] == ["Rome", "Berlin", "Paris"]
    assert third["template"] == "[Y] is the capital of [X]."
    assert store.pools("en")["bmlama"].candidates == ("Berlin", "Paris", "Rome", "Venice")


def test_a_prompt_without_its_subject_stays_whole(bmlama: Path, cache: Path) -> None:
    fact = prepare_facts(f"bmlama:{bmlama}", cache=cache).facts("de").to_pylist()[2]
    assert (fact["template"], fact["subject"]) == ("Die Hauptstadt des Landes ist [Y].", "Italien")


def test_zip_and_tar_hold_the_same_facts(bmlama: Path, cache: Path, tmp_path: Path) -> None:
    archives = (zipped(bmlama, tmp_path / "b.zip"), tarred(bmlama, tmp_path / "b.tar.xz"))
    assert len({prepare_facts(f"bmlama:{path}", cache=cache).fingerprint for path in archives}) == 1


def test_the_published_header_with_an_extra_tab_is_read(bmlama: Path, cache: Path) -> None:
    file = bmlama / "en.tsv"
    file.write_bytes(file.read_bytes().replace(b"Ans\tCandidate", b"Ans\t\tCandidate", 1))
    assert prepare_facts(f"bmlama:{bmlama}", cache=cache).count("en") == 3


@pytest.mark.parametrize(
    ("prompt", "subject", "template"),
    [
        ("A is in <mask>, says A.", "A", "[X] is in [Y], says A."),
        ("<mask> made it, so did mask", "mask", "[Y] made it, so did [X]"),
        ("<mask>", "x", "[Y]"),
    ],
)
def test_template_of_a_prompt(prompt: str, subject: str, template: str) -> None:
    assert template_of(prompt, subject) == template


def test_an_answer_with_a_comma_stays_whole() -> None:
    assert candidates_of("Paris, Washington, D.C.", "Washington, D.C.") == ["Paris", "Washington, D.C."]


def rewritten(bmlama: Path, old: str, new: str) -> Path:
    file = bmlama / "en.tsv"
    file.write_bytes(file.read_bytes().decode().replace(old, new).encode())
    return bmlama


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("died in <mask>", "died in Rome", "en.tsv:2: the prompt has <mask> 0 times"),
        ("Michelangelo died", "[Y] Michelangelo died", "en.tsv:2: the prompt holds [X] or [Y]"),
        ("Venice, Rome", "Venice, Milan", "en.tsv:2: the answer 'Rome' is not among its candidates"),
        ("\tMichelangelo\r", "\t\r", "en.tsv:2: the answer, the candidates or the subject is empty"),
        ("\tMichelangelo\r", "\r", "en.tsv:2: 3 columns instead of 4"),
        ("<mask> is the capital", '"<mask> is the capital', "a quotation mark is left open"),
        ("Prompt\t", "Question\t", "en.tsv:1: the header is"),
    ],
)
def test_damaged_rows_are_named(bmlama: Path, cache: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare_facts(f"bmlama:{rewritten(bmlama, old, new)}", cache=cache)
    assert expected in caught.value.problems[0]


def test_files_that_are_not_parallel_are_refused(bmlama: Path, cache: Path) -> None:
    (bmlama / "fr.tsv").write_bytes((bmlama / "de.tsv").read_bytes())
    rewritten(bmlama, "<mask> is the capital of Italy.\tRome\tRome\tItaly\r\n", "")
    with pytest.raises(UserError, match=r"en\.tsv has 2 rows where most languages have 3"):
        prepare_facts(f"bmlama:{bmlama}", cache=cache)


def test_two_files_for_a_language_are_ambiguous(bmlama: Path, cache: Path, tmp_path: Path) -> None:
    write_bmlama(bmlama / "again")
    with pytest.raises(UserError, match="two files for 'de'"):
        prepare_facts(f"bmlama:{bmlama}", cache=cache)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is not BMLAMA"):
        prepare_facts(f"bmlama:{tmp_path / 'empty'}", cache=cache)
