"""Training, development and test facts for editing, without a subject in common (Xu et al. 2023, appendix A.1).

The facts of each language and relation are cut 8:1:1 in the order in which the source stores them. The same fact may
then fall into different parts in different languages; so test facts whose subject is in any language's training part
are left out, and development facts whose subject is in any language's training or test part. "Any language" means all
languages and relations of the source, Google-RE's included, whatever is selected.

mLAMA's T-REx facts give 628,612 training, 23,718 development and 53,993 test facts in all 53 languages together.

Layout::

    <cache>/editing-splits/<prepared source>-<version>/<language>.arrow    Arrow IPC stream of SPLIT_SCHEMA
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.atomic import folder_atomically
from orchestrator.data.content import digest_of
from orchestrator.data.facts import FactStore
from orchestrator.data.loaders import loader_for
from orchestrator.data.prepare import read_shard, write_stream
from orchestrator.data.schema import LOADED_SCHEMA
from orchestrator.errors import UserError

VERSION = 1
"""Part of the folder's name: raised when the same facts would be split in another way."""

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN, DEV, TEST = range(3)

SPLIT_SCHEMA = pa.schema([pa.field("uuid", pa.string(), nullable=False), pa.field("part", pa.int8(), nullable=False)])
"""One row per fact of a language. `part` is the place of its split in SPLITS, or -1 minus that place if it was cut into
that split and left out of it because of its subject."""


@dataclass(frozen=True)
class EditingSplit:
    """Selected facts and the split they belong to. Small: it holds places and is cheap to pickle.

    Attributes:
        path: folder of shards.
        facts: the facts, as selected.
    """

    path: Path
    facts: FactStore

    @property
    def fingerprint(self) -> str:
        """Names the selected facts and the way they are split."""
        return digest_of([self.path.name, self.facts.fingerprint])

    def parts(self, language: str) -> np.ndarray:
        """`part` (see SPLIT_SCHEMA) of every row of ``facts.facts(language)``, int8."""
        shard = read_shard(self.path / f"{language}.arrow")
        places = pc.index_in(self.facts.facts(language)["uuid"], value_set=shard["uuid"].combine_chunks())
        parts: np.ndarray = shard["part"].combine_chunks().take(places.combine_chunks()).to_numpy()
        return parts

    def rows(self, split: Split, language: str) -> np.ndarray:
        """The rows of ``facts.facts(language)`` that belong to a split, ascending, int64."""
        return np.flatnonzero(self.parts(language) == SPLITS.index(split))


def prepare_editing_split(
    facts: FactStore, *, cache: Path, progress: Callable[[str], None] = lambda message: None
) -> EditingSplit:
    """Splits a prepared source once; other selections of the same source share the result.

    The source is read again, because prepared facts are sorted and the cut follows the source's own order.

    Args:
        facts: what `prepare_facts` gave.
        cache: folder for prepared data.
        progress: called with one sentence per language.

    Raises:
        UserError: the source does not say which facts have the same subject, or can no longer be read.
    """
    folder = cache / "editing-splits" / f"{facts.path.name}-{VERSION}"
    if folder.is_dir():
        return EditingSplit(folder, facts)
    uuids: dict[str, pa.ChunkedArray] = {}
    subjects: dict[str, pa.ChunkedArray] = {}
    parts: dict[str, np.ndarray] = {}
    loader = loader_for(facts.address, None)
    for loaded in loader.load():
        table = pa.Table.from_batches(loaded.batches, schema=LOADED_SCHEMA)
        uuids[loaded.language], subjects[loaded.language] = table["uuid"], table["sub_uri"]
        parts[loaded.language] = cut(table["relation"])
        progress(f"{loaded.language} cut: {len(parts)} languages")
    loader.problems.raise_if_any()
    _check_subjects(facts.address, subjects)
    seen = {part: _subjects_of(part, subjects, parts) for part in (TRAIN, TEST)}
    with folder_atomically(folder) as temporary:
        for language, part in parts.items():
            kept = _without_shared_subjects(part, subjects[language], seen)
            write_stream(temporary / f"{language}.arrow", _once(uuids[language], kept))
    return EditingSplit(folder, facts)


def cut(relations: pa.ChunkedArray) -> np.ndarray:
    """The part of every fact of a language: within each relation, in order, the first round(8n/10) are for training, up
    to round(9n/10) for development, the rest for test.

    A half is rounded to the even neighbour, as Python rounds: of n = 5 facts, 4 are for training, none for development.

    Args:
        relations: the relation of each fact, in the source's order.
    """
    codes = relations.combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    places = np.empty(len(codes), np.int64)
    places[order] = np.arange(len(codes)) - starts
    cuts = np.array([[round(n * 8 / 10), round(n * 9 / 10)] for n in counts.tolist()], np.int64).reshape(-1, 2)
    parts: np.ndarray = (places[:, None] >= cuts[codes]).sum(1).astype(np.int8)
    return parts


def _subjects_of(part: int, subjects: dict[str, pa.ChunkedArray], parts: dict[str, np.ndarray]) -> pa.Array:
    """The subjects that a part has in any language."""
    chosen = [subjects[language].filter(pa.array(parts[language] == part)) for language in subjects]
    return pa.chunked_array([chunk for column in chosen for chunk in column.chunks], pa.string()).unique()


def _without_shared_subjects(part: np.ndarray, subjects: pa.ChunkedArray, seen: dict[int, pa.Array]) -> np.ndarray:
    in_train, in_test = (pc.is_in(subjects, value_set=seen[split]).to_numpy() for split in (TRAIN, TEST))
    leaked = ((part == TEST) & in_train) | ((part == DEV) & (in_train | in_test))
    return np.where(leaked, -1 - part, part).astype(np.int8)


def _once(uuids: pa.ChunkedArray, parts: np.ndarray) -> pa.Table:
    """The shard of a language. Of facts that are repeated in the source the first counts, as in the prepared facts."""
    table = pa.table({"uuid": uuids, "part": parts}, schema=SPLIT_SCHEMA)
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    first = numbered.group_by("uuid", use_threads=False).aggregate([("row", "min")])["row_min"]
    return table if len(first) == table.num_rows else table.take(first.take(pc.sort_indices(first)))


def _check_subjects(address: str, subjects: dict[str, pa.ChunkedArray]) -> None:
    nameless = [language for language, column in subjects.items() if pc.any(pc.equal(column, "")).as_py()]
    if nameless:
        raise UserError(
            f"{address} has facts without the URI of their subject ({len(nameless)} languages, first {nameless[0]!r}), "
            "so nothing tells which facts are about the same subject, and training facts could return in the test. Use "
            "a source that names its subjects, such as mlama: or atlas."
        )
