"""What a loader of facts must say; the registry in the package finds every loader by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from orchestrator.data.schema import LOADED_SCHEMA
from orchestrator.errors import Problems

MOST_PROBLEMS = 20
"""A damaged source may have as many mistakes as lines; this many are enough to see what is wrong."""

Pools = Mapping[str, Mapping[str, str]]
"""Relation -> candidate -> its URI ("" where unknown)."""


@dataclass(frozen=True)
class LanguageFacts:
    """The facts of one language as a loader reads them.

    Attributes:
        language: its code, e.g. ``"de"``.
        batches: record batches of LOADED_SCHEMA in the source's order, read while they are consumed.
        pools: the source's own pools; None makes them from the objects and candidates seen in the facts.
        warnings: sentences on what is left out and why; shown after the language's code.
    """

    language: str
    batches: Iterable[pa.RecordBatch]
    pools: Pools | None = None
    warnings: Sequence[str] = ()


class Source(ABC):
    """What loaders of facts and of labelled texts have in common: an address, input files, and mistakes shown at once.

    Class attributes:
        kind: the word before the colon.
        form: how an address is written, for messages and help.
        version: raised whenever the same bytes would now load as something else; part of the content address.
        needs_location: whether something must follow the kind.
    """

    kind: ClassVar[str]
    form: ClassVar[str]
    version: ClassVar[int]
    needs_location: ClassVar[bool] = True

    def __init__(self, location: str) -> None:
        self.location = location
        self.problems = Problems()

    @property
    def address(self) -> str:
        """How the user named the source."""
        return f"{self.kind}:{self.location}" if self.needs_location else self.kind

    @abstractmethod
    def inputs(self) -> Sequence[Path]:
        """The files and folders read. Raises UserError if one is missing."""

    def problem(self, text: str) -> None:
        """Notes a mistake in the source and goes on, up to MOST_PROBLEMS of them."""
        self.problems.add(text)
        if len(self.problems.found) == MOST_PROBLEMS:
            self.problems.add("Reading stopped here; there may be more mistakes like these.")
            self.problems.raise_if_any()


class Loader(Source):
    """Reads one kind of source. A new kind is one file in this folder with one subclass; nothing else changes.

    The life of a loader:

    1. ``Loader(location, pools)`` is made from an address ``<kind>:<location>``; it must not read anything yet.
    2. ``inputs()`` names the files whose bytes decide the result. If shards for these bytes exist, that was all.
    3. ``load()`` yields one language after the other, each once. Facts need no order; exact repetitions are dropped
       afterwards. Mistakes in the source go to ``problem()``: all of them are shown at once and nothing is kept.

    Class attributes, beside those of every `Source`:
        endings: of a folder, only files whose names end like this are read.
        takes_pools: whether object lists, or labels of other languages, may be given beside the facts.
    """

    endings: ClassVar[tuple[str, ...]] = ("",)
    takes_pools: ClassVar[bool] = False

    def __init__(self, location: str, pools: Path | None = None) -> None:
        super().__init__(location)
        self.pools = pools

    @abstractmethod
    def load(self) -> Iterator[LanguageFacts]:
        """Yields every language of the source. Raises UserError for what makes further reading useless."""


def existing(*paths: Path | None) -> list[Path]:
    """The paths given. Raises UserError with all that do not exist."""
    problems = Problems()
    given = [path for path in paths if path is not None]
    for path in given:
        if not path.exists():
            problems.add(f"{path} does not exist, so there is nothing to read. Check the path.")
    problems.raise_if_any()
    return given


def batch_of(columns: Mapping[str, Sequence[object]]) -> pa.RecordBatch:
    """A batch of LOADED_SCHEMA from Python columns. `sub_uri`, `obj_uri` and `split` may be left out ("" then), and
    `candidates` (null then)."""
    rows = len(columns["uuid"])
    missing: dict[str, Sequence[object]] = {
        name: [None if name == "candidates" else ""] * rows for name in LOADED_SCHEMA.names if name not in columns
    }
    return pa.RecordBatch.from_pydict({**missing, **columns}, schema=LOADED_SCHEMA)
