"""FEVER claims, their translations, and everything that may be wrong with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.labelled import prepare_labelled
from orchestrator.data.loaders.fever import TENTHS, TENTHS_OF_ONE_FILE, Claim, _dealt
from orchestrator.errors import UserError
from tests.data.labelled_contract import LabelledContract
from tests.data.samples import write_lines

LABELS = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")


def claims(numbers: Sequence[int]) -> list[dict[str, object]]:
    """Published claims; every third one has too little evidence."""
    return [{"id": number, "claim": f"Claim {number}.", "label": LABELS[number % 3]} for number in numbers]


def kilt(numbers: Sequence[int]) -> list[dict[str, object]]:
    """Claims as in KILT, with rephrasings."""
    return [
        {
            "id": str(number),
            "input": f"Claim {number}.",
            "output": [{"answer": LABELS[number % 2]}],
            "rephrases": [f"It is said: claim {number}."],
        }
        for number in numbers
    ]


def write_fever(folder: Path) -> Path:
    """100 KILT claims for training, 30 published ones held out; some of each in German."""
    folder.mkdir()
    write_lines(folder / "fever-train-kilt.jsonl", kilt(range(100)))
    german = [{"id": n, "input": f"Behauptung {n}.", "rephrases": [f"Man sagt {n}."]} for n in range(100) if n % 5]
    write_lines(folder / "fever-train-kilt.de.jsonl", german)
    packed = "".join(json.dumps(claim) + "\n" for claim in claims(range(200, 230)))
    (folder / "fever-dev-kilt.jsonl.gz").write_bytes(gzip.compress(packed.encode()))
    write_lines(folder / "fever-dev-kilt.de.jsonl", [{"id": 200, "claim": "Behauptung 200."}])
    return folder


class TestFeverLoader(LabelledContract):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"fever:{write_fever(tmp_path / 'fever')}"


def test_training_claims_are_dealt_and_the_other_file_is_the_test(tmp_path: Path) -> None:
    store = prepare_labelled(f"fever:{write_fever(tmp_path / 'fever')}", cache=tmp_path / "cache")
    assert {split: store.count(split, "en") for split in store.splits} == {
        "train": 80,
        "dev": 10,
        "edit": 10,
        "test": 20,
    }
    assert store.warnings == (
        f"{tmp_path}/fever/fever-dev-kilt.jsonl: 10 claims without enough evidence were left out.",
    )
    first = store.rows("edit", "en").to_pylist()[0]
    assert first["text"] == f"Claim {first['uuid']}."
    assert first["rephrasings"] == [f"It is said: claim {first['uuid']}."]
    assert store.labels[first["label"]] == LABELS[int(first["uuid"]) % 2]


def test_translations_go_where_their_claims_go(tmp_path: Path) -> None:
    store = prepare_labelled(f"fever:{write_fever(tmp_path / 'fever')}", cache=tmp_path / "cache")
    german, english = (store.rows("train", language)["uuid"].to_pylist() for language in ("de", "en"))
    assert german == [uuid for uuid in english if int(uuid) % 5]
    assert store.rows("train", "de")["text"].to_pylist() == [f"Behauptung {uuid}." for uuid in german]


def test_one_file_is_dealt_into_all_splits(tmp_path: Path) -> None:
    write_lines(tmp_path / "claims.jsonl", claims(range(150)))
    write_lines(tmp_path / "claims.de.jsonl", [{"id": 1, "claim": "Behauptung."}])
    write_lines(tmp_path / "others.jsonl", claims(range(3)))
    store = prepare_labelled(f"fever:{tmp_path / 'claims.jsonl'}", cache=tmp_path / "cache")
    assert {split: store.count(split, "en") for split in store.splits} == {
        "train": 70,
        "dev": 10,
        "edit": 10,
        "test": 10,
    }
    assert store.languages == ("de", "en")
    (tmp_path / "claims.de.jsonl").rename(tmp_path / "claims.fr.jsonl")
    renamed = prepare_labelled(f"fever:{tmp_path / 'claims.jsonl'}", cache=tmp_path / "cache")
    assert renamed.languages == ("en", "fr")


def test_the_sizes_of_the_published_split() -> None:
    dealt = _dealt({str(n): Claim(str(n), 0, ()) for n in range(104_966)}, TENTHS)
    assert [len(uuids) for uuids in dealt.values()] == [83_972, 10_496, 10_496]


@given(texts=st.lists(st.sampled_from("abcdefgh"), max_size=60), one_file=st.booleans())
def test_equal_claims_are_never_parted(texts: list[str], one_file: bool) -> None:
    tenths = TENTHS_OF_ONE_FILE if one_file else TENTHS
    dealt = _dealt({str(number): Claim(text, 0, ()) for number, text in enumerate(texts)}, tenths)
    found: dict[str, set[str]] = {}
    for split, uuids in dealt.items():
        for uuid in uuids:
            found.setdefault(texts[int(uuid)], set()).add(split)
    assert all(len(splits) == 1 for splits in found.values())
    everywhere = [uuid for uuids in dealt.values() for uuid in uuids]
    assert len(set(everywhere)) == len(everywhere) >= sum(len(texts) * share // 10 for share in tenths.values())


def test_all_mistakes_are_named_with_their_line(tmp_path: Path) -> None:
    folder = write_fever(tmp_path / "fever")
    with (folder / "fever-train-kilt.jsonl").open("a") as file:
        file.write('{"id": 7, "input": "Again.", "output": [{"answer": "SUPPORTS"}]}\n{"id": 900\n\n')
        file.write('{"id": 901, "claim": "No label."}\n{"id": 902, "claim": "So so.", "label": "MAYBE"}\n')
    with (folder / "fever-train-kilt.de.jsonl").open("a") as file:
        file.write('{"id": 555, "claim": "Von niemandem."}\n')
    with pytest.raises(UserError) as caught:
        prepare_labelled(f"fever:{folder}", cache=tmp_path / "cache")
    message = str(caught.value)
    for part in (
        "kilt.jsonl:101: the id 7 is there a second time",
        "kilt.jsonl:102: not a claim in JSON",
        "kilt.jsonl:104: not a claim in JSON",
        "kilt.jsonl:105: not a claim in JSON",
        "kilt.de.jsonl:81: no English claim has the id 555",
    ):
        assert part in message
    assert len(caught.value.problems) == 5


def test_unclear_folders_are_refused(tmp_path: Path) -> None:
    folder = write_fever(tmp_path / "fever")
    write_lines(folder / "third.jsonl", claims(range(3)))
    with pytest.raises(UserError, match="3 files of English claims"):
        prepare_labelled(f"fever:{folder}", cache=tmp_path / "cache")
    (folder / "third.jsonl").unlink()
    (folder / "fever-dev-kilt.jsonl.gz").unlink()
    with pytest.raises(UserError, match="the English file is not beside it"):
        prepare_labelled(f"fever:{folder}", cache=tmp_path / "cache")
    for again, message in (("copy/claims.jsonl", "which is meant"), ("claims.en.jsonl", "a translation into English")):
        folder = tmp_path / Path(again).stem
        for name in ("claims.jsonl", again):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_lines(folder / name, claims(range(10)))
        with pytest.raises(UserError, match=message):
            prepare_labelled(f"fever:{folder}", cache=tmp_path / "cache")


def test_the_real_claims(real_data: Path, tmp_path: Path) -> None:
    store = prepare_labelled(f"fever:{real_data / 'fever' / 'paper_dev.jsonl.gz'}", cache=tmp_path)
    assert store.languages == ("en",)
    total = sum(store.count(split, "en") for split in store.splits)
    assert 6_600 < total < 6_700
    assert store.count("train", "en") == 7 * 6_666 // 10
