"""Correcting a classifier: natural language inference and fact verification, in several languages.

Xu et al. 2023, section 4: in training the wanted class is drawn uniformly, whatever the model says now; in validation
and test an edit teaches the right class to a text that the raw classifier gets wrong (`methods.editing.classifier`),
and unrelated texts come from the whole split.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from methods.editing.examples import EditSample, Example
from methods.editing.tasks.base import Draw, EditTask, Locality
from orchestrator.data.content import digest_of
from orchestrator.data.labelled import LabelledStore

VERSION = 1
"""Part of the fingerprint: raised when the same texts and generator would give other draws."""


class LabelledTask(EditTask):
    """Pairs or claims with one right class each. Texts stay in the mapped shards."""

    kind = "classifier"

    def __init__(self, data: LabelledStore, *, locality: Locality = "other fact") -> None:
        """
        Args:
            data: the texts.
            locality: see `TaskOptions`; a fact's place is taken by a text and its translations.
        """
        super().__init__()
        self.data, self.locality = data, locality
        self.languages, self.splits, self.warnings = data.languages, data.splits, data.warnings
        self.num_labels = len(data.labels)
        self._columns: dict[tuple[str, int], _Texts] = {}

    @property
    def fingerprint(self) -> str:
        return digest_of([VERSION, "labelled", self.data.fingerprint, self.locality])

    def example(self, split: str, language: str, index: int) -> Example:
        """A text with its right class."""
        return self._example(split, self.place(language), index)

    def examples(self, split: str, language: str) -> list[Example]:
        """All texts of a split in a language with their right classes."""
        place = self.place(language)
        return [self._example(split, place, index) for index in range(self.size(split, language))]

    def labels(self, split: str, language: str) -> np.ndarray:
        """The right classes, int64, one for each index."""
        return self._texts(split, self.place(language)).labels

    def translations(self, split: str, language: str, index: int) -> dict[str, int]:
        """Language -> the index of the same text in it, for all languages that have it."""
        parallel = self.parallel(split)
        row = parallel.table[:, parallel.codes[self.place(language)][index]].tolist()
        return {other: found for other, found in zip(self.languages, row, strict=True) if found >= 0}

    def rephrasings(self, split: str, language: str, index: int) -> list[Example]:
        """A claim in other words, with its right class; empty where the source has none."""
        texts = self._texts(split, self.place(language))
        answer = (int(texts.labels[index]),)
        return [Example(text, language, answer=answer) for text in texts.table["rephrasings"][index].as_py()]

    def _uuids(self, split: str, place: int) -> pa.ChunkedArray:
        return self._texts(split, place).table["uuid"]

    def _draws(
        self, split: str, place: int, index: int, rng: np.random.Generator, draw: Draw, gold: bool
    ) -> list[EditSample]:
        parallel, texts = self.parallel(split), self._texts(split, place)
        code = int(parallel.codes[place][index])
        having = parallel.having(code, draw.updates)
        if not len(having):
            return []
        there = int(having[rng.integers(len(having))])
        wanted = int(texts.labels[index]) if gold else int(rng.integers(self.num_labels or 1))
        edit = self._example(split, place, index, (wanted,))
        update = self._example(split, there, int(parallel.table[there, code]), (wanted,))
        uuid: str = texts.table["uuid"][index].as_py()
        samples = []
        for _ in range(draw.retains):
            other, other_index = parallel.unrelated(place, index, draw.retain, self.locality, rng)
            samples.append(EditSample(uuid, edit, update, self._example(split, other, other_index, ())))
        return samples

    def _example(self, split: str, place: int, index: int, answer: tuple[int, ...] | None = None) -> Example:
        """A text with a wanted class; None: the right one."""
        texts = self._texts(split, place)
        pair = texts.pairs[index].as_py() if texts.paired else None
        wanted = (int(texts.labels[index]),) if answer is None else answer
        return Example(texts.texts[index].as_py(), self.languages[place], pair, wanted)

    def _texts(self, split: str, place: int) -> _Texts:
        if (split, place) not in self._columns:
            self._columns[split, place] = _Texts(self.data.rows(split, self.languages[place]))
        return self._columns[split, place]


class _Texts:
    """The mapped columns of a split in one language."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.texts, self.pairs = table["text"], table["pair"]
        self.paired = self.pairs.null_count < len(self.pairs)
        self.labels: np.ndarray = table["label"].to_numpy().astype(np.int64)
