"""XNLI as published, and everything that may be wrong with it."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path

import pytest

from orchestrator.data import archives
from orchestrator.data.labelled import prepare_labelled
from orchestrator.errors import UserError
from tests.data.labelled_contract import LabelledContract
from tests.data.samples import tarred, zipped

PAIRS = {
    "en": [
        "A dog runs.\tAn animal moves.\tentailment",
        "A dog runs.\tIt is brown.\tneutral",
        "No.\tYes.\tcontradiction",
    ],
    "de": ["Ein Hund.\tEin Tier.\tentailment", "Ein Hund.\tBraun.\tneutral", "Nein.\tJa.\tcontradiction"],
}


def write_xnli(folder: Path, splits: tuple[str, ...] = ("train", "dev", "test")) -> Path:
    """The same three pairs in each split; German packed as .xz, English dev as .gz."""
    folder.mkdir()
    for split in splits:
        for language, lines in PAIRS.items():
            text = ("\n".join(lines) + "\n").encode()
            if language == "de":
                (folder / f"{split}-de.tsv.xz").write_bytes(lzma.compress(text))
            elif split == "dev":
                (folder / "dev-en.tsv.gz").write_bytes(gzip.compress(text))
            else:
                (folder / f"{split}-en.tsv").write_bytes(text)
    return folder


class TestXnliLoader(LabelledContract):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"xnli:{write_xnli(tmp_path / 'xnli')}"


class TestBuiltInClaims(LabelledContract):
    @pytest.fixture
    def address(self) -> str:
        return "atlas"


def test_rows_are_pairs_with_numbered_labels(tmp_path: Path) -> None:
    store = prepare_labelled(f"xnli:{write_xnli(tmp_path / 'xnli')}", cache=tmp_path / "cache")
    assert store.labels == ("entailment", "neutral", "contradiction")
    assert store.rows("dev", "de").to_pylist()[1] == {
        "uuid": "dev-000002",
        "text": "Ein Hund.",
        "pair": "Braun.",
        "label": 1,
        "rephrasings": [],
    }


def test_archives_hold_the_same_as_the_folder(tmp_path: Path) -> None:
    folder = write_xnli(tmp_path / "xnli")
    zip_, tar = zipped(folder, tmp_path / "x.zip"), tarred(folder, tmp_path / "x.tar.xz")
    stores = [prepare_labelled(f"xnli:{place}", cache=tmp_path / "cache") for place in (folder, zip_, tar)]
    assert len({store.fingerprint for store in stores}) == 1


def test_the_published_training_files_are_read(tmp_path: Path) -> None:
    folder = write_xnli(tmp_path / "xnli", ("dev", "test"))
    text = "premise\thypo\tlabel\nNo.\tYes.\tcontradictory\nA.\tB.\tneutral\n"
    (folder / "multinli.train.en.tsv").write_text(text)
    store = prepare_labelled(f"xnli:{folder}", cache=tmp_path / "cache")
    assert store.rows("train", "en")["label"].to_pylist() == [2, 1]
    assert store.rows("train", "en")["uuid"].to_pylist() == ["train-000001", "train-000002"]


def test_without_training_files_dev_is_cut_between_premises(tmp_path: Path) -> None:
    store = prepare_labelled(f"xnli:{write_xnli(tmp_path / 'xnli', ('dev', 'test'))}", cache=tmp_path / "cache")
    assert store.splits == ("train", "dev", "test")
    assert store.count("train", "en") == 2
    assert store.rows("dev", "de")["text"].to_pylist() == ["Nein."]
    assert "no training files" in store.warnings[0]


def test_all_mistakes_are_named_with_their_line(tmp_path: Path) -> None:
    folder = write_xnli(tmp_path / "xnli", ("dev", "test"))
    (folder / "test-en.tsv").write_text("only one field\nA.\tB.\tperhaps\nA.\t\tneutral\n")
    (folder / "test-fr.tsv").write_bytes(b"A.\tB.\tneutral\n\xff\tB.\tneutral\n")
    with pytest.raises(UserError) as caught:
        prepare_labelled(f"xnli:{folder}", cache=tmp_path / "cache")
    assert "test-fr.tsv:2: the line is not UTF-8" in str(caught.value)
    (folder / "test-fr.tsv").unlink()
    with pytest.raises(UserError) as caught:
        prepare_labelled(f"xnli:{folder}", cache=tmp_path / "cache")
    message = str(caught.value)
    for part in ("test-en.tsv:1: not premise", "test-en.tsv:2: 'perhaps' is no label", "test-en.tsv:3: not premise"):
        assert part in message
    assert list((tmp_path / "cache" / "labelled").glob("xnli*")) == []


def test_languages_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    folder = write_xnli(tmp_path / "xnli", ("dev", "test"))
    (folder / "test-fr.tsv").write_text("A.\tB.\tneutral\nC.\tD.\tneutral\n")
    with pytest.raises(UserError) as caught:
        prepare_labelled(f"xnli:{folder}", cache=tmp_path / "cache")
    assert "test-fr.tsv has 2 pairs, the languages before it 3" in str(caught.value)
    assert "another label than their translations (the first is number 1, with the id 'test-000001')" in str(
        caught.value
    )


def test_a_damaged_packed_file_is_named(tmp_path: Path) -> None:
    folder = write_xnli(tmp_path / "xnli")
    packed = folder / "test-de.tsv.xz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"test-de\.tsv.* is damaged or incomplete"):
        prepare_labelled(f"xnli:{folder}", cache=tmp_path / "cache")


def test_a_file_that_swells_absurdly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    bomb = lzma.compress(b"A.\tB.\tneutral\n" * 200_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("dev-en.tsv.xz", bomb)
    with pytest.raises(UserError, match="more than 200 times"):
        prepare_labelled(f"xnli:{tmp_path / 'x.zip'}", cache=tmp_path / "cache")


def test_wrong_places_and_languages_say_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'xnli'"):
        prepare_labelled("xnly:folder", cache=tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        prepare_labelled(f"xnli:{tmp_path / 'nowhere'}", cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not XNLI"):
        prepare_labelled(f"xnli:{tmp_path / 'empty'}", cache=tmp_path)
    with pytest.raises(UserError) as caught:
        prepare_labelled(f"xnli:{write_xnli(tmp_path / 'x')}", languages=["dee", "qq"], cache=tmp_path)
    assert len(caught.value.problems) == 2


def test_claims_of_one_subject_stay_together(tmp_path: Path) -> None:
    store = prepare_labelled("atlas", languages=["en", "de"], cache=tmp_path)
    assert store.splits == ("train", "dev", "edit", "test")
    assert sum(store.count(split, "de") for split in store.splits) == 2_036
    assert all(rephrasings for rephrasings in store.rows("edit", "en")["rephrasings"].to_pylist())


def test_the_real_files(real_data: Path, tmp_path: Path) -> None:
    store = prepare_labelled(f"xnli:{real_data / 'xnli'}", cache=tmp_path)
    assert len(store.languages) == 15
    for language in store.languages:
        assert store.count("train", language) + store.count("dev", language) == 2_490
        assert store.count("test", language) == 5_010
    assert store.rows("test", "en")["label"].to_numpy().tolist().count(0) == 1_670
