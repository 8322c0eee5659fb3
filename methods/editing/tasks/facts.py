"""Editing facts: a relation of a subject is given another object (Xu et al. 2023, section 4 and appendix A.1).

The wanted object is drawn uniformly from the objects that the relation has in the split, in any language, and for
which the edit language has a word; it may be the true one. Masked models are asked with one mask for each token of the
answer. Causal models are asked with the template up to the object and answer with what follows; templates that do not
name the subject before the object cannot be asked that way and are left out. An unrelated sentence has no answer: its
number of masks is drawn, each as likely as its language has candidates of so many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from methods.editing.examples import EditSample, Example, Kind
from methods.editing.tasks.base import Draw, EditTask, Locality
from orchestrator.data.content import digest_of
from orchestrator.data.editing_split import SPLITS, EditingSplit
from orchestrator.data.schema import OBJECT_SLOT, SUBJECT_SLOT

VERSION = 2
"""Part of the fingerprint: raised when the same facts and generator would give other draws."""

Answers = Mapping[str, tuple[int, ...]]
"""URI of an object -> the tokens of its name."""


class FactTask(EditTask):
    """Facts of mLAMA or of the built-in data. Names are tokenised once for each language and relation."""

    def __init__(
        self,
        data: EditingSplit,
        tokenizer: Any,
        kind: Kind,
        *,
        parallel: Literal["template", "full"] = "template",
        locality: Locality = "other fact",
    ) -> None:
        """
        Args:
            data: the facts and their split.
            tokenizer: of the model to be edited.
            kind: "masked" or "causal".
            parallel, locality: see `TaskOptions`.

        Raises:
            ValueError: `kind` is a classifier's.
        """
        super().__init__()
        if kind == "classifier":
            raise ValueError("facts are asked of masked and causal language models")
        self.data, self.tokenizer, self.kind = data, tokenizer, kind
        self.translated, self.locality = parallel == "full", locality
        self.languages = data.facts.languages
        self._facts = [_Facts(data.facts.facts(language)) for language in self.languages]
        self._rows: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        left_out = 0
        for facts, parts in zip(self._facts, map(data.parts, self.languages), strict=True):
            askable = facts.askable(kind)
            left_out += int((~askable).sum())
            for number, split in enumerate(SPLITS):
                self._rows[split].append(np.flatnonzero((parts == number) & askable))
        self.splits = tuple(split for split in SPLITS if any(map(len, self._rows[split])))
        if left_out:
            self.warnings = (
                f"{left_out:,} facts are asked by templates that do not name the subject before the object, which a "
                "causal model cannot complete; they are left out.",
            )
        self._objects = lru_cache(maxsize=None)(self._objects_of)
        self._answers = lru_cache(maxsize=None)(self._answers_of)
        self._targets = lru_cache(maxsize=None)(self._targets_of)
        self._mask_counts = lru_cache(maxsize=None)(self._mask_counts_of)

    @property
    def fingerprint(self) -> str:
        return digest_of([VERSION, "facts", self.data.fingerprint, self.kind, self.translated, self.locality])

    def _uuids(self, split: str, place: int) -> pa.ChunkedArray:
        return pa.chunked_array([self._facts[place].uuids.take(pa.array(self._rows[split][place]))])

    def _draws(
        self, split: str, place: int, index: int, rng: np.random.Generator, draw: Draw, gold: bool
    ) -> list[EditSample]:
        parallel, own = self.parallel(split), self._facts[place]
        row = int(self._rows[split][place][index])
        code = int(parallel.codes[place][index])
        having = parallel.having(code, draw.updates)
        if not len(having):
            return []
        there = int(having[rng.integers(len(having))])
        foreign = self._facts[there]
        foreign_row = int(self._rows[split][there][parallel.table[there, code]])
        relation = own.relation(row)
        targets = self._targets(split, place, relation)
        if self.translated and there != place:
            answers = self._answers(there, relation, False)
            targets = tuple(target for target in targets if target in answers)
        if not targets:
            return []
        target = targets[int(rng.integers(len(targets)))]
        edit = self._asked(own.template(row), own.subject(row), place, place, relation, target)
        if self.translated:
            subject, speaker = foreign.subject(foreign_row), there
        else:
            subject, speaker = own.subject(row), place
        update = self._asked(foreign.template(foreign_row), subject, there, speaker, relation, target)
        samples = []
        for _ in range(draw.retains):
            other, other_index = parallel.unrelated(place, index, draw.retain, self.locality, rng)
            retain = self._unrelated(other, int(self._rows[split][other][other_index]), rng)
            samples.append(EditSample(own.uuid(row), edit, update, retain))
        return samples

    def _asked(self, template: str, subject: str, place: int, speaker: int, relation: str, target: str) -> Example:
        """A query in the language at `place` whose answer is the target's name in the language at `speaker`."""
        before = template.partition(OBJECT_SLOT)[0]
        spaced = self.kind == "causal" and before != before.rstrip()
        answer = self._answers(speaker, relation, spaced)[target]
        return Example(self._text(template, subject, len(answer)), self.languages[place], answer=answer)

    def _unrelated(self, place: int, row: int, rng: np.random.Generator) -> Example:
        masks = 1
        if self.kind == "masked":
            ends = self._mask_counts(place)
            masks = 1 + int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))
        facts = self._facts[place]
        return Example(self._text(facts.template(row), facts.subject(row), masks), self.languages[place])

    def _text(self, template: str, subject: str, masks: int) -> str:
        if self.kind == "causal":
            return template.partition(OBJECT_SLOT)[0].rstrip().replace(SUBJECT_SLOT, subject)
        blanks = " ".join([self.tokenizer.mask_token] * masks)
        return template.replace(SUBJECT_SLOT, subject).replace(OBJECT_SLOT, blanks)

    def _objects_of(self, split: str) -> dict[str, tuple[str, ...]]:
        """Relation -> the URIs of its objects in a split, in any language, sorted."""
        found: dict[str, set[str]] = {}
        for facts, rows in zip(self._facts, self._rows[split], strict=True):
            for relation, uri in facts.objects(rows):
                found.setdefault(relation, set()).add(uri)
        return {relation: tuple(sorted(uris)) for relation, uris in found.items()}

    def _targets_of(self, split: str, place: int, relation: str) -> tuple[str, ...]:
        """The objects that may be wanted of a relation in an edit language, sorted by URI."""
        answers = self._answers(place, relation, False)
        return tuple(uri for uri in self._objects(split).get(relation, ()) if uri in answers)

    def _answers_of(self, place: int, relation: str, spaced: bool) -> Answers:
        """The tokens of all objects of a relation in a language, of all splits; those without a token are left out."""
        names = self._facts[place].names.get(relation, {})
        texts = [" " + name if spaced else name for name in names.values()]
        tokens = _continuing(self.tokenizer, texts) if self.kind == "causal" else _tokens(self.tokenizer, texts)
        return {uri: tuple(ids) for uri, ids in zip(names, tokens, strict=True) if ids}

    def _mask_counts_of(self, place: int) -> np.ndarray:
        """How many candidates of a language, of all relations, have at most 1, 2, ... tokens."""
        pools = self.data.facts.pools(self.languages[place]).values()
        candidates = list(dict.fromkeys(candidate for pool in pools for candidate in pool.candidates))
        tokens = _tokens(self.tokenizer, candidates)
        ends: np.ndarray = np.cumsum(np.bincount([len(ids) for ids in tokens if ids])[1:])
        return ends


def _tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of texts, without special ones."""
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return found


def _continuing(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of texts that go on after another one.

    A SentencePiece tokenizer reads a text as if a space stood before it, and would so answer a Chinese or Thai
    template, where none does, with the word after a space. Such texts are read behind a character that they do not
    merge with.
    """
    found = _tokens(tokenizer, texts)
    if not tokenizer.tokenize("x")[0].startswith(_SPACES):
        return found
    places = set(range(len(texts)))
    for before in _BEFORE:
        (start,) = _tokens(tokenizer, [before])
        if tokenizer.unk_token_id in start:
            continue
        behind = _tokens(tokenizer, [before + text for text in texts])
        fitting = {place for place in places if behind[place][: len(start)] == start}
        found = [ids[len(start) :] if place in fitting else found[place] for place, ids in enumerate(behind)]
        places -= fitting
    return found


_SPACES = ("▁", "Ġ")
"""How tokens are written that begin with a space."""
_BEFORE = ("。", "x", ".")


class _Facts:
    """The facts of one language, by row."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.uuids = table["uuid"].combine_chunks()
        self._subjects = table["subject"].combine_chunks()
        self._relations, self._relation_codes = _words(table["relation"])
        self._templates, self._template_codes = _words(table["template"])
        self.names: dict[str, dict[str, str]] = {}
        """Relation -> URI of an object -> its name; of several names the first in the alphabet."""
        columns = table.select(["relation", "obj_uri", "object"]).cast(pa.schema([(n, pa.string()) for n in _NAMED]))
        named = columns.group_by(["relation", "obj_uri"], use_threads=False).aggregate([("object", "min")])
        for name in named.to_pylist():
            self.names.setdefault(name["relation"], {})[name["obj_uri"]] = name["object_min"]

    def uuid(self, row: int) -> str:
        text: str = self.uuids[row].as_py()
        return text

    def subject(self, row: int) -> str:
        text: str = self._subjects[row].as_py()
        return text

    def relation(self, row: int) -> str:
        return self._relations[self._relation_codes[row]]

    def template(self, row: int) -> str:
        return self._templates[self._template_codes[row]]

    def askable(self, kind: Kind) -> np.ndarray:
        """Which rows a model of this kind can be asked, [rows] of bool."""
        asks = [kind == "masked" or SUBJECT_SLOT in text.partition(OBJECT_SLOT)[0] for text in self._templates]
        return np.array(asks, bool)[self._template_codes]

    def objects(self, rows: np.ndarray) -> set[tuple[str, str]]:
        """Relation and URI of the objects of some rows."""
        chosen = self.table.select(["relation", "obj_uri"]).take(pa.array(rows))
        pairs = zip(chosen["relation"].cast(pa.string()).to_pylist(), chosen["obj_uri"].to_pylist(), strict=True)
        return set(pairs)


_NAMED = ("relation", "obj_uri", "object")


def _words(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The words of a dictionary-encoded column, and the place of every row's word among them."""
    encoded = column.unify_dictionaries().combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
