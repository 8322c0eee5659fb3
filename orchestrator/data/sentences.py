"""Plain sentences per language, from which language vectors are computed; prepared once into mapped Arrow shards."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from orchestrator.data.archives import FileTree
from orchestrator.data.atomic import write_atomically
from orchestrator.data.content import content_hash, digest_of, table_hash
from orchestrator.data.facts import FactStore
from orchestrator.data.prepare import read_shard
from orchestrator.data.schema import OBJECT_SLOT, SUBJECT_SLOT
from orchestrator.errors import Problems, UserError, did_you_mean

VERSION = 1
"""Part of every content address: raised when the same source would now give other sentences."""

SCHEMA = pa.schema([pa.field("sentence", pa.string(), nullable=False)])
ROWS_PER_BATCH = 1_000

_OPENERS: Mapping[str, Callable[[Path], Any]] = {"": partial(open, mode="rb"), ".xz": lzma.open, ".gz": gzip.open}


@dataclass(frozen=True)
class SentenceStore:
    """The sentences of some languages, without repetitions or empty ones. Small and cheap to pickle.

    Attributes:
        address: how the user named the source.
        shards: language -> its mapped shard.
    """

    address: str
    shards: Mapping[str, Path]

    def count(self, language: str) -> int:
        """How many sentences a language has."""
        rows: int = self._table(language).num_rows
        return rows

    def sentences(self, language: str) -> Iterator[list[str]]:
        """The sentences of a language in the source's order, in lists of at most ROWS_PER_BATCH."""
        for batch in self._table(language).to_batches():
            yield batch.column("sentence").to_pylist()

    def fingerprint(self, language: str) -> str:
        """Names a language's sentences by their content and order."""
        return table_hash(self._table(language))[:20]

    def _table(self, language: str) -> pa.Table:
        return read_shard(self.shards[language])


def prepare_sentences(
    address: str, languages: Sequence[str], *, limit: int | None, facts: FactStore | None = None, cache: Path
) -> SentenceStore:
    """Prepares the sentences of some languages.

    Args:
        address: ``sentences:<folder>`` with one file per language, ``<lang>.txt`` (a sentence per line) or
            ``<lang>.tsv`` (the first column), each also as .xz or .gz; or ``queries`` for the facts' own sentences:
            templates with subject and object filled in. They are made of all facts of the selected relations, of the
            built-in facts only those with the split "seen", whatever the selection's split and number.
        languages: codes of the languages wanted.
        limit: at most this many per language; of a file the first, of the queries those of the facts with the smallest
            SHA-256 of their uuid. None takes all.
        facts: needed for ``queries``.
        cache: folder for prepared shards.

    Raises:
        UserError: every language that is missing, doubled, damaged or without sentences, or an address of another form.
    """
    if limit is not None and limit < 1:
        raise UserError(f"The limit of sentences is {limit}, but at least one per language is needed.")
    prepare: Callable[[str], Path]
    kind, _, location = address.partition(":")
    if kind == "sentences" and location:
        prepare = _Folder(Path(location).expanduser(), limit, cache)
    elif address == "queries" and facts is not None:
        prepare = partial(_prepare_queries, facts=facts, limit=limit, cache=cache)
    else:
        raise UserError(
            f"{address!r} is no address of sentences.{did_you_mean(kind, ['sentences', 'queries'])} It is written "
            "sentences:<folder>, or queries for the facts' own sentences."
        )
    problems = Problems()
    shards: dict[str, Path] = {}
    for language in dict.fromkeys(languages):
        try:
            shards[language] = prepare(language)
        except UserError as error:
            for problem in error.problems:
                problems.add(problem)
    problems.raise_if_any()
    return SentenceStore(address, shards)


class _Folder:
    """Prepares from a folder with one file per language."""

    def __init__(self, folder: Path, limit: int | None, cache: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder, so there are no sentences to read. Check the path.")
        self.folder = folder
        self.limit = limit
        self.cache = cache
        self.files: dict[str, list[Path]] = {}
        for file in sorted(folder.iterdir()):
            language, _, ending = file.name.partition(".")
            text, _, packing = ending.partition(".")
            if text in ("txt", "tsv") and packing in ("", "xz", "gz") and file.is_file():
                self.files.setdefault(language, []).append(file)

    def __call__(self, language: str) -> Path:
        files = self.files.get(language, [])
        if not files:
            raise UserError(
                f"{self.folder} has no sentences for {language!r} (a file {language}.txt or {language}.tsv, also .xz "
                f"or .gz).{did_you_mean(language, self.files)}"
            )
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise UserError(
                f"{self.folder} has {names} for {language!r}: it is not clear which is meant. Keep one of them."
            )
        home = self.cache / "sentences"
        content = content_hash(files[0], ("",), home / "hashes")
        shard = home / f"{digest_of([VERSION, content, '.tsv' in files[0].suffixes, self.limit])}.arrow"
        _write_once(shard, self._sentences(files[0]), self.limit, f"{files[0]} holds no sentences for {language!r}.")
        return shard

    @staticmethod
    def _sentences(file: Path) -> Iterator[str]:
        opener: Callable[[], IO[bytes]] = partial(_OPENERS.get(file.suffix, _OPENERS[""]), file)
        columns = ".tsv" in file.suffixes
        for _, line in FileTree(file.parent, {file.name: opener}).lines(file.name):
            yield line.split("\t", 1)[0] if columns else line


def _prepare_queries(language: str, facts: FactStore, limit: int | None, cache: Path) -> Path:
    split = "seen" if "seen" in facts.splits else None
    known = facts.select(languages=(language,), split=split, max_facts=limit)
    address = digest_of([VERSION, "queries", known.language_fingerprint(language)])
    shard = cache / "sentences" / f"{address}.arrow"
    table = known.facts(language)
    columns = (table[name].to_pylist() for name in ("template", "subject", "object"))
    filled = (t.replace(SUBJECT_SLOT, s).replace(OBJECT_SLOT, o) for t, s, o in zip(*columns, strict=True))
    _write_once(shard, filled, limit, f"{facts.address} has no facts to make sentences of for {language!r}.")
    return shard


def _write_once(shard: Path, sentences: Iterator[str], limit: int | None, if_empty: str) -> None:
    """Writes a shard unless it is there: sentences stripped, the empty and repeated ones left out, at most `limit`."""
    if shard.exists():
        return
    unique: dict[str, None] = {}
    for sentence in map(str.strip, sentences):
        if sentence:
            unique[sentence] = None
        if len(unique) == limit:
            break
    if not unique:
        raise UserError(f"{if_empty} Language vectors need at least one; leave the language out or add sentences.")
    table = pa.table({"sentence": list(unique)}, schema=SCHEMA)

    def write(file: IO[bytes]) -> None:
        with pa.ipc.new_stream(file, SCHEMA) as writer:
            writer.write_table(table, max_chunksize=ROWS_PER_BATCH)

    write_atomically(shard, write)
