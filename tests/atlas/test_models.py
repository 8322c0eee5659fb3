"""The built-in models: they load like any other, know what their cards say, and the script that makes them works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from atlas.evaluate_models import causal_hits, hits_in, load, masked_hits
from atlas.model_card import write_card
from atlas.tokenizer_training import byte_level_bpe, wordpiece
from atlas.train_models import NO_LABEL, causal_encoder, causal_labels, mask_tokens, masked_encoder, train
from atlas.training_text import TrainingText, cut

MODELS = Path(__file__).resolve().parents[2] / "atlas" / "models"
KINDS = ("bert", "bloom")


@pytest.fixture(scope="module")
def english() -> dict[str, bool]:
    """What atlas-bert knows of 100 facts in English."""
    return hits_in(MODELS / "atlas-bert", "en", 100)


class TestShippedModels:
    @pytest.mark.parametrize("kind", KINDS)
    def test_loads_offline_in_float32(self, kind: str) -> None:
        auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
        model = auto.from_pretrained(MODELS / f"atlas-{kind}", local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(MODELS / f"atlas-{kind}", local_files_only=True)
        assert type(model).__name__ == {"bert": "BertForMaskedLM", "bloom": "BloomForCausalLM"}[kind]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        assert len(tokenizer) == model.config.vocab_size

    @pytest.mark.parametrize("kind", KINDS)
    def test_files_are_small_and_plain(self, kind: str) -> None:
        files = [path for path in (MODELS / f"atlas-{kind}").iterdir() if path.is_file()]
        assert all(path.stat().st_size < 10_000_000 for path in files)
        assert {path.suffix for path in files} <= {".json", ".md", ".safetensors"}

    def test_special_tokens(self) -> None:
        bert = AutoTokenizer.from_pretrained(MODELS / "atlas-bert", local_files_only=True)
        bloom = AutoTokenizer.from_pretrained(MODELS / "atlas-bloom", local_files_only=True)
        ids = bert("The currency of Chile is the [MASK].").input_ids
        assert (ids[0], ids[-1]) == (bert.cls_token_id, bert.sep_token_id)
        assert ids.count(bert.mask_token_id) == 1
        assert bloom.bos_token == "<s>"
        assert bloom.bos_token_id not in bloom("Chile").input_ids
        assert bloom.decode(bloom("智利 is Χιλή").input_ids) == "智利 is Χιλή"

    def test_masked_model_knows_most_facts_in_english(self, english: dict[str, bool]) -> None:
        assert len(english) == 100
        assert sum(english.values()) / len(english) > 0.8

    def test_causal_model_knows_most_facts_in_english(self) -> None:
        hits = hits_in(MODELS / "atlas-bloom", "en", 50)
        assert sum(hits.values()) / len(hits) > 0.8

    def test_other_languages_know_less_of_what_was_withheld(self, english: dict[str, bool]) -> None:
        rows = TrainingText().rows
        withheld = {row["uuid"] for row in rows if row["split"] == "withheld" and row["language"] == "ru"}
        russian = hits_in(MODELS / "atlas-bert", "ru", 100)
        asked = withheld & set(russian)
        assert sum(english[uuid] for uuid in asked) > sum(russian[uuid] for uuid in asked) + 0.2 * len(asked)

    @pytest.mark.parametrize("kind", KINDS)
    def test_card_names_the_command_and_all_languages(self, kind: str) -> None:
        card = (MODELS / f"atlas-{kind}" / "README.md").read_text(encoding="utf-8")
        record = json.loads((MODELS / f"atlas-{kind}" / "training.json").read_text(encoding="utf-8"))
        assert record["finished"]
        assert record["command"] in card
        assert all(f"\n| {language} | " in card for language in TrainingText().languages)


class TestProbes:
    """The probes of the evaluation script, against one forward per candidate."""

    QUERIES = (
        {"template": "The currency of [X] is the [Y].", "subject": "Chile", "object": "Euro", "uuid": "1"},
        {"template": "[Y] is the money of [X]", "subject": "Fiji", "object": "US Dollar", "uuid": "2"},
    )
    POOL = ("Chilean Peso", "Euro", "US Dollar")

    def best(self, scores: list[float]) -> str:
        return self.POOL[max(range(len(scores)), key=scores.__getitem__)]

    def test_causal_is_mean_log_likelihood_behind_bos(self) -> None:
        model, tokenizer, _ = load(MODELS / "atlas-bloom")
        for query in self.QUERIES:
            scores = []
            for candidate in self.POOL:
                text = query["template"].replace("[X]", query["subject"]).replace("[Y]", candidate)
                ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text).input_ids]])
                scores.append(-model(input_ids=ids, labels=ids).loss.item())
            for gold in self.POOL:
                hits = causal_hits(model, tokenizer, [query | {"object": gold}], self.POOL)
                assert hits == {query["uuid"]: gold == self.best(scores)}

    def test_masked_is_mean_log_probability_of_pieces(self) -> None:
        model, tokenizer, _ = load(MODELS / "atlas-bert")
        for query in self.QUERIES:
            scores = []
            for candidate in self.POOL:
                pieces = tokenizer(candidate, add_special_tokens=False).input_ids
                text = query["template"].replace("[X]", query["subject"])
                ids = tokenizer(text.replace("[Y]", " ".join(["[MASK]"] * len(pieces))), return_tensors="pt").input_ids
                logs = model(input_ids=ids).logits[ids == tokenizer.mask_token_id].log_softmax(-1)
                scores.append(sum(logs[k, piece].item() for k, piece in enumerate(pieces)) / len(pieces))
            for gold in self.POOL:
                hits = masked_hits(model, tokenizer, [query | {"object": gold}], self.POOL)
                assert hits == {query["uuid"]: gold == self.best(scores)}


class TestTraining:
    CORPUS = ("The currency of Chile is the Chilean Peso.", "智利的货币是智利比索。", "Валюта страны Чили")

    def test_masked_object_is_what_a_cloze_asks(self) -> None:
        tokenizer = wordpiece(self.CORPUS, 200)
        item = masked_encoder(tokenizer)(cut("en", "The currency of [X] is the [Y].", "Chile", "Chilean Peso"))
        ids, first, last = item
        assert tokenizer.decode(ids[first:last]) == "Chilean Peso"
        masked, labels = mask_tokens(item, tokenizer.mask_token_id, _Never())
        assert masked[first:last] == [tokenizer.mask_token_id] * (last - first)
        assert labels[first:last] == ids[first:last]
        assert set(labels[:first] + labels[last:]) == {NO_LABEL}

    def test_causal_labels_are_the_next_tokens(self) -> None:
        tokenizer = byte_level_bpe(self.CORPUS, 400)
        item = causal_encoder(tokenizer)(cut("zh", "[X]的货币是[Y]。", "智利", "智利比索"))
        ids, first, last = item
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[first:last]) == "智利比索"
        _, labels = causal_labels(item, _Never())
        assert labels[first - 1 : last - 1] == ids[first:last]
        assert labels[-1] == NO_LABEL

    @pytest.mark.parametrize("kind", KINDS)
    def test_same_seed_and_steps_give_the_same_model(self, kind: str, tmp_path: Path) -> None:
        for run in ("a", "b"):
            train(kind, tmp_path / run, steps=2, minutes=None, seed=1, rate=1e-3)
        weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("a", "b")]
        assert weights[0] == weights[1]
        model, tokenizer, _ = load(tmp_path / "a")
        assert len(tokenizer) == model.config.vocab_size

    def test_card_of_a_fresh_model(self, tmp_path: Path) -> None:
        train("bert", tmp_path, steps=1, minutes=None, seed=0, rate=1e-3)
        table = [{"language": "en", "seen": 0.9}]
        table.append({"language": "de", "seen": 0.8, "withheld": 0.25, "english on withheld": 0.75})
        write_card(tmp_path, table, majority=0.125, facts=None)
        card = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert "| de | 0.800 | 0.250 | 0.750 | +0.500 |" in card
        assert "--steps 1 --seed 0" in card


class _Never:
    """A random source under which nothing optional happens, and the object is always masked."""

    def __init__(self) -> None:
        self.drawn = 0

    def random(self) -> float:
        self.drawn += 1
        return 0.0 if self.drawn == 1 else 0.999
