"""What a loader of labelled texts must say: sentence pairs (language inference) and claims (fact verification)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from orchestrator.data.loaders.base import MOST_PROBLEMS
from orchestrator.errors import Problems

LABELLED_SCHEMA = pa.schema(
    [
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("pair", pa.string()),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("rephrasings", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per text of a language and split. The same `uuid` names its translations and has the same label. `pair` is
the second text of a pair (the hypothesis) or null; `label` a place in the source's labels; `rephrasings` say `text` in
other words."""


@dataclass(frozen=True)
class LabelledPart:
    """The texts of one split in one language, in an order that all languages share.

    Attributes:
        split: "train", "dev" or "test"; "edit" where texts are set aside for edits.
        language: its code.
        rows: LABELLED_SCHEMA.
    """

    split: str
    language: str
    rows: pa.Table


class LabelledLoader(ABC):
    """Reads one kind of source of labelled texts; its life is that of `orchestrator.data.loaders.base.Loader`.

    Class attributes:
        kind: the word before the colon.
        form: how an address is written, for messages and help.
        version: raised whenever the same bytes would now load as other texts; part of the content address.
        labels: the classes, by number.
        needs_location: whether something must follow the kind.
    """

    kind: ClassVar[str]
    form: ClassVar[str]
    version: ClassVar[int]
    labels: ClassVar[tuple[str, ...]]
    needs_location: ClassVar[bool] = True

    def __init__(self, location: str) -> None:
        self.location = location
        self.problems = Problems()
        self.warnings: list[str] = []

    @property
    def address(self) -> str:
        """How the user named the source."""
        return f"{self.kind}:{self.location}" if self.needs_location else self.kind

    @abstractmethod
    def inputs(self) -> Sequence[Path]:
        """The files and folders read. Raises UserError if one is missing."""

    @abstractmethod
    def load(self) -> Iterator[LabelledPart]:
        """Yields every language of every split once. What the user should know goes into `warnings`."""

    def problem(self, text: str) -> None:
        """Notes a mistake in the source and goes on, up to MOST_PROBLEMS of them."""
        self.problems.add(text)
        if len(self.problems.found) == MOST_PROBLEMS:
            self.problems.add("Reading stopped here; there may be more mistakes like these.")
            self.problems.raise_if_any()
