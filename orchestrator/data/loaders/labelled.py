"""What a loader of labelled texts must say: sentence pairs (language inference) and claims (fact verification)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from orchestrator.data.loaders.base import Source

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


class LabelledLoader(Source):
    """Reads one kind of source of labelled texts; its life is that of `orchestrator.data.loaders.base.Loader`.

    Class attributes, beside those of every `Source`:
        labels: the classes, by number.
    """

    labels: ClassVar[tuple[str, ...]]

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.warnings: list[str] = []

    @abstractmethod
    def load(self) -> Iterator[LabelledPart]:
        """Yields every language of every split once. What the user should know goes into `warnings`."""
