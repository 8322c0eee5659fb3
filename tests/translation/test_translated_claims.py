"""Claims are translated into files that the loader reads, as a whole or not at all, and each once."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import translated_claims
from methods.translated_claims import prepare_translations
from orchestrator.data.labelled import LabelledStore, prepare_labelled
from orchestrator.data.translations import TranslationFile
from orchestrator.errors import UserError
from tests.conftest import ROOT
from tests.data.samples import write_lines
from tests.translation.tiny import bilingual, multilingual, saved

LABELS = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
LANGUAGES = {"de": None, "fr": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "tiny", multilingual())


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """Forty claims with rephrasings, in a file alone."""
    path = tmp_path / "data" / "claims.jsonl"
    path.parent.mkdir()
    rows = [
        {
            "id": number,
            "claim": f"Claim {number} is number {number}.",
            "label": LABELS[number % 3],
            "rephrases": [f"It is said: {number}."] * (number % 2),
        }
        for number in range(40)
    ]
    write_lines(path, rows)
    return path


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written every few claims."""
    monkeypatch.setattr(translated_claims, "TEXTS_AT_ONCE", 6)


def loaded(claims: Path, cache: Path) -> LabelledStore:
    return prepare_labelled(f"fever:{claims}", cache=cache)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_loader_reads_what_was_written(model: Path, claims: Path, tmp_path: Path) -> None:
    done = prepare_translations(model, claims, LANGUAGES)
    assert [path.name for path in done.files] == ["claims.de.jsonl", "claims.fr.jsonl"]
    assert (done.failed, done.claims) == (0, 2 * len([number for number in range(40) if number % 3 < 2]) - 2 * 3)
    store = loaded(claims, tmp_path / "cache")
    assert store.languages == ("de", "en", "fr")
    for split in store.splits:
        german, english = (store.rows(split, language).to_pylist() for language in ("de", "en"))
        assert [row["uuid"] for row in german] == [row["uuid"] for row in english]
        assert [len(row["rephrasings"]) for row in german] == [len(row["rephrasings"]) for row in english]
        assert all(mine["text"] != row["text"] for mine, row in zip(german, english, strict=True))
    assert {row["translator"].split("@")[0] for row in rows(done.files[0])} == {"tiny"}
    assert sorted(path.name for path in claims.parent.glob("*")) == [
        *(".claims.de.jsonl.lock", ".claims.fr.jsonl.lock"),
        *("claims.de.jsonl", "claims.fr.jsonl", "claims.jsonl"),
    ]


def test_some_splits_come_first_and_others_join_them(model: Path, claims: Path, tmp_path: Path) -> None:
    (file,) = prepare_translations(model, claims, {"de": None}, splits=["edit"]).files
    first = rows(file)
    store = loaded(claims, tmp_path / "cache")
    assert {row["id"] for row in first} == set(store.rows("edit", "en")["uuid"].to_pylist())
    assert store.count("test", "de") == 0
    prepare_translations(model, claims, {"de": None}, splits=["edit", "test"])
    assert rows(file)[: len(first)] == first
    assert loaded(claims, tmp_path / "cache").count("test", "de") == store.count("test", "en")


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_translation_ends_as_an_undisturbed_one(
    model: Path, claims: Path, tmp_path: Path, after: int
) -> None:
    other = shutil.copytree(claims.parent, tmp_path / "other")
    expected = [path.read_bytes() for path in prepare_translations(model, other / "claims.jsonl", LANGUAGES).files]
    seen: list[float] = []

    def stop(name: str, share: float) -> None:
        seen.append(share)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_translations(model, claims, LANGUAGES, progress=stop)
    assert not (claims.parent / "claims.de.jsonl").exists()
    begun = claims.parent / ".claims.de.jsonl.part"
    with begun.open("ab") as file:
        file.write(b'{"id": "39", "claim": "half a li')
    assert "de" not in loaded(claims, tmp_path / "cache").languages
    shares: list[float] = []
    done = prepare_translations(model, claims, LANGUAGES, progress=lambda name, share: shares.append(share))
    assert [path.read_bytes() for path in done.files] == expected
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert not begun.exists()


def test_what_is_there_needs_no_model(model: Path, claims: Path, tmp_path: Path) -> None:
    prepare_translations(model, claims, LANGUAGES)
    said: list[str] = []
    done = prepare_translations(tmp_path / "nothing", claims, LANGUAGES, say=said.append)
    assert done.claims == 2 * 24
    done.files[0].rename(claims.parent / ".claims.de.jsonl.part")  # a kill just before the end
    prepare_translations(tmp_path / "nothing", claims, LANGUAGES)
    assert len(rows(done.files[0])) == 24
    assert said == [f"claims.{name}.jsonl: 24 claims, 24 of them translated already" for name in LANGUAGES]


def test_translations_of_two_models_do_not_mix(model: Path, claims: Path, tmp_path: Path) -> None:
    prepare_translations(model, claims, {"de": None}, splits=["edit"])
    other = saved(tmp_path / "another", multilingual(seed=1))
    with pytest.raises(UserError, match=r"was begun by tiny@.*, and now another@"):
        prepare_translations(other, claims, {"de": None})
    write_lines(claims.parent / "claims.fr.jsonl", [{"id": 1, "claim": "Une affirmation."}])
    with pytest.raises(UserError, match="was begun by hand, or another program"):
        prepare_translations(other, claims, {"fr": None})


def test_one_process_writes_a_file(claims: Path) -> None:
    with TranslationFile(claims.parent, "claims", "de").opened("one"):
        other = TranslationFile(claims.parent, "claims", "de")
        with pytest.raises(UserError, match="is being written by another process"), other.opened("one"):
            pass


def test_claims_without_a_translation_are_left_out(claims: Path, tmp_path: Path) -> None:
    endless = saved(tmp_path / "endless", multilingual(ends=False))
    done = prepare_translations(endless, claims, {"de": None}, splits=["edit"])
    assert (done.claims, done.failed) == (0, 2)
    assert done.files[0].read_bytes() == b""


def test_a_folder_of_its_own_gets_the_claims_too(model: Path, claims: Path, tmp_path: Path) -> None:
    output = tmp_path / "copies"
    prepare_translations(model, claims, {"de": None}, output=output, splits=["edit"])
    assert loaded(output / "claims.jsonl", tmp_path / "cache").languages == ("de", "en")
    assert not list(claims.parent.glob("claims.*.jsonl"))
    claims.write_text(claims.read_text() + json.dumps({"id": 99, "claim": "New.", "label": "REFUTES"}) + "\n")
    with pytest.raises(UserError, match="would lie beside other claims"):
        prepare_translations(model, claims, {"de": None}, output=output)


def test_all_mistakes_are_told_before_anything_is_translated(model: Path, claims: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'edits'.* Did you mean 'edit'"):
        prepare_translations(model, claims, LANGUAGES, splits=["edits"])
    with pytest.raises(UserError) as caught:
        prepare_translations(model, claims, {"en": None, "../de": None})
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError) as caught:
        prepare_translations(model, claims, {"ja": None, "fr": None, "zh": "zho_Hans"})
    assert len(caught.value.problems) == 2
    pair = saved(tmp_path / "pair", bilingual())
    with pytest.raises(UserError, match="Run this once for each language"):
        prepare_translations(pair, claims, LANGUAGES)
    with pytest.raises(UserError, match="is no file of claims"):
        prepare_translations(model, pair / "config.json", LANGUAGES)
    assert prepare_translations(pair, claims, {"de": None}, splits=["edit"]).claims == 2


def job(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the script in this process."""
    threads = ["--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["jobs/prepare_translations.py", *words, *threads])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "prepare_translations.py"), run_name="__main__")
    return int(stop.value.code or 0)


def test_the_script_says_how_far_it_is_and_where_it_ends(
    model: Path, claims: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(model), "--claims", str(claims)]
    assert job(monkeypatch, *options, "--languages", "de,fr", "--splits", "edit", "test") == 0
    told = capsys.readouterr().out
    assert "claims.de.jsonl: 4 claims, 0 of them translated already" in told
    assert "8 translated claims in 2 files:" in told
    assert f"as fever:{claims}" in told
    assert job(monkeypatch, *options, "--languages", "de", "de", "fr=", "--beams", "0") == 2
    assert capsys.readouterr().err.count("\n- ") == 3
    assert job(monkeypatch, "--claims", str(claims), "--languages", "de") == 2
    assert "--model" in capsys.readouterr().err


def test_published_claims_are_translated(model: Path, real_data: Path, tmp_path: Path) -> None:
    source = real_data / "fever" / "paper_dev.jsonl.gz"
    done = prepare_translations(model, source, {"de": None}, output=tmp_path / "out", splits=["edit"])
    store = loaded(tmp_path / "out" / "paper_dev.jsonl.gz", tmp_path / "cache")
    assert store.count("edit", "en") == 666
    assert done.claims == store.count("edit", "de") == 666 - done.failed
    assert done.failed < 10
