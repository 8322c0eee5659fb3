"""Facts from a dataset on the Hugging Face hub, or from a local folder that `datasets` can load.

The columns are those of mLAMA as published on the hub (``m_lama``): ``language``, ``predicate_id`` (or ``relation``),
``uuid``, ``sub_label``, ``obj_label`` and ``template`` with [X] and [Y]; ``sub_uri`` and ``obj_uri`` may be missing.
All splits are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.archives import open_tree
from orchestrator.data.loaders.base import LanguageFacts, Loader, existing
from orchestrator.data.pools import ObjectLists
from orchestrator.data.schema import LOADED_SCHEMA
from orchestrator.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

REQUIRED = {
    "language": "language",
    "uuid": "uuid",
    "subject": "sub_label",
    "object": "obj_label",
    "template": "template",
}
OPTIONAL = {"sub_uri": "sub_uri", "obj_uri": "obj_uri"}
RELATION = ("predicate_id", "relation")
BATCH_ROWS = 10_000


class HubLoader(Loader):
    """Reads through `datasets`, which maps the rows from its own Arrow cache; no code of the dataset is ever run."""

    kind = "hub"
    form = "hub:<dataset id>[@<revision>] or hub:./<folder>"
    version = 1
    takes_pools = True

    def inputs(self) -> Sequence[Path]:
        given = existing(self._folder, self.pools)
        if self._folder:
            return given
        return [*(Path(file["filename"]) for split in self._splits for file in split.cache_files), *given]

    def load(self) -> Iterator[LanguageFacts]:
        columns = self._columns()
        self.problems.raise_if_any()
        languages = {language for split in self._splits for language in split.unique(columns["language"])}
        if not all(languages):
            raise UserError(f"{self.address}: some rows name no language. Fill or drop them.")
        with ExitStack() as stack:
            lists = ObjectLists(stack.enter_context(open_tree(self.pools))) if self.pools else None
            for language in sorted(languages):
                yield LanguageFacts(language, self._batches(language, columns), lists.of(language) if lists else None)

    @property
    def _folder(self) -> Path | None:
        """The local folder meant, or None for an id on the hub."""
        path = Path(self.location).expanduser()
        return path if path.exists() or self.location.startswith((".", "/", "~")) else None

    @cached_property
    def _splits(self) -> list[Dataset]:
        from datasets import DatasetDict, load_dataset
        from datasets.exceptions import DatasetsError

        name, _, revision = (str(self._folder), "", "") if self._folder else self.location.partition("@")
        try:
            loaded = load_dataset(name, revision=revision or None)
        except (DatasetsError, OSError, ValueError) as error:
            raise UserError(
                f"{self.address} cannot be loaded as a dataset ({error.__cause__ or error}). Check the name, the files "
                "and the network; without a network only local folders and datasets loaded before can be used."
            ) from error
        if not isinstance(loaded, DatasetDict):
            raise UserError(
                f"{self.address} has no plain splits, so its rows cannot be read. Give a folder of Parquet or JSON "
                "lines."
            )
        return [loaded[split] for split in sorted(loaded)]

    def _columns(self) -> dict[str, str]:
        """Column of LOADED_SCHEMA (and "language") -> column of the dataset. Missing ones are problems."""
        known = set.intersection(*(set(split.column_names) for split in self._splits))
        columns = dict(REQUIRED) | {ours: theirs for ours, theirs in OPTIONAL.items() if theirs in known}
        columns["relation"] = next((name for name in RELATION if name in known), RELATION[0])
        for theirs in columns.values():
            if theirs not in known:
                self.problem(
                    f"{self.address} has no column {theirs!r}, so its rows are no facts.{did_you_mean(theirs, known)} "
                    "Wanted are language, predicate_id, uuid, sub_label, obj_label, template, and sub_uri, obj_uri if "
                    "there are any."
                )
        return columns

    def _batches(self, language: str, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        for split in self._splits:
            narrow = split.select_columns(sorted(set(columns.values()))).with_format("arrow")
            for rows in narrow.iter(batch_size=BATCH_ROWS):
                own = rows.filter(pc.equal(rows[columns["language"]], language))
                yield from self._texts(own, language, columns).to_batches()

    def _texts(self, rows: pa.Table, language: str, columns: Mapping[str, str]) -> pa.Table:
        """The rows of one language under our own column names, as LOADED_SCHEMA."""
        found: dict[str, pa.ChunkedArray] = {}
        for field in LOADED_SCHEMA:
            theirs = columns.get(field.name)
            if theirs is None:
                found[field.name] = pa.array([None if field.nullable else ""] * rows.num_rows, field.type)
                continue
            try:
                texts = rows[theirs].cast(pa.string())
            except pa.ArrowNotImplementedError as error:
                raise UserError(
                    f"{self.address}: the column {theirs!r} holds {rows[theirs].type}, where text is wanted."
                ) from error
            if texts.null_count:
                self.problem(
                    f"{self.address}: {texts.null_count} rows of {language!r} have nothing in {theirs!r}. Fill or drop "
                    "them."
                )
                texts = pc.fill_null(texts, "")
            found[field.name] = texts
        return pa.table(found, schema=LOADED_SCHEMA)
