"""What the tasks draw: the right texts and answers, uniformly, and the same ones for the same generator."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from methods.editing.examples import EditSample, Kind, encode
from methods.editing.tasks import EditTask, FactTask, LabelledTask, build_task, prepare_task, task_is_labelled
from methods.editing.tasks.base import Parallel
from orchestrator.data.editing_split import EditingSplit
from orchestrator.data.labelled import LabelledStore
from orchestrator.errors import UserError
from tests.backbone.tiny import tiny_tokenizer
from tests.data.samples import write_lines

RELEASED = SimpleNamespace(parallel="template", locality="other fact")
TRANSLATED = SimpleNamespace(parallel="full", locality="other fact")

NAMES = {
    "en": ["France", "Germany", "Greece", "Japan", "China", "India", "Russia", "Asia", "Europe", "Asia minor"],
    "de": ["Frankreich", "Deutschland", "Land", "Japan", "China", "Indien", "Russia", "Asien", "Europa", "Kleinasien"],
}
CITIES = {
    "en": ["Paris", "Berlin", "Athens", "Tokyo", "Beijing", "Delhi", "Moscow", "a", "b", "c"],
    "de": ["Paris", "Berlin", "Athen", "Tokio", "Peking", "Delhi", "Moskau", "aa", "bb", "cc"],
}
TEMPLATES = {
    "en": {"P36": "The capital of [X] is [Y] .", "P1376": "[Y] is the capital of [X] ."},
    "de": {"P36": "Die Hauptstadt von [X] ist [Y] .", "P1376": "[X] : [Y] ist Hauptstadt ."},
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> EditingSplit:
    """Ten capitals in two languages and the inverse relation; German lacks the second fact, so its cut is another."""
    folder = tmp_path_factory.mktemp("data")
    for language, templates in TEMPLATES.items():
        (folder / "mlama" / language).mkdir(parents=True)
        rows = [{"relation": relation, "template": template} for relation, template in templates.items()]
        write_lines(folder / "mlama" / language / "templates.jsonl", rows)
        for relation in templates:
            stored = [
                {
                    "sub_uri": f"Q{number}",
                    "obj_uri": f"Q{number}00",
                    "sub_label": NAMES[language][number],
                    "obj_label": CITIES[language][number],
                    "uuid": f"{relation}-{number}",
                }
                for number in range(10)
                if (language, number) != ("de", 1)
            ]
            write_lines(folder / "mlama" / language / f"{relation}.jsonl", stored)
    data = prepare_task(f"mlama:{folder / 'mlama'}", languages=["en", "de"], cache=folder / "cache")
    assert isinstance(data, EditingSplit)
    return data


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> LabelledStore:
    """Six numbered pairs in three languages."""
    folder = tmp_path_factory.mktemp("xnli")
    labels = ("entailment", "neutral", "contradiction")
    for split in ("train", "test"):
        for language in ("en", "de", "fr"):
            lines = [f"{split} {language} {n}.\tpair {n}.\t{labels[n % 3]}\n" for n in range(6)]
            (folder / f"{split}-{language}.tsv").write_text("".join(lines))
    data = prepare_task(f"xnli:{folder}", languages=["en", "de", "fr"], cache=folder / "cache")
    assert isinstance(data, LabelledStore)
    return data


def draws(task: EditTask, language: str, number: int, *, split: str = "train", **options: Any) -> list[EditSample]:
    rng = np.random.default_rng(0)
    wanted = {"update_languages": task.languages, "retain_languages": task.languages, **options}
    size = task.size(split, language)
    return [task.sample(split, language, turn % size, rng, **wanted)[0] for turn in range(number)]


class TaskContract:
    """Subclasses define ``task`` as a fixture."""

    def test_the_same_generator_gives_the_same_draws(self, task: EditTask) -> None:
        assert draws(task, task.languages[0], 20) == draws(task, task.languages[0], 20)

    def test_retains_share_edit_and_update(self, task: EditTask) -> None:
        language = task.languages[0]
        rng = np.random.default_rng(0)
        samples = task.sample(
            "train", language, 0, rng, update_languages=task.languages, retain_languages=task.languages, retains=5
        )
        assert len(samples) == 5
        assert len({(sample.uuid, sample.edit, sample.update) for sample in samples}) == 1
        assert len({sample.retain for sample in samples}) > 1

    def test_one_language_alone_is_monolingual_editing(self, task: EditTask) -> None:
        language = task.languages[1]
        for sample in draws(task, language, 20, update_languages=[language], retain_languages=[language]):
            assert {sample.edit.language, sample.update.language, sample.retain.language} == {language}
            assert sample.update == sample.edit

    def test_update_languages_are_drawn_evenly(self, task: EditTask) -> None:
        rng = np.random.default_rng(1)
        everywhere = {"update_languages": task.languages, "retain_languages": task.languages}
        counts = collections.Counter(
            task.sample("train", task.languages[0], 0, rng, **everywhere)[0].update.language for _ in range(600)
        )
        share = 1 / len(task.languages)
        assert all(abs(counts[language] / 600 - share) < 0.08 for language in task.languages)

    def test_what_is_unrelated_has_no_answer_and_another_text(self, task: EditTask) -> None:
        for sample in draws(task, task.languages[0], 50):
            assert sample.retain.answer == ()
            assert sample.retain.text not in (sample.edit.text, sample.update.text)

    def test_draws_for_the_test_do_not_depend_on_who_else_asks(self, task: EditTask) -> None:
        everywhere = {"update_languages": task.languages, "retain_languages": task.languages, "seed": 3}
        language, split = task.languages[0], "train"
        whole = list(task.test_samples(split, language, retains=2, **everywhere))
        assert len(whole) == task.size(split, language)
        assert whole == list(task.test_samples(split, language, retains=2, **everywhere))
        assert [whole[2]] == list(task.test_samples(split, language, retains=2, requests=[2], **everywhere))
        some = list(task.test_samples(split, language, retains=2, limit=3, **everywhere))
        assert len(some) == 3
        assert all(samples in whole for samples in some)
        assert whole != list(task.test_samples(split, language, retains=2, **{**everywhere, "seed": 4}))

    def test_unknown_languages_and_splits_are_named(self, task: EditTask) -> None:
        with pytest.raises(UserError) as caught:
            draws(task, task.languages[0], 1, update_languages=["qq", "rr"])
        assert len(caught.value.problems) == 2
        with pytest.raises(UserError, match=r"no split 'trains'\. Did you mean 'train'"):
            task.size("trains", task.languages[0])

    def test_every_draw_can_be_encoded(self, task: EditTask) -> None:
        tokenizer = tiny_tokenizer("causal" if task.kind == "causal" else "masked")
        for sample in draws(task, task.languages[0], 10):
            batch = encode([sample.edit, sample.update, sample.retain], tokenizer, task.kind)
            assert len(batch) == 3


class TestMaskedFacts(TaskContract):
    @pytest.fixture
    def task(self, facts: EditingSplit) -> EditTask:
        return build_task(RELEASED, tiny_tokenizer(), facts, "masked")


class TestTranslatedFacts(TaskContract):
    @pytest.fixture
    def task(self, facts: EditingSplit) -> EditTask:
        return build_task(TRANSLATED, tiny_tokenizer(), facts, "masked")


class TestCausalFacts(TaskContract):
    @pytest.fixture
    def task(self, facts: EditingSplit) -> EditTask:
        return build_task(TRANSLATED, tiny_tokenizer("causal"), facts, "causal")


class TestPairs(TaskContract):
    @pytest.fixture
    def task(self, pairs: LabelledStore) -> EditTask:
        return build_task(RELEASED, None, pairs, "classifier")


def index_of(task: EditTask, split: str, language: str, uuid: str) -> int:
    place = task.place(language)
    return task._uuids(split, place).to_pylist().index(uuid)


def one(task: EditTask, uuid: str, seed: int = 0, update: str = "de") -> EditSample:
    index = index_of(task, "train", "en", uuid)
    rng = np.random.default_rng(seed)
    return task.sample("train", "en", index, rng, update_languages=[update], retain_languages=task.languages)[0]


def test_as_released_only_the_template_is_translated(facts: EditingSplit) -> None:
    tokenizer = tiny_tokenizer()
    sample = one(FactTask(facts, tokenizer, "masked"), "P36-0")
    masks = " ".join(["[MASK]"] * len(sample.edit.answer))
    assert sample.edit.text == f"The capital of France is {masks} ."
    assert sample.update.text == f"Die Hauptstadt von France ist {masks} ."
    assert sample.update.answer == sample.edit.answer


def test_translated_fully_subject_and_answer_follow(facts: EditingSplit) -> None:
    tokenizer = tiny_tokenizer()
    task = FactTask(facts, tokenizer, "masked", parallel="full")
    seen = set()
    for seed in range(40):
        sample = one(task, "P36-0", seed)
        english, german = (tokenizer.decode(e.answer).replace(" ", "") for e in (sample.edit, sample.update))
        seen.add((english, german))
        assert sample.update.text.startswith("Die Hauptstadt von Frankreich ist")
        assert sample.update.text.count("[MASK]") == len(sample.update.answer)
    cities = {(one.lower(), other.lower()) for one, other in zip(*CITIES.values(), strict=True)}
    assert seen <= cities
    assert ("berlin", "berlin") not in seen  # German has no word for it: its fact is missing there


def test_wanted_objects_are_those_of_the_relation_in_the_split(facts: EditingSplit) -> None:
    task = FactTask(facts, tiny_tokenizer(), "masked")
    targets = task._targets("train", task.place("en"), "P36")
    assert targets == tuple(sorted(f"Q{number}00" for number in range(8)))
    rng = np.random.default_rng(0)
    counts = collections.Counter(
        task.sample("train", "en", 0, rng, update_languages=["en"], retain_languages=["en"])[0].edit.answer
        for _ in range(1600)
    )
    assert len(counts) == 8
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_unrelated_sentences_are_of_another_fact_unless_asked_otherwise(facts: EditingSplit) -> None:
    texts: dict[str, set[str]] = {}
    for locality in ("other fact", "other row"):
        task = FactTask(facts, tiny_tokenizer(), "masked", locality=locality)  # type: ignore[arg-type]
        texts[locality] = {one(task, "P36-0", seed).retain.text.replace("[MASK]", "").strip() for seed in range(300)}
    same = "Die Hauptstadt von Frankreich"
    assert not any(text.startswith(same) for text in texts["other fact"])
    assert any(text.startswith(same) for text in texts["other row"])


def test_numbers_of_masks_follow_the_candidates(facts: EditingSplit) -> None:
    tokenizer = tiny_tokenizer()
    task = FactTask(facts, tokenizer, "masked")
    lengths = np.bincount([len(tokenizer(city, add_special_tokens=False)["input_ids"]) for city in CITIES["en"]])
    assert task._mask_counts(task.place("en")).tolist() == np.cumsum(lengths[1:]).tolist()
    samples = [one(task, "P36-0", seed).retain for seed in range(400)]
    drawn = np.bincount([sample.text.count("[MASK]") for sample in samples if sample.language == "en"])
    assert drawn[lengths == 0].sum() == 0
    assert np.allclose(drawn / drawn.sum(), lengths[: len(drawn)] / lengths.sum(), atol=0.1)


def test_causal_models_are_asked_up_to_the_object(facts: EditingSplit) -> None:
    tokenizer = tiny_tokenizer("causal")
    task = FactTask(facts, tokenizer, "causal", parallel="full")
    assert task.size("train", "en") == 8
    assert task.size("train", "de") == 2 * 7  # the German templates of both relations name the subject first
    assert "10 facts are asked by templates" in task.warnings[0]
    for seed in range(10):
        sample = one(task, "P36-0", seed)
        assert sample.edit.text == "The capital of France is"
        assert sample.update.text == "Die Hauptstadt von Frankreich ist"
        assert tokenizer.decode(sample.edit.answer)[0] == " "
        assert tokenizer.decode(sample.edit.answer).strip() in CITIES["en"]


def sentence_piece(kind: str) -> PreTrainedTokenizerFast:
    """Tokens that carry the space before them, as in XGLM or as in Llama 2: also a text's first one, where none is."""
    words = [word for word in CITIES["en"] if len(word) > 1]
    letters = ["▁", "。", *sorted(set("".join(words) + "abcx"))]
    names = [*letters, *words, *(f"▁{word}" for word in words)]
    if kind == "xglm":
        tokenizer = Tokenizer(models.Unigram([("<unk>", -20.0), *((name, -5.0) for name in names)], unk_id=0))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        parts = list(dict.fromkeys(word[:end] for word in names for end in range(1, len(word) + 1)))
        merges = [(part[:-1], part[-1]) for part in parts if len(part) > 1]
        vocabulary = {name: number for number, name in enumerate(["<unk>", *letters, "▁▁", *parts]) if name}
        tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "▁"), *merges], unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("kind", ["xglm", "llama"])
def test_answers_go_on_after_the_prompt_as_text_does(kind: str, facts: EditingSplit) -> None:
    """No space is added where the template, as in Chinese, has none, and none is doubled."""
    tokenizer = sentence_piece(kind)
    task = FactTask(facts, tokenizer, "causal")
    for spaced in (False, True):
        answers = task._answers(task.place("en"), "P36", spaced).values()
        texts = ["".join(tokenizer.convert_ids_to_tokens(answer)) for answer in answers]
        assert sorted(texts) == sorted(("▁" if spaced else "") + city for city in CITIES["en"])


def test_answers_of_byte_level_models_are_tokenised_as_they_stand(facts: EditingSplit) -> None:
    tokenizer = tiny_tokenizer("causal")
    task = FactTask(facts, tokenizer, "causal")
    for spaced in (False, True):
        answers = task._answers(task.place("en"), "P36", spaced).values()
        expected = [tokenizer((" " if spaced else "") + city)["input_ids"] for city in CITIES["en"]]
        assert sorted(map(list, answers)) == sorted(expected)


def test_in_training_any_class_is_wanted_and_in_the_test_the_right_one(pairs: LabelledStore) -> None:
    task = LabelledTask(pairs)
    wanted = collections.Counter(sample.edit.answer for sample in draws(task, "en", 600))
    assert set(wanted) == {(0,), (1,), (2,)}
    assert max(wanted.values()) < 1.5 * min(wanted.values())
    tested = task.test_samples("test", "de", update_languages=["fr"], retain_languages=["en"], seed=0)
    for index, (sample,) in enumerate(tested):
        assert sample.edit == task.example("test", "de", index)
        assert sample.edit.text == f"test de {index}."
        assert (sample.update.text, sample.update.pair) == (f"test fr {index}.", f"pair {index}.")
        assert sample.edit.answer == sample.update.answer == (index % 3,)


def test_claims_have_translations_and_rephrasings(tmp_path: Path) -> None:
    data = prepare_task("atlas-claims", languages=["en", "de"], cache=tmp_path)
    task = build_task(RELEASED, None, data, "classifier")
    assert isinstance(task, LabelledTask)
    assert task.num_labels == 2
    there = task.translations("edit", "en", 4)
    assert list(there) == ["en", "de"]
    assert task.labels("edit", "de")[there["de"]] == task.labels("edit", "en")[4]
    assert all(other.answer == task.example("edit", "en", 4).answer for other in task.rephrasings("edit", "en", 4))
    assert task.rephrasings("edit", "de", 4) == []


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_the_built_in_facts(kind: Kind, tmp_path: Path) -> None:
    data = prepare_task("atlas-facts", cache=tmp_path)
    task = build_task(TRANSLATED, tiny_tokenizer("causal" if kind == "causal" else "masked"), data, kind)
    assert len(task.languages) == 12
    assert {split: task.size(split, "ko") for split in task.splits} == {"train": 814, "dev": 66, "test": 59}
    assert len(draws(task, "ko", 30, split="test")) == 30


def test_fingerprints_follow_the_options(facts: EditingSplit) -> None:
    kinds = [FactTask(facts, tiny_tokenizer(), "masked", parallel=p) for p in ("template", "full")]
    assert kinds[0].fingerprint != kinds[1].fingerprint
    assert kinds[0].fingerprint == FactTask(pickle.loads(pickle.dumps(facts)), tiny_tokenizer(), "masked").fingerprint


def test_addresses_of_tasks() -> None:
    assert [task_is_labelled(a) for a in ("atlas-facts", "mlama:x.zip", "atlas-claims", "xnli:x", "fever:x")] == [
        False,
        False,
        True,
        True,
        True,
    ]
    for wrong in ("atlas-fact", "mlama", "xnli:", "atlas-claims:x", "x"):
        with pytest.raises(UserError, match="is no task"):
            task_is_labelled(wrong)


def test_a_model_of_the_wrong_kind_is_refused(facts: EditingSplit, pairs: LabelledStore) -> None:
    with pytest.raises(UserError, match="does not give"):
        build_task(RELEASED, tiny_tokenizer(), pairs, "masked")
    with pytest.raises(UserError, match="does not give"):
        build_task(RELEASED, tiny_tokenizer(), facts, "classifier")


def test_a_lonely_text_has_nothing_unrelated() -> None:
    lonely = Parallel([pa.chunked_array([["a"]]), pa.chunked_array([["a"]])])
    with pytest.raises(UserError, match="no text beside the edited one"):
        lonely.unrelated(0, 0, np.array([0, 1]), "other fact", np.random.default_rng(0))
