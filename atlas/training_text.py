"""The text that the built-in models read: what each language may know, and nothing else.

Three kinds of sentence. *Facts*: every fact in English, and in each other language those of its "seen" half. *Mixed*:
an English fact sentence whose subject is named in another language, so that a foreign name leads to what English
knows. *Names*: "Deutschland is called Germany.", which tie the names of one thing together. No sentence in another
language ever holds a fact withheld in that language.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent

NAME_TEMPLATES = {
    "en": "[X] is called [Y].",
    "de": "[X] heißt [Y].",
    "fr": "[X] s'appelle [Y].",
    "es": "[X] se llama [Y].",
    "ru": "[X] называется [Y].",
    "el": "Το [X] ονομάζεται [Y].",
    "tr": "[X] adı: [Y].",
    "ar": "[X] يسمى [Y].",
    "hi": "[X] को [Y] कहते हैं।",
    "zh": "[X]叫做[Y]。",
    "ko": "[X]의 이름은 [Y]입니다.",
    "fi": "[X] on nimeltään [Y].",
}


class Sentence(NamedTuple):
    """A sentence cut around its object, the part that the models are asked for."""

    language: str
    before: str
    object: str
    after: str

    @property
    def text(self) -> str:
        return self.before + self.object + self.after


def cut(language: str, template: str, subject: str, obj: str) -> Sentence:
    """The filled template; the object slot stays visible as the cut."""
    before, after = template.split("[Y]")
    return Sentence(language, before.replace("[X]", subject), obj, after.replace("[X]", subject))


@dataclass(frozen=True)
class Mixture:
    """How a batch is made up; the shares of the three kinds add up to 1."""

    facts: float = 0.65
    mixed: float = 0.2
    names: float = 0.15
    english_weight: int = 3  # how often an epoch repeats English facts, which are to be known best


@dataclass
class TrainingText:
    """Endless batches of sentences; the same seed gives the same batches.

    Attributes:
        facts_path: facts.parquet of the built-in facts.
        mixture: shares of facts, mixed sentences and names.
        seed: seed of the order and of the drawn languages.
    """

    facts_path: Path = HERE / "facts.parquet"
    mixture: Mixture = Mixture()
    seed: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The fact rows, all languages, as dictionaries."""
        columns = ["language", "uuid", "sub_uri", "obj_uri", "subject", "object", "template", "split"]
        rows: list[dict[str, str]] = pq.read_table(self.facts_path, columns=columns).to_pylist()
        return rows

    @cached_property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({row["language"] for row in self.rows}))

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """uri -> language -> name, for all subjects and objects."""
        names: dict[str, dict[str, str]] = {}
        for row in self.rows:
            names.setdefault(row["sub_uri"], {})[row["language"]] = row["subject"]
            names.setdefault(row["obj_uri"], {})[row["language"]] = row["object"]
        return names

    @cached_property
    def facts(self) -> list[Sentence]:
        """The fact sentences of every language's seen part, each once."""
        return [
            cut(row["language"], row["template"], row["subject"], row["object"])
            for row in self.rows
            if row["split"] == "seen"
        ]

    def corpus(self) -> list[str]:
        """Text for a tokenizer: the fact sentences and every name, so that no name is in unknown characters."""
        return [sentence.text for sentence in self.facts] + [
            name for by_language in self.names.values() for name in by_language.values()
        ]

    def batches(self, size: int) -> Iterator[list[Sentence]]:
        """Yields lists of `size` sentences for ever, facts in shuffled epochs, mixed and names drawn at random."""
        english = [row for row in self.rows if row["language"] == "en"]
        others = [language for language in self.languages if language != "en"]
        uris = sorted(self.names)
        mixed, named = round(size * self.mixture.mixed), round(size * self.mixture.names)
        repeats = {language: self.mixture.english_weight if language == "en" else 1 for language in self.languages}
        epoch = [sentence for sentence in self.facts for _ in range(repeats[sentence.language])]
        order: list[Sentence] = []
        while True:
            if len(order) < size:
                fresh = epoch.copy()
                self._random.shuffle(fresh)
                order = fresh + order
            batch = [order.pop() for _ in range(size - mixed - named)]
            for _ in range(mixed):
                row, language = self._random.choice(english), self._random.choice(others)
                batch.append(cut("en", row["template"], self.names[row["sub_uri"]][language], row["object"]))
            for _ in range(named):
                name = self.names[self._random.choice(uris)]
                source, target = self._random.sample(self.languages, 2)
                batch.append(cut(target, NAME_TEMPLATES[target], name[source], name[target]))
            yield batch
