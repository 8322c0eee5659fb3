"""The raw classifier: trained once, kept by content, and what it gets wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertForSequenceClassification

from methods.editing import classifier as classifier_module
from methods.editing.classifier import CARD, ClassifierConfig, RawClassifier, classifier_key, train_classifier
from methods.editing.examples import encode
from methods.editing.model import load_editable
from methods.editing.tasks import LabelledTask, prepare_task
from orchestrator.data.labelled import LabelledStore
from orchestrator.errors import UserError
from tests.backbone.tiny import FAMILIES, WORDS, tiny_model, tiny_tokenizer

QUICK = ClassifierConfig(learning_rate=3e-3, batch_size=8, epochs=40, patience=5, max_length=32)
PREMISES = {"en": "paris is the capital", "ru": "москва это столица"}
HYPOTHESES = {"en": ("france", "berlin", "asia"), "ru": ("россия", "язык", "земля")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random masked model in a folder."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LabelledTask:
    """Pairs whose label a single word of the hypothesis tells."""
    folder = tmp_path_factory.mktemp("xnli")
    for split, rows in (("train", 60), ("dev", 15), ("test", 21)):
        for language in PREMISES:
            lines = [
                f"{PREMISES[language]} {number}\t{HYPOTHESES[language][number % 3]}\t{label}\n"
                for number in range(rows)
                for label in [("entailment", "neutral", "contradiction")[number % 3]]
            ]
            (folder / f"{split}-{language}.tsv").write_text("".join(lines))
    data = prepare_task(f"xnli:{folder}", languages=["en", "ru"], cache=folder / "cache")
    assert isinstance(data, LabelledStore)
    return LabelledTask(data)


@pytest.fixture(scope="module")
def trained(base: str, task: LabelledTask, tmp_path_factory: pytest.TempPathFactory) -> RawClassifier:
    return train_classifier(base, task, QUICK, cache=tmp_path_factory.mktemp("cache"))


def test_it_learns_the_training_language(trained: RawClassifier, task: LabelledTask) -> None:
    assert trained.accuracy(task, "test", "en") > 0.9 > trained.accuracy(task, "test", "ru")
    assert trained.card["accuracy"]["test"]["en"] == round(trained.accuracy(task, "test", "en"), 4)
    assert trained.card["training_texts"] == 60
    assert trained.card["data_fingerprint"] == task.data.fingerprint


def test_a_second_call_loads_what_the_first_one_trained(
    trained: RawClassifier, base: str, task: LabelledTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("trained twice")

    monkeypatch.setattr(classifier_module, "_train", refuse)
    again = train_classifier(base, task, QUICK, cache=trained.cache)
    assert again.folder == trained.folder
    assert (again.folder / "model.safetensors").is_file()


def test_training_again_gives_the_same_weights_and_leaves_the_random_state_alone(
    trained: RawClassifier, base: str, task: LabelledTask, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = train_classifier(base, task, QUICK, cache=tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.folder.name == trained.folder.name
    assert again.fingerprint == trained.fingerprint


def test_every_setting_is_part_of_the_key(task: LabelledTask) -> None:
    others = [QUICK, *(QUICK.model_copy(update=change) for change in ({"seed": 1}, {"languages": ("ru",)}))]
    assert len({classifier_key("base", task, config) for config in others}) == 3


def test_misread_texts_are_those_with_another_class(trained: RawClassifier, task: LabelledTask) -> None:
    model, tokenizer = trained._loaded
    wrong = []
    for index, example in enumerate(task.examples("test", "ru")):
        one = encode([example], tokenizer, "classifier")
        with torch.no_grad():
            logits = model(one.input_ids, one.attention_mask, token_type_ids=one.token_type_ids).logits
        wrong += [index] if logits.argmax().item() != example.answer[0] else []
    assert trained.misread(task, "test", "ru").tolist() == wrong
    for (sample,) in task.test_samples(
        "test", "ru", update_languages=["en"], retain_languages=["en"], seed=0, requests=wrong
    ):
        assert sample.edit.answer == sample.update.answer


def test_long_texts_are_read_as_the_edited_model_reads_them(tmp_path: Path) -> None:
    """However short the training's texts were: what is wrong in the whole text is what an edit is asked to mend."""
    settings = {**FAMILIES["bert"][2](2), "max_position_embeddings": 200}
    hf, tokenizer = BertForSequenceClassification(BertConfig(**settings, num_labels=3)), tiny_tokenizer()
    generator = torch.Generator().manual_seed(0)
    for weight in hf.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator) + (weight.dim() == 1)
    tokenizer.model_max_length = 200
    hf.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    choose = random.Random(0)
    lines = [f"{' '.join(choose.choices(WORDS, k=150))}\tparis\tneutral" for _ in range(24)]
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}-en.tsv").write_text("\n".join(lines))
    data = prepare_task(f"xnli:{tmp_path}", cache=tmp_path / "cache")
    assert isinstance(data, LabelledStore)
    task = LabelledTask(data)
    model = load_editable(str(tmp_path / "classifier"), "classifier")
    expected = model.logits(model.encode(task.examples("test", "en"))).argmax(-1).tolist()
    read = RawClassifier(tmp_path / "classifier", cache=tmp_path / "cache").predictions(task, "test", "en")
    assert read.tolist() == expected


def test_predictions_are_kept_without_the_model(trained: RawClassifier, task: LabelledTask) -> None:
    known = trained.predictions(task, "dev", "en")
    other = RawClassifier(trained.folder, cache=trained.cache)
    assert np.array_equal(other.predictions(task, "dev", "en"), known)
    assert "_loaded" not in other.__dict__


def test_the_best_pass_is_kept(trained: RawClassifier) -> None:
    history = trained.card["dev_by_pass"]
    assert trained.card["accuracy"]["dev"]["en"] == max(history)


def test_training_stops_when_dev_no_longer_improves(base: str, task: LabelledTask, tmp_path: Path) -> None:
    said: list[str] = []
    config = QUICK.model_copy(update={"patience": 3})
    history = train_classifier(base, task, config, cache=tmp_path, progress=said.append).card["dev_by_pass"]
    assert len(history) == len(said) < 40
    assert len(history) - 1 - history.index(max(history)) == 3


def test_nothing_is_left_of_a_training_that_fails(
    base: str, task: LabelledTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("power cut")

    monkeypatch.setattr(RawClassifier, "accuracy", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        classifier_module._train(base, task, QUICK, tmp_path / "classifiers" / "x", tmp_path, "cpu", lambda _: None)
    monkeypatch.undo()
    assert not list((tmp_path / "classifiers").glob("*x*"))


def test_mistakes_are_explained(base: str, trained: RawClassifier, task: LabelledTask, tmp_path: Path) -> None:
    claims = prepare_task("atlas-claims", languages=["en"], cache=tmp_path)
    assert isinstance(claims, LabelledStore)
    with pytest.raises(UserError, match="has 3 classes and the task 2"):
        trained.predictions(LabelledTask(claims), "test", "en")
    with pytest.raises(UserError, match="is no trained classifier"):
        RawClassifier(Path(base), cache=tmp_path).predictions(task, "test", "en")
    with pytest.raises(UserError, match="no texts in 'fr'"):
        train_classifier(base, task, QUICK.model_copy(update={"languages": ("fr",)}), cache=tmp_path)


def test_the_card_lies_beside_the_weights(trained: RawClassifier) -> None:
    assert json.loads((trained.folder / CARD).read_text())["labels"] == ["entailment", "neutral", "contradiction"]


@pytest.mark.slow
def test_the_built_in_model_learns_the_built_in_claims_in_english(tmp_path: Path) -> None:
    data = prepare_task("atlas-claims", cache=tmp_path)
    assert isinstance(data, LabelledStore)
    config = ClassifierConfig(learning_rate=2e-4, batch_size=32, epochs=12, patience=12)
    card = train_classifier("atlas-bert", LabelledTask(data), config, cache=tmp_path).card
    test = card["accuracy"]["test"]
    assert test["en"] > 0.7
    assert all(test["en"] > accuracy + 0.05 for language, accuracy in test.items() if language != "en")


@pytest.mark.slow
def test_real_xnli_with_a_tiny_model(real_data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_data / "mbert_tokenizer")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    data = prepare_task(f"xnli:{real_data / 'xnli'}", languages=["en", "de", "th"], cache=tmp_path)
    assert isinstance(data, LabelledStore)
    task = LabelledTask(data)
    settings = ClassifierConfig(learning_rate=1e-3, epochs=1, max_length=64)
    classifier = train_classifier(str(tmp_path / "base"), task, settings, cache=tmp_path)
    wrong = classifier.misread(task, "test", "th")
    assert 0 < len(wrong) < 5_010
    drawn = task.test_samples(
        "test", "th", update_languages=["en"], retain_languages=["en", "de"], seed=0, limit=20, requests=wrong
    )
    assert len(list(drawn)) == 20
