"""A task of invented texts, small enough to train an editor on in a second."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from methods.editing.examples import EditSample, Example, Kind
from tests.backbone.tiny import WORDS
from tests.editing.tiny import CLASSES, LANGUAGES


class FakeTask:
    """Every request exists in every language, its words in another order; `answers` are the wanted tokens.

    It offers what training asks of an `EditTask`: `sizes` says how many requests each split has.
    """

    languages = LANGUAGES
    splits = ("train", "dev", "test")
    fingerprint = "invented"

    def __init__(self, kind: Kind, sizes: Any = None, answers: Sequence[int] = (9, 21)) -> None:
        self.kind = kind
        self.sizes = {"train": 12, "dev": 4, "test": 6} if sizes is None else sizes
        self.answers = answers

    def size(self, split: str, language: str) -> int:
        return int(self.sizes[split])

    def text(self, split: str, language: str, index: int, answer: tuple[int, ...], masks: int) -> Example:
        draw = random.Random(f"{split} {index}")
        words = draw.sample(WORDS, draw.randint(2, 7))
        random.Random(language).shuffle(words)
        if self.kind == "masked":
            words[1:1] = ["[MASK]"] * masks
        pair = "は です" if self.kind == "classifier" and index % 2 else None
        return Example(" ".join(words), language, pair, answer)

    def sample(
        self,
        split: str,
        language: str,
        index: int,
        rng: np.random.Generator,
        *,
        update_languages: Sequence[str],
        retain_languages: Sequence[str],
        retains: int = 1,
    ) -> list[EditSample]:
        masks = 1 if self.kind == "classifier" else int(rng.integers(1, 3))
        choices = range(CLASSES) if self.kind == "classifier" else self.answers
        answer = tuple(int(rng.choice(choices)) for _ in range(masks))
        there = str(rng.choice(update_languages))
        others = [other for other in range(self.size(split, language)) if other != index]
        return [
            EditSample(
                f"{split} {index}",
                self.text(split, language, index, answer, masks),
                self.text(split, there, index, answer, masks),
                self.text(
                    split, str(rng.choice(retain_languages)), int(rng.choice(others)), (), int(rng.integers(1, 3))
                ),
            )
            for _ in range(retains)
        ]

    def test_samples(self, split: str, language: str, **choices: Any) -> Iterator[list[EditSample]]:
        seed, limit, requests = choices.pop("seed"), choices.pop("limit", None), choices.pop("requests", None)
        for index in (range(self.size(split, language)) if requests is None else requests)[:limit]:
            rng = np.random.default_rng([seed, LANGUAGES.index(language), index])
            yield self.sample(split, language, index, rng, **choices)
