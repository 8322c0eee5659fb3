"""Labelled texts in several languages, as a classifier learns and an editor corrects them: NLI pairs and claims.

Layout of one prepared source::

    <cache>/labelled/<kind>-<content address>/
        <split>/<language>.arrow    Arrow IPC stream of LABELLED_SCHEMA, in the source's order
        manifest.json               labels, languages and rows of every split, warnings
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.atomic import folder_atomically
from orchestrator.data.claims import ClaimsLoader
from orchestrator.data.content import content_hash, digest_of, table_hash
from orchestrator.data.loaders.fever import FeverLoader
from orchestrator.data.loaders.labelled import LABELLED_SCHEMA, LabelledLoader, LabelledPart
from orchestrator.data.loaders.xnli import XnliLoader
from orchestrator.data.prepare import check_code, read_manifest, read_shard, remove_stale, write_stream
from orchestrator.errors import Problems, UserError, did_you_mean

SCHEMA_VERSION = 1
"""Part of every content address: raised when prepared shards would look different."""

SPLITS = ("train", "dev", "edit", "test")
LOADERS: Mapping[str, type[LabelledLoader]] = {
    loader.kind: loader for loader in (ClaimsLoader, FeverLoader, XnliLoader)
}


@dataclass(frozen=True)
class LabelledStore:
    """The labelled texts of some languages. Small: it holds a place and is cheap to pickle.

    Attributes:
        path: folder of shards.
        address: how the user named the source.
        languages: as asked for, else sorted.
    """

    path: Path
    address: str
    languages: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return tuple(_manifest(self.path)["labels"])

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits there are: "train", "dev", "test", and "edit" where the source sets texts aside for edits."""
        return tuple(_manifest(self.path)["splits"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about the source."""
        return tuple(_manifest(self.path)["warnings"])

    @property
    def fingerprint(self) -> str:
        """Names the texts of all selected languages by content."""
        return digest_of({language: self.language_fingerprint(language) for language in self.languages})

    def language_fingerprint(self, language: str) -> str:
        """Names one language's texts by content: the same on every machine and for every packing of the source."""
        hashes: Mapping[str, Mapping[str, str]] = _manifest(self.path)["hashes"]
        return digest_of([[split, hashes[split].get(language)] for split in self.splits])

    def count(self, split: str, language: str) -> int:
        """How many texts a split has in a language."""
        rows: int = _manifest(self.path)["splits"].get(split, {}).get(language, 0)
        return rows

    def rows(self, split: str, language: str) -> pa.Table:
        """LABELLED_SCHEMA, mapped; empty where the split is not in this language."""
        if not self.count(split, language):
            return LABELLED_SCHEMA.empty_table()
        return read_shard(self.path / split / f"{language}.arrow")


def prepare_labelled(
    address: str,
    *,
    languages: Sequence[str] | None = None,
    cache: Path,
    progress: Callable[[str], None] = lambda message: None,
) -> LabelledStore:
    """Prepares a source once and selects languages from it.

    Args:
        address: ``atlas`` (the built-in claims), ``xnli:<folder or archive>`` or ``fever:<folder or file>``.
        languages: codes, in the order wanted; None takes all.
        cache: folder for prepared shards; they are found again by content, whatever the path of the source.
        progress: called with one sentence per prepared language and split.

    Raises:
        UserError: all mistakes in the address, the source or the languages; nothing half-written is left.
    """
    folder = _prepare(labelled_loader(address), cache, progress)
    known = sorted({language for counts in _manifest(folder)["splits"].values() for language in counts})
    problems = Problems()
    for language in languages or ():
        if language not in known:
            problems.add(f"{address} has no language {language!r}.{did_you_mean(language, known)}")
    problems.raise_if_any()
    return LabelledStore(folder, address, tuple(dict.fromkeys(known if languages is None else languages)))


def labelled_loader(address: str) -> LabelledLoader:
    """The loader an address such as ``xnli:<folder>`` names. Raises UserError if it names none."""
    kind, _, location = address.partition(":")
    if kind not in LOADERS or LOADERS[kind].needs_location != bool(location):
        forms = ", ".join(loader.form for loader in LOADERS.values())
        raise UserError(
            f"{address!r} is no address of labelled texts.{did_you_mean(kind, LOADERS)} Addresses are written {forms}."
        )
    return LOADERS[kind](location)


def _prepare(loader: LabelledLoader, cache: Path, progress: Callable[[str], None]) -> Path:
    home = cache / "labelled"
    paths = loader.inputs()
    inputs = [content_hash(path, ("",), home / "hashes") for path in paths]
    names = [path.name for path in paths[1:]]  # what lies beside the first file says by its name what it is
    folder = home / f"{loader.kind}-{digest_of([SCHEMA_VERSION, loader.kind, loader.version, inputs, names])}"
    if folder.is_dir():
        return folder
    remove_stale(home)
    with folder_atomically(folder) as temporary:
        counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
        hashes: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
        first: dict[str, pa.Table] = {}
        for part in loader.load():
            check_code(part.language)
            if not part.rows.num_rows:
                continue
            _check_rows(part, first.setdefault(part.split, part.rows.select(["uuid", "label"])), loader)
            (temporary / part.split).mkdir(exist_ok=True)
            write_stream(temporary / part.split / f"{part.language}.arrow", part.rows)
            counts[part.split][part.language] = part.rows.num_rows
            hashes[part.split][part.language] = table_hash(_hashable(part.rows))
            progress(f"{part.split} texts in {part.language} prepared: {part.rows.num_rows:,}")
        loader.problems.raise_if_any()
        if not any(counts.values()):
            raise UserError(f"{loader.address} holds no texts, so there is nothing to edit. Give {loader.form}.")
        manifest = {
            "labels": loader.labels,
            "splits": {split: languages for split, languages in counts.items() if languages},
            "hashes": hashes,
            "warnings": loader.warnings,
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
    return folder


def _check_rows(part: LabelledPart, first: pa.Table, loader: LabelledLoader) -> None:
    """A uuid names one text of a language, and has the same label in all."""
    where = f"{loader.address}, {part.split} in {part.language}"
    uuids = part.rows["uuid"].combine_chunks()
    if len(uuids.unique()) < len(uuids):
        doubled = next(row["values"] for row in uuids.value_counts().to_pylist() if row["counts"] > 1)
        loader.problem(f"{where}: two texts have the id {doubled!r}. Keep one of them.")
        return
    places = pc.index_in(uuids, value_set=first["uuid"].combine_chunks())
    expected = first["label"].combine_chunks().take(places)
    wrong = pc.fill_null(pc.not_equal(part.rows["label"].combine_chunks(), expected), False)
    count = pc.sum(wrong).as_py() or 0
    if count:
        number = int(np.argmax(wrong.to_numpy(zero_copy_only=False)))
        loader.problem(
            f"{where}: {count} texts have another label than their translations (the first is number {number + 1}, "
            f"with the id {uuids[number].as_py()!r}), so the languages are not parallel. Get the files from one source."
        )


def _hashable(rows: pa.Table) -> pa.Table:
    """The same rows with labels as text, which is what `table_hash` takes."""
    place = rows.schema.get_field_index("label")
    return rows.set_column(place, "label", rows["label"].cast(pa.string()))


@lru_cache(maxsize=16)
def _manifest(folder: Path) -> Mapping[str, Any]:
    """A folder is named by its content and never changes, so its manifest is read once per process."""
    return read_manifest(folder)
