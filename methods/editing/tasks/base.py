"""What every editing task offers: requests, and random draws of an edit with the texts it is judged by.

Xu et al. 2023, section 3: an edit (x_e, y_e) in an edit language; x_u, the same request in an update language; x_r, an
unrelated text in a retain language. Every random choice comes from the generator that is handed in, so the same
generator state gives the same draw in every process.

Shape legend: G languages, U requests that are the same in all languages.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from methods.editing.examples import EditSample, Kind
from orchestrator.errors import Problems, UserError, did_you_mean

Locality = Literal["other fact", "other row"]
_MOST_TRIES = 10_000


class TaskOptions(Protocol):
    """What a specification says about its task; `EditorSpec` does.

    Attributes:
        parallel: facts: "template", as released: in x_u only the template is in the update language, subject and answer
            stay in the edit language; "full": all of it is translated.
        locality: x_r is another fact, or, as released, another row, which may be the same fact in another language.
    """

    @property
    def parallel(self) -> Literal["template", "full"]: ...

    @property
    def locality(self) -> Locality: ...


class EditTask(ABC):
    """Edit requests in several languages and splits. The n-th request of a split in a language has the index n.

    Attributes:
        kind: how the model is asked.
        languages: in the order of the data; never that of a set.
        splits: those that have requests.
        num_labels: classes of a classifier; None for language models.
        warnings: what the user should know, such as facts that cannot be asked.
    """

    kind: Kind
    languages: tuple[str, ...]
    splits: tuple[str, ...]
    num_labels: int | None = None
    warnings: tuple[str, ...] = ()
    locality: Locality = "other fact"

    def __init__(self) -> None:
        self._parallels: dict[str, Parallel] = {}
        self._known: dict[str, int] = {}
        self._drawn: dict[tuple[tuple[str, ...], tuple[str, ...], int], Draw] = {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names the texts and every option that changes a draw."""

    @abstractmethod
    def _uuids(self, split: str, place: int) -> pa.ChunkedArray:
        """What names the requests of a split in the language at `place`, in their order."""

    @abstractmethod
    def _draws(
        self, split: str, place: int, index: int, rng: np.random.Generator, draw: Draw, gold: bool
    ) -> list[EditSample]:
        """One edit with `draw.retains` unrelated texts; empty if the request is in none of the update languages."""

    def parallel(self, split: str) -> Parallel:
        """Which requests of a split are the same in which languages."""
        if split not in self._parallels:
            if split not in self.splits:
                raise UserError(f"The task has no split {split!r}.{did_you_mean(split, self.splits)}")
            self._parallels[split] = Parallel([self._uuids(split, place) for place in range(len(self.languages))])
        return self._parallels[split]

    def size(self, split: str, language: str) -> int:
        """How many requests a split has in a language."""
        return int(self.parallel(split).sizes[self.place(language)])

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
        """A draw for training: the wanted answer is drawn too.

        Args:
            split: one of `splits`.
            language: the edit language.
            index: of the request, 0 to ``size(split, language) - 1``.
            rng: where all choices come from.
            update_languages: the update language is drawn uniformly from those of them that have this request.
            retain_languages: an unrelated text is drawn uniformly from all texts of these languages, then its language
                uniformly from those of them that have it.
            retains: unrelated texts.

        Returns:
            `retains` samples with the same edit and update; none if the request is in none of the update languages.
        """
        draw = self._draw(tuple(update_languages), tuple(retain_languages), retains)
        return self._draws(split, self.place(language), index, rng, draw, gold=False)

    def test_samples(
        self,
        split: str,
        language: str,
        *,
        update_languages: Sequence[str],
        retain_languages: Sequence[str],
        seed: int,
        limit: int | None = None,
        retains: int = 1,
        requests: Sequence[int] | np.ndarray | None = None,
    ) -> Iterator[list[EditSample]]:
        """Draws for validation and test, as `sample`, but always the same ones, whoever asks and in whatever order.

        The choices of a request depend on `seed`, the language and the request alone. A classifier's wanted answer is
        the right one; for facts it is drawn, as in training.

        Args:
            seed: of all choices.
            limit: at most this many requests, drawn from all; None takes all.
            requests: indices to choose from, such as those that a classifier gets wrong; None: all of the split.
        """
        place = self.place(language)
        draw = self._draw(tuple(update_languages), tuple(retain_languages), retains)
        chosen = np.arange(self.size(split, language)) if requests is None else np.asarray(requests, np.int64)
        key = [seed, zlib.crc32(f"{split} {language}".encode())]
        if limit is not None and limit < len(chosen):
            chosen = np.sort(np.random.default_rng(key).permutation(chosen)[:limit])
        for index in chosen.tolist():
            samples = self._draws(split, place, index, np.random.default_rng([*key, index]), draw, gold=True)
            if samples:
                yield samples

    def place(self, language: str) -> int:
        """A language's place in `languages`. Raises UserError if the task does not have it."""
        if language not in self._known:
            self._known |= {language: int(self._places((language,))[0])}
        return self._known[language]

    def _draw(self, updates: tuple[str, ...], retain: tuple[str, ...], retains: int) -> Draw:
        key = (updates, retain, retains)
        if key not in self._drawn:
            self._drawn[key] = Draw(self._places(updates), self._places(retain), retains)
        return self._drawn[key]

    def _places(self, languages: Sequence[str]) -> np.ndarray:
        """Places of languages, each once, in the order given."""
        problems = Problems()
        for language in languages:
            if language not in self.languages:
                problems.add(f"The task has no texts in {language!r}.{did_you_mean(language, self.languages)}")
        problems.raise_if_any()
        return np.array([self.languages.index(language) for language in dict.fromkeys(languages)], np.int64)


@dataclass(frozen=True, eq=False)
class Draw:
    """What a draw may choose from.

    Attributes:
        updates, retain: places of the update and of the retain languages.
        retains: how many unrelated texts.
    """

    updates: np.ndarray
    retain: np.ndarray
    retains: int


class Parallel:
    """Which requests of a split are the same in which languages.

    Attributes:
        sizes: requests of each language.
        codes: for each language, the number of every request, the same for its translations.
        table: [G, U], the index of request u in language g, -1 where g does not have it.
    """

    def __init__(self, uuids: Sequence[pa.ChunkedArray]) -> None:
        """`uuids`: those of every language's requests, in their order."""
        known = pa.chunked_array([chunk for column in uuids for chunk in column.chunks], pa.string()).unique()
        self.sizes = np.array([len(column) for column in uuids])
        self.codes: list[np.ndarray] = []
        self.table = np.full((len(uuids), len(known)), -1, np.int32)
        for place, column in enumerate(uuids):
            found = pa.chunked_array(pc.index_in(column, value_set=known).chunks, pa.int32()).to_numpy()
            self.codes.append(found)
            self.table[place, found] = np.arange(len(found))

    def having(self, code: int, places: np.ndarray) -> np.ndarray:
        """Those of the languages at `places` that have a request."""
        return places[self.table[places, code] >= 0]

    def unrelated(
        self, place: int, index: int, places: np.ndarray, locality: Locality, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Place and index of another request than the one at `place` and `index`.

        Raises:
            UserError: the languages at `places` have no other.
        """
        ends = np.cumsum(self.sizes[places])
        edited = int(self.codes[place][index])
        for _ in range(_MOST_TRIES if ends[-1] else 0):
            drawn = int(rng.integers(ends[-1]))
            turn = int(np.searchsorted(ends, drawn, side="right"))
            other, row = int(places[turn]), drawn - (int(ends[turn - 1]) if turn else 0)
            code = int(self.codes[other][row])
            if (code != edited) if locality == "other fact" else ((other, row) != (place, index)):
                having = self.having(code, places)
                spoken = int(having[rng.integers(len(having))])
                return spoken, int(self.table[spoken, code])
        raise UserError(
            "A split has no text beside the edited one in the retain languages, so nothing shows whether an edit "
            "leaves other texts alone. Use more languages or more facts."
        )
