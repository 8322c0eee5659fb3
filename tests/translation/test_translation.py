"""Translators: each kind of model is told its language, batches change nothing, and what has no end is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.translation import TOKENS_AT_ONCE, Translator, load_translator
from orchestrator.errors import UserError
from tests.translation.tiny import MARKS, bilingual, multilingual, saved

TEXTS = ["Hello there.", "Sean Penn is only ever a stage actor.", "A", "The Cretaceous ended.", "Hello there."]
KINDS: dict[str, tuple[Any, str | None]] = {
    "language token first": (multilingual, "deu_Latn"),
    "mark before the sentence": (lambda: bilingual(marks=True), "fra"),
    "one pair": (bilingual, None),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Translator, str | None]:
    make, code = KINDS[request.param]
    return Translator(*make()), code


def plain(translator: Translator, text: str, code: str | None) -> str:
    """One sentence the obvious way."""
    tokenizer, more = translator.tokenizer, {}
    if code is not None and translator.marks:
        text = f">>{code}<< {text}"
    elif code is not None:
        more["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(code)
    batch = tokenizer(text, return_tensors="pt")
    output = translator.hf.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_length=60, **more)
    return str(tokenizer.decode(output[0], skip_special_tokens=True)).strip()


def test_batches_say_what_single_sentences_say(kind: tuple[Translator, str | None]) -> None:
    translator, code = kind
    seen: list[int] = []
    found = translator.translate(TEXTS, code, seen.append)
    assert found == [plain(translator, text, code) for text in TEXTS]
    assert len(set(found)) > 2
    assert sum(seen) == sum(map(len, TEXTS))


def test_many_sentences_take_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Translator(*multilingual())
    together = translator.translate(TEXTS, "fra_Latn")
    assert together != translator.translate(TEXTS, "deu_Latn")
    assert 40 * len(TEXTS) < TOKENS_AT_ONCE
    monkeypatch.setattr("methods.translation.TOKENS_AT_ONCE", 40)
    seen: list[int] = []
    assert translator.translate(TEXTS, "fra_Latn", seen.append) == together
    assert len(seen) > 2


def test_beams_are_searched() -> None:
    greedy, wide = Translator(*multilingual()), Translator(*multilingual(), beams=4)
    assert (greedy.beams, wide.beams) == (1, 4)
    found = wide.translate(TEXTS, "fra_Latn")
    assert all(found)
    assert found != greedy.translate(TEXTS, "fra_Latn")


def test_language_tokens_are_no_part_of_a_translation() -> None:
    hf, tokenizer = multilingual()
    expected = Translator(*multilingual()).translate(TEXTS, "fra_Latn")
    tokenizer.batch_decode = lambda rows, **_: type(tokenizer).batch_decode(tokenizer, rows)
    said = Translator(hf, tokenizer).translate(TEXTS, "fra_Latn")
    assert all("fra_Latn" not in (text or "") for text in said)
    assert [text and text.replace("</s>", "").replace("<pad>", "").strip() for text in said] == expected


def test_what_has_no_end_is_no_translation() -> None:
    assert Translator(*multilingual(ends=False)).translate(TEXTS[:2], "fra_Latn") == [None, None]


def test_codes_are_found() -> None:
    translator = Translator(*multilingual())
    assert [translator.code_of(name) for name in ("de", "fr", "deu_Latn")] == ["deu_Latn", "fra_Latn", "deu_Latn"]
    assert translator.code_of("gsw", "deu_Latn") == "deu_Latn"
    assert translator.code_of("deu") == "deu_Latn"
    for asked in (("ja",), ("de", "ger_Latn")):
        with pytest.raises(UserError, match=r"=CODE with one of its codes: .*fra_Latn|=CODE with one of its codes: de"):
            translator.code_of(*asked)
    marked = Translator(*bilingual(marks=True))
    assert list(marked.codes.values()) == list(MARKS)
    assert marked.code_of("de", "deu") == "deu"
    assert Translator(*bilingual()).code_of("de") is None


def test_long_texts_are_named() -> None:
    with pytest.raises(UserError, match=r"'aaaa.* has 2.. tokens and the model takes at most 128"):
        Translator(*multilingual()).check(["short", "a" * 200])


def test_a_folder_gives_the_same_translator(tmp_path: Path) -> None:
    made = multilingual()
    expected = Translator(*multilingual()).translate(TEXTS, "fra_Latn")
    translator, name = load_translator(saved(tmp_path / "tiny", made))
    assert translator.translate(TEXTS, "fra_Latn") == expected
    assert name.startswith("tiny@")
    assert name.endswith(", 1 beam")
    other = load_translator(saved(tmp_path / "other", multilingual(seed=1)), beams=2)[1]
    assert other.split("@")[1] != name.split("@")[1]


def test_a_missing_tokenizer_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "marian", bilingual())
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    (folder / "source.spm").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentencepiece"):
        load_translator(folder)


def test_folders_that_are_no_translator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        load_translator(tmp_path / "nothing")
    folder = saved(tmp_path / "pickled", multilingual())
    weights = folder / "model.safetensors"
    weights.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="can run code when they are read"):
        load_translator(folder)
    folder = saved(tmp_path / "encoder", bilingual())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "bert", "architectures": ["BertForMaskedLM"], "is_encoder_decoder": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is BertForMaskedLM, which is no sequence-to-sequence model"):
        load_translator(folder)
