"""What the built-in models may read: all facts in English, the seen half elsewhere."""

from __future__ import annotations

from itertools import islice

import pytest

from atlas.training_text import NAME_TEMPLATES, Mixture, Sentence, TrainingText, cut


@pytest.fixture(scope="module")
def text() -> TrainingText:
    return TrainingText(seed=3)


def filled(row: dict[str, str]) -> str:
    return row["template"].replace("[X]", row["subject"]).replace("[Y]", row["object"])


def test_a_sentence_is_cut_around_its_object() -> None:
    sentence = cut("en", "[Y] is the official language of [X].", "Chile", "Spanish")
    assert sentence == Sentence("en", "", "Spanish", " is the official language of Chile.")
    assert sentence.text == "Spanish is the official language of Chile."


def test_withheld_facts_are_never_read_in_their_language(text: TrainingText) -> None:
    withheld = {filled(row) for row in text.rows if row["split"] == "withheld"}
    read = {sentence.text for batch in islice(text.batches(500), 60) for sentence in batch}
    assert len(read) > 10_000
    assert not read & withheld
    assert not set(text.corpus()) & withheld


def test_foreign_sentences_are_seen_facts_or_names(text: TrainingText) -> None:
    seen = {(row["language"], filled(row)) for row in text.rows if row["split"] == "seen"}
    starts = {language: template.split("[X]")[0] for language, template in NAME_TEMPLATES.items()}
    middles = {language: template.split("[X]")[1].split("[Y]")[0] for language, template in NAME_TEMPLATES.items()}
    for sentence in (sentence for batch in islice(text.batches(500), 10) for sentence in batch):
        name_like = sentence.before.startswith(starts[sentence.language]) and sentence.before.endswith(
            middles[sentence.language]
        )
        assert sentence.language == "en" or name_like or (sentence.language, sentence.text) in seen


def test_all_facts_are_read_in_english(text: TrainingText) -> None:
    english = {filled(row) for row in text.rows if row["language"] == "en"}
    assert english <= {sentence.text for sentence in text.facts}


def test_the_same_seed_gives_the_same_batches() -> None:
    first, second, other = (list(islice(TrainingText(seed=seed).batches(32), 3)) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_mixture_decides_the_kinds() -> None:
    names_only = TrainingText(mixture=Mixture(facts=0.0, mixed=0.0, names=1.0))
    batch = next(names_only.batches(20))
    assert len(batch) == 20
    names = {name for by_language in names_only.names.values() for name in by_language.values()}
    assert all(sentence.object in names for sentence in batch)
